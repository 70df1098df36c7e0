//! What a worker answers, and the session that it must be about.

use attestation::batch::Path;
use attestation::binding::{self, ALPN, EXPORTER_LABEL, Nonce};
use attestation::protocol::{Request, Response};
use attestation::register::Digest384;
use attestation::{cbor, evidence};
use wasm_bindgen::prelude::wasm_bindgen;

use crate::convert::bytes;
use crate::error::{AttestationError, refuse};

/// What a worker shows of itself. Nothing in it is trusted.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Evidence {
    pub(crate) evidence: evidence::Evidence,
    /// From the session's binding to what the platform signed.
    pub(crate) path: Path,
}

#[wasm_bindgen]
impl Evidence {
    /// Reads a worker's answer to a challenge: CBOR, without the length before it.
    pub fn decode(answer: &[u8]) -> Result<Self, AttestationError> {
        match cbor::decode(answer).map_err(|error| refuse("evidence", &error))? {
            Response::Evidence(evidence, path) => Ok(Self {
                evidence: *evidence,
                path,
            }),
            Response::Endorsement(_) => Err(refuse("platform", &NotATd)),
            Response::Refused(refusal) => Err(refuse("refused", &refusal)),
        }
    }
}

/// A TPM that wants to be challenged: no TD, and never taken for one.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("the worker's platform is a TPM, expected a TD")]
struct NotATd;

/// One nonce in one TLS session with the holder of one key: what evidence has to be
/// about.
#[wasm_bindgen]
#[derive(Debug)]
pub struct Binding(pub(crate) binding::Binding);

#[wasm_bindgen]
impl Binding {
    /// `spki` is the server certificate's SubjectPublicKeyInfo in DER; `ekm` are 64
    /// bytes from the session's exporter, and `nonce` 32 fresh random bytes.
    #[wasm_bindgen(constructor)]
    pub fn new(spki: &[u8], ekm: &[u8], nonce: &[u8]) -> Result<Self, AttestationError> {
        let spki = Digest384::of(spki);
        let (ekm, nonce) = (
            bytes(ekm, "keying material")?,
            Nonce(bytes(nonce, "nonce")?),
        );
        Ok(Self(binding::Binding::new(&spki, &ekm, &nonce)))
    }

    /// What to send, so that the worker shows itself: CBOR, without the length before it.
    pub fn challenge(nonce: &[u8]) -> Result<Vec<u8>, AttestationError> {
        let nonce = Nonce(bytes(nonce, "nonce")?);
        Ok(cbor::encode(&Request::challenge(nonce)))
    }

    /// Application protocol of an attested connection.
    #[wasm_bindgen(getter)]
    #[must_use]
    pub fn alpn() -> String {
        String::from_utf8_lossy(ALPN).into_owned()
    }

    /// Label of the exporter (RFC 8446, section 7.5).
    #[wasm_bindgen(getter, js_name = exporterLabel)]
    #[must_use]
    pub fn exporter_label() -> String {
        String::from_utf8_lossy(EXPORTER_LABEL).into_owned()
    }

    /// Context of the exporter: ties the keying material to this nonce.
    #[wasm_bindgen(js_name = exporterContext)]
    pub fn exporter_context(nonce: &[u8]) -> Result<Vec<u8>, AttestationError> {
        let nonce = Nonce(bytes(nonce, "nonce")?);
        Ok(nonce.exporter_context().as_bytes().to_vec())
    }
}
