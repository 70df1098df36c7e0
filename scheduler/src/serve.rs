//! Two listeners: workers dial in at one, clients at the other. Of the connections that each
//! takes an address has at most as many as are left for others; what is more is closed.

use std::collections::VecDeque;
use std::future::{pending, ready};
use std::net::IpAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use attestation::appraisal::chain;
use attestation::policy::Policy;
use axum::Router;
use axum::extract::{Extension, Request};
use axum::middleware::map_request;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::fabric::peers;
use crate::limits::Room;
use crate::link;
use crate::payer::Payer;
use crate::workers::Workers;

/// Whose connection a request came on.
#[derive(Clone, Copy, Debug)]
pub struct Client(pub IpAddr);

/// Follows every worker that dials in, until `stop`. What they are answering then still
/// passes, and their connections end behind it.
pub async fn workers(
    listener: TcpListener,
    policy: Arc<Policy>,
    workers: Arc<Workers>,
    stop: CancellationToken,
) {
    let follow = |tcp, _| {
        let (policy, workers) = (Arc::clone(&policy), Arc::clone(&workers));
        let stop = stop.clone();
        async move {
            let followed = link::follow(tcp, &policy, &workers);
            if let Some(Err(error)) = stop.run_until_cancelled(followed).await {
                tracing::info!("a worker is gone: {}", chain(&error));
            }
        }
    };
    accept(listener, &Room::new(MAX_WORKERS), &stop, follow).await;
}

/// Serves `api`, inside TLS if there is a certificate, until `stop`; then lets what is
/// under way finish, for a while.
pub async fn clients(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    api: Router,
    stop: CancellationToken,
) {
    let serve = |tcp, address| {
        let asked = CancellationToken::new();
        let api = api.clone().layer(Extension(Client(address)));
        let begun = asked.clone();
        let api = api.layer(map_request(move |request: Request| {
            begun.cancel();
            ready(request)
        }));
        let (tls, stop) = (tls.clone(), stop.clone());
        let served = async move {
            let builder = builder(MAX_STREAMS);
            let Some(tls) = tls else {
                return serve(tcp, &builder, api, &stop).await;
            };
            if let Ok(Ok(tls)) = timeout(HANDSHAKE, tls.accept(tcp)).await {
                serve(tls, &builder, api, &stop).await;
            }
        };
        async move {
            tokio::select! {
                () = served => {}
                () = silence(&asked) => {}
            }
        }
    };
    accept(listener, &Room::new(MAX_CLIENTS), &stop, serve).await;
}

/// Comes back if nothing is asked for long: who connects only to be there is let go.
async fn silence(asked: &CancellationToken) {
    if timeout(FIRST, asked.cancelled()).await.is_ok() {
        pending::<()>().await;
    }
}

/// Serves `api` to other schedulers, as [`clients`] does to clients.
pub(crate) async fn peers(
    listener: TcpListener,
    tls: TlsAcceptor,
    api: Router,
    stop: CancellationToken,
) {
    let (mut newcomers, members) = (Newcomers::default(), Arc::new(Semaphore::new(MAX_PEERS)));
    let serve = |tcp, _| {
        let (tls, api, stop) = (tls.clone(), api.clone(), stop.clone());
        let (turn, members) = (newcomers.next(), Arc::clone(&members));
        async move {
            let mut builder = builder(peers::MAX_STREAMS);
            builder
                .http2()
                .max_send_buf_size(peers::SEND_BUFFER)
                // Clients that go away quickly are no fault of the other scheduler.
                .max_pending_accept_reset_streams(RESETS)
                .keep_alive_interval(peers::KEEP_ALIVE)
                .keep_alive_timeout(peers::KEEP_ALIVE);
            let shaken = turn.run_until_cancelled(timeout(HANDSHAKE, tls.accept(tcp)));
            if let (Some(Ok(Ok(tls))), Ok(_place)) = (shaken.await, members.try_acquire()) {
                serve(tls, &builder, api, &stop).await;
            }
        }
    };
    // There are no more than members and newcomers, and neither are counted by address.
    accept(listener, &Room::new(usize::MAX), &stop, serve).await;
}

/// Who has not shown yet that it has the key. Where there are too many, the one that came
/// first is let go: strangers that say nothing take nobody's place.
#[derive(Debug, Default)]
struct Newcomers(VecDeque<CancellationToken>);

impl Newcomers {
    /// One more, until it is cancelled.
    fn next(&mut self) -> CancellationToken {
        let newest = CancellationToken::new();
        self.0.push_back(newest.clone());
        if self.0.len() > NEWCOMERS
            && let Some(oldest) = self.0.pop_front()
        {
            oldest.cancel();
        }
        newest
    }
}

