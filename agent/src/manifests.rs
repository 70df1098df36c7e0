//! NVIDIA's reference manifests: what a driver and a firmware measure.
//!
//! ```text
//! GET /v1/rim/ID    {"id": ID, "rim": base64 of the document, ...}
//! ```
//!
//! NVIDIA signed each document, and whoever uses one looks at that; so the
//! service may be anybody's. Calls block, up to 10 s.
//!
//! Source: NVIDIA RIM service, API 1.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use ureq::Agent;

use crate::collateral::{FetchError, client, get};

/// Where manifests come from.
pub trait Manifests: Send + Sync {
    /// The document of that name.
    fn fetch(&self, id: &str) -> Result<Vec<u8>, FetchError>;
}

/// NVIDIA's service, or a cache that speaks like it.
pub struct Service {
    base: String,
    http: Agent,
}

impl Service {
    /// `base` is what comes before `/v1`.
    #[must_use]
    pub fn new(base: &str) -> Self {
        Self {
            base: base.trim_end_matches('/').to_owned(),
            http: client(),
        }
    }
}

impl Manifests for Service {
    fn fetch(&self, id: &str) -> Result<Vec<u8>, FetchError> {
        let reply = get(&self.http, format!("{}/v1/rim/{id}", self.base))?;
        serde_json::from_slice::<Answer>(&reply.body)
            .ok()
            .and_then(|answer| STANDARD.decode(answer.rim).ok())
            .ok_or_else(|| reply.unexpected("a manifest in base64"))
    }
}

#[derive(Deserialize)]
struct Answer {
    rim: String,
}

/// NVIDIA's own.
pub const NVIDIA: &str = "https://rim.attestation.nvidia.com";
