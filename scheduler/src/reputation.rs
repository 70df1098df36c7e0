//! What is thought of those who run workers: who fails, who is slow, who lies, each apart,
//! and how much work was settled. All of it decays, and all of it is published with the
//! standing that it makes.
//!
//! It is about a Node, if the chain knows the worker as one: a worker's own key lives as
//! long as its boot, and with it what was known. Who comes as a new Node pays 0.004 coins for
//! an attestation, has a stake there or waits for a day to move it, and starts with half of
//! the standing, which is half a share; the other half takes settled work, which somebody
//! paid for. That is all that a lie costs: nobody takes a stake away.
//!
//! Probes are requests of whoever runs the scheduler, sealed and paid like any other, since
//! nobody else's can be read. The same one with the same seed goes to workers of other
//! owners: as an answer's tokens do not depend on the machine, who differs from most of
//! three or more has not run the model.

use std::collections::HashMap;
use std::time::Duration;

use attestation::register::Digest256;
use serde::Serialize;

use crate::decay::{Age, halved};

/// What is known of everyone.
#[derive(Debug, Default)]
pub struct Reputation {
    records: HashMap<Digest256, Record>,
}

impl Reputation {
    /// Something came of a request.
    pub fn record(&mut self, of: Digest256, event: Event, now: Duration) {
        let record = self.records.entry(of).or_insert(Record::new(now));
        *record = record.at(now);
        let (counter, more) = match event {
            Event::Settled { tokens } => (&mut record.tokens, tokens),
            Event::Answered => (&mut record.answered, ONE),
            Event::Late => (&mut record.late, ONE),
            Event::Failed => (&mut record.failed, ONE),
            Event::Agreed => (&mut record.agreed, ONE),
            Event::Lied => (&mut record.lied, ONE),
        };
        *counter = counter.saturating_add(more);
    }

    /// Of [`FULL`].
    #[must_use]
    pub fn standing(&self, of: &Digest256, now: Duration) -> u16 {
        self.records
            .get(of)
            .map_or(NEW, |record| record.at(now).standing())
    }

    /// Everyone, the best first, with all that the standing is made of. Of whom nothing is
    /// left to be said is forgotten.
    pub fn table(&mut self, now: Duration) -> Vec<Row> {
        self.records.retain(|_, record| !record.at(now).is_blank());
        let rows = self.records.iter().map(|(of, record)| {
            let record = record.at(now);
            Row {
                of: *of,
                standing: record.standing(),
                tokens: record.tokens,
                answered: record.answered,
                late: record.late,
                failed: record.failed,
                agreed: record.agreed,
                lied: record.lied,
            }
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by_key(|row| (std::cmp::Reverse(row.standing), row.of));
        rows
    }
}

/// The standing of who does everything right for long.
pub const FULL: u16 = 1000;

/// The standing of who is not known.
pub const NEW: u16 = 500;

/// What came of a request.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// It was paid for: a receipt of so many tokens.
    Settled {
        /// As counted.
        tokens: u64,
    },
    /// To the end, in time.
    Answered,
    /// To the end, but slower than the worker is offered for.
    Late,
    /// Broken off, or an error of the worker's own.
    Failed,
    /// A probe was answered as others answered it.
    Agreed,
    /// A probe was answered unlike most.
    Lied,
}

/// Who answered the same probe otherwise than more than half of at least three did; nobody,
/// if there is no such majority.
#[must_use]
pub fn liars<W>(answers: &[(W, Digest256)]) -> Option<impl Iterator<Item = &W>> {
    let same = |digest: &Digest256| {
        answers
            .iter()
            .filter(move |(_, other)| other == digest)
            .count()
    };
    let truth = answers
        .iter()
        .map(|(_, digest)| *digest)
        .find(|digest| answers.len() >= 3 && same(digest) > answers.len() / 2)?;
    let others = answers.iter().filter(move |(_, digest)| *digest != truth);
    Some(others.map(|(who, _)| who))
}

/// One line of what is published. Counters but that of tokens are in thousandths, since
/// they decay.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Row {
    /// Whose.
    pub of: Digest256,
    /// Of [`FULL`].
    pub standing: u16,
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
    /// Probes as they should not.
    pub lied: u64,
}

#[derive(Clone, Copy, Debug)]
struct Record {
    service: Age,
    history: Age,
    tokens: u64,
    answered: u64,
    late: u64,
    failed: u64,
    agreed: u64,
    lied: u64,
}

impl Record {
    const fn new(now: Duration) -> Self {
        Self {
            service: Age::new(now),
            history: Age::new(now),
            tokens: 0,
            answered: 0,
            late: 0,
            failed: 0,
            agreed: 0,
            lied: 0,
        }
    }

    /// What is left of it by now.
    fn at(&self, now: Duration) -> Self {
        let mut record = *self;
        let steps = record.service.pass(now, HOUR);
        for counter in [&mut record.answered, &mut record.late, &mut record.failed] {
            *counter = halved(*counter, steps);
        }
        let steps = record.history.pass(now, MONTH);
        for counter in [&mut record.tokens, &mut record.agreed, &mut record.lied] {
            *counter = halved(*counter, steps);
        }
        record
    }

