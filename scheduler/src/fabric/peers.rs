//! Between two schedulers of one deployment: HTTP/2 inside their TLS, a connection from
//! each to each other that it needs.
//!
//! Streams have windows of their own: one that nobody reads holds up no other, and keeps
//! 64 KiB at either end. A request is passed on once; nothing goes in circles. What is said
//! beside it, and what becomes of it there, is in `hop.rs`.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use attestation::appraisal::chain;
use attestation::register::Digest256;
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderValue, Request, Response};
use futures_util::future::BoxFuture;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex as Turn;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls;
use tokio_rustls::rustls::pki_types::ServerName;
use tokio_util::sync::CancellationToken;

use super::hop::{self, GONE, WORKER};
use super::key::Key;
use super::{Fabric, SendError, tls};
use crate::scheduler::Scheduler;
use crate::serve::{self, STREAM_WINDOW};
use crate::workers::Workers;

/// One scheduler of several: its own links, and those of the others.
pub struct Peers {
    workers: Arc<Workers>,
    tls: TlsConnector,
    links: Mutex<HashMap<Arc<str>, Arc<Turn<Link>>>>,
}

/// The connection to one of the others.
#[derive(Default)]
enum Link {
    #[default]
    Never,
    Open(SendRequest<Body>),
    Failed(Instant),
}

impl Link {
    fn open(&self) -> Option<&SendRequest<Body>> {
        match self {
            Self::Open(requests) if !requests.is_closed() => Some(requests),
            _ => None,
        }
    }
}

impl Peers {
    /// Of the deployment of `key`.
    pub fn new(workers: Arc<Workers>, key: &Key) -> Result<Arc<Self>, rustls::Error> {
        Ok(Arc::new(Self {
            workers,
            tls: tls::connector(key)?,
            links: Mutex::default(),
        }))
    }

    async fn pass(
        &self,
        at: Arc<str>,
        worker: Digest256,
        mut request: Request<Body>,
    ) -> Result<Response<Body>, SendError> {
        let name = HeaderValue::try_from(worker.to_string());
        let name = name.map_err(|_| SendError::Gone)?;
        request.headers_mut().insert(WORKER, name);
        let mut requests = self.link(&at).await?;
        let response = match requests.try_send_request(request).await {
            Ok(response) => response,
            Err(mut error) => match error.take_message() {
                // Nothing of it was sent: the process there has ended, another may be there.
                Some(request) => {
                    let mut requests = self.link(&at).await?;
                    let response = requests.send_request(request).await;
                    response.map_err(SendError::Http)?
                }
                None => return Err(SendError::Http(error.into_error())),
            },
        };
        match response.headers().contains_key(GONE) {
            true => {
                self.workers.withdrawn(&worker, &at);
                Err(SendError::Gone)
            }
            false => Ok(response.map(Body::new)),
        }
    }

    /// The open connection, or a new one; where there was none a moment ago, none is tried.
    async fn link(&self, at: &Arc<str>) -> Result<SendRequest<Body>, SendError> {
        let place = {
            let mut links = self.links.lock().unwrap_or_else(PoisonError::into_inner);
            if links.len() >= MAX_LINKS && !links.contains_key(at) {
                // Others come with other addresses, and go.
                links.retain(|_, link| link.try_lock().is_ok_and(|link| link.open().is_some()));
            }
            Arc::clone(links.entry(Arc::clone(at)).or_default())
        };
        let mut link = place.lock().await;
        if let Some(requests) = link.open() {
            return Ok(requests.clone());
        }
        match &*link {
            Link::Failed(when) if when.elapsed() < AGAIN => {
                self.workers.lost(at);
                return Err(SendError::Peer(PeerError::Away));
            }
            _ => {}
        }
        let opened = timeout(CONNECT, self.open(at, &place)).await;
        match opened.unwrap_or(Err(PeerError::Late)) {
            Ok(requests) => {
                *link = Link::Open(requests.clone());
                Ok(requests)
            }
            Err(error) => {
                *link = Link::Failed(Instant::now());
                tracing::warn!("no connection to the scheduler at {at}: {}", chain(&error));
                self.workers.lost(at);
                Err(SendError::Peer(error))
            }
        }
    }

    async fn open(
        &self,
        at: &Arc<str>,
        place: &Arc<Turn<Link>>,
    ) -> Result<SendRequest<Body>, PeerError> {
        let tcp = TcpStream::connect(&**at)
            .await
            .map_err(PeerError::Connect)?;
        tcp.set_nodelay(true).map_err(PeerError::Connect)?;
        // Nobody looks at it: a member proves itself by the key.
        let name = ServerName::from(std::net::IpAddr::from([0, 0, 0, 0]));
        let stream = self.tls.connect(name, tcp).await.map_err(PeerError::Tls)?;
        let (requests, driver) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(MAX_STREAMS.saturating_mul(STREAM_WINDOW))
            .max_send_buf_size(SEND_BUFFER)
            .keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(PeerError::Http)?;
        let (workers, at) = (Arc::clone(&self.workers), Arc::clone(at));
        let place = Arc::clone(place);
        tokio::spawn(async move {
            // One that says so takes back what it has said.
            let Err(error) = driver.await else { return };
            tracing::info!("the connection to the scheduler at {at} broke off: {error}");
            // What is there is known by the newest connection.
            if place.lock().await.open().is_none() {
                workers.lost(&at);
            }
        });
        Ok(requests)
    }
}

impl Fabric for Peers {
    fn send(
        &self,
        worker: Digest256,
        request: Request<Body>,
    ) -> BoxFuture<'_, Result<Response<Body>, SendError>> {
        let known = self.workers.get(&worker);
        match known.and_then(|worker| worker.at) {
            Some(at) => Box::pin(self.pass(at, worker, request)),
            None => self.workers.send(worker, request),
        }
    }
}

/// Takes the others' requests for the workers that are linked here, until `stop`.
pub fn listen(
    listener: TcpListener,
    key: &Key,
    scheduler: Arc<Scheduler>,
    stop: CancellationToken,
) -> Result<impl Future<Output = ()> + use<>, rustls::Error> {
    let api = Router::new().fallback(hop::take).with_state(scheduler);
    Ok(serve::peers(listener, tls::acceptor(key)?, api, stop))
}

/// Under way between two schedulers, in one direction.
pub(crate) const MAX_STREAMS: u32 = 16_384;

/// Bytes of one request that wait to be sent.
pub(crate) const SEND_BUFFER: usize = 64 << 10;

const CONNECT: Duration = Duration::from_secs(3);

/// Others that are remembered.
const MAX_LINKS: usize = 256;

/// Between two tries.
const AGAIN: Duration = Duration::from_secs(1);

/// A scheduler that is cut off is noticed after twice that.
pub(crate) const KEEP_ALIVE: Duration = Duration::from_secs(3);

/// Why there is no connection to another scheduler.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// Tried a moment ago.
    #[error("the scheduler of the worker was not there a moment ago")]
    Away,
    /// Nobody listens.
    #[error("the scheduler of the worker is not there")]
    Connect(#[source] std::io::Error),
    /// HTTP/2 inside the session.
    #[error("the HTTP of the worker's scheduler failed")]
    Http(#[source] hyper::Error),
    /// No answer.
    #[error("no connection to the worker's scheduler within {} s", CONNECT.as_secs())]
    Late,
    /// Not of this deployment.
    #[error("the scheduler of the worker has another key")]
    Tls(#[source] std::io::Error),
}
