//! OpenAI error objects.

use std::time::Duration;

use axum::Json;
use axum::http::{HeaderValue, StatusCode, header::RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use inference::{AudioError, EngineError, RequestError};
use serde::Serialize;

/// An error as clients see it: a status and `{"error": {...}}`.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    retry_after: Option<Duration>,
    body: Body,
}

/// The JSON of an error; also sent inside a stream that has begun.
#[derive(Debug, Serialize)]
pub(super) struct Body {
    error: Object,
}

#[derive(Debug, Serialize)]
struct Object {
    message: String,
    #[serde(rename = "type")]
    kind: &'static str,
    param: Option<String>,
    code: Option<&'static str>,
}

impl ApiError {
    /// The body is not what the parameter list says.
    pub(super) fn invalid(
        param: impl Into<String>,
        code: &'static str,
        message: impl Into<String>,
    ) -> Self {
        let mut error = Self::new(StatusCode::BAD_REQUEST, INVALID, message);
        error.body.error.param = Some(param.into());
        error.body.error.code = Some(code);
        error
    }

    /// The body is not a JSON object.
    pub(super) fn not_json(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, INVALID, message)
    }

    pub(super) fn media_type(expected: &str) -> Self {
        let message = format!("Invalid content type, expected {expected}.");
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, INVALID, message)
            .with_code("unsupported_media_type")
    }

    pub(super) fn model_not_found() -> Self {
        let mut error = Self::new(
            StatusCode::NOT_FOUND,
            INVALID,
            "The model does not exist here. GET /v1/models lists those that do.",
        );
        error.body.error.param = Some("model".into());
        error.with_code("model_not_found")
    }

    pub(super) fn unknown_url() -> Self {
        Self::new(StatusCode::NOT_FOUND, INVALID, "Unknown request URL.").with_code("unknown_url")
    }

    pub(super) fn method_not_allowed() -> Self {
        let message = "This URL does not take this HTTP method.";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, INVALID, message)
            .with_code("method_not_supported")
    }

    pub(super) fn too_large(limit: usize) -> Self {
        let message = format!("The body has more than {limit} bytes.");
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, INVALID, message).with_code("request_too_large")
    }

    /// The body has so many that even alone it may not take the room for them.
    pub(super) fn too_many_values() -> Self {
        let message = "The body has more values than there is room for.";
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, INVALID, message).with_code("request_too_large")
    }

    /// The body did not come in time.
    pub(super) fn request_timeout() -> Self {
        let message = "The body took too long to arrive.";
        Self::new(StatusCode::REQUEST_TIMEOUT, INVALID, message).with_code("timeout")
    }

    /// The file in a form is not one that can be used.
    pub(super) fn of_file(error: &AudioError) -> Self {
        Self::invalid("file", "invalid_value", sentence(error))
    }

    /// Something here failed, not the request.
    pub(super) fn internal() -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            SERVER,
            "The request could not be processed.",
        )
    }

    /// The same, where what the engine calls `engine` is `here`.
    pub(super) fn of(mut self, engine: &str, here: &str) -> Self {
        let param = &mut self.body.error.param;
        if param.as_deref() == Some(engine) {
            *param = Some(here.to_owned());
        }
        self
    }

    pub(super) fn into_body(self) -> Body {
        self.body
    }

    pub(super) fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            retry_after: None,
            body: Body {
                error: Object {
                    message: message.into(),
                    kind,
                    param: None,
                    code: None,
                },
            },
        }
    }

    fn with_code(mut self, code: &'static str) -> Self {
        self.body.error.code = Some(code);
        self
    }
}

/// `param` is where the two APIs have another name for the same field.
impl From<RequestError> for ApiError {
    fn from(error: RequestError) -> Self {
        let message = match error {
            RequestError::ContextLength {
                prompt,
                answer,
                context,
            } => too_long(prompt, answer, context),
            _ => sentence(&error),
        };
        match error {
            RequestError::Busy { retry_after } => Self {
                retry_after: Some(retry_after),
                ..Self::new(StatusCode::TOO_MANY_REQUESTS, "requests", message)
                    .with_code("rate_limit_exceeded")
            },
            RequestError::ContextLength { answer: 0, .. } => {
                Self::invalid("input", "context_length_exceeded", message)
            }
            RequestError::ContextLength { .. } => {
                Self::invalid("messages", "context_length_exceeded", message)
            }
            RequestError::Image { .. } | RequestError::Images { .. } => {
                Self::invalid("messages", "image_parse_error", message)
            }
            RequestError::Template { .. } => Self {
                status: StatusCode::UNPROCESSABLE_ENTITY,
                ..Self::invalid("messages", "invalid_value", message)
            },
            RequestError::Empty { parameter } => Self::invalid(parameter, "empty_array", message),
            RequestError::Limit { .. } => Self::invalid("max_tokens", "limit_exceeded", message),
            RequestError::OutOfRange { parameter, .. } => {
                Self::invalid(parameter, "invalid_value", message)
            }
            RequestError::Schema { parameter, source } => {
                let code = match parameter {
                    "tools" => "invalid_function_parameters",
                    _ => "invalid_json_schema",
                };
                let message = format!("Invalid schema in '{parameter}': {source}.");
                Self::invalid(parameter, code, message)
            }
            RequestError::Tools => Self::invalid("tools", "unsupported_parameter", message),
            RequestError::UnknownToken { parameter } => {
                Self::invalid(parameter, "invalid_value", message)
            }
            RequestError::Size { .. } => Self::invalid("size", "invalid_value", message),
            RequestError::Tokenize => Self::not_json(message),
            RequestError::WrongTask { .. } => Self {
                status: StatusCode::NOT_FOUND,
                ..Self::invalid("model", "model_not_found", message)
            },
            RequestError::Stopped => Self::new(StatusCode::SERVICE_UNAVAILABLE, SERVER, message),
            _ => Self::internal(),
        }
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        let message = sentence(&error);
        match error {
            EngineError::Deadline { .. } => {
                Self::new(StatusCode::GATEWAY_TIMEOUT, SERVER, message).with_code("timeout")
            }
            EngineError::Stopped => Self::new(StatusCode::SERVICE_UNAVAILABLE, SERVER, message),
            EngineError::Unread => {
                Self::new(StatusCode::REQUEST_TIMEOUT, SERVER, message).with_code("timeout")
            }
            _ => Self::new(StatusCode::INTERNAL_SERVER_ERROR, SERVER, message),
        }
    }
}

/// Clients know this one by its words.
fn too_long(prompt: usize, answer: usize, context: usize) -> String {
    let total = prompt.saturating_add(answer);
    format!(
        "This model's maximum context length is {context} tokens. However, you requested at \
         least {total} tokens ({prompt} in the prompt, {answer} in the answer).",
    )
}

/// Our errors are clauses, theirs are sentences.
pub(crate) fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    if let Some(first) = text.get_mut(..1) {
        first.make_ascii_uppercase();
    }
    text.push('.');
    text
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body)).into_response();
        if let Some(wait) = self.retry_after {
            let seconds = HeaderValue::from(wait.as_secs());
            response.headers_mut().insert(RETRY_AFTER, seconds);
        }
        response
    }
}

const INVALID: &str = "invalid_request_error";
const SERVER: &str = "server_error";
