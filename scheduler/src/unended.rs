//! Requests that something is reserved for: those that this process serves, and those whose
//! end was lost, with the way to their worker or with the scheduler that served them.
//!
//! Pure: when to ask the worker of a lost one, and when to let go of it.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use attestation::register::Digest256;

use crate::ledger::{RequestKey, Unended};

/// All that this process knows of.
#[derive(Debug, Default)]
pub(crate) struct Requests(Mutex<HashMap<RequestKey, Place>>);

#[derive(Clone, Copy, Debug)]
enum Place {
    Served,
    Lost(Lost),
}

/// One of which only the worker knows what it came to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Lost {
    pub(crate) key: RequestKey,
    pub(crate) worker: Digest256,
    /// Hash of the sealed request, where it passed here.
    pub(crate) request: Option<Digest256>,
    /// From then on it will not come to a worker that does not know it.
    settled: Instant,
    /// Nobody waits for a worker that is away after that.
    until: Instant,
    /// No worker answers it any more.
    late: Instant,
    next: Instant,
}

impl Lost {
    /// Whether a worker that knows nothing of it never will.
    pub(crate) fn never_came(&self, now: Instant) -> bool {
        self.settled <= now
    }

    /// Whether its worker has had its time to come back.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        self.until <= now
    }

    /// Whether nobody can be answering it, whatever its worker says.
    pub(crate) fn is_late(&self, now: Instant) -> bool {
        self.late <= now
    }
}

impl Requests {
    /// It is served from now on. Whether it was not before.
    pub(crate) fn begin(&self, key: RequestKey) -> bool {
        let mut known = self.lock();
        let is_new = !known.contains_key(&key);
        known.entry(key).or_insert(Place::Served);
        is_new
    }

    /// Nothing is reserved for it here any more.
    pub(crate) fn end(&self, key: &RequestKey) {
        self.lock().remove(key);
    }

    /// The way to its worker broke, which answers nothing for longer than `longest`.
    pub(crate) fn lose(
        &self,
        key: RequestKey,
        worker: Digest256,
        request: Option<Digest256>,
        longest: Duration,
        now: Instant,
    ) {
        let lost = Lost {
            key,
            worker,
            request,
            settled: now,
            until: later(now, PATIENCE),
            late: later(now, longest),
            next: now,
        };
        self.lock().insert(key, Place::Lost(lost));
    }

    /// What the books say has not ended, at `unix` seconds: of others, who may be alive. No
    /// receipt of it can come later than its own deadline allows, nor than `longest`.
    pub(crate) fn find(&self, unended: &[Unended], longest: Duration, now: Instant, unix: u32) {
        let mut known = self.lock();
        for found in unended {
            let age = Duration::from_secs(unix.saturating_sub(found.opened).into());
            let left = |time: Duration| time.saturating_sub(age);
            let own = found
                .deadline
                .map(|seconds| Duration::from_secs(seconds.into()));
            let last = left(own.map_or(longest, |own| own.saturating_add(MARGIN).min(longest)));
            let lost = Lost {
                key: found.key,
                worker: Digest256::from_bytes(found.worker.0),
                request: None,
                settled: later(now, left(ON_ITS_WAY)),
                until: later(now, last.max(RETURN)),
                late: later(now, last),
                next: now,
            };
            known.entry(found.key).or_insert(Place::Lost(lost));
        }
    }

    /// Whose workers are to be asked now, what has waited longest first.
    pub(crate) fn due(&self, now: Instant) -> Vec<Lost> {
        let places = self.lock();
        let lost = places.values().filter_map(|place| match place {
            Place::Lost(lost) => Some(*lost),
            Place::Served => None,
        });
        let mut due: Vec<_> = lost.filter(|lost| lost.next <= now).collect();
        due.sort_by_key(|lost| lost.next);
        due
    }

