//! Which worker a client is sent to, and who waits until one has room.
//!
//! An assignment is a place at a worker, kept for a few seconds: the request that comes for
//! it takes it. One that comes without, as those do that another scheduler has assigned, has
//! a place that is free, unless somebody waits who could use it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use attestation::register::Digest256;
use sealed::{AssignmentRequest, Envelope, Offer};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::choice::Wanted;
use crate::directory::{Directory, NoPick, OfferError, Outcome, Pick};
use crate::fee::Fee;
use crate::held::{Held, Place};
use crate::payer::Payer;
use crate::queue::{Job, Limits, Queue, Refused};

/// Directory and queues of one scheduler.
#[derive(Debug)]
pub struct Desk {
    start: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    places: Places,
    /// One for each model that somebody waits for.
    queues: HashMap<String, Waiting>,
}

/// Fair between those who [pay](Payer).
type Waiting = Queue<Payer, Waiter>;

#[derive(Debug)]
struct Places {
    /// Until then somebody may come who serves what nobody serves yet.
    expects: Duration,
    directory: Directory,
    held: Held,
}

#[derive(Debug)]
struct Waiter {
    request: AssignmentRequest,
    /// Nothing until it has to wait.
    tip: u64,
    payer: Payer,
    deadline: Duration,
    chosen: oneshot::Sender<Result<Chosen, NoPick>>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Chosen {
    worker: Digest256,
    price: u64,
    tip: u64,
    place: u64,
}

impl Desk {
    /// Of schedulers that share a seed each finds the same worker for a conversation.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            start: Instant::now(),
            state: Mutex::new(State::new(seed)),
        }
    }

    /// For so long at first, clients wait for models that nobody serves: workers that lost
    /// their scheduler take a while to dial its next process.
    #[must_use]
    pub fn expecting(self, patience: Duration) -> Self {
        self.lock().places.expects = patience;
        self
    }

    /// A worker and what it asks, at once or when one has room; and what is paid besides for
    /// having waited less.
    pub async fn assign(
        &self,
        request: AssignmentRequest,
        payer: Payer,
    ) -> Result<(Digest256, u64, u64), Unassigned> {
        let patience = Duration::from_millis(request.deadline_ms.into()).min(MAX_PATIENCE);
        let waiting = {
            let now = self.now();
            let (chosen, waiting) = oneshot::channel();
            let waiter = Waiter {
                request,
                tip: 0,
                payer,
                deadline: now.saturating_add(patience),
                chosen,
            };
            self.lock().ask(waiter, now)?;
            waiting
        };
        match timeout(patience, waiting).await {
            Ok(Ok(Ok(chosen))) => Ok((chosen.worker, chosen.price, chosen.tip)),
            Ok(Ok(Err(why))) => Err(Unassigned::NoPick(why)),
            Ok(Err(_)) | Err(_) => Err(Unassigned::Late),
        }
    }

    /// The place that was kept for a request which has come and pays the tip that was agreed,
    /// or one that nobody waits for.
    pub fn take(&self, envelope: &Envelope, tip: u64, payer: Payer) -> Result<Pick, NoPick> {
        let now = self.now();
        self.lock().take(envelope, tip, payer, now)
    }

    /// What came of a request.
    pub fn done(&self, pick: Pick, outcome: &Outcome) {
        let now = self.now();
        let mut state = self.lock();
        state.places.directory.done(pick, outcome, now);
        state.serve(now);
    }

    /// The worker that proved itself as `id` spoke, of this [`standing`](crate::reputation).
    pub fn offered(&self, id: Digest256, offer: &Offer, standing: u16) -> Result<(), OfferError> {
        let now = self.now();
        self.lock().offered(id, offer, standing, now)
    }

    /// What is thought of a worker's machine by now.
    pub fn judged(&self, worker: &Digest256, standing: u16) {
        let now = self.now();
        self.lock().places.directory.judge(worker, standing, now);
    }

    /// A worker is gone.
    pub fn gone(&self, worker: &Digest256) {
        self.lock().places.directory.remove(worker);
    }

    /// Lets go of what was kept or waited for too long. To be called often.
    pub fn tick(&self) {
        let now = self.now();
        let mut state = self.lock();
        state.expire(now);
        state.serve(now);
    }

    /// What is offered, for who looks around.
    pub fn look<T>(&self, look: impl FnOnce(&Directory) -> T) -> T {
        look(&self.lock().places.directory)
    }

    /// How many wait.
    pub fn waiting(&self) -> usize {
        self.lock().queues.values().map(Queue::len).sum()
    }

    fn now(&self) -> Duration {
        self.start.elapsed()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn new(seed: [u8; 32]) -> Self {
        Self {
            places: Places {
                expects: Duration::ZERO,
                directory: Directory::new(seed),
                held: Held::default(),
            },
            queues: HashMap::new(),
        }
    }

    /// Behind whoever waits already, unless others keep more places than it.
    fn ask(&mut self, waiter: Waiter, now: Duration) -> Result<(), Refused> {
        let chosen = match self.is_waited_for(&waiter.request.model) {
            true => self.places.share(&waiter, now),
            false => self.places.pick(&waiter, now),
        };
        match chosen {
            Err(NoPick::Full) => {
                self.wait(waiter, now)?;
                // Whoever waits before may have no use for the room that there is.
                self.serve(now);
                Ok(())
            }
            decided => {
                self.places.tell(waiter, decided, now);
                Ok(())
            }
        }
    }

    fn is_waited_for(&self, model: &str) -> bool {
        let queue = self.queues.get(model);
        queue.is_some_and(|queue| !queue.is_empty())
    }

    fn wait(&mut self, waiter: Waiter, now: Duration) -> Result<(), Refused> {
        let tip = waiter.request.tip;
        let waiter = Waiter { tip, ..waiter };
        let job = Job {
            payer: waiter.payer,
            tokens: waiter.request.limit.max(LEAST_TOKENS),
            deadline: waiter.deadline,
            tip: thousandths(tip, waiter.request.max_price),
        };
        let model = waiter.request.model.clone();
        let queue = self
            .queues
            .entry(model)
            .or_insert_with(|| Queue::new(LIMITS));
        queue.push(job, waiter, now).map(drop)
    }

    fn take(
        &mut self,
        envelope: &Envelope,
        tip: u64,
        payer: Payer,
        now: Duration,
    ) -> Result<Pick, NoPick> {
        let held = &mut self.places.held;
        let kept = held.take(
            envelope.worker,
            &envelope.model,
            payer,
            (envelope.limit, tip),
        );
        match kept {
            Some(pick) => Ok(pick),
            None => self.claim(envelope, now),
        }
    }

    fn claim(&mut self, envelope: &Envelope, now: Duration) -> Result<Pick, NoPick> {
        let directory = &mut self.places.directory;
        let pick = directory.claim(&envelope.worker, &envelope.model, now)?;
        let is_wanted = self.queues.get_mut(&envelope.model).is_some_and(|queue| {
            let turns = queue.turns(PASSED_OVER, now).into_iter();
            let mut waiters = turns.filter_map(|ticket| queue.get(ticket));
            waiters.any(|waiter| waiter.can_use(&pick))
        });
        if is_wanted {
            directory.done(pick, &Outcome::Abandoned, now);
            return Err(NoPick::Full);
        }
        Ok(pick)
    }

    fn offered(
        &mut self,
        id: Digest256,
        offer: &Offer,
        standing: u16,
        now: Duration,
    ) -> Result<(), OfferError> {
        let directory = &mut self.places.directory;
        directory.update(id, offer, now)?;
        directory.judge(&id, standing, now);
        self.serve(now);
        Ok(())
    }

    /// Gives what room there is to those whose turn it is.
    fn serve(&mut self, now: Duration) {
        for queue in self.queues.values_mut() {
            let mut looks = PASSED_OVER;
            while self.places.serve(queue, &mut looks, now) {}
        }
        self.queues.retain(|_, queue| !queue.is_idle(now));
    }

    fn expire(&mut self, now: Duration) {
        for queue in self.queues.values_mut() {
            drop(queue.overdue(now));
        }
        let Places {
            held, directory, ..
        } = &mut self.places;
        while let Some(pick) = held.expired(now) {
            directory.done(pick, &Outcome::Abandoned, now);
        }
    }
}

