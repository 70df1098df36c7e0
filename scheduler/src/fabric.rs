//! The way from a request to its worker, wherever that is linked.

use attestation::register::Digest256;
use axum::body::Body;
use axum::http::{Request, Response};
use futures_util::future::BoxFuture;

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
}
