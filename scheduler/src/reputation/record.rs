//! What there is to say of one machine, as numbers that get smaller with time, and the
//! standing that they make.

use std::time::Duration;

use serde::Serialize;

use super::{Event, FULL, NEW};
use crate::decay::{Age, halved};

/// How often what happened. Counters but that of tokens are in thousandths, since they decay.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize)]
pub struct Counts {
    /// Settled.
    pub tokens: u64,
    /// In time.
    pub answered: u64,
    /// Answered, but late.
    pub late: u64,
    /// Not answered.
    pub failed: u64,
    /// Probes as they should be.
    pub agreed: u64,
    /// What was not true.
    pub lied: u64,
}

/// Counts, and since when they have not been made less.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Record {
    /// Of how it serves now.
    pub service: Age,
    /// Of what it has done, and whether it lied.
    pub history: Age,
    /// As they were then.
    pub counts: Counts,
}

impl Record {
    /// Nothing yet.
    #[must_use]
    pub fn new(now: Duration) -> Self {
        Self {
            service: Age::new(now),
            history: Age::new(now),
            counts: Counts::default(),
        }
    }

    /// What is left of it by now.
    #[must_use]
    pub fn at(&self, now: Duration) -> Self {
        let mut record = *self;
        let counts = &mut record.counts;
        let steps = record.service.pass(now, HOUR);
        for counter in [&mut counts.answered, &mut counts.late, &mut counts.failed] {
            *counter = halved(*counter, steps);
        }
        let steps = record.history.pass(now, MONTH);
        for counter in [&mut counts.tokens, &mut counts.agreed, &mut counts.lied] {
            *counter = halved(*counter, steps);
        }
        record
    }

    /// Both together, by now.
    #[must_use]
    pub fn with(&self, other: &Self, now: Duration) -> Self {
        let (mut record, other) = (self.at(now), other.at(now).counts);
        let counts = &mut record.counts;
        for (counter, more) in [
            (&mut counts.tokens, other.tokens),
            (&mut counts.answered, other.answered),
            (&mut counts.late, other.late),
            (&mut counts.failed, other.failed),
            (&mut counts.agreed, other.agreed),
            (&mut counts.lied, other.lied),
        ] {
            *counter = counter.saturating_add(more).min(MOST);
        }
        record
    }

    /// Once more.
    pub(super) fn count(&mut self, event: Event) {
        let counts = &mut self.counts;
        let (counter, more) = match event {
            Event::Settled { tokens } => (&mut counts.tokens, tokens),
            Event::Answered => (&mut counts.answered, ONE),
            Event::Late => (&mut counts.late, ONE),
            Event::Failed => (&mut counts.failed, ONE),
            Event::Agreed => (&mut counts.agreed, ONE),
            Event::Lied => (&mut counts.lied, ONE),
        };
        *counter = counter.saturating_add(more).min(MOST);
    }

    pub(super) fn standing(&self) -> u16 {
        let counts = &self.counts;
        let work = part(counts.tokens, counts.tokens.saturating_add(ESTABLISHED));
        let earned = FULL.saturating_sub(NEW);
        let earned = u64::from(earned).saturating_mul(work) / PARTS;
        let ended = counts
            .answered
            .saturating_add(counts.late)
            .saturating_add(DOUBT);
        let all = ended.saturating_add(counts.failed.saturating_mul(FAILURE));
        let in_time = ended.saturating_sub(counts.late / 2);
        let honest = PARDON.saturating_sub(counts.lied);
        let parts = [part(ended, all), part(in_time, ended), part(honest, PARDON)];
        let standing = parts
            .into_iter()
            .fold(earned.saturating_add(NEW.into()), |standing, part| {
                standing.saturating_mul(part) / PARTS
            });
        standing.try_into().unwrap_or(FULL)
    }

    /// Whether nothing is left to be said.
    #[must_use]
    pub fn is_blank(&self) -> bool {
        self.counts == Counts::default()
    }
}

fn part(of: u64, whole: u64) -> u64 {
    let scaled = u128::from(of).saturating_mul(PARTS.into());
    let part = scaled.checked_div(whole.into()).unwrap_or_default();
    part.try_into().unwrap_or(PARTS)
}

const PARTS: u64 = 1_000_000;

/// How an event is counted.
pub(super) const ONE: u64 = 1000;

/// Databases have one bit less.
const MOST: u64 = u64::MAX >> 1;

/// For how a machine serves now: half of it is forgotten after so long.
pub(super) const HOUR: Duration = Duration::from_secs(60 * 60);

/// For what it has done, and whether it lied.
pub(super) const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Settled tokens that make half of the difference between new and full.
pub(super) const ESTABLISHED: u64 = 10_000_000;

/// Good answers that everyone is credited with, so that a first failure is not all there is.
const DOUBT: u64 = 8 * ONE;

/// A failure counts as so many answers.
const FAILURE: u64 = 4;

/// Whoever lied has no standing until so much is left of the lie: for a month.
const PARDON: u64 = ONE / 2;
