//! What is thrown: an `Error` with a stable `code`, and `checks` where a policy was asked.

use std::error::Error;

use attestation::appraisal::{Check, chain};
use wasm_bindgen::prelude::wasm_bindgen;

use crate::convert::{Json, to_js};

#[wasm_bindgen]
extern "C" {
    /// JavaScript's own, with two more properties.
    #[wasm_bindgen(js_name = Error)]
    pub type AttestationError;

    #[wasm_bindgen(constructor, js_class = "Error")]
    fn new(message: &str) -> AttestationError;

    #[wasm_bindgen(method, setter)]
    fn set_name(this: &AttestationError, name: &str);

    #[wasm_bindgen(method, setter)]
    fn set_code(this: &AttestationError, code: &str);

    #[wasm_bindgen(method, setter)]
    fn set_checks(this: &AttestationError, checks: Json);
}

/// Says why, with all causes.
pub(crate) fn refuse(code: &str, error: &dyn Error) -> AttestationError {
    let thrown = AttestationError::new(&chain(error));
    thrown.set_name("AttestationError");
    thrown.set_code(code);
    thrown
}

/// A policy was not satisfied: every comparison is passed on.
pub(crate) fn reject(error: &dyn Error, checks: &[Check]) -> AttestationError {
    let thrown = refuse("rejected", error);
    match to_js(&checks) {
        Ok(checks) => thrown.set_checks(checks),
        Err(error) => return error,
    }
    thrown
}
