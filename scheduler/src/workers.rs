//! The workers that are there now: linked to this scheduler, or known from another.
//!
//! A worker is its seal key. What it offers counts only under the keyset that it proved;
//! of a worker that is linked elsewhere that was established there.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use attestation::aci::{Keyset, KeysetError};
use attestation::register::Digest256;
use axum::body::Body;
use hyper::client::conn::http2::SendRequest;
use sealed::Offer;
use serde::{Deserialize, Serialize};
use tokio::sync::broadcast;
use tycho_types::models::StdAddr;

use crate::desk::Desk;
use crate::directory::OfferError;
use crate::link::HEARTBEAT;
use crate::machine::{Machine, Proof};
use crate::reputation::Event;
use crate::standings::Standings;

/// All of them.
#[derive(Debug)]
pub struct Workers {
    known: RwLock<HashMap<Digest256, Worker>>,
    desk: Desk,
    standings: Standings,
    changes: broadcast::Sender<Change>,
    links: AtomicU64,
}

/// One of them.
#[derive(Clone, Debug)]
pub struct Worker {
    /// The keys that it proved.
    pub keyset: Arc<Keyset>,
    /// Where it runs, and what.
    pub proof: Proof,
    /// The registers behind that, where it is linked here.
    pub build: Option<Arc<Build>>,
    /// What it offered last.
    pub offer: Arc<Offer>,
    /// Of its receipts.
    pub receipt_key: [u8; 32],
    /// Out of which its owner may be paid, as it says.
    pub channels: Arc<[StdAddr]>,
    /// Its connection, where it is linked here.
    pub requests: Option<SendRequest<Body>>,
    /// Where the scheduler is that it is linked to, if another.
    pub at: Option<Arc<str>>,
    heard: Instant,
    link: u64,
}

/// Registers by their names, in hex.
pub type Build = BTreeMap<&'static str, String>;

/// What became known of a worker.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Change {
    /// It is linked here, and offers something.
    Here(Digest256),
    /// It is linked elsewhere, and offers something.
    Elsewhere(Digest256),
    /// It is gone from here.
    Gone(Digest256),
}

/// What one scheduler tells the others of a worker.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Announcement {
    /// Canonical text.
    pub keyset: String,
    /// To that scheduler.
    pub proof: Proof,
    /// As the worker said.
    pub offer: Offer,
    /// As the worker said.
    pub channels: Vec<String>,
}

impl Workers {
    /// None yet.
    #[must_use]
    pub fn new(desk: Desk) -> Arc<Self> {
        Arc::new(Self {
            known: RwLock::default(),
            desk,
            standings: Standings::default(),
            changes: broadcast::Sender::new(CHANGES),
            links: AtomicU64::new(1),
        })
    }

    /// Which of them are asked.
    #[must_use]
    pub const fn desk(&self) -> &Desk {
        &self.desk
    }

    /// What is thought of them.
    #[must_use]
    pub const fn standings(&self) -> &Standings {
        &self.standings
    }

    /// Something came of a request to one. It counts for the choice at once; for others on
    /// the same machine when they speak next.
    pub fn record(&self, id: &Digest256, machine: Machine, event: Event) {
        self.standings.record(machine, event);
        self.desk.judged(id, self.standings.of(&machine));
    }

    /// One that has proved `keyset`, on the connection of `requests`, for as long as what
    /// comes back is kept.
    pub fn linked(
        self: &Arc<Self>,
        keyset: Keyset,
        proof: Proof,
        channels: Vec<StdAddr>,
        requests: SendRequest<Body>,
    ) -> Result<Linked, Misfit> {
        let keys = Keys::of(&keyset)?;
        Ok(Linked {
            workers: Arc::clone(self),
            id: keys.id,
            proof,
            build: None,
            channels: channels.into(),
            requests,
            keys: RwLock::new((Arc::new(keyset), keys)),
            link: self.links.fetch_add(1, Ordering::Relaxed),
        })
    }

