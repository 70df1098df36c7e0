//! Requests that wait for room, fair between those who pay: start-time fair queueing over
//! tokens. Who waits gets an equal share of the tokens that leave, up to twice as many for
//! a tip; of one's own requests the most urgent goes first. Who comes back after a pause
//! has saved nothing up. Who cannot use what room there is lets others go first, though
//! never behind more than the one that had most.
//!
//! Of two that wait all the time, neither gets ahead of the other by more than the largest
//! request of each. Every call takes time that grows with the logarithm of what waits.
//!
//! Source: Goyal, Vin and Cheng, "Start-time Fair Queueing".

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::time::Duration;

use crate::decay::{Age, halved};

/// What waits for room at one model.
#[derive(Debug)]
pub struct Queue<P, T> {
    limits: Limits,
    lanes: HashMap<P, Lane>,
    /// Who has something that waits, by how much was had.
    waiting: BTreeSet<(u128, P)>,
    /// Who has nothing, and had more than others.
    ahead: BTreeSet<(u128, P)>,
    /// Who has something that waits, by how much of it.
    longest: BTreeSet<(usize, P)>,
    jobs: HashMap<Ticket, Entry<P, T>>,
    deadlines: BTreeSet<(Duration, Ticket)>,
    overdue: Vec<T>,
    virtual_time: u128,
    tokens: u64,
    drained: Drained,
    tickets: u64,
}

/// How much may wait.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// In all.
    pub jobs: usize,
    /// Of one payer.
    pub each: usize,
}

/// A request, as far as its place depends on it.
#[derive(Clone, Copy, Debug)]
pub struct Job<P> {
    /// Who pays.
    pub payer: P,
    /// At most; of more than a large model's context, that much counts.
    pub tokens: u64,
    /// After it nobody wants the answer to begin.
    pub deadline: Duration,
    /// Thousandths of the price; more than as much again counts as that.
    pub tip: u32,
}

