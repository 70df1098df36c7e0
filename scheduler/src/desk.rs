//! Which worker a client is sent to, and who waits until one has room.
//!
//! An assignment is a place at a worker, kept for a few seconds: the request that comes for
//! it takes it, wherever the client got it from. Nothing breaks without: a request that was
//! assigned by another scheduler takes no place here, and the worker's next offer counts it.

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use attestation::register::Digest256;
use sealed::{AssignmentRequest, Offer};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::choice::Wanted;
use crate::directory::{Directory, NoPick, OfferError, Outcome, Pick};
use crate::fee::Fee;
use crate::queue::{Job, Limits, Queue, Refused};

/// Directory and queues of one scheduler.
#[derive(Debug)]
pub struct Desk {
    start: Instant,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Until then somebody may come who serves what nobody serves yet.
    expects: Duration,
    directory: Directory,
    /// One for each model that somebody waits for.
    queues: HashMap<String, Queue<IpAddr, Waiter>>,
    /// Picks for which no request has come, the oldest first.
    held: HashMap<Digest256, VecDeque<Held>>,
}

#[derive(Debug)]
struct Waiter {
    request: AssignmentRequest,
    payer: IpAddr,
    deadline: Duration,
    chosen: oneshot::Sender<Result<(Digest256, u64), NoPick>>,
}

#[derive(Debug)]
struct Held {
    pick: Pick,
    model: String,
    until: Duration,
}

impl Desk {
    /// Of schedulers that share a seed each finds the same worker for a conversation.
    #[must_use]
    pub fn new(seed: [u8; 32]) -> Self {
        Self {
            start: Instant::now(),
            state: Mutex::new(State {
                expects: Duration::ZERO,
                directory: Directory::new(seed),
                queues: HashMap::new(),
                held: HashMap::new(),
            }),
        }
    }

    /// For so long at first, clients wait for models that nobody serves: workers that lost
    /// their scheduler take a while to dial its next process.
    #[must_use]
    pub fn expecting(self, patience: Duration) -> Self {
        self.lock().expects = patience;
        self
    }

    /// A worker and what it asks, at once or when one has room.
    pub async fn assign(
        &self,
        request: AssignmentRequest,
        client: IpAddr,
    ) -> Result<(Digest256, u64), Unassigned> {
        let patience = Duration::from_millis(request.deadline_ms.into()).min(MAX_PATIENCE);
        let waiting = {
            let now = self.now();
            let (chosen, waiting) = oneshot::channel();
            let mut state = self.lock();
            if !state.queues.contains_key(&request.model) {
                match state.pick(&request, now) {
                    Err(NoPick::Full) => {}
                    decided => return decided.map_err(Unassigned::NoPick),
                }
            }
            state.wait(
                Waiter {
                    request,
                    payer: client,
                    deadline: now.saturating_add(patience),
                    chosen,
                },
                now,
            )?;
            waiting
        };
        match timeout(patience, waiting).await {
            Ok(Ok(chosen)) => chosen.map_err(Unassigned::NoPick),
            Ok(Err(_)) | Err(_) => Err(Unassigned::Late),
        }
    }

    /// The place that was kept for a request which has come.
    pub fn take(&self, worker: &Digest256, model: &str) -> Option<Pick> {
        let mut state = self.lock();
        let held = state.held.get_mut(worker)?;
        let place = held.iter().position(|held| held.model == model)?;
        let taken = held.remove(place);
        if held.is_empty() {
            state.held.remove(worker);
        }
        taken.map(|held| held.pick)
    }

    /// What came of a request.
    pub fn done(&self, pick: Pick, outcome: &Outcome) {
        let now = self.now();
        let mut state = self.lock();
        state.directory.done(pick, outcome, now);
        state.serve(now);
    }

    /// The worker that proved itself as `id` spoke, of this [`standing`](crate::reputation).
    pub fn offered(&self, id: Digest256, offer: &Offer, standing: u16) -> Result<(), OfferError> {
        let now = self.now();
        let mut state = self.lock();
        state.directory.update(id, offer, now)?;
        state.directory.judge(&id, standing, now);
        state.serve(now);
        Ok(())
    }

