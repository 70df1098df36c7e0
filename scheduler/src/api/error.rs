//! Errors in the shape that OpenAI's clients read.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::ledger::account::Standing;

/// What a client is told before anything of an answer.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct ApiError {
    code: Code,
    message: String,
    wait: Option<Duration>,
    standing: Option<Standing>,
}

/// What it can act upon.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Code {
    BadEnvelope,
    BadRequest,
    BadVoucher,
    Draining,
    Full,
    Late,
    ModelNotFound,
    NotCovered,
    NotFound,
    PriceTooLow,
    Replayed,
    TooOften,
    Unavailable,
    WorkerGone,
    /// It had all of the request: what that costs is not known yet.
    WorkerLost,
}

impl ApiError {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            wait: None,
            standing: None,
        }
    }

    /// Whether nobody else brought it about.
    pub(super) const fn is_of_the_client(&self) -> bool {
        !matches!(self.code, Code::Full | Code::Unavailable)
    }

    /// What the books say of whoever asks.
    pub(super) fn of(self, standing: Standing) -> Self {
        Self {
            standing: Some(standing),
            ..self
        }
    }

    /// When it makes sense to try again.
    pub(super) fn after(self, wait: Duration) -> Self {
        Self {
            wait: Some(wait),
            ..self
        }
    }
}

impl Code {
    /// As clients read it.
    pub(super) const fn name(self) -> &'static str {
        self.parts().1
    }

    const fn parts(self) -> (StatusCode, &'static str) {
        match self {
            Self::BadEnvelope => (StatusCode::BAD_REQUEST, "bad_envelope"),
            Self::BadRequest => (StatusCode::BAD_REQUEST, "bad_request"),
            Self::BadVoucher => (StatusCode::BAD_REQUEST, "bad_voucher"),
            Self::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
            Self::Full => (StatusCode::TOO_MANY_REQUESTS, "full"),
            Self::Late => (StatusCode::GATEWAY_TIMEOUT, "late"),
            Self::ModelNotFound => (StatusCode::NOT_FOUND, "model_not_found"),
            Self::NotCovered => (StatusCode::PAYMENT_REQUIRED, "not_covered"),
            Self::NotFound => (StatusCode::NOT_FOUND, "not_found"),
            Self::PriceTooLow => (StatusCode::PAYMENT_REQUIRED, "price_too_low"),
            Self::Replayed => (StatusCode::CONFLICT, "replayed"),
            Self::TooOften => (StatusCode::TOO_MANY_REQUESTS, "too_often"),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, "unavailable"),
            Self::WorkerGone => (StatusCode::SERVICE_UNAVAILABLE, "worker_gone"),
            Self::WorkerLost => (StatusCode::SERVICE_UNAVAILABLE, "worker_lost"),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let (status, code) = self.code.parts();
        let body = json!({ "error": {
            "message": self.message,
            "type": "cocoon_scheduler_error",
            "param": null,
            "code": code,
            "spent": self.standing.map(|standing| standing.spent),
            "reserved": self.standing.map(|standing| standing.reserved),
        }});
        let mut response = (status, Json(body)).into_response();
        response.extensions_mut().insert(self.code);
        if let Some(wait) = self.wait {
            let seconds = wait.as_secs().saturating_add(1);
            let headers = response.headers_mut();
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