impl<P: Copy + Eq + Hash + Ord, T> Queue<P, T> {
    /// Nothing waits.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            lanes: HashMap::new(),
            waiting: BTreeSet::new(),
            ahead: BTreeSet::new(),
            longest: BTreeSet::new(),
            jobs: HashMap::new(),
            deadlines: BTreeSet::new(),
            overdue: Vec::new(),
            virtual_time: 0,
            tokens: 0,
            drained: Drained::default(),
            tickets: 0,
        }
    }

    /// Waits, unless there is no room, or it would be too late when its turn came.
    pub fn push(&mut self, job: Job<P>, item: T, now: Duration) -> Result<Ticket, Refused> {
        let job = Job {
            tokens: job.tokens.min(MOST_TOKENS),
            ..job
        };
        self.sweep(now);
        self.admit(&job, now)?;
        if self.jobs.len() >= self.limits.jobs {
            self.push_out();
        }
        self.tickets = self.tickets.wrapping_add(1);
        let ticket = Ticket(self.tickets);
        let lane = self.lanes.entry(job.payer).or_default();
        if lane.jobs.is_empty() {
            self.ahead.remove(&(lane.had, job.payer));
            lane.had = lane.had.max(self.virtual_time);
            self.waiting.insert((lane.had, job.payer));
        }
        let turn = (lane.round, job.deadline, ticket);
        self.longest.remove(&(lane.jobs.len(), job.payer));
        lane.jobs.insert(turn);
        self.longest.insert((lane.jobs.len(), job.payer));
        lane.tokens = lane.tokens.saturating_add(job.tokens);
        self.tokens = self.tokens.saturating_add(job.tokens);
        self.deadlines.insert((job.deadline, ticket));
        self.jobs.insert(ticket, Entry { job, turn, item });
        Ok(ticket)
    }

    /// The first of each of so many payers, whose turn it is before. They still wait, until
    /// they are [served](Self::serve), [passed over](Self::pass) or [cancelled](Self::cancel).
    pub fn turns(&mut self, most: usize, now: Duration) -> Vec<Ticket> {
        self.sweep(now);
        let lanes = self.waiting.iter().take(most);
        let first = lanes.filter_map(|(_, payer)| self.lanes.get(payer)?.jobs.first());
        first.map(|(_, _, ticket)| *ticket).collect()
    }

    /// What waits.
    #[must_use]
    pub fn get(&self, ticket: Ticket) -> Option<&T> {
        self.jobs.get(&ticket).map(|entry| &entry.item)
    }

    /// It has what it waited for.
    pub fn serve(&mut self, ticket: Ticket, now: Duration) -> Option<T> {
        let payer = self.jobs.get(&ticket)?.job.payer;
        let had = self.lanes.get(&payer)?.had;
        self.virtual_time = self.virtual_time.max(had);
        let Entry { job, item, .. } = self.remove(ticket, job_cost)?;
        self.drained.add(job.tokens, now);
        while self
            .ahead
            .first()
            .is_some_and(|(had, _)| *had <= self.virtual_time)
        {
            let (_, payer) = self.ahead.pop_first()?;
            self.lanes.remove(&payer);
        }
        Some(item)
    }

    /// It cannot use what there is: its payer's others go first, and other payers.
    pub fn pass(&mut self, ticket: Ticket) -> Option<()> {
        let (most, _) = *self.waiting.last()?;
        let Entry { job, turn, .. } = self.jobs.get_mut(&ticket)?;
        let lane = self.lanes.get_mut(&job.payer)?;
        lane.jobs.remove(turn);
        turn.0 = turn.0.saturating_add(1);
        lane.round = lane.round.max(turn.0);
        lane.jobs.insert(*turn);
        self.waiting.remove(&(lane.had, job.payer));
        let after = lane.had.saturating_add(job_cost(job).max(STEP));
        lane.had = after.min(most.saturating_add(1));
        self.waiting.insert((lane.had, job.payer));
        Some(())
    }

    /// Does not wait any more.
    pub fn cancel(&mut self, ticket: Ticket) -> Option<T> {
        self.remove(ticket, |_| 0).map(|entry| entry.item)
    }

    /// What waited too long, or had to make room, each once.
    pub fn overdue(&mut self, now: Duration) -> Vec<T> {
        self.sweep(now);
        std::mem::take(&mut self.overdue)
    }

    /// How much waits.
    #[must_use]
    pub fn len(&self) -> usize {
        self.jobs.len()
    }

    /// Whether nothing does.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.jobs.is_empty()
    }

    /// Whether nothing waits, and nothing is known of how fast it would leave.
    #[must_use]
    pub fn is_idle(&self, now: Duration) -> bool {
        self.is_empty() && self.drained.recent(now) == 0
    }

    fn admit(&self, job: &Job<P>, now: Duration) -> Result<(), Refused> {
        let lane = self.lanes.get(&job.payer);
        let (own, own_tokens) = lane.map_or((0, 0), |lane| (lane.jobs.len(), lane.tokens));
        let payers = match own {
            0 => self.waiting.len().saturating_add(1),
            _ => self.waiting.len(),
        };
        let payers = u64::try_from(payers).unwrap_or(u64::MAX);
        let ahead = |own: u64| own.saturating_mul(payers).min(self.tokens);
        let wait = |tokens| self.drained.time(tokens, now);
        let refused = |after: Duration| after.clamp(SOONEST, LATEST);
        let longest = self.longest.last().map_or(0, |(count, _)| *count);
        if self.jobs.len() >= self.limits.jobs && longest <= own.saturating_add(1) {
            let retry_after = refused(wait(self.tokens / 2));
            return Err(Refused::Full { retry_after });
        }
        if own >= self.limits.each {
            let retry_after = refused(wait(ahead(own_tokens) / 2));
            return Err(Refused::TooMany { retry_after });
        }
        let patience = job.deadline.saturating_sub(now);
        let wait = wait(ahead(own_tokens.saturating_add(job.tokens)));
        if wait > patience || patience.is_zero() {
            let retry_after = refused(wait.saturating_sub(patience));
            return Err(Refused::Late { wait, retry_after });
        }
        Ok(())
    }

    /// The last of who has most waits no longer.
    fn push_out(&mut self) -> Option<()> {
        let (_, payer) = self.longest.last()?;
        let (_, _, ticket) = *self.lanes.get(payer)?.jobs.last()?;
        let item = self.remove(ticket, |_| 0)?.item;
        self.overdue.push(item);
        Some(())
    }

    fn sweep(&mut self, now: Duration) {
        while let Some((_, ticket)) = self.deadlines.first().filter(|(at, _)| *at <= now) {
            let late = self.remove(*ticket, |_| 0);
            self.overdue.extend(late.map(|entry| entry.item));
        }
    }

    /// Takes one out; its payer has had so much more.
    fn remove(&mut self, ticket: Ticket, cost: impl Fn(&Job<P>) -> u128) -> Option<Entry<P, T>> {
        let entry = self.jobs.remove(&ticket)?;
        let job = &entry.job;
        self.deadlines.remove(&(job.deadline, ticket));
        self.tokens = self.tokens.saturating_sub(job.tokens);
        let lane = self.lanes.get_mut(&job.payer)?;
        self.longest.remove(&(lane.jobs.len(), job.payer));
        lane.jobs.remove(&entry.turn);
        if !lane.jobs.is_empty() {
            self.longest.insert((lane.jobs.len(), job.payer));
        }
        lane.tokens = lane.tokens.saturating_sub(job.tokens);
        self.waiting.remove(&(lane.had, job.payer));
        lane.had = lane.had.saturating_add(cost(job));
        match lane.jobs.is_empty() {
            true => self.ahead.insert((lane.had, job.payer)),
            false => self.waiting.insert((lane.had, job.payer)),
        };
        if self.jobs.is_empty() {
            // Nobody waited, so nobody was ahead of anyone.
            self.lanes.clear();
            self.ahead.clear();
        }
        Some(entry)
    }
}