    /// What is thought of a worker's machine by now.
    pub fn judged(&self, worker: &Digest256, standing: u16) {
        let now = self.now();
        self.lock().directory.judge(worker, standing, now);
    }

    /// A worker is gone.
    pub fn gone(&self, worker: &Digest256) {
        let mut state = self.lock();
        state.directory.remove(worker);
        state.held.remove(worker);
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
        look(&self.lock().directory)
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
    fn pick(
        &mut self,
        request: &AssignmentRequest,
        now: Duration,
    ) -> Result<(Digest256, u64), NoPick> {
        let wanted = Wanted {
            model: &request.model,
            max_price: request.max_price,
            affinity: request.affinity,
            except: &request.except,
        };
        // Without randomness the choice is poorer, not wrong.
        let random = getrandom::u64().unwrap_or_default();
        let pick = match self.directory.pick(&wanted, now, random) {
            Err(NoPick::Model) if now < self.expects => return Err(NoPick::Full),
            pick => pick?,
        };
        let chosen = (pick.worker, pick.price);
        self.held.entry(pick.worker).or_default().push_back(Held {
            pick,
            model: request.model.clone(),
            until: now.saturating_add(HOLD),
        });
        Ok(chosen)
    }

    fn wait(&mut self, waiter: Waiter, now: Duration) -> Result<(), Refused> {
        let job = Job {
            payer: waiter.payer,
            tokens: waiter.request.limit,
            deadline: waiter.deadline,
            tip: 0,
        };
        let model = waiter.request.model.clone();
        let queue = self
            .queues
            .entry(model)
            .or_insert_with(|| Queue::new(LIMITS));
        queue.push(job, waiter, now).map(drop)
    }

    /// Gives what room there is to those whose turn it is.
    fn serve(&mut self, now: Duration) {
        let models: Vec<_> = self.queues.keys().cloned().collect();
        for model in models {
            let mut passed_over = Vec::new();
            while passed_over.len() < PASSED_OVER {
                let queue = self.queues.get_mut(&model);
                let Some(waiter) = queue.and_then(|queue| queue.pop(now)) else {
                    break;
                };
                if waiter.chosen.is_closed() {
                    continue;
                }
                match self.pick(&waiter.request, now) {
                    Err(NoPick::Full) => passed_over.push(waiter),
                    decided => self.tell(waiter, decided),
                }
            }
            for waiter in passed_over {
                // Whom there is no room for any more learns it by the closed channel.
                self.wait(waiter, now).unwrap_or_default();
            }
            self.queues.retain(|_, queue| !queue.is_empty());
        }
    }

    fn tell(&mut self, waiter: Waiter, decided: Result<(Digest256, u64), NoPick>) {
        let unheard = waiter.chosen.send(decided);
        if let Err(Ok((worker, _))) = unheard
            && let Some(held) = self.held.get_mut(&worker).and_then(VecDeque::pop_back)
        {
            self.directory
                .done(held.pick, &Outcome::Abandoned, held.until);
        }
    }

    fn expire(&mut self, now: Duration) {
        for queue in self.queues.values_mut() {
            drop(queue.overdue(now));
        }
        let directory = &mut self.directory;
        self.held.retain(|_, held| {
            while let Some(old) = held.pop_front_if(|held| held.until <= now) {
                directory.done(old.pick, &Outcome::Abandoned, now);
            }
            !held.is_empty()
        });
    }
}

/// A place is kept for so long: one round trip, evidence, and sealing.
pub const HOLD: Duration = Duration::from_secs(10);

/// Nobody waits longer than this, whatever its deadline.
const MAX_PATIENCE: Duration = Duration::from_secs(120);

/// Who waits for another worker than has room does not hold up more than so many.
const PASSED_OVER: usize = 8;

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
