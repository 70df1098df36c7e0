//! Accepts connections, and serves HTTP/2 on those that passed the gate.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use attestation::cbor;
use attestation::protocol::Request;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Extension};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use inference::Tenant;
use session::server::{Attester, Worker};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, Semaphore};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::receipts::{self, Shelf};

/// Serves `api` until `shutdown`, then lets open requests finish.
pub async fn serve(
    listener: TcpListener,
    worker: Arc<Worker>,
    api: Router,
    shutdown: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let api = receipts::around(api, Arc::clone(&worker));

    tokio::pin!(shutdown);
    loop {
        let slot = Arc::clone(&slots).acquire_owned();
        let (slot, tcp) = tokio::select! {
            () = &mut shutdown => break,
            next = async { (slot.await, accept(&listener).await) } => next,
        };
        let (worker, stop) = (Arc::clone(&worker), stop.child_token());
        let connection = connection(tcp, worker, api.clone(), http(MAX_STREAMS), stop);
        tasks.spawn(async move {
            if let Err(error) = connection.await {
                tracing::info!("connection ended: {error:#}");
            }
            drop(slot);
        });
    }

    stop.cancel();
    tasks.close();
    timeout(DRAIN, tasks.wait())
        .await
        .with_context(|| format!("{} connections outlived the drain", tasks.len()))
}

async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((tcp, _)) => return tcp,
            // Out of descriptors, or a peer that left at once: neither is ours to end for.
            Err(error) => {
                tracing::warn!("cannot accept: {error}");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Shows evidence on a connection, and then serves `api`, and evidence again, until
/// `stop`: an extension that tells answers without end when theirs has come.
pub(crate) async fn connection(
    tcp: TcpStream,
    worker: Arc<Worker>,
    api: Router,
    http: http2::Builder<TokioExecutor>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    tcp.set_nodelay(true).context("cannot set TCP_NODELAY")?;
    let (stream, attester) = tokio::select! {
        () = stop.cancelled() => return Ok(()),
        accepted = worker.accept(tcp) => accepted?,
    };
    // Who is behind a connection is not known; but it is somebody else's than the next.
    let again = post(attest_again).layer(DefaultBodyLimit::max(Request::MAX));
    let api = api
        .route("/attestation", again)
        .layer(Extension(stop.clone()))
        .layer(Extension(Tenant::new()))
        .layer(Extension(Arc::new(Shelf::default())))
        .layer(Extension(Arc::new(Mutex::new(attester))));
    let http = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(api));
    tokio::pin!(http);
    tokio::select! {
        ended = &mut http => return ended.context("HTTP failed"),
        () = sleep(LIFETIME) => stop.cancel(),
        () = stop.cancelled() => {}
    }
    // Requests under way may finish, and no new ones begin.
    http.as_mut().graceful_shutdown();
    let ended = timeout(LAST, http).await;
    ended
        .context("requests outlived their connection")?
        .context("HTTP failed")
}

/// So many requests at a time on one connection, all of which may be cancelled at once: a
/// gateway or a scheduler does so for others, and goes on for the rest of them.
pub(crate) fn http(streams: u32) -> http2::Builder<TokioExecutor> {
    let mut http = http2::Builder::new(TokioExecutor::new());
    http.timer(TokioTimer::new())
        .max_concurrent_streams(streams)
        .max_pending_accept_reset_streams(usize::try_from(streams).ok())
        .keep_alive_interval(KEEP_ALIVE);
    http
}

/// One step of another conversation about the same TLS session.
async fn attest_again(
    Extension(attester): Extension<Arc<Mutex<Attester<TcpStream>>>>,
    body: Bytes,
) -> Response {
    let request = match cbor::decode(&body) {
        Ok(request) => request,
        Err(error) => return (StatusCode::BAD_REQUEST, error.to_string()).into_response(),
    };
    let response = attester.lock().await.answer(request).await;
    let body = cbor::encode(&response);
    ([(header::CONTENT_TYPE, "application/cbor")], body).into_response()
}

const MAX_CONNECTIONS: usize = 1024;

/// Requests under way on one connection.
const MAX_STREAMS: u32 = 256;

const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// A session older than this makes room for one with a new handshake.
const LIFETIME: Duration = Duration::from_secs(3600);

/// For the last requests of a session: longer than any answer may take.
const LAST: Duration = Duration::from_secs(900);

const DRAIN: Duration = Duration::from_secs(8);

const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
