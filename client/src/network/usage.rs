//! What requests took: the newest ones one by one, and counts for Prometheus.

use std::collections::VecDeque;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::Serialize;

/// Of one gateway.
#[derive(Debug, Default)]
pub(super) struct Usage {
    newest: Mutex<VecDeque<Record>>,
    hedges: AtomicU64,
    retries: AtomicU64,
    settled: AtomicU64,
    refused: AtomicU64,
    nanotons: AtomicU64,
}

impl Usage {
    pub(super) fn retried(&self) {
        self.retries.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn hedged(&self) {
        self.hedges.fetch_add(1, Ordering::Relaxed);
    }

    /// An answer has ended.
    pub(super) fn ended(&self, record: Record) {
        match record.settled {
            true => self.settled.fetch_add(1, Ordering::Relaxed),
            false => self.refused.fetch_add(1, Ordering::Relaxed),
        };
        self.nanotons.fetch_add(record.cost, Ordering::Relaxed);
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        newest.push_front(record);
        newest.truncate(KEPT);
    }

    /// A user's, the newest first.
    pub(super) fn newest(&self, user: &str) -> Vec<Record> {
        let newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let theirs = newest.iter().filter(|record| record.user == user);
        theirs.cloned().collect()
    }

    /// As Prometheus reads them.
    pub(super) fn show(&self) -> String {
        let mut text = String::new();
        for (name, count) in [
            ("cocoon_network_hedges_total", &self.hedges),
            ("cocoon_network_retries_total", &self.retries),
            ("cocoon_network_settled_total", &self.settled),
            ("cocoon_network_unsettled_total", &self.refused),
            ("cocoon_network_spent_nanotons_total", &self.nanotons),
        ] {
            let count = count.load(Ordering::Relaxed);
            // A String takes whatever is written to it.
            writeln!(text, "# TYPE {name} counter\n{name} {count}").unwrap_or_default();
        }
        text
    }
}

/// How one request ended.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Record {
    pub(super) request: String,
    /// The name of a key; empty where nobody needs one.
    #[serde(skip)]
    pub(super) user: String,
    pub(super) model: String,
    pub(super) worker: String,
    pub(super) scheduler: String,
    pub(super) price: u64,
    pub(super) tokens: u64,
    pub(super) cost: u64,
    pub(super) settled: bool,
    /// Why it was not.
    pub(super) problem: Option<String>,
}

const KEPT: usize = 256;
