//! An OpenAI-compatible endpoint on this machine that forwards only to a worker
//! that satisfied the policy.
//!
//! Existing clients set their base URL to it and change nothing else. Their API
//! keys stay here: the worker never sees an Authorization header.

pub(crate) mod asked;
pub(crate) mod bill;
pub mod command;
pub mod front;
pub mod keys;
mod metrics;
mod page;
pub(crate) mod problem;
pub(crate) mod tally;

use std::sync::Arc;

use anyhow::Context;
use attestation::appraisal::chain;
use axum::body::{Body, to_bytes};
use axum::extract::State;
use axum::http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, header, uri};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing::{any, get};
use axum::serve::ListenerExt as _;
use axum::{Json, Router};
use serde_json::json;
use session::http::{AgainError, OpenError};
use tokio::net::TcpListener;

use self::problem::Problem;
use crate::receipts::{Copied, Exchange, Recorder};
use crate::worker::{SendError, Worker};

/// Serves until `shutdown`.
pub async fn serve(
    listener: TcpListener,
    router: Router,
    shutdown: impl Future<Output = ()> + Send + 'static,
) -> anyhow::Result<()> {
    let listener = listener.tap_io(|tcp| {
        // Without it the events of a stream wait for each other: slow, not wrong.
        tcp.set_nodelay(true).unwrap_or_default();
    });
    axum::serve(listener, router)
        .with_graceful_shutdown(shutdown)
        .await
        .context("the gateway failed")
}

/// `/v1/*`, `/health` and `/metrics` go to the worker; `/cocoon/trust` tells what was
/// verified.
pub fn router(worker: Arc<Worker>) -> Router {
    Router::new()
        .route("/v1/{*path}", any(forward))
        .route("/health", get(forward))
        .route("/metrics", get(forward))
        .route("/cocoon/trust", get(trust))
        .route(
            "/cocoon/usage",
            get(|| async { Json(json!({ "paid": false })) }),
        )
        .fallback(|| async { error(StatusCode::NOT_FOUND, "not_found", "no such path") })
        .with_state(worker)
}

/// The same, with a receipt written for each answer.
pub fn recording(worker: Arc<Worker>, recorder: Recorder) -> Router {
    let record = middleware::from_fn_with_state((Arc::clone(&worker), recorder), record);
    router(worker).layer(record)
}

/// Keeps what passes until its receipt has been checked.
async fn record(
    State((worker, recorder)): State<(Arc<Worker>, Recorder)>,
    request: Request<Body>,
    next: Next,
) -> Response {
    if request.method() != Method::POST {
        return next.run(request).await;
    }
    let (mut head, body) = request.into_parts();
    let Ok(request) = to_bytes(body, MAX_RECORDED).await else {
        let message = format!("more than {MAX_RECORDED} bytes are not recorded");
        return error(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", &message);
    };
    if recorder.wants_opening() {
        let keep = HeaderValue::from_static("keep");
        head.headers.insert("x-receipt-opening", keep);
    }
    let response = next
        .run(Request::from_parts(head, Body::from(request.clone())))
        .await;
    let (head, body) = response.into_parts();
    let headers = head.headers.clone();
    let body = Copied::new(body, move |response| {
        let Some(exchange) = Exchange::new(&headers, request, response) else {
            return;
        };
        tokio::spawn(async move {
            if let Err(error) = recorder.record(&worker, exchange).await {
                tracing::warn!("an answer has no receipt: {error:#}");
            }
        });
    });
    Response::from_parts(head, Body::new(body))
}

async fn forward(State(worker): State<Arc<Worker>>, request: Request<Body>) -> Response {
    let request = match addressed(request) {
        Ok(request) => request,
        Err(uri_error) => {
            return error(StatusCode::BAD_REQUEST, "bad_path", &uri_error.to_string());
        }
    };
    match worker.send(request).await {
        Ok(response) => {
            let (mut head, body) = response.into_parts();
            remove_hop_by_hop(&mut head.headers);
            Response::from_parts(head, Body::new(body))
        }
        Err(refused) => refusal(&refused),
    }
}

async fn trust(State(worker): State<Arc<Worker>>) -> Response {
    match worker.trusted().await {
        Ok((trusted, _)) => {
            Json(json!({ "trusted": true, "checks": trusted.checks() })).into_response()
        }
        Err(refused) => refusal(&refused),
    }
}

/// The same request, for the worker: HTTP/2 wants an absolute address.
fn addressed(request: Request<Body>) -> Result<Request<Body>, axum::http::Error> {
    let (mut head, body) = request.into_parts();
    let path = head.uri.path_and_query().cloned();
    head.uri = Uri::builder()
        .scheme(uri::Scheme::HTTPS)
        .authority("worker.cocoon.invalid")
        .path_and_query(path.unwrap_or_else(|| uri::PathAndQuery::from_static("/")))
        .build()?;
    head.version = axum::http::Version::HTTP_2;
    head.extensions.clear();
    remove_hop_by_hop(&mut head.headers);
    for private in [header::AUTHORIZATION, header::COOKIE, header::HOST] {
        head.headers.remove(private);
    }
    Ok(Request::from_parts(head, body))
}

/// RFC 9110, section 7.6.1; HTTP/2 refuses them (RFC 9113, section 8.2.2).
pub(crate) fn remove_hop_by_hop(headers: &mut HeaderMap) {
    for name in [
        header::CONNECTION,
        header::TE,
        header::TRAILER,
        header::TRANSFER_ENCODING,
        header::UPGRADE,
    ] {
        headers.remove(name);
    }
    headers.remove("keep-alive");
    headers.remove("proxy-connection");
}

/// The client sent nothing anywhere; it learns why.
fn refusal(refused: &SendError) -> Response {
    let (status, code) = match refused {
        SendError::Open(OpenError::Untrusted(_))
        | SendError::Again(AgainError::Stale(_) | AgainError::NoEvidence { .. }) => {
            (StatusCode::BAD_GATEWAY, "worker_not_trusted")
        }
        SendError::Connect(_)
        | SendError::Http(_)
        | SendError::Open(OpenError::Http(_))
        | SendError::Again(AgainError::Http(_)) => (StatusCode::BAD_GATEWAY, "worker_unreachable"),
        SendError::Late | SendError::Again(AgainError::Late) => {
            (StatusCode::GATEWAY_TIMEOUT, "worker_timeout")
        }
    };
    error(status, code, &chain(refused))
}

fn error(status: StatusCode, code: &str, message: &str) -> Response {
    Problem::new(status, code, message).into_response()
}

/// Bytes of a request that is kept until its receipt has been checked.
const MAX_RECORDED: usize = 64 << 20;
