//! One worker, reached only over connections that satisfied the policy.
//!
//! A request has no other way out: [`Worker::send`] connects, verifies, and asks
//! again for fresh evidence when the last has become too old.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use attestation::cbor;
use attestation::policy::{Policy, Trusted};
use attestation::protocol;
use axum::body::Body;
use axum::http::{Method, Request, Response, StatusCode, Uri};
use http_body_util::{BodyExt, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use session::client::{ChallengeError, ConnectError, MAX_STEPS, Next, Peer, Session, Timing};
use tokio::net::TcpStream;
use tokio::sync::{MappedMutexGuard, Mutex, MutexGuard};
use tokio::time::timeout;

use crate::address::Address;

/// How old evidence may be before it is asked for again.
pub const FRESH: Duration = Duration::from_secs(600);

/// A worker and the policy it has to satisfy.
pub struct Worker {
    address: Address,
    policy: Arc<Policy>,
    fresh: Duration,
    connection: Mutex<Option<Connection>>,
}

impl Worker {
    /// Does not connect yet. Before a request, evidence older than `fresh` is
    /// asked for again.
    #[must_use]
    pub fn new(address: Address, policy: Arc<Policy>, fresh: Duration) -> Self {
        Self {
            address,
            policy,
            fresh,
            connection: Mutex::new(None),
        }
    }

    /// Sends `request` to the worker once it is known to be trusted.
    pub async fn send(&self, request: Request<Body>) -> Result<Response<Incoming>, SendError> {
        let mut http = self.verified().await?.http.clone();
        http.ready().await.map_err(SendError::Http)?;
        http.send_request(request).await.map_err(SendError::Http)
    }

    /// Connects if need be, and tells what the worker proved last, and how long
    /// its first proof took.
    pub async fn trusted(&self) -> Result<(Trusted, Timing), SendError> {
        let connection = self.verified().await?;
        Ok((connection.trusted.clone(), connection.timing))
    }

    async fn verified(&self) -> Result<MappedMutexGuard<'_, Connection>, SendError> {
        let mut slot = self.connection.lock().await;
        // A connection that does not prove itself again is closed by dropping it.
        let mut connection = match slot.take().filter(|open| !open.http.is_closed()) {
            Some(open) => open,
            None => self.connect().await?,
        };
        if connection.verified.elapsed() > self.fresh {
            connection.verify_again(&self.policy).await?;
        }
        Ok(MutexGuard::map(slot, |slot| slot.insert(connection)))
    }

    async fn connect(&self) -> Result<Connection, SendError> {
        let address = &self.address;
        let tcp = timeout(CONNECT, TcpStream::connect((&*address.host, address.port)))
            .await
            .map_err(|_| SendError::Late)?
            .map_err(SendError::Connect)?;
        tcp.set_nodelay(true).map_err(SendError::Connect)?;
        let Session {
            stream,
            peer,
            trusted,
            timing,
        } = session::client::connect(tcp, &self.policy)
            .await
            .map_err(SendError::Untrusted)?;
        let (http, driver) = http2::Builder::new(TokioExecutor::new())
            .timer(TokioTimer::new())
            .keep_alive_interval(KEEP_ALIVE)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(SendError::Http)?;
        tokio::spawn(async move {
            if let Err(error) = driver.await {
                tracing::info!("connection to the worker ended: {error}");
            }
        });
        Ok(Connection {
            http,
            peer,
            trusted,
            timing,
            verified: Instant::now(),
        })
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Worker").field(&self.address).finish()
    }
}

struct Connection {
    http: SendRequest<Body>,
    peer: Peer<TcpStream>,
    trusted: Trusted,
    timing: Timing,
    verified: Instant,
}

impl Connection {
    /// The conversation of the gate once more, as HTTP requests.
    async fn verify_again(&mut self, policy: &Policy) -> Result<(), SendError> {
        let (mut challenge, mut request) = self.peer.challenge().map_err(SendError::Stale)?;
        for _ in 0..MAX_STEPS {
            let response = self.ask(&request).await?;
            match challenge.next(response, policy).map_err(SendError::Stale)? {
                Next::Send(next) => request = next,
                Next::Trusted(trusted) => {
                    self.trusted = trusted;
                    self.verified = Instant::now();
                    return Ok(());
                }
            }
        }
        Err(SendError::Stale(ChallengeError::Endless))
    }

    async fn ask(&mut self, request: &protocol::Request) -> Result<protocol::Response, SendError> {
        let mut request = Request::new(Body::from(cbor::encode(request)));
        *request.method_mut() = Method::POST;
        *request.uri_mut() = Uri::from_static("http://worker.cocoon.invalid/attestation");
        let exchange = async {
            let response = self.http.send_request(request).await?;
            let (head, body) = response.into_parts();
            let body = Limited::new(body, protocol::Response::MAX).collect().await;
            Ok::<_, hyper::Error>((head.status, body))
        };
        let (status, body) = timeout(ASK, exchange)
            .await
            .map_err(|_| SendError::Late)?
            .map_err(SendError::Http)?;
        let body = body
            .map_err(|_| SendError::NoEvidence { status })?
            .to_bytes();
        cbor::decode(&body).map_err(|_| SendError::NoEvidence { status })
    }
}

const CONNECT: Duration = Duration::from_secs(10);

const ASK: Duration = Duration::from_secs(90);

const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// Why a request did not reach a trusted worker.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// TCP.
    #[error("cannot connect to the worker")]
    Connect(#[source] std::io::Error),
    /// HTTP/2 inside the session.
    #[error("the worker's HTTP failed")]
    Http(#[source] hyper::Error),
    /// Too slow.
    #[error("the worker took too long")]
    Late,
    /// Asked again, it answered something else.
    #[error("the worker answered with status {status} where evidence was asked for")]
    NoEvidence {
        /// As answered.
        status: StatusCode,
    },
    /// Trusted once, not any more.
    #[error("the worker did not prove itself again")]
    Stale(#[source] ChallengeError),
    /// Never trusted.
    #[error("the worker is not trusted")]
    Untrusted(#[source] ConnectError),
}
