//! Values on their way in and out of JavaScript.

use attestation::time::UnixTime;
use js_sys::{JSON, JsString, Uint8Array};
use serde::Serialize;
use serde::de::DeserializeOwned;
use wasm_bindgen::{JsCast as _, JsValue};

use crate::error::{AttestationError, refuse};

/// Anything that JSON can say; its precise type is said where it is exported.
pub(crate) type Json = JsValue;

/// An object of JavaScript, by its JSON.
pub(crate) fn to_js(value: &impl Serialize) -> Result<Json, AttestationError> {
    let text = serde_json::to_string(value).map_err(|error| refuse("internal", &error))?;
    JSON::parse(&text).map_err(|_| refuse("internal", &Malformed("JSON")))
}

/// Our value of an object of JavaScript, `what` being wanted.
pub(crate) fn from_js<T: DeserializeOwned>(
    value: &Json,
    what: &'static str,
) -> Result<T, AttestationError> {
    let text = JSON::stringify(value)
        .ok()
        .and_then(|text| text.as_string());
    let text = text.ok_or_else(|| refuse(what, &Malformed(what)))?;
    serde_json::from_str(&text).map_err(|error| refuse(what, &error))
}

/// Seconds since 1970, fractions cut: `Date.now() / 1000` will do.
pub(crate) fn time(at: f64) -> Result<UnixTime, AttestationError> {
    // Of a whole number the text has no point, and a `u64` has no sign.
    let seconds = at.floor().to_string().parse();
    seconds
        .map(UnixTime)
        .map_err(|_| refuse("time", &Malformed("time in seconds since 1970")))
}

/// Exactly `N` bytes.
pub(crate) fn bytes<const N: usize>(
    value: &[u8],
    what: &'static str,
) -> Result<[u8; N], AttestationError> {
    value.try_into().map_err(|_| {
        let (found, expected) = (value.len(), N);
        let error = WrongLength {
            what,
            found,
            expected,
        };
        refuse("length", &error)
    })
}

/// A file: text, or its bytes.
pub(crate) fn content(file: &JsValue) -> Result<Vec<u8>, NotBytes> {
    match (file.dyn_ref::<Uint8Array>(), file.dyn_ref::<JsString>()) {
        (Some(bytes), _) => Ok(bytes.to_vec()),
        (None, Some(text)) => Ok(String::from(text).into_bytes()),
        (None, None) => Err(NotBytes),
    }
}

/// Not a file.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("neither a string nor a Uint8Array")]
pub(crate) struct NotBytes;

/// An argument that is not what the types ask for.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("not a {0}")]
struct Malformed(&'static str);

/// Bytes of another length.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("{what} has {found} bytes, expected {expected}")]
struct WrongLength {
    what: &'static str,
    found: usize,
    expected: usize,
}
