//! One scheduler: who is there, who may be asked, how requests get there, and the count.

use std::sync::Arc;
use std::time::Duration;

use attestation::register::Digest256;
use tokio::time::{MissedTickBehavior, interval, sleep};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::books::Books;
use crate::desk::Desk;
use crate::fabric::Fabric;
use crate::limits::{Limit, Room};
use crate::machine::Machine;
use crate::metrics::{Metrics, Now};
use crate::reputation::Event;
use crate::snapshot::Snapshot;
use crate::status::Money;
use crate::workers::Workers;

/// What every connection shares.
pub struct Scheduler {
    /// Who is there.
    pub workers: Arc<Workers>,
    /// Counts.
    pub metrics: Metrics,
    pub(crate) books: Books,
    pub(crate) fabric: Arc<dyn Fabric>,
    pub(crate) evidence: Limit,
    pub(crate) assignments: Limit,
    pub(crate) looks: Limit,
    /// What the books come to, for who looks: every Channel is read for it.
    pub(crate) money: Snapshot<Money>,
    /// For requests.
    pub(crate) open: Room,
    pub(crate) vouchers: Limit,
    pub(crate) draining: CancellationToken,
    /// Requests that other schedulers have passed on to us.
    pub(crate) passing: TaskTracker,
}

impl Scheduler {
    /// Over workers that `fabric` reaches, paid as `books` say.
    #[must_use]
    pub fn new(workers: Arc<Workers>, fabric: Arc<dyn Fabric>, books: Books) -> Arc<Self> {
        Arc::new(Self {
            workers,
            metrics: Metrics::default(),
            books,
            fabric,
            evidence: Limit::new(EVIDENCE, EVIDENCE_EVERY),
            assignments: Limit::new(ASSIGNMENTS, ASSIGNMENT_EVERY),
            looks: Limit::new(LOOKS, LOOK_EVERY),
            money: Snapshot::default(),
            open: Room::new(MAX_OPEN),
            vouchers: Limit::new(VOUCHERS, VOUCHER_EVERY),
            draining: CancellationToken::new(),
            passing: TaskTracker::new(),
        })
    }

    /// What clients pay where a worker asks so much, both in nanotons for a million tokens.
    #[must_use]
    pub fn price(&self, ask: u64) -> u64 {
        self.books.fee().price(ask)
    }

    /// Forgets what is over, writes down what is thought of machines, asks workers what became
    /// of requests whose end was lost, and looks at the chain, until `stop`; once more writes
    /// then. Nothing is left half written.
    pub async fn keep(&self, stop: &CancellationToken) {
        // A store that does not answer holds up nobody's choice.
        tokio::join!(
            stop.run_until_cancelled(self.forget()),
            stop.run_until_cancelled(self.recover()),
            stop.run_until_cancelled(self.watch()),
            self.write(stop),
        );
    }

    async fn forget(&self) {
        let mut tick = interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.workers.expire();
            self.desk().tick();
        }
    }

    async fn watch(&self) {
        let mut tick = interval(SEE);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tick.tick().await;
            self.see().await;
        }
    }

    /// Looks once at what the chain says of prices, builds and workers.
    pub async fn see(&self) {
        if let (Some(onchain), Some(ledger)) = (self.books.onchain(), self.books.ledger()) {
            onchain.look(&self.workers, ledger).await;
        }
        self.money.forget();
    }

    async fn write(&self, stop: &CancellationToken) {
        let (mut old, mut records) = (interval(OLD), interval(RECORDS));
        records.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = records.tick() => self.keep_records().await,
                _ = old.tick() => self.books.expire(LONGEST).await,
                () = stop.cancelled() => return self.keep_records().await,
            }
        }
    }

    /// What a request or a probe says of a worker's machine.
    pub fn judged(&self, worker: &Digest256, machine: Machine, event: Event) {
        self.metrics.judged(event);
        self.workers.record(worker, machine, event);
    }

    /// Writes down what is thought of machines.
    async fn keep_records(&self) {
        let kept = self.workers.standings().keep(self.books.ledger());
        if let Err(error) = kept.await {
            tracing::warn!("what is thought of machines is not written down: {error}");
        }
    }

    /// Refuses whatever is new from now on, and whoever still waits.
    pub fn drain(&self) {
        self.draining.cancel();
    }

    /// Comes back when no request is under way.
    pub async fn idle(&self) {
        while self.metrics.open() > 0 || !self.passing.is_empty() {
            sleep(TICK).await;
        }
    }

    pub(crate) fn desk(&self) -> &Desk {
        self.workers.desk()
    }

    pub(crate) fn now(&self) -> Now {
        let table = self.workers.standings().table();
        Now {
            is_draining: self.draining.is_cancelled(),
            workers: self.desk().look(|directory| directory.len()),
            waiting: self.desk().waiting(),
            machines: table.len(),
            shut_out: table.iter().filter(|row| row.standing == 0).count(),
        }
    }
}

/// From one address at once: a quote costs a worker a second.
const EVIDENCE: u32 = 64;
const EVIDENCE_EVERY: Duration = Duration::from_secs(1);

const ASSIGNMENTS: u32 = 2048;
const ASSIGNMENT_EVERY: Duration = Duration::from_millis(2);

/// At the status, which reads the books.
const LOOKS: u32 = 16;
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Vouchers without a request, and those that were refused: each may have a Channel
/// looked at.
const VOUCHERS: u32 = 256;
const VOUCHER_EVERY: Duration = Duration::from_millis(100);

/// Requests under way: of each, 64 KiB wait in either direction at most.
const MAX_OPEN: usize = 16_384;

/// No answer takes longer.
pub(crate) const MAX_DEADLINE: Duration = Duration::from_secs(1800);

/// Between two looks at what was left reserved.
const OLD: Duration = Duration::from_secs(300);

/// After so long no receipt of a request can come.
pub(crate) const LONGEST: Duration = MAX_DEADLINE.saturating_add(OLD);

/// Between two writes of what is thought of machines: what a crash may lose of it.
const RECORDS: Duration = Duration::from_secs(1);

/// Between two looks at the chain.
const SEE: Duration = Duration::from_secs(60);

const TICK: Duration = Duration::from_millis(100);
