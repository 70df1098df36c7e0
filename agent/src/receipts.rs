//! A receipt for every answer, in the form ACI/1 (`attestation::aci`).
//!
//! ```text
//! X-Receipt-Id                          with an answer
//! GET /v1/aci/receipts/{id}             once the answer is complete
//! GET /v1/aci/receipts/{id}/opening     once, if X-Receipt-Opening: keep was asked for
//! GET /v1/aci/keyset                    what the evidence of this session names
//! GET /v1/aci/attestation?nonce=...     the same by a quote of its own
//! ```
//!
//! It stands around the API and sees bytes; what the engine did, a handler has told
//! ([`Ledger`]). Receipts are kept with the connection on which the answer went out: on
//! another, they are not there. Token ids are kept only where an opening was asked for.

mod body;
mod document;
mod ledger;
mod report;
mod shelf;

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, Path, Request, State};
use axum::http::{HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use session::server::Worker;

use crate::api::{random_id, refused};
use body::Watched;
use document::Exchange;

pub(crate) use report::build;

pub use ledger::{Count, Ledger};
pub use shelf::Shelf;

/// `api`, whose answers have receipts that `worker` signs.
pub fn around(api: Router, worker: Arc<Worker>) -> Router {
    let routes = Router::new()
        .route("/v1/aci/attestation", get(report::attestation))
        .route("/v1/aci/receipts/{id}", get(receipt))
        .route("/v1/aci/receipts/{id}/opening", get(opening))
        .with_state(Arc::clone(&worker));
    api.merge(routes)
        .merge(keys(Arc::clone(&worker)))
        .layer(middleware::from_fn_with_state(worker, observe))
}

/// Only the keys that receipts count under.
pub fn keys(worker: Arc<Worker>) -> Router {
    let route = Router::new().route("/v1/aci/keyset", get(report::keyset));
    route.with_state(worker)
}

/// Notes what goes in and out, and signs it when it is complete.
async fn observe(State(worker): State<Arc<Worker>>, request: Request, next: Next) -> Response {
    let shelf = request.extensions().get::<Arc<Shelf>>().cloned();
    let mut response = match shelf.filter(|_| request.method() == Method::POST) {
        Some(shelf) => answer(&worker, shelf, request, next).await,
        None => next.run(request).await,
    };
    let headers = response.headers_mut();
    headers.insert(VERSION, HeaderValue::from_static(attestation::aci::VERSION));
    let digest = worker.keyset().map(|keyset| keyset.digest().to_string());
    if let Some(Ok(digest)) = digest.map(HeaderValue::try_from) {
        headers.insert(KEYSET, digest);
    }
    response
}

async fn answer(worker: &Arc<Worker>, shelf: Arc<Shelf>, request: Request, next: Next) -> Response {
    let id = random_id("rcpt-");
    let ledger: Option<&Ledger> = request.extensions().get();
    let ledger = ledger.cloned().unwrap_or_default();
    let endpoint = request.uri().path().to_owned();
    let keep = request
        .headers()
        .get(OPENING)
        .is_some_and(|asked| asked == "keep");
    let (mut head, body) = request.into_parts();
    head.extensions.insert(ledger.clone());
    let (body, received) = Watched::new(body);
    let response = next.run(Request::from_parts(head, Body::new(body))).await;
    if !response.status().is_success() {
        return response;
    }
    let (mut head, body) = response.into_parts();
    if let Ok(id) = HeaderValue::try_from(&id) {
        head.headers.insert(RECEIPT, id);
    }
    let worker = Arc::clone(worker);
    let body = Watched::until(body, move |returned| {
        let exchange = Exchange {
            id: &id,
            endpoint: &endpoint,
            received: received.hash(),
            returned,
            ledger: &ledger,
        };
        match exchange.receipt(keep) {
            Ok((receipt, opening)) => match worker.sign(receipt) {
                Ok(receipt) => shelf.put(id, receipt, opening),
                Err(error) => tracing::warn!("an answer has no receipt: {error}"),
            },
            Err(error) => tracing::warn!("an answer has no receipt: {error}"),
        }
    });
    Response::from_parts(head, Body::new(body))
}

/// `GET /v1/aci/receipts/{id}`
async fn receipt(shelf: Option<Extension<Arc<Shelf>>>, Path(id): Path<String>) -> Response {
    let receipt = shelf.and_then(|Extension(shelf)| shelf.receipt(&id));
    document(receipt.map(Body::from))
}

/// `GET /v1/aci/receipts/{id}/opening`
async fn opening(shelf: Option<Extension<Arc<Shelf>>>, Path(id): Path<String>) -> Response {
    let opening = shelf.and_then(|Extension(shelf)| shelf.take_opening(&id));
    document(opening.map(|opening| Body::from(opening.as_str().to_owned())))
}

/// JSON, or what stands for none (section 7.6).
fn document(body: Option<Body>) -> Response {
    match body {
        Some(body) => (StatusCode::OK, [(header::CONTENT_TYPE, JSON)], body).into_response(),
        None => refused(
            StatusCode::NOT_FOUND,
            "not_found",
            "No such receipt on this connection, or not any more.",
        ),
    }
}

const VERSION: HeaderName = HeaderName::from_static("x-aci-version");
const KEYSET: HeaderName = HeaderName::from_static("x-aci-keyset-digest");
const RECEIPT: HeaderName = HeaderName::from_static("x-receipt-id");
const OPENING: HeaderName = HeaderName::from_static("x-receipt-opening");
const JSON: &str = "application/json";