    fn standing(&self) -> u16 {
        let work = part(self.tokens, self.tokens.saturating_add(ESTABLISHED));
        let earned = FULL.saturating_sub(NEW);
        let earned = u64::from(earned).saturating_mul(work) / PARTS;
        let ended = self
            .answered
            .saturating_add(self.late)
            .saturating_add(DOUBT);
        let all = ended.saturating_add(self.failed.saturating_mul(FAILURE));
        let in_time = ended.saturating_sub(self.late / 2);
        let honest = PARDON.saturating_sub(self.lied);
        let parts = [part(ended, all), part(in_time, ended), part(honest, PARDON)];
        let standing = parts
            .into_iter()
            .fold(earned.saturating_add(NEW.into()), |standing, part| {
                standing.saturating_mul(part) / PARTS
            });
        standing.try_into().unwrap_or(FULL)
    }

    const fn is_blank(&self) -> bool {
        let service = self.answered | self.late | self.failed;
        service | self.tokens | self.agreed | self.lied == 0
    }
}

fn part(of: u64, whole: u64) -> u64 {
    let scaled = u128::from(of).saturating_mul(PARTS.into());
    let part = scaled.checked_div(whole.into()).unwrap_or_default();
    part.try_into().unwrap_or(PARTS)
}

const PARTS: u64 = 1_000_000;

/// How an event is counted.
const ONE: u64 = 1000;

/// For how a worker serves now: half of it is forgotten after so long.
const HOUR: Duration = Duration::from_secs(60 * 60);

/// For what it has done, and whether it lied.
const MONTH: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// Settled tokens that make half of the difference between new and full.
const ESTABLISHED: u64 = 10_000_000;

/// Good answers that everyone is credited with, so that a first failure is not all there is.
const DOUBT: u64 = 8 * ONE;

/// A failure counts as so many answers.
const FAILURE: u64 = 4;

/// Whoever lied has no standing until so much is left of the lie: for a month.
const PARDON: u64 = ONE / 2;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const WHO: Digest256 = Digest256::ZERO;
    const START: Duration = Duration::ZERO;

    fn after(events: &[Event], now: Duration) -> u16 {
        let mut reputation = Reputation::default();
        for event in events {
            reputation.record(WHO, *event, START);
        }
        reputation.standing(&WHO, now)
    }

    #[test]
    fn who_is_new_has_half_and_earns_the_rest_by_settled_work() {
        assert_eq!(after(&[], START), NEW);
        let settled = |tokens| after(&[Event::Settled { tokens }], START);
        assert_eq!(settled(ESTABLISHED), 750);
        assert_eq!(settled(u64::MAX / 2), FULL - 1);
    }

    #[test]
    fn failing_slow_and_lying_are_told_apart() {
        let worker = |event| after(&[event; 8], START);
        assert_eq!(worker(Event::Answered), NEW);
        assert_eq!(worker(Event::Late), 375);
        assert_eq!(worker(Event::Failed), 100);
        assert_eq!(after(&[Event::Lied], START), 0);
        let mut reputation = Reputation::default();
        reputation.record(WHO, Event::Late, START);
        reputation.record(WHO, Event::Lied, START);
        let table = reputation.table(START);
        assert_eq!(
            (table[0].late, table[0].failed, table[0].lied),
            (ONE, 0, ONE)
        );
    }

    #[test]
    fn failures_are_forgotten_in_hours_and_a_lie_in_months() {
        assert_eq!(after(&[Event::Failed; 8], 10 * HOUR), 498);
        assert_eq!(after(&[Event::Lied], MONTH), 0);
        assert_eq!(after(&[Event::Lied], 2 * MONTH), 250);
        let mut reputation = Reputation::default();
        for minute in 0..44_000 {
            let event = if minute == 0 {
                Event::Lied
            } else {
                Event::Answered
            };
            reputation.record(WHO, event, Duration::from_secs(60 * minute));
        }
        let standing = reputation.standing(&WHO, 2 * MONTH);
        assert!(
            (245..255).contains(&standing),
            "as fast for who answers often"
        );
        let mut reputation = Reputation::default();
        reputation.record(WHO, Event::Failed, START);
        assert_eq!(reputation.table(START).len(), 1);
        assert!(
            reputation.table(20 * HOUR).is_empty(),
            "nothing is left to be said"
        );
    }

    #[test]
    fn a_lie_is_what_most_of_three_do_not_say() {
        let [truth, lie, other] = [b"a", b"b", b"c"].map(|text| Digest256::of(text));
        let found = |answers: &[Digest256]| {
            let answers: Vec<_> = answers.iter().copied().enumerate().collect();
            let answers: Vec<_> = answers.into_iter().collect();
            liars(&answers).map(|liars| liars.copied().collect::<Vec<_>>())
        };
        assert_eq!(found(&[truth, lie, truth]), Some(vec![1]));
        assert_eq!(found(&[truth, truth, truth]), Some(vec![]));
        assert_eq!(found(&[truth, lie]), None, "one word against another");
        assert_eq!(found(&[truth, lie, other]), None);
        assert_eq!(found(&[truth, lie, truth, lie]), None);
    }

    fn event() -> impl Strategy<Value = Event> {
        prop_oneof![
            any::<u64>().prop_map(|tokens| Event::Settled { tokens }),
            Just(Event::Answered),
            Just(Event::Late),
            Just(Event::Failed),
            Just(Event::Agreed),
        ]
    }

    proptest! {
        #[test]
        fn a_standing_is_between_nothing_and_full_and_never_nothing_without_a_lie(
            events in prop::collection::vec((event(), any::<u32>()), 0..64),
        ) {
            let mut reputation = Reputation::default();
            for (event, at) in events {
                let at = Duration::from_secs(at.into());
                reputation.record(WHO, event, at);
                prop_assert!((1..=FULL).contains(&reputation.standing(&WHO, at)));
            }
        }
    }
}
