//! What is thought of machines that workers run on: which fail, are slow, lie, each apart,
//! and how much work was settled. All of it decays, and all of it is published with the
//! standing that it makes.
//!
//! Who comes with a new machine starts with half of the standing, which is half a share; the
//! other half takes settled work, which somebody paid for. That is all that a lie costs:
//! nobody takes a stake away.
//!
//! Probes are requests of whoever runs the scheduler, sealed and paid like any other, since
//! nobody else's can be read. The same one with the same seed goes to several machines: as
//! an answer's tokens do not depend on the machine, who differs from most
//! has not run the model. Two thirds have to agree before anyone is blamed: of seven that are
//! drawn, three who lie together get nobody shut out.

mod record;

use std::collections::HashMap;
use std::time::Duration;

use attestation::register::Digest256;
use serde::Serialize;

use crate::directory::Outcome;
use crate::machine::Machine;

pub use self::record::{Counts, Record};

/// What is known of everyone.
#[derive(Debug, Default)]
pub struct Reputation {
    records: HashMap<Machine, Record>,
    /// What of it nobody else was told.
    news: HashMap<Machine, Record>,
}

impl Reputation {
    /// Something came of a request.
    pub fn record(&mut self, of: Machine, event: Event, now: Duration) {
        for records in [&mut self.records, &mut self.news] {
            let record = records.entry(of).or_insert(Record::new(now));
            *record = record.at(now);
            record.count(event);
        }
    }

    /// Of [`FULL`].
    #[must_use]
    pub fn standing(&self, of: &Machine, now: Duration) -> u16 {
        self.records
            .get(of)
            .map_or(NEW, |record| record.at(now).standing())
    }

    /// Everyone, the best first, with all that the standing is made of.
    #[must_use]
    pub fn table(&self, now: Duration) -> Vec<Row> {
        let rows = self.records.iter().map(|(of, record)| {
            let record = record.at(now);
            Row {
                machine: *of,
                standing: record.standing(),
                counts: record.counts,
            }
        });
        let mut rows: Vec<_> = rows.collect();
        rows.sort_by_key(|row| (std::cmp::Reverse(row.standing), row.machine));
        rows
    }

    /// What came since this was asked last, to be told to others.
    pub fn news(&mut self) -> Vec<(Machine, Record)> {
        self.news.drain().collect()
    }

    /// These were not told after all.
    pub fn untold(&mut self, news: &[(Machine, Record)], now: Duration) {
        for (of, record) in news {
            let untold = self.news.entry(*of).or_insert(Record::new(now));
            *untold = untold.with(record, now);
        }
    }

    /// All that everyone knows together, but for our news. Of whom nothing is left to be
    /// said is forgotten.
    pub fn learn(&mut self, all: Vec<(Machine, Record)>, now: Duration) {
        self.records = all.into_iter().collect();
        for (of, record) in &self.news {
            let known = self.records.entry(*of).or_insert(Record::new(now));
            *known = known.with(record, now);
        }
        self.forget(now);
    }

    /// Of whom nothing is left to be said.
    pub fn forget(&mut self, now: Duration) {
        self.records.retain(|_, record| !record.at(now).is_blank());
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
    /// To the end, but far slower than it could be; of a client nobody knows how it reads.
    Late,
    /// Broken off, or an error of the worker's own, or no room where some was offered.
    Failed,
    /// A probe was answered as others answered it.
    Agreed,
    /// A probe was answered unlike two thirds, or what was signed is not what passed.
    Lied,
}

impl Event {
    /// As listed.
    pub const NAMES: [&str; 6] = ["settled", "answered", "late", "failed", "agreed", "lied"];

    /// Its place in that list.
    #[must_use]
    pub const fn index(&self) -> usize {
        match self {
            Self::Settled { .. } => 0,
            Self::Answered => 1,
            Self::Late => 2,
            Self::Failed => 3,
            Self::Agreed => 4,
            Self::Lied => 5,
        }
    }

