//! The way from a request to its worker, wherever that is linked: a scheduler by itself has
//! its own links; of several each has those of the others, too. Which worker is linked where
//! they tell each other over NATS ([`registry`]); requests and answers pass from scheduler to
//! scheduler ([`peers`]), where each stream has flow control and an end.

mod hop;
pub mod key;
pub mod peers;
pub mod registry;
mod tls;

use attestation::register::Digest256;
use axum::body::Body;
use axum::http::{Request, Response};
use futures_util::future::BoxFuture;

use self::peers::PeerError;
use crate::workers::Workers;

/// Carries requests to workers. Both bodies pass with back-pressure, and dropping the
/// response ends both.
pub trait Fabric: Send + Sync + 'static {
    /// Sends one to a worker.
    fn send(
        &self,
        worker: Digest256,
        request: Request<Body>,
    ) -> BoxFuture<'_, Result<Response<Body>, SendError>>;
}

/// One scheduler by itself: its own links.
impl Fabric for Workers {
    fn send(
        &self,
        worker: Digest256,
        request: Request<Body>,
    ) -> BoxFuture<'_, Result<Response<Body>, SendError>> {
        Box::pin(async move {
            let requests = self.get(&worker).and_then(|worker| worker.requests);
            let mut requests = requests.ok_or(SendError::Gone)?;
            requests.ready().await.map_err(SendError::Http)?;
            let response = requests.send_request(request).await;
            Ok(response.map_err(SendError::Http)?.map(Body::new))
        })
    }
}

/// Why a worker did not answer.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Linked nowhere, as far as is known.
    #[error("the worker is gone")]
    Gone,
    /// Its connection.
    #[error("the worker's HTTP failed")]
    Http(#[source] hyper::Error),
    /// Linked to a scheduler that is not there.
    #[error("no way to the worker")]
    Peer(#[source] PeerError),
}
