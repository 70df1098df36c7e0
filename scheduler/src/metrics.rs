//! Counts for Prometheus; nothing of what was said, and nobody's name.
//!
//! Format: Prometheus text exposition, version 0.0.4.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::reputation::Event;

/// What happened since the start.
#[derive(Debug, Default)]
pub struct Metrics {
    requests: [AtomicU64; Ending::ALL.len()],
    judged: [AtomicU64; Event::NAMES.len()],
    refusals: Mutex<BTreeMap<&'static str, u64>>,
    open: AtomicU64,
    tokens: AtomicU64,
    earned: AtomicU64,
    first: Histogram,
}

/// How a request ended.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Ending {
    /// Answered, with a receipt that fits.
    Settled,
    /// Answered, without.
    Unsettled,
    /// The worker said no before it opened anything.
    Refused,
    /// The worker broke off.
    Failed,
    /// Too late.
    Late,
    /// The client went away.
    Left,
    /// Not covered, or sent to nobody.
    Unsent,
}

impl Ending {
    /// As listed.
    pub const ALL: [(Self, &str); 7] = [
        (Self::Settled, "settled"),
        (Self::Unsettled, "unsettled"),
        (Self::Refused, "refused"),
        (Self::Failed, "failed"),
        (Self::Late, "late"),
        (Self::Left, "left"),
        (Self::Unsent, "unsent"),
    ];
}

/// What there is right now.
#[derive(Clone, Copy, Debug)]
pub struct Now {
    /// Whether it takes nothing new.
    pub is_draining: bool,
    /// Workers.
    pub workers: usize,
    /// Clients that wait for room.
    pub waiting: usize,
    /// Machines that something is known of.
    pub machines: usize,
    /// Of them, those that are asked nothing.
    pub shut_out: usize,
}

impl Metrics {
    /// A request has come; it ends by [`ended`](Self::ended).
    pub fn began(&self) {
        self.open.fetch_add(1, Ordering::Relaxed);
    }

    /// And is over.
    pub fn ended(&self, ending: Ending) {
        self.open.fetch_sub(1, Ordering::Relaxed);
        let all = Ending::ALL.iter().zip(&self.requests);
        for (_, count) in all.filter(|((other, _), _)| *other == ending) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// It said something of a machine.
    pub fn judged(&self, event: Event) {
        if let Some(count) = self.judged.get(event.index()) {
            count.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// A client was told no, by the code of an error of ours.
    pub fn refused(&self, code: &'static str) {
        let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let count = refusals.entry(code).or_default();
        *count = count.saturating_add(1);
    }

    /// It was paid for; its first bytes came after so long, if they passed here.
    pub fn settled(&self, tokens: u64, nanotons: u64, first: Option<Duration>) {
        self.tokens.fetch_add(tokens, Ordering::Relaxed);
        self.earned.fetch_add(nanotons, Ordering::Relaxed);
        first.into_iter().for_each(|first| self.first.add(first));
    }

    /// Requests under way.
    pub fn open(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// How many ended so.
    pub fn count(&self, ending: Ending) -> u64 {
        let all = Ending::ALL.iter().zip(&self.requests);
        all.filter(|((other, _), _)| *other == ending)
            .map(|(_, count)| count.load(Ordering::Relaxed))
            .sum()
    }

    /// Tokens that were paid for, and what for.
    pub fn paid(&self) -> (u64, u64) {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (load(&self.tokens), load(&self.earned))
    }

    /// `GET /metrics`
    pub fn show(&self, now: &Now) -> String {
        let mut text = String::new();
        // Writing to a string does not fail.
        self.write(&mut text, now).unwrap_or_default();
        text
    }

    fn write(&self, text: &mut String, now: &Now) -> std::fmt::Result {
        let name = "cocoon_scheduler_requests_total";
        writeln!(text, "# HELP {name} Requests by how they ended.")?;
        writeln!(text, "# TYPE {name} counter")?;
        for ((_, ending), count) in Ending::ALL.iter().zip(&self.requests) {
            let count = count.load(Ordering::Relaxed);
            writeln!(text, "{name}{{ending=\"{ending}\"}} {count}")?;
        }
        let name = "cocoon_scheduler_judged_total";
        writeln!(
            text,
            "# HELP {name} What requests and probes said of machines."
        )?;
        writeln!(text, "# TYPE {name} counter")?;
        for (event, count) in Event::NAMES.iter().zip(&self.judged) {
            let count = count.load(Ordering::Relaxed);
            writeln!(text, "{name}{{event=\"{event}\"}} {count}")?;
        }
        let name = "cocoon_scheduler_refusals_total";
        writeln!(
            text,
            "# HELP {name} Errors of the scheduler's own, by their codes."
        )?;
        writeln!(text, "# TYPE {name} counter")?;
        let refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        for (code, count) in refusals.iter() {
            writeln!(text, "{name}{{code=\"{code}\"}} {count}")?;
        }
        drop(refusals);
        let (tokens, earned) = self.paid();
        let number = |count: usize| u64::try_from(count).unwrap_or(u64::MAX);
        for (name, kind, help, value) in [
            ("requests_open", "gauge", "Requests under way.", self.open()),
            ("workers", "gauge", "Verified workers.", number(now.workers)),
            (
                "draining",
                "gauge",
                "1 once it takes nothing new.",
                now.is_draining.into(),
            ),
            (
                "waiting",
                "gauge",
                "Clients that wait for room.",
                number(now.waiting),
            ),
            (
                "machines",
                "gauge",
                "Machines that something is known of.",
                number(now.machines),
            ),
            (
                "machines_shut_out",
                "gauge",
                "Machines that are asked nothing: they lied, or failed too often.",
                number(now.shut_out),
            ),
            (
                "tokens_total",
                "counter",
                "Tokens that were paid for.",
                tokens,
            ),
            (
                "nanotons_total",
                "counter",
                "What was paid for them.",
                earned,
            ),
        ] {
            let name = format!("cocoon_scheduler_{name}");
            writeln!(
                text,
                "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}"
            )?;
        }
        self.first
            .write(text, "cocoon_scheduler_first_byte_seconds")
    }
}

/// How long something took.
#[derive(Debug, Default)]
struct Histogram {
    buckets: [AtomicU64; BOUNDS_MS.len()],
    count: AtomicU64,
    sum_us: AtomicU64,
}

impl Histogram {
    fn add(&self, took: Duration) {
        for (bound, bucket) in BOUNDS_MS.iter().zip(&self.buckets) {
            if took <= Duration::from_millis(*bound) {
                bucket.fetch_add(1, Ordering::Relaxed);
            }
        }
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.sum_us.fetch_add(micros, Ordering::Relaxed);
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    fn write(&self, text: &mut String, name: &str) -> std::fmt::Result {
        writeln!(
            text,
            "# HELP {name} From a request to the first byte of its answer."
        )?;
        writeln!(text, "# TYPE {name} histogram")?;
        for (bound, bucket) in BOUNDS_MS.iter().zip(&self.buckets) {
            let bound = Duration::from_millis(*bound).as_secs_f64();
            let count = bucket.load(Ordering::Relaxed);
            writeln!(text, "{name}_bucket{{le=\"{bound}\"}} {count}")?;
        }
        let count = self.count.load(Ordering::Relaxed);
        let sum = Duration::from_micros(self.sum_us.load(Ordering::Relaxed)).as_secs_f64();
        writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {count}")?;
        writeln!(text, "{name}_sum {sum}\n{name}_count {count}")
    }
}

const BOUNDS_MS: [u64; 10] = [5, 20, 50, 100, 250, 500, 1000, 2500, 10_000, 60_000];
