//! The parameters of a request, taken one by one.
//!
//! `null` is the same as absent, as in the real API. What is left at the end was
//! not understood, and is refused by name.

use axum::extract::{FromRequest, Request};
use axum::http::header::CONTENT_TYPE;
use inference::Tenant;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::body;
use super::error::ApiError;
use super::room::Held;

/// A JSON object whose fields have not all been understood.
pub(super) struct Fields {
    /// Where it is in the request, for `param`: empty or `messages[0].`.
    place: String,
    map: Map<String, Value>,
    /// Held where it is the whole of a body.
    _room: Option<Held>,
}

impl<S: Send + Sync> FromRequest<S> for Fields {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let kind = request.headers().get(CONTENT_TYPE);
        let kind = kind.and_then(|kind| kind.to_str().ok());
        let essence = kind
            .and_then(|kind| kind.split(';').next())
            .unwrap_or_default();
        if !essence.trim().eq_ignore_ascii_case("application/json") {
            return Err(ApiError::media_type("application/json"));
        }
        let tenant: Tenant = request.extensions().get().cloned().unwrap_or_default();
        let (map, room) = body::read(request.into_body(), &body::ROOM, &tenant).await?;
        Ok(Self {
            place: String::new(),
            map,
            _room: Some(room),
        })
    }
}

impl Fields {
    /// What came as a form: strings, and lists of them.
    pub(super) fn of_form(map: Map<String, Value>) -> Self {
        Self {
            place: String::new(),
            map,
            _room: None,
        }
    }

    /// An object inside the request.
    pub(super) fn nested(place: &str, value: Value) -> Result<Self, ApiError> {
        match value {
            Value::Object(map) => Ok(Self {
                place: format!("{place}."),
                map,
                _room: None,
            }),
            _ => Err(wrong_type(place, "an object")),
        }
    }

    /// The full name of a field.
    pub(super) fn name(&self, field: &str) -> String {
        format!("{}{field}", self.place)
    }

    /// A field as it is, for whoever repeats it.
    pub(super) fn peek(&self, field: &str) -> Option<Value> {
        self.map
            .get(field)
            .filter(|value| !value.is_null())
            .cloned()
    }

    /// A field that need not be there.
    pub(super) fn take<T: DeserializeOwned>(
        &mut self,
        field: &str,
        expected: &str,
    ) -> Result<Option<T>, ApiError> {
        let Some(value) = self.map.remove(field).filter(|value| !value.is_null()) else {
            return Ok(None);
        };
        serde_json::from_value(value)
            .map(Some)
            .map_err(|_| wrong_type(&self.name(field), expected))
    }

    /// A field that must be there.
    pub(super) fn require<T: DeserializeOwned>(
        &mut self,
        field: &str,
        expected: &str,
    ) -> Result<T, ApiError> {
        self.take(field, expected)?.ok_or_else(|| {
            let name = self.name(field);
            let message = format!("Missing required parameter: '{name}'.");
            ApiError::invalid(name, "missing_required_parameter", message)
        })
    }

    /// Fields that have no effect here, whatever they hold.
    pub(super) fn ignore(&mut self, fields: &[&str]) {
        for field in fields {
            self.map.remove(*field);
        }
    }

    /// Fields that are refused unless they say what happens anyway.
    pub(super) fn allow_only(&mut self, fields: &[(&str, Vec<Value>)]) -> Result<(), ApiError> {
        for (field, values) in fields {
            match self.map.remove(*field) {
                Some(value) if !value.is_null() && !values.contains(&value) => {
                    let name = self.name(field);
                    let message = format!("Unsupported parameter: '{name}' with this value.");
                    return Err(ApiError::invalid(name, "unsupported_parameter", message));
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// Refuses what nobody took.
    pub(super) fn finish(self) -> Result<(), ApiError> {
        match self.map.keys().next() {
            None => Ok(()),
            Some(field) => {
                let name: String = self.name(field).chars().take(MAX_NAME).collect();
                let message = format!("Unknown parameter: '{name}'.");
                Err(ApiError::invalid(name, "unknown_parameter", message))
            }
        }
    }
}

pub(super) fn wrong_type(name: &str, expected: &str) -> ApiError {
    let message = format!("Invalid type for '{name}': expected {expected}.");
    ApiError::invalid(name, "invalid_type", message)
}

/// Characters of a name that are repeated in an error.
const MAX_NAME: usize = 64;
