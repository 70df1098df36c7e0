//! One worker, reached only over connections that satisfied the policy.
//!
//! A request has no other way out: [`Worker::send`] connects, verifies, and asks
//! again for fresh evidence when the last has become too old.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use attestation::policy::{Policy, Trusted};
use axum::body::Body;
use axum::http::{Request, Response};
use hyper::body::Incoming;
use session::client::Timing;
use session::http::{AgainError, Connection, OpenError};
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
    connection: Mutex<Option<Open>>,
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
        let mut requests = self.verified().await?.requests.clone();
        requests.ready().await.map_err(SendError::Http)?;
        requests
            .send_request(request)
            .await
            .map_err(SendError::Http)
    }

    /// Connects if need be, and tells what the worker proved last, and how long
    /// its first proof took.
    pub async fn trusted(&self) -> Result<(Trusted, Timing), SendError> {
        let connection = self.verified().await?;
        Ok((connection.trusted.clone(), connection.timing))
    }

    async fn verified(&self) -> Result<MappedMutexGuard<'_, Open>, SendError> {
        let mut slot = self.connection.lock().await;
        // A connection that does not prove itself again is closed by dropping it.
        let mut connection = match slot.take().filter(|open| !open.requests.is_closed()) {
            Some(open) => open,
            None => self.connect().await?,
        };
        if connection.age() > self.fresh {
            connection.verify_again(&self.policy).await?;
        }
        Ok(MutexGuard::map(slot, |slot| slot.insert(connection)))
    }

    async fn connect(&self) -> Result<Open, SendError> {
        let address = &self.address;
        let tcp = timeout(CONNECT, TcpStream::connect((&*address.host, address.port)))
            .await
            .map_err(|_| SendError::Late)?
            .map_err(SendError::Connect)?;
        tcp.set_nodelay(true).map_err(SendError::Connect)?;
        Ok(Connection::open(tcp, &self.policy).await?)
    }
}

impl fmt::Debug for Worker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Worker").field(&self.address).finish()
    }
}

type Open = Connection<TcpStream, Body>;

const CONNECT: Duration = Duration::from_secs(10);

/// Why a request did not reach a trusted worker.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Trusted once, not any more.
    #[error(transparent)]
    Again(#[from] AgainError),
    /// TCP.
    #[error("cannot connect to the worker")]
    Connect(#[source] std::io::Error),
    /// HTTP/2 inside the session.
    #[error("the worker's HTTP failed")]
    Http(#[source] hyper::Error),
    /// Too slow.
    #[error("the worker took too long")]
    Late,
    /// Never trusted.
    #[error(transparent)]
    Open(#[from] OpenError),
}