    /// What an outcome says of a machine. Nothing, where a client may have brought it about,
    /// or where nothing was done for it: whoever asks for nothing would wash a record.
    pub fn of(outcome: &Outcome) -> impl Iterator<Item = Self> {
        let events = match *outcome {
            Outcome::Answered { tokens: 0, .. }
            | Outcome::Abandoned
            | Outcome::Full
            | Outcome::Silent => [None, None],
            Outcome::Answered { tokens, .. } => {
                [Some(Self::Answered), Some(Self::Settled { tokens })]
            }
            Outcome::Failed => [Some(Self::Failed), None],
            Outcome::Lied => [Some(Self::Lied), None],
        };
        events.into_iter().flatten()
    }
}

/// Who answered the same probe otherwise than two thirds or more did; nobody, if there are
/// no such two thirds.
#[must_use]
pub fn liars<W>(answers: &[(W, Digest256)]) -> Option<impl Iterator<Item = &W>> {
    let same = |digest: &Digest256| {
        answers
            .iter()
            .filter(move |(_, other)| other == digest)
            .count()
    };
    let truth = answers.iter().map(|(_, digest)| *digest).find(|digest| {
        let (agree, all) = (same(digest), answers.len());
        all >= 2 && agree.saturating_mul(3) >= all.saturating_mul(2)
    })?;
    let others = answers.iter().filter(move |(_, digest)| *digest != truth);
    Some(others.map(|(who, _)| who))
}

/// One line of what is published.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Row {
    /// Whose.
    pub machine: Machine,
    /// Of [`FULL`].
    pub standing: u16,
    /// What it is made of.
    #[serde(flatten)]
    pub counts: Counts,
}

#[cfg(test)]
mod tests {
    use super::record::{ESTABLISHED, HOUR, MONTH, ONE};
    use super::*;
    use proptest::prelude::*;

    const WHO: Machine = Machine(Digest256::ZERO);
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
            (
                table[0].counts.late,
                table[0].counts.failed,
                table[0].counts.lied
            ),
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
        reputation.forget(20 * HOUR);
        assert_eq!(reputation.table(20 * HOUR), []);
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
        assert_eq!(found(&[truth, truth]), Some(vec![]));
        let seven = [truth, truth, lie, truth, truth, other, truth];
        assert_eq!(found(&seven), Some(vec![2, 5]));
        assert_eq!(found(&[truth, lie]), None, "one word against another");
        assert_eq!(found(&[truth, lie, truth, lie, truth]), None);
        assert_eq!(found(&[truth, lie, other]), None);
        assert_eq!(found(&[truth, lie, truth, lie]), None);
    }

    #[test]
    fn what_a_client_can_bring_about_or_get_for_nothing_says_nothing() {
        let answered = |tokens| Outcome::Answered {
            first: START,
            rest: START,
            tokens,
        };
        let said = |outcome| Event::of(&outcome).collect::<Vec<_>>();
        let others = [Outcome::Abandoned, Outcome::Full, Outcome::Silent];
        for outcome in others.into_iter().chain([answered(0)]) {
            assert_eq!(said(outcome), []);
        }
        let settled = Event::Settled { tokens: 7 };
        assert_eq!(said(answered(7)), [Event::Answered, settled]);
        assert_eq!(said(Outcome::Failed), [Event::Failed]);
        assert_eq!(said(Outcome::Lied), [Event::Lied]);
    }

    #[test]
    fn what_several_know_together_is_what_one_would_who_saw_it_all() {
        let other = Machine(Digest256::of(b"other"));
        let events = [Event::Answered, Event::Failed, Event::Settled { tokens: 9 }];
        let (mut one, mut two) = (Reputation::default(), Reputation::default());
        let (mut whole, mut shared) = (Reputation::default(), Reputation::default());
        for (count, event) in events.into_iter().cycle().take(20).enumerate() {
            let who = if count % 3 == 0 { other } else { WHO };
            whole.record(who, event, START);
            let seen = if count % 2 == 0 { &mut one } else { &mut two };
            seen.record(who, event, START);
        }
        for seen in [&mut one, &mut two] {
            let news = seen.news();
            seen.untold(&news, START);
            shared.untold(&seen.news(), START);
            assert_eq!(seen.news(), []);
        }
        let all = shared.news();
        for seen in [&mut one, &mut two] {
            seen.learn(all.clone(), START);
            assert_eq!(seen.table(START), whole.table(START));
        }
        one.record(WHO, Event::Lied, START);
        one.learn(all, START);
        assert_eq!(one.standing(&WHO, START), 0, "what nobody else knows yet");
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
