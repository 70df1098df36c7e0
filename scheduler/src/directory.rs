//! Who serves what, as the workers last said and as it turned out.
//!
//! Everything is an argument, the time since any fixed moment too. Whatever is asked of it
//! takes as long with a million workers as with a hundred, but for logarithms and caches.
//! That an offer is true is not established here, nor that two workers mean the same by a
//! model's name: clients verify both.

mod model;
mod offer;

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use attestation::register::Digest256;
use sealed::{Offer, OfferedModel};
use slab::Slab;

use crate::affinity::point;
use crate::choice::{Wanted, choose};
use crate::reputation;
use crate::seat::Seat;

use self::offer::check;

pub(crate) use self::model::Model;
pub use self::model::Offered;
pub use self::offer::OfferError;

/// All workers that may be chosen.
#[derive(Debug)]
pub struct Directory {
    seed: [u8; 32],
    workers: Slab<Worker>,
    by_id: HashMap<Digest256, usize>,
    models: Slab<Model>,
    by_name: HashMap<Arc<str>, usize>,
    seats: Slab<Seat>,
    alarms: BinaryHeap<Reverse<Alarm>>,
    serials: u64,
}

impl Directory {
    /// Schedulers of one operator share a seed, which workers do not know: then they find
    /// the same worker for the same conversation.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            seed,
            workers: Slab::new(),
            by_id: HashMap::new(),
            models: Slab::new(),
            by_name: HashMap::new(),
            seats: Slab::new(),
            alarms: BinaryHeap::new(),
            serials: 0,
        }
    }

    /// A worker spoke: what it does not offer any more is gone, and so is the worker if it
    /// does not speak again within [`EXPIRY`].
    pub fn update(
        &mut self,
        id: Digest256,
        offer: &Offer,
        now: Duration,
    ) -> Result<(), OfferError> {
        check(&id, offer)?;
        self.advance(now);
        let worker = match self.by_id.get(&id) {
            Some(worker) => *worker,
            None => self.join(id, now),
        };
        let Some(entry) = self.workers.get_mut(worker) else {
            return Ok(());
        };
        entry.expires = now.saturating_add(EXPIRY);
        let standing = entry.standing;
        let before = std::mem::take(&mut entry.seats);
        let mut after = Vec::with_capacity(offer.models.len());
        for model in &offer.models {
            let is_it = |seat: &&usize| self.name_of(**seat) == Some(&*model.name);
            let seat = match before.iter().find(is_it) {
                Some(seat) => *seat,
                None => self.open(id, model, standing),
            };
            after.push(seat);
            self.change(seat, now, |seat| {
                seat.ask = model.ask;
                seat.is_draining = offer.draining;
                seat.hear(model.slots, model.free, model.queued);
            });
        }
        for seat in before.iter().filter(|seat| !after.contains(seat)) {
            self.close(*seat, now);
        }
        if let Some(entry) = self.workers.get_mut(worker) {
            entry.seats = after;
        }
        Ok(())
    }

    /// A worker is gone.
    pub fn remove(&mut self, id: &Digest256) {
        let Some(worker) = self.by_id.remove(id) else {
            return;
        };
        if let Some(worker) = self.workers.try_remove(worker) {
            for seat in worker.seats {
                self.close(seat, Duration::ZERO);
            }
        }
    }

    /// What is thought of a worker's owner: see [`reputation`].
    pub fn judge(&mut self, id: &Digest256, standing: u16, now: Duration) {
        let worker = self
            .by_id
            .get(id)
            .and_then(|worker| self.workers.get_mut(*worker));
        if let Some(worker) = worker {
            worker.standing = standing;
            for seat in worker.seats.clone() {
                self.change(seat, now, |seat| seat.standing = standing);
            }
        }
    }

    /// A worker for a request, which counts as sent until it is [`done`](Self::done).
    pub fn pick(
        &mut self,
        wanted: &Wanted<'_>,
        now: Duration,
        random: u64,
    ) -> Result<Pick, NoPick> {
        self.advance(now);
        let model = self
            .by_name
            .get(wanted.model)
            .and_then(|model| self.models.get(*model));
        let model = model.ok_or(NoPick::Model)?;
        let chosen = choose(model, &self.seats, wanted, now, random);
        let chosen = chosen.and_then(|id| Some(Pick::of(id, self.seats.get(id)?, now)));
        let pick = chosen.ok_or_else(|| match model.open.least() {
            Some(least) if least > wanted.max_price => NoPick::Price { least },
            _ if self.count(wanted) == model.seats => NoPick::Excepted,
            _ => NoPick::Full,
        })?;
        self.change(pick.seat, now, Seat::send);
        Ok(pick)
    }

    /// This worker for a request, if it has room.
    pub fn claim(
        &mut self,
        worker: &Digest256,
        model: &str,
        now: Duration,
    ) -> Result<Pick, NoPick> {
        self.advance(now);
        let worker = self.by_id.get(worker).and_then(|id| self.workers.get(*id));
        let mut seats = worker.ok_or(NoPick::Full)?.seats.iter();
        let id = seats.find(|seat| self.name_of(**seat) == Some(model));
        let id = *id.ok_or(NoPick::Model)?;
        let seat = self.seats.get(id).filter(|seat| seat.is_open(now));
        let pick = Pick::of(id, seat.ok_or(NoPick::Full)?, now);
        self.change(id, now, Seat::send);
        Ok(pick)
    }

    /// How many of those that serve the model are excepted.
    fn count(&self, wanted: &Wanted<'_>) -> usize {
        let except: BTreeSet<_> = wanted.except.iter().collect();
        let known = except.into_iter().filter_map(|id| self.by_id.get(id));
        let seats = known.filter_map(|id| Some(&self.workers.get(*id)?.seats));
        let serves = |seats: &&Vec<_>| {
            let mut names = seats.iter().map(|seat| self.name_of(*seat));
            names.any(|name| name == Some(wanted.model))
        };
        seats.filter(serves).count()
    }

    /// Whether anyone has room for more.
    #[must_use]
    pub fn has_room(&self, model: &str) -> bool {
        let model = self.by_name.get(model).and_then(|id| self.models.get(*id));
        model.is_some_and(|model| model.open.least().is_some())
    }

    /// What came of a request. Each pick is done once.
    pub fn done(&mut self, pick: Pick, outcome: &Outcome, now: Duration) {
        let seat = self.seats.get(pick.seat);
        let Some(seat) = seat.filter(|seat| seat.serial == pick.serial) else {
            return;
        };
        if let (Some((first, token)), Some(model)) =
            (outcome.speed(), self.models.get_mut(seat.model))
        {
            model.typical.add(first, token, now);
        }
        let mut awake = None;
        self.change(pick.seat, now, |seat| {
            seat.end();
            match outcome {
                Outcome::Answered { .. } => seat.served(now),
                Outcome::Failed | Outcome::Lied => awake = seat.failed(now),
                Outcome::Silent => awake = seat.silent(pick.sent, now),
                Outcome::Full => seat.was_full(),
                Outcome::Abandoned => (),
            }
            if let Some((first, token)) = outcome.speed() {
                seat.speed.add(first, token, now);
            }
        });
        if let Some(at) = awake {
            self.alarm(at, Call::Wake(pick.seat), pick.serial);
        }
    }

    /// What is offered, for who looks around.
    pub fn models(&self) -> impl Iterator<Item = Offered<'_>> {
        self.models.iter().map(|(_, model)| Offered {
            name: &model.name,
            root: model.root.as_deref(),
            workers: model.seats,
            open: model.open.len(),
            least: model.open.least(),
            free: model.slots.saturating_sub(model.load),
        })
    }

    /// How many workers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.workers.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.workers.is_empty()
    }

    /// What is due by now.
    fn advance(&mut self, now: Duration) {
        while let Some(Reverse(due)) = self.alarms.peek().copied() {
            if due.at > now {
                break;
            }
            self.alarms.pop();
            match due.call {
                Call::Expire(worker) => self.expire(worker, due.serial, now),
                Call::Wake(seat) => {
                    let waits = self.seats.get(seat);
                    if waits.is_some_and(|seat| seat.serial == due.serial) {
                        self.change(seat, now, |_| ());
                    }
                }
            }
        }
    }

    /// A worker that has spoken in between is looked at again when that is over.
    fn expire(&mut self, worker: usize, serial: u64, now: Duration) {
        let entry = self.workers.get(worker);
        let Some(entry) = entry.filter(|worker| worker.serial == serial) else {
            return;
        };
        if entry.expires > now {
            self.alarm(entry.expires, Call::Expire(worker), serial);
        } else {
            let id = entry.id;
            self.remove(&id);
        }
    }

    fn join(&mut self, id: Digest256, now: Duration) -> usize {
        let serial = self.serial();
        let worker = self.workers.insert(Worker {
            id,
            serial,
            expires: now,
            standing: reputation::NEW,
            seats: Vec::new(),
        });
        self.by_id.insert(id, worker);
        self.alarm(now.saturating_add(EXPIRY), Call::Expire(worker), serial);
        worker
    }

    fn open(&mut self, worker: Digest256, offered: &OfferedModel, standing: u16) -> usize {
        let name = &*offered.name;
        let model = match self.by_name.get(name) {
            Some(model) => *model,
            None => {
                let name: Arc<str> = name.into();
                let model = self
                    .models
                    .insert(Model::new(name.clone(), offered.root.clone()));
                self.by_name.insert(name, model);
                model
            }
        };
        let serial = self.serial();
        let point = point(&self.seed, &worker, name);
        let seat = Seat::new(worker, model, serial, point, standing);
        let seat = self.seats.insert(seat);
        if let (Some(model), Some(entry)) = (self.models.get_mut(model), self.seats.get(seat)) {
            model.seats = model.seats.saturating_add(1);
            model.ring.insert(seat, entry);
        }
        seat
    }

    fn close(&mut self, seat: usize, now: Duration) {
        self.change(seat, now, |seat| {
            seat.is_draining = true;
            seat.hear(0, 0, 0);
        });
        let Some(gone) = self.seats.try_remove(seat) else {
            return;
        };
        let Some(model) = self.models.get_mut(gone.model) else {
            return;
        };
        model.load = model.load.saturating_sub(gone.load().into());
        model.ring.remove(seat, gone.point, gone.ask);
        model.seats = model.seats.saturating_sub(1);
        if model.seats == 0 {
            self.by_name.remove(&model.name);
            self.models.remove(gone.model);
        }
    }

    /// The one way in which a seat changes: sums, heap and ring follow.
    fn change(&mut self, id: usize, now: Duration, apply: impl FnOnce(&mut Seat)) {
        let Some(seat) = self.seats.get_mut(id) else {
            return;
        };
        let Some(model) = self.models.get_mut(seat.model) else {
            return;
        };
        let (ask, was_open, point) = (seat.ask, seat.position.is_some(), seat.point);
        model.leave(seat);
        apply(seat);
        model.enter(seat);
        let is_moved = seat.ask != ask;
        let is_open = seat.is_open(now);
        if is_moved {
            model.ring.remove(id, point, ask);
            model.ring.insert(id, seat);
        }
        if was_open && (is_moved || !is_open) {
            model.open.remove(id, ask, &mut self.seats);
        }
        if is_open && (is_moved || !was_open) {
            model.open.insert(id, &mut self.seats);
        }
    }

    fn name_of(&self, seat: usize) -> Option<&str> {
        let seat = self.seats.get(seat)?;
        self.models.get(seat.model).map(|model| &*model.name)
    }

    fn alarm(&mut self, at: Duration, call: Call, serial: u64) {
        self.alarms.push(Reverse(Alarm { at, call, serial }));
    }

    const fn serial(&mut self) -> u64 {
        self.serials = self.serials.wrapping_add(1);
        self.serials
    }
}

