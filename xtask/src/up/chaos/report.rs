//! What came of it, and whether any of that may be.

use std::collections::BTreeMap;
use std::fmt;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};

use super::Disturbance;
use super::load::{Asked, Count, Ending};

/// What was done to a part, and when it was over.
#[derive(Clone, Copy, Debug)]
pub(super) struct Done {
    pub(super) kind: Disturbance,
    pub(super) began: Instant,
    pub(super) ended: Instant,
}

/// Whether anything may stay reserved for longer than is waited: what was sealed to a worker
/// that ended is known to the process of a scheduler that saw it go, and the next one has
/// nobody to ask.
pub(super) fn may_leave(done: &[Done]) -> bool {
    use Disturbance::{DrainScheduler, DrainWorker, KillScheduler, KillWorker};

    let of = |kinds: [Disturbance; 2]| done.iter().filter(move |it| kinds.contains(&it.kind));
    of([KillWorker, DrainWorker]).any(|worker| {
        of([KillScheduler, DrainScheduler]).any(|scheduler| {
            scheduler.began.saturating_duration_since(worker.ended) < LET_GO
                && worker.began.saturating_duration_since(scheduler.ended) < LINKED
        })
    })
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Report {
    count: Count,
    /// From each disturbance to the end of the next answer that was asked for after it.
    again: BTreeMap<Disturbance, Vec<Duration>>,
    /// Disturbances after which nothing was answered any more.
    lost: usize,
    /// Requests that found no gateway, while nobody had killed it.
    unexplained: usize,
}

impl Report {
    /// Of requests, the last of which came after the last disturbance.
    pub(super) fn new(asked: &[Asked], done: &[Done]) -> Self {
        let mut again = BTreeMap::<_, Vec<_>>::new();
        let mut lost = 0_usize;
        for Done { kind, began, .. } in done {
            let answered = asked.iter().filter(|one| one.ending == Ending::Answered);
            let after = answered.filter(|one| one.began >= *began);
            match after.map(|one| one.ended.duration_since(*began)).min() {
                Some(wait) => again.entry(*kind).or_default().push(wait),
                None => lost = lost.saturating_add(1),
            }
        }
        again.values_mut().for_each(|waits| waits.sort());
        let killed = |one: &Asked| {
            let gateway = |done: &&Done| done.kind == Disturbance::KillGateway;
            let mut kills = done.iter().filter(gateway);
            kills.any(|kill| kill.began <= one.ended && one.began <= kill.ended)
        };
        let gone = asked.iter().filter(|one| one.ending == Ending::Gone);
        Self {
            count: Count::of(asked),
            again,
            lost,
            unexplained: gone.filter(|one| !killed(one)).count(),
        }
    }

    /// Fails if anything was wrong, nameless, stuck or lost, or too much was refused.
    pub(super) fn judge(&self) -> Result<()> {
        let count = &self.count;
        ensure!(
            count.faults.is_empty(),
            "{} requests ended as none may: {}",
            count.faults.len(),
            count.faults.join("; ")
        );
        ensure!(
            self.unexplained == 0,
            "{} requests found no gateway, and nobody had killed it",
            self.unexplained
        );
        ensure!(
            self.lost == 0,
            "nothing was served after {} disturbances",
            self.lost
        );
        let refused = count.refused.values().sum::<u32>();
        let all = refused.saturating_add(count.answered);
        ensure!(
            refused.saturating_mul(REFUSED) < all,
            "{refused} requests of {all} were refused: {:?}",
            count.refused
        );
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = |wait: Option<&Duration>| wait.map_or(f64::NAN, Duration::as_secs_f64);
        let at = |waits: &[Duration], share: usize| {
            let place = waits.len().saturating_mul(share) / 100;
            seconds(waits.get(place))
        };
        writeln!(f, "{:<28} times   served again: p50   worst", "")?;
        for (kind, waits) in &self.again {
            let (middle, worst) = (at(waits, 50), seconds(waits.last()));
            let times = waits.len();
            writeln!(f, "{kind:<28} {times:>5} {middle:>17.1} s {worst:>5.1} s")?;
        }
        let mut all: Vec<_> = self.again.values().flatten().copied().collect();
        all.sort();
        let (middle, last) = (at(&all, 50), at(&all, 99));
        writeln!(f, "{:<28} p50 {middle:.1} s, p99 {last:.1} s", "all")?;
        let count = &self.count;
        let mut line = |what: &str, number: u32| writeln!(f, "{what:<50} {number:>5}");
        line("answered, as when nobody else asks", count.answered)?;
        line("left by the application", count.left)?;
        for (code, number) in &count.refused {
            line(&format!("refused: {code}"), *number)?;
        }
        for (why, number) in &count.cut {
            line(&format!("cut: {why}"), *number)?;
        }
        line("without a gateway, while it was killed", count.gone)
    }
}

/// At most one in so many is refused.
const REFUSED: u32 = 4;

/// A scheduler waits so long for a worker that went, and then lets go of what it was asked.
const LET_GO: Duration = Duration::from_secs(15);

/// A scheduler that was started has its workers back by then, and has asked them.
const LINKED: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use std::sync::LazyLock;

    use super::*;

    #[test]
    fn only_what_was_served_again_and_ended_as_it_may_passes() {
        judge(&[asked(2, 3, Ending::Answered)]).unwrap();
        let left = [asked(0, 1, Ending::Left), asked(2, 3, Ending::Answered)];
        judge(&left).unwrap();

        let wrong = [
            asked(2, 3, Ending::Answered),
            asked(2, 3, Ending::Fault("another answer".into())),
        ];
        assert_eq!(
            judge(&wrong).unwrap_err(),
            "1 requests ended as none may: another answer"
        );
        let before = judge(&[asked(0, 3, Ending::Answered)]).unwrap_err();
        assert_eq!(before, "nothing was served after 1 disturbances");
    }

    #[test]
    fn a_gateway_may_be_gone_only_while_it_was_killed() {
        let answered = asked(2, 3, Ending::Answered);
        judge(&[asked(0, 1, Ending::Gone), answered.clone()]).unwrap();
        judge(&[asked(2, 3, Ending::Gone), answered.clone()]).unwrap();
        let later = judge(&[asked(3, 4, Ending::Gone), answered]).unwrap_err();
        assert_eq!(
            later,
            "1 requests found no gateway, and nobody had killed it"
        );
    }

    #[test]
    fn no_more_than_a_bounded_share_is_refused() {
        let answered = vec![asked(2, 3, Ending::Answered); 4];
        let refused = asked(2, 3, Ending::Refused("full".into()));
        judge(&[&answered[..], std::slice::from_ref(&refused)].concat()).unwrap();
        let many = judge(&[&answered[..], &[refused.clone(), refused]].concat());
        let said = "2 requests of 6 were refused: {\"full\": 2}";
        assert_eq!(many.unwrap_err(), said);
    }

    #[test]
    fn what_stays_reserved_needs_a_worker_that_ended_about_when_its_scheduler_did() {
        let one = |kind, began| Done {
            kind,
            began: at(began),
            ended: at(began.saturating_add(1)),
        };
        let (worker, scheduler) = (Disturbance::KillWorker, Disturbance::DrainScheduler);
        for (worker_at, scheduler_at, may) in
            [(1, 16, true), (1, 17, false), (7, 2, true), (8, 2, false)]
        {
            let done = [one(worker, worker_at), one(scheduler, scheduler_at)];
            assert_eq!(may_leave(&done), may, "{worker_at} {scheduler_at}");
        }
        assert!(!may_leave(&[
            one(worker, 1),
            one(Disturbance::StopScheduler, 2)
        ]));
    }

    /// Of a gateway that was killed in the second that began after one.
    fn judge(asked: &[Asked]) -> Result<(), String> {
        let kill = Done {
            kind: Disturbance::KillGateway,
            began: at(1),
            ended: at(2),
        };
        let judged = Report::new(asked, &[kill]).judge();
        judged.map_err(|error| error.to_string())
    }

    fn asked(began: u64, ended: u64, ending: Ending) -> Asked {
        Asked {
            began: at(began),
            ended: at(ended),
            ending,
        }
    }

    fn at(seconds: u64) -> Instant {
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        START.checked_add(Duration::from_secs(seconds)).unwrap()
    }
}
