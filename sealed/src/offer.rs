//! What workers say to schedulers, and schedulers to clients: JSON, and no more than a
//! claim. A client trusts in what evidence shows and in what it agreed to pay.

use alloc::string::String;
use alloc::vec::Vec;

use attestation::register::Digest256;
use serde::{Deserialize, Serialize};

/// What a worker can do now.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Offer {
    /// Who.
    pub worker: Digest256,
    /// It finishes what it has, and takes nothing new.
    pub draining: bool,
    /// What it serves.
    pub models: Vec<OfferedModel>,
}

/// One model of an offer.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct OfferedModel {
    /// As requests call it.
    pub name: String,
    /// `verity-sha256:…` of its files; none where another program serves it.
    pub root: Option<String>,
    /// Requests at a time.
    pub slots: u32,
    /// Of these, without work.
    pub free: u32,
    /// Requests that wait.
    pub queued: u32,
    /// Of one request, as measured.
    pub tokens_per_second: u32,
    /// Longest conversation, in tokens.
    pub context: u32,
    /// In nanotons for a million tokens.
    pub ask: u64,
}

/// A client looks for a worker.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct AssignmentRequest {
    /// Which model.
    pub model: String,
    /// Tokens that it will pay for at most.
    pub limit: u64,
    /// In nanotons for a million tokens.
    pub max_price: u64,
    /// The same, of that: what is paid above the ask and the fee if it has to wait.
    #[serde(default, skip_serializing_if = "is_nothing")]
    pub tip: u64,
    /// For how long the answer is of use.
    pub deadline_ms: u32,
    /// The same for requests that share a beginning, and otherwise without meaning.
    pub affinity: Option<Digest256>,
    /// Who failed it just now.
    #[serde(default)]
    pub except: Vec<Digest256>,
}

/// A scheduler that knows no tips refuses a request that has one.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
const fn is_nothing(tip: &u64) -> bool {
    *tip == 0
}

/// A scheduler's choice.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Assignment {
    /// Whom to seal to.
    pub worker: Digest256,
    /// In nanotons for a million tokens.
    pub price: u64,
    /// The worker's keys; nothing in it counts before evidence has named its digest.
    pub keyset: String,
    /// For how long the choice stands.
    pub expires_ms: u32,
}