    /// What the scheduler at `at` said. Says whether it counts: a link of our own counts
    /// more.
    pub fn announced(&self, announcement: Announcement, at: &str) -> Result<bool, Misfit> {
        let keyset = Keyset::parse(announcement.keyset.as_bytes()).map_err(Misfit::Keyset)?;
        let keys = Keys::of(&keyset)?;
        let channels = announcement.channels.iter();
        let mut known = self.write();
        match known.get(&keys.id) {
            Some(worker) if worker.link != ELSEWHERE => return Ok(false),
            None if known.len() >= MOST => return Err(Misfit::Many),
            _ => {}
        }
        let standing = self.standings.of(&announcement.proof.machine);
        self.desk
            .offered(keys.id, &announcement.offer, standing)
            .map_err(Misfit::Offer)?;
        let worker = Worker {
            keyset: Arc::new(keyset),
            proof: announcement.proof,
            build: None,
            receipt_key: keys.receipts,
            channels: channels.filter_map(|it| it.parse().ok()).collect(),
            offer: Arc::new(announcement.offer),
            requests: None,
            at: Some(at.into()),
            heard: Instant::now(),
            link: ELSEWHERE,
        };
        known.insert(keys.id, worker);
        drop(known);
        self.tell(Change::Elsewhere(keys.id));
        Ok(true)
    }

    /// What is known of one.
    pub fn get(&self, id: &Digest256) -> Option<Worker> {
        self.read().get(id).cloned()
    }

    /// What others have to know of one that is linked here, and may be asked.
    pub fn announcement(&self, id: &Digest256) -> Option<Announcement> {
        let worker = self.get(id).filter(|worker| worker.link != ELSEWHERE)?;
        if self.standings.of(&worker.proof.machine) == 0 {
            return None;
        }
        Some(Announcement {
            keyset: worker.keyset.text().into(),
            proof: worker.proof,
            offer: Offer::clone(&worker.offer),
            channels: worker.channels.iter().map(StdAddr::to_string).collect(),
        })
    }

    /// All, for people to look at.
    pub fn all(&self) -> Vec<(Digest256, Worker)> {
        let known = self.read();
        known
            .iter()
            .map(|(id, worker)| (*id, worker.clone()))
            .collect()
    }

    /// The root hash of each model, where all that serve it name the same.
    pub fn roots(&self) -> HashMap<String, Option<String>> {
        let mut roots = HashMap::new();
        for worker in self.read().values() {
            for model in &worker.offer.models {
                roots
                    .entry(model.name.clone())
                    .and_modify(|root| {
                        if *root != model.root {
                            *root = None;
                        }
                    })
                    .or_insert_with(|| model.root.clone());
            }
        }
        roots
    }

    /// Tells of each change from now on. Who falls behind misses some.
    pub fn changes(&self) -> broadcast::Receiver<Change> {
        self.changes.subscribe()
    }

    /// Forgets one that was linked to the scheduler at `at`.
    pub fn withdrawn(&self, id: &Digest256, at: &str) {
        if self.get(id).is_some_and(|worker| worker.is_at(at)) {
            self.remove(id, ELSEWHERE);
        }
    }

    /// Forgets those that are linked to the scheduler at `at`, until it is heard again.
    pub fn lost(&self, at: &str) {
        self.forget(|worker| worker.is_at(at));
    }

    /// Forgets those elsewhere of which nothing was heard lately.
    pub fn expire(&self) {
        self.forget(|worker| worker.heard.elapsed() > HEARTBEAT);
    }

    fn forget(&self, which: impl Fn(&Worker) -> bool) {
        let which: Vec<_> = self
            .read()
            .iter()
            .filter(|(_, worker)| worker.link == ELSEWHERE && which(worker))
            .map(|(id, _)| *id)
            .collect();
        for id in which {
            self.remove(&id, ELSEWHERE);
        }
    }

    fn remove(&self, id: &Digest256, link: u64) {
        let mut known = self.write();
        if known.get(id).is_some_and(|worker| worker.link == link) {
            known.remove(id);
            self.desk.gone(id);
            drop(known);
            self.tell(Change::Gone(*id));
        }
    }

    fn tell(&self, change: Change) {
        // Nobody may be listening.
        self.changes.send(change).unwrap_or_default();
    }

    fn read(&self) -> RwLockReadGuard<'_, HashMap<Digest256, Worker>> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, HashMap<Digest256, Worker>> {
        self.known.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Worker {
    /// What its owner is paid for a million tokens of a model's, if it has that.
    pub(crate) fn ask(&self, model: &str) -> Option<u64> {
        let mut models = self.offer.models.iter();
        let model = models.find(|offered| offered.name == model);
        model.map(|model| model.ask)
    }

    fn is_at(&self, at: &str) -> bool {
        self.at.as_deref() == Some(at)
    }
}

/// A worker on a connection of its own. Dropping it forgets the worker.
#[derive(Debug)]
pub struct Linked {
    workers: Arc<Workers>,
    id: Digest256,
    proof: Proof,
    build: Option<Arc<Build>>,
    channels: Arc<[StdAddr]>,
    requests: SendRequest<Body>,
    keys: RwLock<(Arc<Keyset>, Keys)>,
    link: u64,
}

impl Linked {
    /// It proved to run this.
    #[must_use]
    pub fn running(mut self, build: Build) -> Self {
        self.build = Some(Arc::new(build));
        self
    }

