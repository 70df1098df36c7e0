//! What was done for a request, signed: it follows the last chunk of a response, in
//! clear, for the client and all who pay on the way.

use alloc::vec::Vec;

use attestation::cbor::{self, CborError};
use minicbor::{Decode, Encode};

/// A receipt and the signature of the worker's receipt key over it. CBOR, in its one
/// encoding.
#[derive(Clone, Debug, Decode, Encode, Eq, PartialEq)]
#[cbor(map)]
pub struct Settlement {
    /// Bag of cells of the receipt that a Channel's voucher pays for.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub receipt: Vec<u8>,
    /// Over the hash of its root.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub signature: [u8; 64],
    /// What the receipt says, for those who do not read cells.
    #[n(2)]
    pub tokens: u64,
}

impl Settlement {
    /// Longest that is read, in bytes.
    pub const MAX: usize = 4096;

    /// What follows the last chunk.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        cbor::encode(self)
    }

    /// Reads what followed it.
    pub fn parse(bytes: &[u8]) -> Result<Self, CborError> {
        cbor::decode(bytes)
    }
}
