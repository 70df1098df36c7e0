//! `GET /status`, for programs, and `GET /`, for people: what is there now, what was since
//! the start, and what was seen of the chain, each with the block that proves it. Names are
//! machines' only; of clients there are sums.

mod page;

use std::collections::BTreeMap;

use attestation::register::Digest256;
use sealed::OfferedModel;
use serde::Serialize;
use serde_json::Value;

use crate::ledger::Side;
use crate::ledger::StoreError;
use crate::ledger::account::Account;
use crate::machine::Machine;
use crate::metrics::Ending;
use crate::onchain::{Market, Onchain, Word};
use crate::scheduler::Scheduler;
use crate::workers;

pub(crate) use page::{page, policy};

/// All of it.
#[derive(Debug, Serialize)]
pub(crate) struct Status {
    draining: bool,
    /// As clients are told.
    terms: Value,
    /// In thousandths of what workers ask.
    fee: u16,
    /// Workers, all that there are.
    verified: usize,
    requests: Requests,
    /// Paid for since the start.
    tokens: u64,
    nanotons: u64,
    /// With books only, and up to a second old.
    money: Option<Money>,
    /// Prices of this hour, and what was used; nothing where none is looked up.
    markets: Vec<Market>,
    models: BTreeMap<String, Model>,
    /// What workers proved to run, and how many do.
    builds: Vec<Build>,
    workers: BTreeMap<Digest256, Worker>,
}

#[derive(Debug, Serialize)]
struct Requests {
    open: u64,
    waiting: usize,
    ended: BTreeMap<&'static str, u64>,
}

/// From clients, and to owners of workers.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct Money {
    earned: Channels,
    paid: Channels,
    /// What the one is more than the other.
    kept: u64,
}

/// Sums over Channels, in nanotons.
#[derive(Clone, Debug, Default, Serialize)]
struct Channels {
    count: usize,
    /// Proved by the chain, of each by its own block: no earlier than this, in unix seconds.
    seen: Option<u32>,
    balance: u64,
    /// By the chain, to their payees.
    claimed: u64,
    /// What the newest vouchers are good for, all that was claimed included.
    signed: u64,
    /// What receipts show.
    spent: u64,
    reserved: u64,
    tokens: u64,
}

#[derive(Debug, Serialize)]
struct Model {
    /// Where all name the same.
    root: Option<String>,
    workers: usize,
    open: usize,
    free: u64,
    /// In nanotons for a million tokens, the fee included.
    price: Option<u64>,
}

#[derive(Debug, Serialize)]
struct Build {
    registers: workers::Build,
    workers: usize,
    /// Whether it counts on the chain.
    registry: Word,
}

#[derive(Debug, Serialize)]
struct Worker {
    /// Or at another scheduler.
    here: bool,
    draining: bool,
    machine: Machine,
    /// Of 1000.
    standing: u16,
    keyset: Digest256,
    /// Whether it has shown on the chain what it runs.
    node: Word,
    models: Vec<OfferedModel>,
}

impl Status {
    pub(crate) async fn of(scheduler: &Scheduler) -> Result<Self, StoreError> {
        let all = scheduler.workers.all();
        let (tokens, nanotons) = scheduler.metrics.paid();
        let count = |(ending, name)| (name, scheduler.metrics.count(ending));
        let money = match scheduler.books.ledger() {
            Some(ledger) => {
                let accounts = async { ledger.accounts().await.map(|all| Money::of(&all)) };
                Some(scheduler.money.get(accounts).await?)
            }
            None => None,
        };
        let onchain = scheduler.books.onchain();
        Ok(Self {
            draining: scheduler.draining.is_cancelled(),
            terms: scheduler.books.terms(),
            fee: scheduler.books.fee().share(),
            verified: all.len(),
            requests: Requests {
                open: scheduler.metrics.open(),
                waiting: scheduler.desk().waiting(),
                ended: Ending::ALL.into_iter().map(count).collect(),
            },
            tokens,
            nanotons,
            money,
            markets: onchain.map(Onchain::markets).unwrap_or_default(),
            models: models(scheduler),
            builds: builds(&all, onchain),
            workers: all
                .into_iter()
                .take(MAX_SHOWN)
                .map(|(id, worker)| (id, Worker::of(scheduler, &id, worker)))
                .collect(),
        })
    }
}

impl Worker {
    fn of(scheduler: &Scheduler, id: &Digest256, worker: workers::Worker) -> Self {
        let onchain = scheduler.books.onchain();
        Self {
            here: worker.requests.is_some(),
            draining: worker.offer.draining,
            standing: scheduler.workers.standings().of(&worker.proof.machine),
            machine: worker.proof.machine,
            keyset: worker.keyset.digest().0,
            node: onchain.map_or(Word::Unknown, |onchain| onchain.worker(id)),
            models: worker.offer.models.clone(),
        }
    }
}

impl Money {
    fn of(accounts: &[(Side, Account)]) -> Self {
        let mut money = Self::default();
        for (side, account) in accounts {
            let sums = match side {
                Side::Client => &mut money.earned,
                Side::Worker => &mut money.paid,
            };
            let add = |sum: &mut u64, more: u64| *sum = sum.saturating_add(more);
            sums.count = sums.count.saturating_add(1);
            sums.seen = Some(
                sums.seen
                    .map_or(account.seen, |seen| seen.min(account.seen)),
            );
            add(&mut sums.balance, account.balance);
            add(&mut sums.claimed, account.channel.state.paid);
            add(&mut sums.signed, account.voucher.amount);
            add(&mut sums.spent, account.spent.amount);
            add(&mut sums.reserved, account.reserved.amount);
            add(&mut sums.tokens, account.spent.tokens);
        }
        money.kept = money.earned.spent.saturating_sub(money.paid.spent);
        money
    }
}

fn models(scheduler: &Scheduler) -> BTreeMap<String, Model> {
    let mut roots = scheduler.workers.roots();
    scheduler.desk().look(|directory| {
        let models = directory.models().map(|model| {
            let shown = Model {
                root: roots.remove(model.name).flatten(),
                workers: model.workers,
                open: model.open,
                free: model.free,
                price: model.least.map(|least| scheduler.books.fee().price(least)),
            };
            (model.name.to_owned(), shown)
        });
        models.collect()
    })
}

fn builds(all: &[(Digest256, workers::Worker)], onchain: Option<&Onchain>) -> Vec<Build> {
    let mut builds = BTreeMap::<&workers::Build, usize>::new();
    for (_, worker) in all {
        if let Some(build) = &worker.build {
            let count = builds.entry(build).or_default();
            *count = count.saturating_add(1);
        }
    }
    let build = |(registers, workers): (&workers::Build, usize)| Build {
        registers: registers.clone(),
        workers,
        registry: onchain.map_or(Word::Unknown, |onchain| onchain.build(registers)),
    };
    builds.into_iter().map(build).collect()
}

/// Workers by name; all of them are counted.
const MAX_SHOWN: usize = 500;