    /// It is there, and offers this. Its newest link is the one that counts.
    pub fn offered(&self, offer: Offer) -> Result<(), Misfit> {
        let (keyset, keys) = self
            .keys
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let mut known = self.workers.write();
        if known
            .get(&self.id)
            .is_some_and(|worker| worker.link > self.link)
        {
            return Err(Misfit::Replaced);
        }
        let standing = self.workers.standings.of(&self.proof.machine);
        self.workers
            .desk
            .offered(self.id, &offer, standing)
            .map_err(Misfit::Offer)?;
        let worker = Worker {
            keyset,
            proof: self.proof,
            build: self.build.clone(),
            offer: Arc::new(offer),
            receipt_key: keys.receipts,
            channels: Arc::clone(&self.channels),
            requests: Some(self.requests.clone()),
            at: None,
            heard: Instant::now(),
            link: self.link,
        };
        known.insert(self.id, worker);
        drop(known);
        self.workers.tell(Change::Here(self.id));
        Ok(())
    }

    /// It has proved another keyset since, of the same seal key.
    pub fn renewed(&self, keyset: Keyset) -> Result<(), Misfit> {
        let keys = Keys::of(&keyset)?;
        if keys.id != self.id {
            return Err(Misfit::Worker {
                found: keys.id,
                expected: self.id,
            });
        }
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = (Arc::new(keyset), keys);
        Ok(())
    }
}

impl Drop for Linked {
    fn drop(&mut self) {
        self.workers.remove(&self.id, self.link);
    }
}

/// What is needed of a keyset.
#[derive(Clone, Copy, Debug)]
struct Keys {
    id: Digest256,
    receipts: [u8; 32],
}

impl Keys {
    fn of(keyset: &Keyset) -> Result<Self, Misfit> {
        let seal = keyset.seal_key().ok_or(Misfit::NoKeys)?;
        let receipts = keyset.receipt_key(Keyset::RECEIPTS);
        Ok(Self {
            id: Digest256::of(&seal),
            receipts: receipts.ok_or(Misfit::NoKeys)?,
        })
    }
}

/// No keyset of another scheduler's tells of a link here.
const ELSEWHERE: u64 = 0;

/// Who has the fabric's key may make up any number of them.
const MOST: usize = 1 << 16;

/// Changes that a listener may be behind.
const CHANGES: usize = 4096;

/// Why a worker or what it offers is not taken.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Misfit {
    /// What another scheduler passed on.
    #[error("no keyset was announced")]
    Keyset(#[source] KeysetError),
    /// More than are remembered.
    #[error("more than {MOST} workers are announced")]
    Many,
    /// Nothing to seal to, or nothing to check a receipt with.
    #[error("the keyset has no seal key or no receipt key")]
    NoKeys,
    /// More than is taken.
    #[error("the offer is not taken")]
    Offer(#[source] OfferError),
    /// It has dialled in again.
    #[error("the worker has a newer connection")]
    Replaced,
    /// Not who proved itself.
    #[error("worker {found}, expected {expected}")]
    Worker {
        /// As said.
        found: Digest256,
        /// As proved.
        expected: Digest256,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_makes_up_workers_is_believed_so_many_and_those_that_are_known_stay() {
        let workers = Workers::new(Desk::new([0; 32]));
        let made_up = |number: usize| {
            let number = u64::try_from(number).unwrap();
            let seal = number.to_be_bytes();
            let keyset = Keyset::new(&[1; 32], &seal, &Digest256::ZERO, 0).unwrap();
            Announcement {
                keyset: keyset.text().into(),
                proof: Proof {
                    machine: Machine(Digest256::ZERO),
                    engine: None,
                },
                offer: Offer {
                    worker: Digest256::of(&seal),
                    draining: false,
                    models: [].into(),
                },
                channels: Vec::new(),
            }
        };
        for number in 0..MOST {
            assert_eq!(workers.announced(made_up(number), "a:1"), Ok(true));
        }
        assert_eq!(workers.announced(made_up(MOST), "a:1"), Err(Misfit::Many));
        assert_eq!(workers.announced(made_up(0), "b:1"), Ok(true));
        workers.lost("a:1");
        assert_eq!(workers.announced(made_up(MOST), "a:1"), Ok(true));
        assert_eq!(workers.all().len(), 2);
    }
}
