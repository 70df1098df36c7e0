//! What stands in the first chunk of a request and of a response, by itself: what HTTP
//! says before a body. CBOR, in its one encoding.

use alloc::string::String;
use alloc::vec::Vec;

use attestation::cbor::{self, CborError};
use minicbor::{Decode, Encode};

/// What is asked for.
#[derive(Clone, Decode, Encode, Eq, PartialEq)]
#[cbor(map)]
pub struct RequestHead {
    /// As in HTTP.
    #[n(0)]
    pub method: String,
    /// With its query.
    #[n(1)]
    pub path: String,
    /// No others than [`RequestHead::HEADERS`], names in lower case.
    #[n(2)]
    pub headers: Vec<Header>,
    /// A secret of the client's: who has it shares what the worker keeps of earlier
    /// requests.
    #[cbor(n(3), with = "minicbor::bytes")]
    pub tenant: [u8; 32],
}

impl RequestHead {
    /// What a request may say beside its body. Who asks is not among it.
    pub const HEADERS: [&str; 3] = ["accept", "content-type", "x-receipt-opening"];

    /// For the first chunk.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        cbor::encode(self)
    }

    /// Reads a first chunk.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeadError> {
        let head: Self = cbor::decode(bytes).map_err(HeadError::Cbor)?;
        let known = |header: &Header| Self::HEADERS.contains(&&*header.0);
        match head.headers.iter().all(known) {
            true => Ok(head),
            false => Err(HeadError::Header),
        }
    }
}

/// It names a tenant, and a path that the worker may take apart: nothing for a log.
impl core::fmt::Debug for RequestHead {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.debug_struct("RequestHead").finish_non_exhaustive()
    }
}

/// What is answered.
#[derive(Clone, Debug, Decode, Encode, Eq, PartialEq)]
#[cbor(map)]
pub struct ResponseHead {
    /// As in HTTP.
    #[n(0)]
    pub status: u16,
    /// Names in lower case.
    #[n(1)]
    pub headers: Vec<Header>,
}

impl ResponseHead {
    /// For the first chunk.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        cbor::encode(self)
    }

    /// Reads a first chunk.
    pub fn parse(bytes: &[u8]) -> Result<Self, HeadError> {
        cbor::decode(bytes).map_err(HeadError::Cbor)
    }
}

/// Name and value.
#[derive(Clone, Debug, Decode, Encode, Eq, PartialEq)]
pub struct Header(#[n(0)] pub String, #[n(1)] pub String);

/// Why a chunk is no head.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HeadError {
    /// Another shape, or not its one encoding.
    #[error("no head in the first chunk")]
    Cbor(#[source] CborError),
    /// Which one is the client's secret.
    #[error("a header that no sealed request has")]
    Header,
}
