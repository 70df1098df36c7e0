//! What client and worker say before the first application byte, and whenever
//! the client asks again.
//!
//! ```text
//! client                             worker
//!   Challenge { nonce }       ->
//!                             <-     Evidence                       (a TD)
//!                             <-     Endorsement { EK, AK }         (a vTPM)
//!   Credential { secret to EK } ->
//!                             <-     Evidence
//! ```
//!
//! Each message is one frame: length as u32, big-endian, then CBOR.

use alloc::boxed::Box;

use minicbor::{Decode, Encode};

use crate::batch::Path;
use crate::binding::Nonce;
use crate::evidence::Evidence;
use crate::vtpm;

/// From the client.
#[derive(Clone, Debug, Decode, Encode, Eq, PartialEq)]
pub enum Request {
    /// Show yourself, for this nonce.
    #[n(0)]
    Challenge(#[cbor(n(0), with = "minicbor::bytes")] [u8; 32]),
    /// Prove that your attestation key lives beside the endorsement key.
    #[n(1)]
    Credential(#[n(0)] vtpm::Credential),
}

impl Request {
    /// Longest frame that a worker reads, in bytes.
    pub const MAX: usize = 4096;

    /// Opens a conversation.
    #[must_use]
    pub const fn challenge(nonce: Nonce) -> Self {
        Self::Challenge(nonce.0)
    }
}

/// From the worker.
#[derive(Clone, Debug, Decode, Encode, Eq, PartialEq)]
pub enum Response {
    /// The last word of a conversation: evidence for a round of clients, and the
    /// way from this one's binding to it.
    #[n(0)]
    Evidence(#[n(0)] Box<Evidence>, #[n(1)] Path),
    /// What the client needs to challenge a TPM.
    #[n(1)]
    Endorsement(#[n(0)] vtpm::Endorsement),
    /// No evidence this time.
    #[n(2)]
    Refused(#[n(0)] Refusal),
}

impl Response {
    /// Longest frame that a client reads, in bytes: collateral and event log
    /// come with the evidence.
    pub const MAX: usize = 1 << 20;
}

/// Why a worker shows nothing. It says no more than a client can act upon.
#[derive(Clone, Copy, Debug, Decode, Encode, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// Too many others are asking.
    #[n(0)]
    #[error("the worker is busy with other attestations")]
    Busy,
    /// The platform did not give a quote.
    #[n(1)]
    #[error("the worker's platform gave no evidence")]
    NoEvidence,
    /// A message that does not follow from the one before.
    #[n(2)]
    #[error("the worker did not expect this message")]
    OutOfOrder,
}

/// Length of the frame that a header announces.
pub fn frame_len(header: [u8; 4], max: usize) -> Result<usize, FrameTooLong> {
    let len = u32::from_be_bytes(header);
    usize::try_from(len)
        .ok()
        .filter(|len| *len <= max)
        .ok_or(FrameTooLong { len, max })
}

/// A peer announced more than we read.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("frame of {len} bytes announced, at most {max} are read")]
pub struct FrameTooLong {
    /// As announced.
    pub len: u32,
    /// Our limit.
    pub max: usize,
}
