//! NVIDIA's word on whether it took certificates back (RFC 6960, appendix A.1).
//!
//! ```text
//! POST /    application/ocsp-request, application/ocsp-response
//! ```
//!
//! Each answer is signed, and whoever uses one looks at that; so the responder
//! may be anybody's. Calls block, up to 10 s.

use ureq::Agent;

use crate::collateral::{FetchError, client, post};

/// Where answers come from.
pub trait Responder: Send + Sync {
    /// What it says to a request; both are DER.
    fn ask(&self, request: &[u8]) -> Result<Vec<u8>, FetchError>;
}

/// NVIDIA's responder, or one that passes its answers on.
pub struct Service {
    url: String,
    http: Agent,
}

impl Service {
    /// `url` is all of it.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self {
            url: url.to_owned(),
            http: client(),
        }
    }
}

impl Responder for Service {
    fn ask(&self, request: &[u8]) -> Result<Vec<u8>, FetchError> {
        let url = self.url.clone();
        Ok(post(&self.http, url, "application/ocsp-request", request)?.body)
    }
}

/// NVIDIA's own.
pub const NVIDIA: &str = "https://ocsp.ndis.nvidia.com/";
