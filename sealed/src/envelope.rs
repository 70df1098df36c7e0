//! What whoever passes a request on has to know, and the request is bound to.
//!
//! A CBOR map with small integers as keys, in its one encoding (RFC 8949, section 4.2).
//! It travels in clear, and is hashed into the keys of the request: another envelope
//! beside it, and the worker cannot open it.

use alloc::string::String;
use alloc::vec::Vec;

use attestation::cbor::{self, CborError};
use attestation::register::Digest256;
use minicbor::{Decode, Encode};
use serde::{Deserialize, Serialize};

/// What is known of a request without opening it.
#[derive(Clone, Debug, Decode, Encode, Eq, PartialEq)]
#[cbor(map)]
pub struct Envelope {
    /// To whom it is sealed.
    #[cbor(n(0), with = "crate::digest")]
    pub worker: Digest256,
    /// As the worker offers it.
    #[n(1)]
    pub model: String,
    /// Random, the request's own.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub id: [u8; 16],
    /// Tokens that are paid for at most, read and made.
    #[n(3)]
    pub limit: u64,
    /// What the client agreed to, in nanotons for a million tokens.
    #[n(4)]
    pub price: u64,
    /// For how long the answer is of use, from when this is read.
    #[n(5)]
    pub deadline_ms: u32,
    /// How large the request is.
    #[n(6)]
    pub class: SizeClass,
}

impl Envelope {
    /// Longest that is read, in bytes: it has to fit a header.
    pub const MAX: usize = 1024;

    /// What travels.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        cbor::encode(self)
    }

    /// Reads what travelled.
    pub fn parse(bytes: &[u8]) -> Result<Self, EnvelopeError> {
        match bytes.len() {
            ..=Self::MAX => cbor::decode(bytes).map_err(EnvelopeError::Cbor),
            len => Err(EnvelopeError::Length { len }),
        }
    }
}

/// How large a request is: of all that decides about its cost, what shows anyhow.
#[derive(
    Clone, Copy, Debug, Decode, Deserialize, Encode, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize,
)]
#[cbor(index_only)]
#[serde(rename_all = "snake_case")]
pub enum SizeClass {
    /// Up to 4 KiB.
    #[n(0)]
    Small,
    /// Up to 64 KiB.
    #[n(1)]
    Medium,
    /// Up to 1 MiB.
    #[n(2)]
    Large,
    /// More.
    #[n(3)]
    Huge,
}

impl SizeClass {
    /// Of a body of so many bytes.
    #[must_use]
    pub const fn of(body: usize) -> Self {
        match body {
            ..=0x1000 => Self::Small,
            0x1001..=0x1_0000 => Self::Medium,
            0x1_0001..=0x10_0000 => Self::Large,
            _ => Self::Huge,
        }
    }
}

/// Why bytes are no envelope.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum EnvelopeError {
    /// Another shape, or not its one encoding.
    #[error("no envelope")]
    Cbor(#[source] CborError),
    /// Longer than any.
    #[error("an envelope of {len} bytes, at most {} are read", Envelope::MAX)]
    Length {
        /// As given.
        len: usize,
    },
}
