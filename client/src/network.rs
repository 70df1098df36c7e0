//! The network: requests are sealed to workers that proved themselves, through schedulers
//! that see none of it, and paid by vouchers.

pub mod agreed;
mod answer;
pub mod args;
mod deal;
mod endpoint;
mod exchange;
mod leaves;
pub mod prices;
pub mod probe;
pub mod purse;
mod route;
pub mod scheduler;
pub mod secret;
mod usage;
pub mod workers;

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ::scheduler::retry::Patience;
use attestation::appraisal::chain;
use attestation::policy::Policy;
use attestation::register::Digest256;
use aws_lc_rs::hmac;
use tokio::task::spawn_blocking;
use tokio::time::sleep;

use self::answer::AnswerError;
use self::deal::Paid;
use self::prices::{PriceError, Prices};
use self::purse::{Doubts, Purse};
use self::route::Route;
use self::scheduler::Scheduler;
use self::secret::Secret;
use self::usage::{Record, Usage};
use self::workers::Workers;
use crate::gateway::asked::Asked;
use crate::worker::FRESH;

/// What a gateway agrees to.
#[derive(Clone, Debug)]
pub struct Options {
    /// Nanotons for a million tokens.
    pub max_price: u64,
    /// Of these, for the scheduler if a request has to wait; applications may tip less.
    pub tip: u64,
    /// Where there are any, a model costs no more than its Markets say, and the tip.
    pub prices: Option<Arc<Prices>>,
    /// Tokens that are reserved for an answer that says no maximum.
    pub answer: u64,
    /// From a request to the end of its answer.
    pub deadline: Duration,
    /// Whether a second worker is asked where a first one is slower than most.
    pub hedge: bool,
}

/// Schedulers, the workers behind them, and who pays.
#[derive(Debug)]
pub struct Network {
    routes: Vec<Arc<Route>>,
    workers: Workers,
    purses: Vec<Arc<Purse>>,
    options: Options,
    usage: Usage,
    secret: hmac::Key,
    shunned: Mutex<HashMap<Digest256, Instant>>,
    patience: Mutex<HashMap<String, Patience>>,
    turn: AtomicUsize,
}

impl Network {
    /// Connects to nobody yet. Conversations find what a worker keeps of them by `secret`.
    pub fn new(
        schedulers: Vec<Scheduler>,
        policy: Arc<Policy>,
        purses: Vec<Arc<Purse>>,
        options: Options,
        secret: &Secret,
    ) -> Arc<Self> {
        let routes = schedulers.into_iter().map(Route::new).map(Arc::new);
        let network = Arc::new(Self {
            routes: routes.collect(),
            workers: Workers::new(policy, FRESH),
            purses,
            options,
            usage: Usage::default(),
            secret: secret.key(),
            shunned: Mutex::default(),
            patience: Mutex::default(),
            turn: AtomicUsize::new(0),
        });
        let weak = Arc::downgrade(&network);
        tokio::spawn(async move {
            while let Some(network) = weak.upgrade() {
                network.reconcile().await;
                drop(network);
                sleep(RECONCILED).await;
            }
        });
        network
    }

    /// Has schedulers tell how requests ended that are in doubt: that broke off, were not
    /// settled as agreed, or that a crash forgot.
    pub async fn reconcile(&self) {
        if self.purses.iter().all(|purse| purse.in_doubt().is_none()) {
            return;
        }
        for route in &self.routes {
            let Ok(Some(purse)) = route.purse(&self.purses).await else {
                continue;
            };
            let (Some(doubts), Ok(pass)) = (purse.in_doubt(), purse.pass()) else {
                continue;
            };
            let Doubts { voucher, requests } = doubts;
            for some in requests.chunks(MAX_ASKED) {
                let told = match route.scheduler().told(&pass, &voucher, some).await {
                    Ok(told) => told,
                    Err(error) => {
                        tracing::warn!("what is in doubt stays so: {}", chain(&error));
                        break;
                    }
                };
                let (purse, some) = (Arc::clone(&purse), some.to_vec());
                let ended = spawn_blocking(move || purse.told(&some, &told)).await;
                if let Ok(Err(error)) = ended {
                    tracing::warn!("what is in doubt stays so: {error}");
                }
            }
        }
    }