impl Waiter {
    fn can_use(&self, pick: &Pick) -> bool {
        pick.price <= self.request.max_price && !self.request.except.contains(&pick.worker)
    }
}

impl Places {
    /// The turn of one who waits: whether there may be another. Who cannot use what room
    /// there is is passed over; who gets nothing is charged nothing.
    fn serve(&mut self, queue: &mut Waiting, looks: &mut usize, now: Duration) -> bool {
        for ticket in queue.turns(*looks, now) {
            let waiter = queue.get(ticket);
            let Some(waiter) = waiter.filter(|waiter| !waiter.chosen.is_closed()) else {
                return queue.cancel(ticket).is_some();
            };
            let chosen = self.pick(waiter, now);
            if chosen == Err(NoPick::Full) {
                *looks = looks.saturating_sub(1);
                if self.directory.has_room(&waiter.request.model) {
                    return queue.pass(ticket).is_some();
                }
                // Another may be due what somebody keeps too many of.
                continue;
            }
            let waiter = match chosen {
                Ok(_) => queue.serve(ticket, now),
                Err(_) => queue.cancel(ticket),
            };
            return waiter
                .map(|waiter| self.tell(waiter, chosen, now))
                .is_some();
        }
        false
    }

    fn pick(&mut self, waiter: &Waiter, now: Duration) -> Result<Chosen, NoPick> {
        match self.choose(waiter, now) {
            Err(NoPick::Full) => self.share(waiter, now),
            decided => decided,
        }
    }

