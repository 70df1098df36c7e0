//! The worker that a client may seal to: one whose evidence satisfied a policy.
//!
//! ```text
//! nonce ── quote ── keyset digest ── keyset ── seal key, receipt key
//! ```
//!
//! This is the only place where a public key is made of somebody's bytes. The evidence is
//! as fresh as its nonce, which is the client's own; whoever passed it on could only
//! leave it out.

use attestation::aci::{Keyset, KeysetError};
use attestation::appraisal::Rejection;
use attestation::binding::{Binding, Nonce};
use attestation::merkle::PathError;
use attestation::policy::{Policy, Trusted};
use attestation::protocol::{Refusal, Response};
use attestation::time::UnixTime;

use crate::key::PublicKey;

/// A worker, and what is known of it.
#[derive(Debug)]
#[non_exhaustive]
pub struct Peer {
    /// What requests are sealed to.
    pub key: PublicKey,
    /// What its receipts count under.
    pub keyset: Keyset,
    /// What was proved.
    pub trusted: Trusted,
}

impl Peer {
    /// Judges what a worker answered to the challenge with `nonce`. `keyset` is what
    /// somebody says are its keys.
    pub fn judge(
        policy: &Policy,
        keyset: &[u8],
        nonce: &Nonce,
        response: Response,
        at: UnixTime,
    ) -> Result<Self, PeerError> {
        let keyset = Keyset::parse(keyset).map_err(PeerError::Keyset)?;
        let (evidence, path) = match response {
            Response::Evidence(evidence, path) => (evidence, path),
            Response::Endorsement(_) => return Err(PeerError::NotATd),
            Response::Refused(refusal) => return Err(PeerError::Refused(refusal)),
        };
        let head = path.head(&Binding::sealed(&keyset.digest().0, nonce));
        let head = head.map_err(PeerError::Path)?;
        let trusted = policy.judge(&evidence, &head, None, at);
        let trusted = trusted.map_err(PeerError::Rejected)?;
        let not_after = UnixTime(keyset.not_after());
        if at > not_after {
            return Err(PeerError::Expired { not_after });
        }
        let key = keyset.seal_key().as_deref().and_then(PublicKey::parse);
        Ok(Self {
            key: key.ok_or(PeerError::NoKey)?,
            keyset,
            trusted,
        })
    }
}

/// Why nothing may be sealed to a worker.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PeerError {
    /// Keys of yesterday.
    #[error("the worker's keys count until {not_after}, which is past")]
    Expired {
        /// As the keyset says.
        not_after: UnixTime,
    },
    /// No keys.
    #[error("cannot read the worker's keys")]
    Keyset(#[source] KeysetError),
    /// Nothing to seal to.
    #[error("the worker's keyset has no x-wing key")]
    NoKey,
    /// Its host would read what is sealed to it.
    #[error("the worker's platform is a TPM, expected a TD")]
    NotATd,
    /// The evidence is of another round.
    #[error("the evidence has no way to this challenge")]
    Path(#[source] PathError),
    /// The worker shows nothing.
    #[error("{0}")]
    Refused(Refusal),
    /// The policy says no: `report-data` where the keyset is not the one that was proved.
    #[error("{0}")]
    Rejected(Rejection),
}