/// Names what waits.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Ticket(u64);

/// Why it may not wait.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refused {
    /// In all.
    #[error("too many requests wait, try again in {} s", retry_after.as_secs())]
    Full {
        /// When half of them are gone.
        retry_after: Duration,
    },
    /// It would come too late.
    #[error("the request would wait for {} s, which is beyond its deadline", wait.as_secs())]
    Late {
        /// As it looks now.
        wait: Duration,
        /// When it would be in time.
        retry_after: Duration,
    },
    /// Of this payer.
    #[error("too many requests of this payer wait, try again in {} s", retry_after.as_secs())]
    TooMany {
        /// When half of them are gone.
        retry_after: Duration,
    },
}

impl Refused {
    /// For the header of that name.
    #[must_use]
    pub const fn retry_after(&self) -> Duration {
        match self {
            Self::Full { retry_after }
            | Self::Late { retry_after, .. }
            | Self::TooMany { retry_after } => *retry_after,
        }
    }
}

/// What counts as had: less for a tip.
fn job_cost<P>(job: &Job<P>) -> u128 {
    let weight = u128::from(job.tip.min(1000)).saturating_add(1000);
    let scaled = u128::from(job.tokens.max(1)).saturating_mul(1_000_000);
    scaled.checked_div(weight).unwrap_or(scaled)
}

const SOONEST: Duration = Duration::from_secs(1);
const LATEST: Duration = Duration::from_secs(60);

/// What counts of one request.
const MOST_TOKENS: u64 = 1 << 17;

/// How far who is passed over goes back, at least: a thousand tokens.
const STEP: u128 = 1_000_000;

#[derive(Debug)]
struct Entry<P, T> {
    job: Job<P>,
    turn: Turn,
    item: T,
}

/// Among one's own: how often it was passed over, as far as that put it behind others.
type Turn = (u64, Duration, Ticket);

#[derive(Debug, Default)]
struct Lane {
    /// Tokens by their weight, on the clock of all.
    had: u128,
    jobs: BTreeSet<Turn>,
    /// Who comes now is behind what was passed over before.
    round: u64,
    tokens: u64,
}

/// How fast the queue moves.
#[derive(Debug, Default)]
struct Drained {
    tokens: u64,
    age: Age,
}