    /// Its worker is asked now, and again after a while.
    pub(crate) fn asked(&self, key: &RequestKey, now: Instant) {
        if let Some(Place::Lost(lost)) = self.lock().get_mut(key) {
            lost.next = later(now, AGAIN);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<RequestKey, Place>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn later(now: Instant, time: Duration) -> Instant {
    now.checked_add(time).unwrap_or(now)
}

/// A worker that lost its connection has dialled again by then.
const PATIENCE: Duration = Duration::from_secs(15);

/// A request that was admitted has come to its worker by then, or never will.
const ON_ITS_WAY: Duration = Duration::from_secs(60);

/// A worker dials a scheduler that is there again by then: it pauses for a minute at most, and
/// proves itself.
const RETURN: Duration = Duration::from_secs(90);

/// After its deadline a request may have ended at a worker that was asked late, and that lost
/// its scheduler then.
const MARGIN: Duration = ON_ITS_WAY.saturating_add(RETURN);

const AGAIN: Duration = Duration::from_secs(1);

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a panic is a failure")]
mod tests {
    use super::*;

    use tycho_types::cell::HashBytes;

    const LONGEST: Duration = Duration::from_secs(2000);
    const UNIX: u32 = 1_800_000_000;

    fn key(number: u8) -> RequestKey {
        RequestKey {
            client: HashBytes([1; 32]),
            id: [number; 16],
        }
    }

    fn unended(number: u8, age: u32) -> Unended {
        Unended {
            key: key(number),
            worker: HashBytes([2; 32]),
            opened: UNIX - age,
            deadline: None,
        }
    }

    fn worker() -> Digest256 {
        Digest256::from_bytes([2; 32])
    }

    #[test]
    fn what_is_served_here_is_asked_of_nobody() {
        let (requests, now) = (Requests::default(), Instant::now());
        assert!(requests.begin(key(1)));
        assert!(!requests.begin(key(1)), "it is already");
        requests.find(&[unended(1, 100)], LONGEST, now, UNIX);
        assert_eq!(requests.due(now), []);
        requests.end(&key(1));
        requests.find(&[unended(1, 100)], LONGEST, now, UNIX);
        assert_eq!(requests.due(now).len(), 1);
    }

    #[test]
    fn what_was_lost_here_is_waited_for_until_its_worker_had_time_to_dial() {
        let (requests, now) = (Requests::default(), Instant::now());
        requests.begin(key(1));
        requests.lose(key(1), worker(), Some(worker()), LONGEST, now);
        let lost = requests.due(now)[0];
        assert_eq!((lost.worker, lost.request), (worker(), Some(worker())));
        assert!(lost.never_came(now));
        assert!(!lost.is_over(now) && lost.is_over(now + PATIENCE));
        assert!(!lost.is_late(now + PATIENCE) && lost.is_late(now + LONGEST));
        requests.asked(&key(1), now);
        assert_eq!(requests.due(now), [], "not all the time");
        assert_eq!(requests.due(now + AGAIN).len(), 1);
        requests.end(&key(1));
        assert_eq!(requests.due(now + AGAIN * 2), []);
    }

    #[test]
    fn what_there_was_no_time_for_is_asked_first() {
        let (requests, now) = (Requests::default(), Instant::now());
        for number in 1..=9 {
            requests.lose(key(number), worker(), None, LONGEST, now);
        }
        for number in (1..=9).filter(|number| *number != 5) {
            requests.asked(&key(number), now);
        }
        let due = requests.due(now + AGAIN);
        assert_eq!((due[0].key, due.len()), (key(5), 9));
    }

    #[test]
    fn what_another_scheduler_has_just_sent_may_still_come() {
        let (requests, now) = (Requests::default(), Instant::now());
        requests.find(&[unended(1, 59), unended(2, 60)], LONGEST, now, UNIX);
        let mut due = requests.due(now);
        due.sort_by_key(|lost| lost.key.id);
        let came = due.iter().map(|lost| lost.never_came(now));
        assert_eq!(came.collect::<Vec<_>>(), [false, true]);
        assert!(due[0].never_came(now + Duration::from_secs(1)));
        let ends = now + LONGEST - ON_ITS_WAY;
        assert!(due[1].is_over(ends) && !due[0].is_over(ends));
        assert!(due[1].is_late(ends) && !due[0].is_late(ends));
    }

    #[test]
    fn what_has_a_deadline_of_its_own_is_let_go_soon_after_it() {
        let lost = |age, deadline| {
            let (requests, now) = (Requests::default(), Instant::now());
            let found = Unended {
                deadline: Some(deadline),
                ..unended(1, age)
            };
            requests.find(&[found], LONGEST, now, UNIX);
            (requests.due(now)[0], now)
        };
        let second = Duration::from_secs(1);
        let ends = |(lost, now): (Lost, Instant), time| {
            assert!(lost.is_over(now + time) && !lost.is_over(now + time - second));
        };
        ends(lost(5, 20), MARGIN + second * 15);
        ends(lost(0, u32::MAX), LONGEST);
        let (old, now) = lost(1000, 20);
        assert!(old.is_late(now), "nobody answers it");
        ends((old, now), RETURN);
    }
}
