//! Why a sealed request is refused before anything of it was opened: in clear, for the
//! scheduler to tell the client, who seals another one.

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header::RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use sealed::{ChunkError, EnvelopeError, HeadError, OpenError};
use serde_json::json;

use super::purse::NotCovered;
use crate::api::sentence;

#[derive(Debug, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the price is {price} nanotons for a million tokens, the ask is {ask}")]
    BelowAsk { price: u64, ask: u64 },
    #[error("the envelope is refused: {0}")]
    Envelope(#[from] EnvelopeError),
    #[error("the first chunk is refused: {0}")]
    Head(#[from] HeadError),
    #[error("the header {name} is missing, or not base64url")]
    Header { name: &'static str },
    #[error("a request for the worker {worker} came to another")]
    Key { worker: String },
    #[error("the request took too long to arrive")]
    Late,
    #[error("the answer took too long")]
    Slow,
    #[error("the model is not served here")]
    Model,
    #[error("not covered: {0}")]
    NotCovered(#[from] NotCovered),
    #[error("the request cannot be opened: {0}")]
    Open(#[from] OpenError),
    #[error("the request cannot be opened: {0}")]
    Chunk(#[from] ChunkError),
    #[error("the request was here before")]
    Replayed,
    #[error("limit times price is more than there are coins")]
    Sum,
    #[error("no method, path or header of HTTP")]
    Unspeakable,
    #[error("the voucher is no bag of cells with a voucher")]
    Voucher,
    #[error("all places are taken")]
    Full,
    #[error("this worker takes no new requests")]
    Draining,
    #[error("the worker failed")]
    Fault,
}

impl Refusal {
    fn status(&self) -> (StatusCode, &'static str) {
        match self {
            Self::BelowAsk { .. } | Self::NotCovered(_) | Self::Voucher => {
                (StatusCode::PAYMENT_REQUIRED, "not_covered")
            }
            Self::Key { .. } => (StatusCode::CONFLICT, "not_my_key"),
            Self::Replayed => (StatusCode::CONFLICT, "replayed"),
            Self::Model => (StatusCode::NOT_FOUND, "model_not_found"),
            Self::Full => (StatusCode::TOO_MANY_REQUESTS, "full"),
            Self::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
            Self::Late => (StatusCode::REQUEST_TIMEOUT, "timeout"),
            Self::Slow => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
            Self::Fault => (StatusCode::INTERNAL_SERVER_ERROR, "fault"),
            Self::Envelope(_)
            | Self::Head(_)
            | Self::Header { .. }
            | Self::Open(_)
            | Self::Chunk(_)
            | Self::Sum
            | Self::Unspeakable => (StatusCode::BAD_REQUEST, "bad_envelope"),
        }
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, code) = self.status();
        let kind = match status.is_client_error() {
            true => "invalid_request_error",
            false => "server_error",
        };
        // For a scheduler that has lost a settlement.
        let spent = match &self {
            Self::NotCovered(NotCovered::Short { spent, .. }) => Some(spent),
            _ => None,
        };
        let error = json!({"error": {
            "message": sentence(&self),
            "type": kind,
            "param": null,
            "code": code,
            "spent": spent,
        }});
        let mut response = (status, Json(error)).into_response();
        if matches!(self, Self::Full) {
            let headers = response.headers_mut();
            headers.insert(RETRY_AFTER, HeaderValue::from_static("1"));
        }
        response
    }
}
