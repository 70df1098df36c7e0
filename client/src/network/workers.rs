//! Workers that have proved themselves, by their seal keys.
//!
//! `Proved` is made here only, of evidence that satisfied the policy; what seals takes
//! nothing else. A scheduler that swaps a worker has evidence of the other's to show.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ::scheduler::machine::Proof;
use attestation::aci::Keyset;
use attestation::appraisal::Check;
use attestation::binding::Nonce;
use attestation::policy::Policy;
use attestation::protocol;
use attestation::register::Digest256;
use attestation::time::UnixTime;
use sealed::{Assignment, Peer, PeerError, PublicKey};
use tokio::sync::Mutex;

use super::scheduler::{Failure, Scheduler};

/// All that were asked for, with the policy that they have to satisfy.
#[derive(Debug)]
pub(super) struct Workers {
    policy: Arc<Policy>,
    fresh: Duration,
    known: std::sync::Mutex<HashMap<Digest256, Slot>>,
}

/// Others that ask for the same worker wait for one proof.
type Slot = Arc<Mutex<Option<Arc<Proved>>>>;

impl Workers {
    pub(super) fn new(policy: Arc<Policy>, fresh: Duration) -> Self {
        Self {
            policy,
            fresh,
            known: std::sync::Mutex::default(),
        }
    }

    /// The worker of an assignment, asked for evidence unless it was not long ago.
    pub(super) async fn proved(
        &self,
        scheduler: &Scheduler,
        assignment: &Assignment,
    ) -> Result<Arc<Proved>, ProofError> {
        let slot = self.slot(&assignment.worker);
        let mut slot = slot.lock().await;
        if let Some(proved) = &*slot
            && proved.at.elapsed() <= self.fresh
        {
            return Ok(Arc::clone(proved));
        }
        *slot = None;
        let proved = Arc::new(self.prove(scheduler, assignment).await?);
        *slot = Some(Arc::clone(&proved));
        Ok(proved)
    }

    /// What was verified of each, newest first.
    pub(super) fn all(&self) -> Vec<Arc<Proved>> {
        let known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let slots = known.values().filter_map(|slot| slot.try_lock().ok());
        let mut all: Vec<_> = slots.filter_map(|slot| slot.clone()).collect();
        all.sort_by_key(|proved| proved.at.elapsed());
        all
    }

    async fn prove(
        &self,
        scheduler: &Scheduler,
        assignment: &Assignment,
    ) -> Result<Proved, ProofError> {
        let mut nonce = Nonce([0; 32]);
        aws_lc_rs::rand::fill(&mut nonce.0).map_err(|_| ProofError::Random)?;
        let challenge = protocol::Request::challenge(nonce);
        let response = scheduler.evidence(&assignment.worker, &challenge).await?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = UnixTime(now.map_err(|_| ProofError::Clock)?.as_secs());
        let keyset = assignment.keyset.as_bytes();
        let peer = Peer::judge(&self.policy, keyset, &nonce, response, now)?;
        let found = peer.key.id();
        match found == assignment.worker {
            true => Ok(Proved {
                peer,
                at: Instant::now(),
            }),
            false => Err(ProofError::Swapped {
                found,
                expected: assignment.worker,
            }),
        }
    }

    fn slot(&self, worker: &Digest256) -> Slot {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_KNOWN && !known.contains_key(worker) {
            // A scheduler may make up any number of them.
            known.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        Arc::clone(known.entry(*worker).or_default())
    }
}

/// A worker whose evidence satisfied the policy.
#[derive(Debug)]
pub(super) struct Proved {
    peer: Peer,
    at: Instant,
}

impl Proved {
    /// Whom to seal to.
    pub(super) const fn key(&self) -> &PublicKey {
        &self.peer.key
    }

    /// What it signs settlements with.
    pub(super) fn receipt_key(&self) -> Option<[u8; 32]> {
        self.peer.keyset.receipt_key(Keyset::RECEIPTS)
    }

    /// Where it runs, and what.
    pub(super) fn proof(&self) -> Option<Proof> {
        Proof::of(&self.peer.trusted)
    }

    pub(super) fn checks(&self) -> &[Check] {
        self.peer.trusted.checks()
    }

    pub(super) fn age(&self) -> Duration {
        self.at.elapsed()
    }
}

const MAX_KNOWN: usize = 10_000;

/// Why nothing is sealed to a worker.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// Before 1970.
    #[error("this machine's clock is before 1970")]
    Clock,
    /// The system gives no randomness.
    #[error("no randomness")]
    Random,
    /// None came.
    #[error("no evidence of the worker's")]
    Scheduler(#[from] Failure),
    /// A lie of the scheduler's.
    #[error("the scheduler named worker {expected}, and the evidence is of {found}")]
    Swapped {
        /// Who proved itself.
        found: Digest256,
        /// Who was assigned.
        expected: Digest256,
    },
    /// The policy says no.
    #[error("the worker is not trusted")]
    Untrusted(#[from] PeerError),
}
