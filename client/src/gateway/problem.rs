//! OpenAI's error object.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

/// Why a request was not answered, as clients of OpenAI read it.
#[derive(Clone, Debug)]
pub(crate) struct Problem {
    pub(crate) status: StatusCode,
    kind: &'static str,
    pub(crate) code: String,
    pub(crate) message: String,
    retry: Option<Duration>,
}

impl Problem {
    /// Of the gateway's own.
    pub(crate) fn new(
        status: StatusCode,
        code: impl Into<String>,
        message: impl Into<String>,
    ) -> Self {
        Self {
            status,
            kind: "cocoon_gateway_error",
            code: code.into(),
            message: message.into(),
            retry: None,
        }
    }

    /// With the type that clients know such errors by.
    pub(crate) const fn of_kind(mut self, kind: &'static str) -> Self {
        self.kind = kind;
        self
    }

    /// To be asked again after so long.
    pub(crate) const fn after(mut self, retry: Duration) -> Self {
        self.retry = Some(retry);
        self
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = json!({ "error": {
            "message": self.message,
            "type": self.kind,
            "param": (self.code == "model_not_found").then_some("model"),
            "code": self.code,
        }});
        let id = [("x-request-id", random_id())];
        let mut response = (self.status, id, Json(body)).into_response();
        if let Some(retry) = self.retry {
            // RFC 9110, section 10.2.3: whole seconds.
            let seconds = retry.as_secs().saturating_add(1);
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// Names an exchange that no worker has named.
fn random_id() -> String {
    let mut id = [0; 16];
    // Without randomness it says nothing; nothing relies on it.
    aws_lc_rs::rand::fill(&mut id).unwrap_or_default();
    format!("req_{}", hex::encode(id))
}