    /// A place of somebody who keeps more of them.
    fn share(&mut self, waiter: &Waiter, now: Duration) -> Result<Chosen, NoPick> {
        let of_use = |pick: &Pick| waiter.can_use(pick);
        let (model, payer) = (&waiter.request.model, waiter.payer);
        let spare = self.held.spare(model, payer, now, of_use);
        let spare = spare.ok_or(NoPick::Full)?;
        self.directory.done(spare, &Outcome::Abandoned, now);
        self.choose(waiter, now)
    }

    fn choose(&mut self, waiter: &Waiter, now: Duration) -> Result<Chosen, NoPick> {
        let request = &waiter.request;
        let wanted = Wanted {
            model: &request.model,
            max_price: request.max_price,
            affinity: request.affinity,
            except: &request.except,
        };
        // Without randomness the choice is poorer, not wrong.
        let random = getrandom::u64().unwrap_or_default();
        let pick = match self.directory.pick(&wanted, now, random) {
            Err(NoPick::Model | NoPick::Excepted) if now < self.expects => {
                return Err(NoPick::Full);
            }
            pick => pick?,
        };
        let (worker, price) = (pick.worker, pick.price);
        let place = self.held.keep(Place {
            pick,
            model: request.model.clone(),
            payer: waiter.payer,
            limit: request.limit,
            tip: waiter.tip,
            since: now,
        });
        Ok(Chosen {
            worker,
            price,
            tip: waiter.tip,
            place,
        })
    }

    fn tell(&mut self, waiter: Waiter, chosen: Result<Chosen, NoPick>, now: Duration) {
        let unheard = waiter.chosen.send(chosen);
        if let Err(Ok(Chosen { place, .. })) = unheard
            && let Some(pick) = self.held.remove(place)
        {
            self.directory.done(pick, &Outcome::Abandoned, now);
        }
    }
}

/// How much a tip is of what else is paid at most: whoever allows a worker more is in less of
/// a hurry.
fn thousandths(tip: u64, price: u64) -> u32 {
    let share = u128::from(tip).saturating_mul(1000);
    let share = share.checked_div(price.max(1).into()).unwrap_or_default();
    u32::try_from(share).unwrap_or(u32::MAX)
}

pub use crate::held::HOLD;

/// Nobody waits longer than this, whatever its deadline.
const MAX_PATIENCE: Duration = Duration::from_secs(120);

/// Who waits for another worker than has room does not hold up more than so many.
const PASSED_OVER: usize = 8;

/// A place costs as much as a short answer, however little is asked for.
const LEAST_TOKENS: u64 = 256;

const LIMITS: Limits = Limits {
    jobs: 4096,
    each: 256,
};

impl Unassigned {
    /// As a client sees it, which pays a fee besides.
    #[must_use]
    pub fn with(self, fee: Fee) -> Self {
        match self {
            Self::NoPick(NoPick::Price { least }) => {
                let least = fee.price(least);
                Self::NoPick(NoPick::Price { least })
            }
            other => other,
        }
    }
}

/// Why a client is sent to nobody.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Unassigned {
    /// It waited until then.
    #[error("no worker had room before the deadline")]
    Late,
    /// Nobody it would take.
    #[error("nobody to send the request to")]
    NoPick(#[source] NoPick),
    /// It may not even wait.
    #[error("the request cannot wait")]
    Refused(#[from] Refused),
}

#[cfg(test)]
mod tests;