impl Drained {
    fn add(&mut self, tokens: u64, now: Duration) {
        let before = halved(self.tokens, self.age.pass(now, WINDOW));
        self.tokens = before.saturating_add(tokens);
    }

    fn recent(&self, now: Duration) -> u64 {
        halved(self.tokens, self.age.steps(now, WINDOW))
    }

    /// Until so many are gone; nothing is known where none went.
    fn time(&self, tokens: u64, now: Duration) -> Duration {
        let recent = self.recent(now);
        // What decays by half in a window and is refilled steadily has 1/ln 2 of it in it.
        let micros = u128::from(tokens)
            .saturating_mul(WINDOW.as_micros())
            .saturating_mul(1443)
            .checked_div(u128::from(recent).saturating_mul(1000));
        let micros = micros.map_or(0, |micros| micros.try_into().unwrap_or(u64::MAX));
        Duration::from_micros(micros)
    }
}

/// Half of what was seen is forgotten after so long.
const WINDOW: Duration = Duration::from_secs(10);

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "numbers of a test's own")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const START: Duration = Duration::ZERO;
    const LIMITS: Limits = Limits {
        jobs: 1000,
        each: 500,
    };

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    impl<T> Queue<u8, T> {
        fn pop(&mut self, now: Duration) -> Option<T> {
            let turn = self.turns(1, now);
            self.serve(*turn.first()?, now)
        }
    }

    const fn job(payer: u8, tokens: u64) -> Job<u8> {
        Job {
            payer,
            tokens,
            deadline: seconds(3600),
            tip: 0,
        }
    }

    /// How many tokens each payer had, of those that left.
    fn served(queue: &mut Queue<u8, (u8, u64)>, pops: usize) -> HashMap<u8, u64> {
        let mut had = HashMap::new();
        for (payer, tokens) in (0..pops).map_while(|_| queue.pop(START)) {
            *had.entry(payer).or_default() += tokens;
        }
        had
    }

    fn fill(queue: &mut Queue<u8, (u8, u64)>, job: Job<u8>, count: usize) {
        for _ in 0..count {
            queue.push(job, (job.payer, job.tokens), START).unwrap();
        }
    }

    #[test]
    fn many_requests_of_one_payer_do_not_delay_the_only_one_of_another() {
        let mut queue = Queue::new(LIMITS);
        fill(&mut queue, job(1, 100), 400);
        queue.pop(START);
        queue.pop(START);
        fill(&mut queue, job(2, 100), 1);
        assert_eq!(served(&mut queue, 2)[&2], 100);
    }

    #[test]
    fn a_tip_is_worth_twice_the_share_and_no_more() {
        let mut queue = Queue::new(LIMITS);
        fill(
            &mut queue,
            Job {
                tip: u32::MAX,
                ..job(1, 100)
            },
            400,
        );
        fill(&mut queue, job(2, 100), 400);
        let had = served(&mut queue, 300);
        assert_eq!((had[&1], had[&2]), (20_000, 10_000));
    }

    #[test]
    fn who_pauses_saves_nothing_up_and_who_comes_back_at_once_has_lost_nothing_either() {
        let mut queue = Queue::new(LIMITS);
        fill(&mut queue, job(1, 100), 400);
        served(&mut queue, 200);
        fill(&mut queue, job(2, 100), 100);
        assert_eq!(served(&mut queue, 100)[&1], 5000, "half each from then on");
        fill(&mut queue, job(3, 1000), 1);
        assert_eq!(served(&mut queue, 2).get(&3), Some(&1000));
        fill(&mut queue, job(3, 1000), 1);
        let had = served(&mut queue, 19);
        assert_eq!(
            had.get(&3),
            None,
            "it had ten shares at once, and waits for them"
        );
    }

    #[test]
    fn the_most_urgent_of_ones_own_goes_first_and_what_is_overdue_does_not_go() {
        let mut queue = Queue::new(LIMITS);
        for deadline in [30, 10, 20] {
            let job = Job {
                deadline: seconds(deadline),
                ..job(1, 1)
            };
            queue.push(job, deadline, START).unwrap();
        }
        assert_eq!(queue.pop(START), Some(10));
        assert_eq!(queue.pop(seconds(20)), Some(30));
        assert_eq!(queue.overdue(seconds(20)), [20]);
        assert!(queue.overdue(seconds(20)).is_empty() && queue.is_empty());
    }

    #[test]
    fn what_cannot_wait_is_told_when_to_come_back() {
        let mut queue = Queue::new(Limits { jobs: 22, each: 20 });
        // A hundred tokens a second leave it.
        for second in 0..100 {
            queue.push(job(9, 100), (), seconds(second)).unwrap();
            queue.pop(seconds(second)).unwrap();
        }
        let now = seconds(100);
        for _ in 0..20 {
            queue.push(job(1, 100), (), now).unwrap();
        }
        let mut refused = |job| queue.push(job, (), now).unwrap_err();
        let many = refused(job(1, 100));
        assert_eq!(
            many.to_string(),
            "too many requests of this payer wait, try again in 10 s"
        );
        let patience = seconds(105);
        let late = refused(Job {
            deadline: patience,
            ..job(2, 1000)
        });
        assert_eq!(
            late.to_string(),
            "the request would wait for 21 s, which is beyond its deadline"
        );
        assert!((14..17).contains(&late.retry_after().as_secs()), "{late:?}");
        for payer in 20..41 {
            queue.push(job(payer, 90), (), now).unwrap();
        }
        let full = queue.push(job(3, 1), (), now).unwrap_err();
        assert_eq!(
            full.to_string(),
            "too many requests wait, try again in 10 s"
        );
    }

    #[test]
    fn who_has_most_makes_room_for_who_has_less_and_nobody_else_does() {
        let mut queue = Queue::new(Limits { jobs: 96, each: 50 });
        for payer in 0..2 {
            fill(&mut queue, job(payer, 1), 48);
        }
        for payer in 2..16 {
            fill(&mut queue, job(payer, 1), 6);
        }
        let waits = |queue: &Queue<u8, _>, payer: u8| queue.lanes[&payer].jobs.len();
        for payer in 0..16 {
            assert_eq!(waits(&queue, payer), 6, "{payer}");
        }
        assert_eq!((queue.len(), queue.overdue(START).len()), (96, 84));
        let refused = queue.push(job(3, 1), (3, 1), START).unwrap_err();
        assert!(matches!(refused, Refused::Full { .. }), "{refused}");
        fill(&mut queue, job(16, 1), 5);
        assert_eq!((waits(&queue, 16), queue.len()), (5, 96));
    }

    #[test]
    fn who_is_passed_over_lets_all_others_be_looked_at_and_is_charged_nothing() {
        let mut queue = Queue::new(LIMITS);
        fill(&mut queue, job(1, 1), 20);
        fill(&mut queue, job(2, 100), 2);
        fill(&mut queue, job(3, 100), 2);
        let mut seen = Vec::new();
        for _ in 0..8 {
            let ticket = queue.turns(1, START)[0];
            seen.push(queue.get(ticket).unwrap().0);
            queue.pass(ticket).unwrap();
        }
        assert_eq!(seen, [1, 2, 3, 1, 2, 3, 1, 2]);
        assert_eq!(queue.drained.tokens, 0, "nothing has left");
        let had = served(&mut queue, 6);
        assert_eq!((had[&1], had[&2], had[&3]), (4, 100, 100));
    }

    #[test]
    fn of_ones_own_what_is_passed_over_comes_again_behind_what_waited_then() {
        let mut queue = Queue::new(LIMITS);
        let at = |deadline| Job {
            deadline: seconds(deadline),
            ..job(1, 1)
        };
        queue.push(at(10), 10, START).unwrap();
        queue.push(at(20), 20, START).unwrap();
        let ticket = queue.turns(1, START)[0];
        queue.pass(ticket).unwrap();
        queue.push(at(15), 15, START).unwrap();
        let left: Vec<_> = (0..3).map_while(|_| queue.pop(START)).collect();
        assert_eq!(left, [20, 10, 15]);
    }

    #[test]
    fn one_that_asks_for_everything_counts_as_a_large_one() {
        let mut queue = Queue::new(LIMITS);
        fill(&mut queue, job(1, u64::MAX), 1);
        fill(&mut queue, job(2, 100), 2);
        assert_eq!(queue.pop(START), Some((1, u64::MAX)));
        assert_eq!(queue.tokens, 200, "what the others wait for");
        assert_eq!(queue.drained.tokens, MOST_TOKENS);
    }

    #[test]
    fn what_is_cancelled_leaves_room_and_costs_nothing() {
        let mut queue = Queue::new(Limits { jobs: 2, each: 2 });
        let first = queue.push(job(1, 100), 1, START).unwrap();
        queue.push(job(1, 100), 2, START).unwrap();
        assert_eq!(queue.cancel(first), Some(1));
        assert_eq!(queue.cancel(first), None);
        queue.push(job(1, 100), 3, START).unwrap();
        assert_eq!((queue.pop(START), queue.pop(START)), (Some(2), Some(3)));
    }

    proptest! {
        #[test]
        fn of_two_that_wait_all_the_time_none_gets_ahead_by_more_than_a_request_of_each(
            tokens in prop::collection::vec((1..1000_u64, 0..1500_u32), 2..6),
            pops in 1..100_usize,
        ) {
            let mut queue = Queue::new(LIMITS);
            for (payer, (tokens, tip)) in (0..).zip(&tokens) {
                fill(&mut queue, Job { tip: *tip, ..job(payer, *tokens) }, 100);
            }
            let had = served(&mut queue, pops);
            let share = |payer: u8| {
                let tip = tokens[usize::from(payer)].1;
                let had = had.get(&payer).copied().unwrap_or_default();
                had * 1000 / u64::from(1000 + tip.min(1000))
            };
            for (one, other) in (0..6_u8).flat_map(|one| (0..one).map(move |other| (one, other))) {
                if usize::from(one) < tokens.len() {
                    let most = tokens[usize::from(one)].0 + tokens[usize::from(other)].0;
                    prop_assert!(share(one).abs_diff(share(other)) <= most + 1);
                }
            }
        }

        #[test]
        fn everything_that_waits_leaves_once_and_nothing_is_left_behind(
            steps in prop::collection::vec((0..4_u8, 0..5_u8, 1..100_u64, 0..50_u64), 1..200),
        ) {
            let mut queue = Queue::new(Limits { jobs: 20, each: 8 });
            let (mut now, mut inside, mut next) = (START, HashMap::new(), 0_u64);
            for (what, payer, tokens, wait) in steps {
                match what {
                    0 | 1 => {
                        let deadline = now + seconds(wait);
                        let job = Job { deadline, ..job(payer, tokens) };
                        if let Ok(ticket) = queue.push(job, next, now) {
                            inside.insert(next, ticket);
                        }
                        next += 1;
                    }
                    2 => {
                        if let Some(item) = queue.pop(now) {
                            prop_assert!(inside.remove(&item).is_some());
                        }
                    }
                    _ => {
                        now += seconds(wait / 10);
                        if let Some(item) = inside.keys().next().copied() {
                            let ticket = inside.remove(&item).unwrap();
                            let left = queue.cancel(ticket);
                            prop_assert!(left.is_none_or(|left| left == item));
                            if left.is_none() {
                                // It is among those that are told.
                                inside.insert(item, ticket);
                            }
                        }
                    }
                }
                for item in queue.overdue(now) {
                    prop_assert!(inside.remove(&item).is_some());
                }
                prop_assert_eq!(queue.len(), inside.len());
            }
            while let Some(item) = queue.pop(now) {
                prop_assert!(inside.remove(&item).is_some());
            }
            prop_assert!(inside.is_empty());
            prop_assert!(queue.lanes.is_empty() && queue.ahead.is_empty());
            prop_assert!(queue.waiting.is_empty() && queue.deadlines.is_empty());
            prop_assert!(queue.longest.is_empty());
            prop_assert_eq!(queue.tokens, 0);
        }
    }
}