    /// Nanotons for a million tokens of a request that tips so much.
    async fn most(&self, model: &str, tip: u64) -> Result<u64, PriceError> {
        let Options {
            max_price, prices, ..
        } = &self.options;
        match prices {
            None => Ok(*max_price),
            Some(prices) => {
                let most = prices.most(model).await?;
                Ok(most.saturating_add(tip).min(*max_price))
            }
        }
    }

    /// What is known of how long a model's answers take to begin.
    fn patience<T>(&self, model: &str, ask: impl FnOnce(&mut Patience) -> T) -> T {
        let mut known = self.patience.lock().unwrap_or_else(PoisonError::into_inner);
        if known.len() >= MAX_MODELS && !known.contains_key(model) {
            // An application may name any number of them.
            known.clear();
        }
        ask(known.entry(model.into()).or_default())
    }

    /// All ways, another one first each time, those that failed just now last.
    fn routes(&self) -> Vec<Arc<Route>> {
        let mut routes = self.routes.clone();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let first = turn.checked_rem(routes.len()).unwrap_or_default();
        routes.rotate_left(first);
        routes.sort_by_key(|route| route.is_resting());
        routes
    }

    /// Workers that lied a while ago.
    fn shunned(&self) -> BTreeSet<Digest256> {
        let mut shunned = self.shunned.lock().unwrap_or_else(PoisonError::into_inner);
        shunned.retain(|_, since| since.elapsed() < SHUNNED);
        shunned.keys().copied().collect()
    }

    fn shun(&self, worker: Digest256) {
        let mut shunned = self.shunned.lock().unwrap_or_else(PoisonError::into_inner);
        shunned.insert(worker, Instant::now());
    }

    /// What only this gateway can compute of a conversation.
    fn secret_of(&self, purpose: &str, user: &str, asked: &Asked) -> [u8; 32] {
        let mut context = hmac::Context::with_key(&self.secret);
        for part in [purpose.as_bytes(), user.as_bytes(), asked.model.as_bytes()] {
            // Ends that no part has: 0xff is not in UTF-8.
            context.update(part);
            context.update(&[0xff]);
        }
        context.update(&asked.beginning);
        context.sign().as_ref().try_into().unwrap_or_default()
    }

    /// How an answer ended; whoever lied is left alone for a while.
    fn ended(&self, place: Place, end: &Result<Paid, AnswerError>) {
        let Place {
            request,
            user,
            worker,
            model,
            scheduler,
            price,
        } = place;
        let paid = end.as_ref().ok();
        let skimmed = paid.and_then(|paid| paid.skimmed).inspect(|skimmed| {
            tracing::warn!(request, %worker, scheduler, "{skimmed}");
        });
        let refused = end.as_ref().err().map(|error| chain(error));
        if let Some(problem) = &refused {
            tracing::warn!(request, %worker, scheduler, "not paid: {problem}");
            if end.as_ref().is_err_and(AnswerError::is_lie) {
                self.shun(worker);
            }
        }
        self.usage.ended(Record {
            request,
            user,
            model,
            worker: worker.to_string(),
            scheduler,
            price,
            tokens: paid.map_or(0, |paid| paid.tokens),
            cost: paid.map_or(0, |paid| paid.cost),
            settled: paid.is_some(),
            problem: refused.or(skimmed.map(|skimmed| skimmed.to_string())),
        });
    }
}

/// Where an answer comes from.
#[derive(Clone, Debug)]
struct Place {
    request: String,
    user: String,
    worker: Digest256,
    model: String,
    scheduler: String,
    price: u64,
}

/// Between two looks at what is in doubt: a scheduler reads on for as long.
const RECONCILED: Duration = Duration::from_secs(20);

/// Requests that a scheduler is asked about at a time.
const MAX_ASKED: usize = 64;

const MAX_MODELS: usize = 1024;

/// For how long nobody seals to a worker that lied.
const SHUNNED: Duration = Duration::from_secs(600);