/// Has `handle` take each connection that there is room for, until `stop`, and then waits for
/// them for a while.
async fn accept<F>(
    listener: TcpListener,
    room: &Room,
    stop: &CancellationToken,
    mut handle: impl FnMut(TcpStream, IpAddr) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let tasks = TaskTracker::new();
    let accepted = async {
        loop {
            match listener.accept().await {
                Ok((tcp, address)) => {
                    let Some(share) = room.take(Payer::at(address.ip())) else {
                        continue;
                    };
                    // Without it small chunks wait for each other: slow, not wrong.
                    tcp.set_nodelay(true).unwrap_or_default();
                    let handled = handle(tcp, address.ip());
                    tasks.spawn(async move {
                        handled.await;
                        drop(share);
                    });
                }
                // Out of descriptors, or a peer that left at once.
                Err(error) => {
                    tracing::warn!("cannot accept: {error}");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    stop.run_until_cancelled(accepted).await;
    // Who comes now is told so, or goes to another process.
    drop(listener);
    tasks.close();
    if timeout(DRAIN, tasks.wait()).await.is_err() {
        tracing::warn!("{} connections outlived the drain", tasks.len());
    }
}

/// So many requests at a time on one connection.
fn builder(streams: u32) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS)
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams)
        // Together never more than the connection takes: an upload whose worker is slow
        // does not hold up the others.
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(streams.saturating_mul(STREAM_WINDOW))
        .keep_alive_interval(KEEP_ALIVE);
    builder
}

async fn serve<S>(
    stream: S,
    builder: &auto::Builder<TokioExecutor>,
    api: Router,
    stop: &CancellationToken,
) where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let service = TowerToHyperService::new(api);
    let mut connection = pin!(builder.serve_connection(TokioIo::new(stream), service));
    let served = tokio::select! {
        served = &mut connection => served,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!("a client's connection ended: {error}");
    }
}

/// What may dial in at a time.
const MAX_WORKERS: usize = 16_384;

const MAX_CLIENTS: usize = 16_384;

/// Requests under way on one connection.
const MAX_STREAMS: u32 = 1024;

/// Other schedulers.
const MAX_PEERS: usize = 256;

/// Who may become one.
const NEWCOMERS: usize = 256;

/// Streams that their senders gave up before they were looked at.
const RESETS: usize = 1 << 14;

/// Bytes of one request that wait here.
pub(crate) const STREAM_WINDOW: u32 = 64 << 10;

const HANDSHAKE: Duration = Duration::from_secs(10);

/// Until the first request of a connection, its handshake included.
const FIRST: Duration = Duration::from_secs(60);

const HEADERS: Duration = Duration::from_secs(10);

const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// For answers that nobody counts, such as evidence.
const DRAIN: Duration = Duration::from_secs(5);

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;
    use axum::routing::get;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, copy};
    use tokio::net::TcpSocket;

    #[tokio::test]
    async fn one_address_leaves_connections_to_others_and_gives_its_own_back() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let echo = |mut tcp: TcpStream, _| async move {
            let (mut reader, mut writer) = tcp.split();
            drop(copy(&mut reader, &mut writer).await);
        };
        let (room, stop) = (Room::new(4), CancellationToken::new());
        let (known, stopped) = (room.clone(), stop.clone());
        let accepting = tokio::spawn(async move { accept(listener, &known, &stopped, echo).await });
        let connect = async |last: u8| {
            let socket = TcpSocket::new_v4().unwrap();
            socket.bind(([127, 0, 0, last], 0).into()).unwrap();
            let mut tcp = socket.connect(address).await.unwrap();
            // Closed before or after what is sent has come.
            tcp.write_all(b"?").await.ok()?;
            tcp.read_exact(&mut [0]).await.ok()?;
            Some(tcp)
        };
        let (first, second) = (connect(1).await, connect(1).await);
        assert!(first.is_some() && second.is_some());
        assert!(connect(1).await.is_none());
        let other = connect(2).await;
        assert!(other.is_some());
        drop((first, second));
        stop.cancel();
        drop(other);
        accepting.await.unwrap();
        let all = (0..4).map_while(|_| room.take(Payer::Unpaid));
        assert_eq!(all.collect::<Vec<_>>().len(), 2, "half of all");
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_nothing_is_let_go_and_who_waits_for_an_answer_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let slow = get(async || sleep(FIRST.saturating_mul(3)).await);
        let api = Router::new().route("/", slow);
        let serving = tokio::spawn(clients(listener, None, api, CancellationToken::new()));
        let mut answer = [0; 15];

        let mut asking = TcpStream::connect(address).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
        asking.write_all(request).await.unwrap();

        // Half a preface of HTTP/2 could be either version, for ever.
        let mut silent = TcpStream::connect(address).await.unwrap();
        silent.write_all(b"PRI * HTTP").await.unwrap();
        let closed = timeout(FIRST.saturating_mul(2), silent.read(&mut answer)).await;
        assert!(matches!(closed, Ok(Ok(0) | Err(_))), "{closed:?}");

        asking.read_exact(&mut answer).await.unwrap();
        assert_eq!(&answer, b"HTTP/1.1 200 OK");
        serving.abort();
    }
}