/// A worker that has not spoken for so long is gone: three heartbeats.
pub const EXPIRY: Duration = Duration::from_secs(6);

/// A request on its way to a worker.
#[derive(Debug, Eq, PartialEq)]
#[must_use = "it counts as sent until it is done"]
pub struct Pick {
    /// Whom it goes to.
    pub worker: Digest256,
    /// Nanotons for a million tokens.
    pub price: u64,
    seat: usize,
    serial: u64,
    sent: Duration,
}

impl Pick {
    const fn of(id: usize, seat: &Seat, sent: Duration) -> Self {
        Self {
            worker: seat.worker,
            price: seat.ask,
            seat: id,
            serial: seat.serial,
            sent,
        }
    }
}

/// What came of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It was answered to the end.
    Answered {
        /// Until the first token.
        first: Duration,
        /// After it.
        rest: Duration,
        /// How many there were.
        tokens: u64,
    },
    /// The worker broke off, or answered with an error of its own.
    Failed,
    /// The worker had no room.
    Full,
    /// The worker signed what is not true.
    Lied,
    /// The client did not go through with it: that says nothing of the worker.
    Abandoned,
    /// It did not begin in ample time, of which the client may have asked for more.
    Silent,
}

impl Outcome {
    fn speed(&self) -> Option<(Duration, Duration)> {
        let Self::Answered {
            first,
            rest,
            tokens,
        } = self
        else {
            return None;
        };
        let later = u32::try_from(*tokens)
            .unwrap_or(u32::MAX)
            .saturating_sub(1)
            .max(1);
        Some((*first, rest.checked_div(later).unwrap_or_default()))
    }
}

/// Why there is no worker.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum NoPick {
    /// Unknown.
    #[error("no worker serves this model")]
    Model,
    /// Too dear.
    #[error("all workers ask for more, the least {least} nanotons for a million tokens")]
    Price {
        /// The least of those that have room.
        least: u64,
    },
    /// Whoever asks wants none of those that there are.
    #[error("no other worker serves this model")]
    Excepted,
    /// Nobody who is allowed has room.
    #[error("no worker that may be asked has room")]
    Full,
}

#[derive(Debug)]
struct Worker {
    id: Digest256,
    serial: u64,
    expires: Duration,
    standing: u16,
    seats: Vec<usize>,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
struct Alarm {
    at: Duration,
    call: Call,
    serial: u64,
}

#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Call {
    Expire(usize),
    Wake(usize),
}

#[cfg(test)]
mod tests;
