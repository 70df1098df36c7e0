//! What waits for the engine, of each tenant in order.

use std::collections::VecDeque;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::request::Tenant;
use crate::stack::wipe_stack;

/// A bounded queue; when its callers are gone it is closed.
#[derive(Debug)]
pub(crate) struct Queue<T> {
    state: Mutex<State<T>>,
    bell: Condvar,
    limit: usize,
}

#[derive(Debug)]
struct State<T> {
    /// Tenants that wait, the one that has waited longest for a turn first.
    tenants: VecDeque<Waiting<T>>,
    count: usize,
    closed: bool,
    rung: bool,
}

/// A tenant that waits.
#[derive(Debug)]
struct Waiting<T> {
    tenant: Tenant,
    /// In order.
    jobs: VecDeque<T>,
    /// How many of the first ones were put back: nobody else has to wait for room by them.
    back: usize,
    /// How often others went before its first job, which did not fit.
    passed: usize,
}

impl<T> Queue<T> {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            state: Mutex::new(State {
                tenants: VecDeque::new(),
                count: 0,
                closed: false,
                rung: false,
            }),
            bell: Condvar::new(),
            limit,
        }
    }

    /// Most that may wait; what is put back is beside that.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Whether a job of this tenant would be taken: not if there are too many, or if it
    /// has half of what may wait and so would leave too little to others.
    pub(crate) fn has_room(&self, tenant: &Tenant) -> bool {
        self.lock().has_room(tenant, self.limit)
    }

    /// Adds a job, or gives it back if none is taken any more, or there is no room.
    pub(crate) fn push(&self, tenant: Tenant, job: T) -> Result<(), T> {
        let mut state = self.lock();
        if state.closed || !state.has_room(&tenant, self.limit) {
            return Err(job);
        }
        state.add(tenant, job, |waiting, job| waiting.jobs.push_back(job));
        drop(state);
        self.bell.notify_one();
        Ok(())
    }

    /// Puts the rest of a job back, before its tenant's other ones and behind those of
    /// all other tenants.
    pub(crate) fn put_back(&self, tenant: Tenant, job: T) {
        self.lock().add(tenant, job, |waiting, job| {
            waiting.jobs.push_front(job);
            waiting.back = waiting.back.saturating_add(1);
            waiting.passed = 0;
        });
    }

    /// Whoever waits.
    pub(crate) fn tenants(&self) -> Vec<Tenant> {
        let state = self.lock();
        let tenants = state.tenants.iter().map(|waiting| &waiting.tenant);
        tenants.cloned().collect()
    }

    /// The next job that `fits`, given how much its tenant has under way: of the tenant
    /// with the smallest `share` of that, and of several, of the one that has waited
    /// longest for a turn. What does not fit lets others pass, but not without end.
    pub(crate) fn pop(
        &self,
        share: impl Fn(&Tenant) -> usize,
        mut fits: impl FnMut(usize, &T) -> bool,
    ) -> Option<(Tenant, T)> {
        let mut state = self.lock();
        let shares = state.tenants.iter().map(|waiting| share(&waiting.tenant));
        let mut order: Vec<_> = shares.zip(0_usize..).collect();
        order.sort_unstable();
        let mut passed = Vec::new();
        for (share, place) in order {
            let Waiting {
                jobs,
                passed: often,
                ..
            } = state.tenants.get(place)?;
            if fits(share, jobs.front()?) {
                for place in passed {
                    let waiting = state.tenants.get_mut(place)?;
                    waiting.passed = waiting.passed.saturating_add(1);
                }
                return state.take(place);
            }
            if *often >= MOST_PASSED {
                return None;
            }
            passed.push(place);
        }
        None
    }

    /// Drops jobs that nobody wants.
    pub(crate) fn retain(&self, mut wanted: impl FnMut(&mut T) -> bool) {
        let mut state = self.lock();
        for waiting in &mut state.tenants {
            let back = waiting.back;
            let mut place = 0..;
            waiting.jobs.retain_mut(|job| {
                let (wanted, place) = (wanted(job), place.next());
                if !wanted && place == Some(0) {
                    // The next one has not been passed.
                    waiting.passed = 0;
                }
                if !wanted && place.is_some_and(|place| place < back) {
                    waiting.back = waiting.back.saturating_sub(1);
                }
                wanted
            });
        }
        state.tenants.retain(|waiting| !waiting.jobs.is_empty());
        state.count = state.tenants.iter().map(|waiting| waiting.jobs.len()).sum();
    }

    /// Waits for a job; false if none will come any more.
    pub(crate) fn wait(&self) -> bool {
        wipe_stack();
        let mut state = self.lock();
        while state.count == 0 && !state.closed {
            state = self
                .bell
                .wait(state)
                .unwrap_or_else(PoisonError::into_inner);
        }
        state.count > 0
    }

    /// As [`Self::wait`], but for so long at most, and no longer once somebody rings.
    pub(crate) fn wait_for(&self, time: Duration) -> bool {
        wipe_stack();
        let waits = |state: &mut State<T>| state.count == 0 && !state.closed && !state.rung;
        let waited = self.bell.wait_timeout_while(self.lock(), time, waits);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.rung = false;
        state.count > 0 || !state.closed
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What can be done with a queue, whatever waits there.
pub(crate) trait Line {
    /// How many wait.
    fn waiting(&self) -> usize;

    /// Whether it takes nobody's job.
    fn is_full(&self) -> bool;

    /// Takes no job any more.
    fn close(&self);

    fn is_closed(&self) -> bool;

    /// Wakes who waits for a job, though there is none; who does not wait yet won't.
    fn ring(&self);
}

impl<T> Line for Queue<T> {
    fn waiting(&self) -> usize {
        self.lock().count
    }

    fn is_full(&self) -> bool {
        self.lock().fresh() >= self.limit
    }

    fn close(&self) {
        self.lock().closed = true;
        self.bell.notify_all();
    }

    fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn ring(&self) {
        self.lock().rung = true;
        self.bell.notify_all();
    }
}

impl<T> Waiting<T> {
    /// How many have waited since they came.
    fn fresh(&self) -> usize {
        self.jobs.len().saturating_sub(self.back)
    }
}

/// Closes a queue and drops what waits there when its thread ends, by a panic, too.
pub(crate) struct Served<T>(pub(crate) Arc<Queue<T>>);

impl<T> Drop for Served<T> {
    fn drop(&mut self) {
        self.0.close();
        self.0.retain(|_| false);
    }
}

impl<T> State<T> {
    fn has_room(&self, tenant: &Tenant, limit: usize) -> bool {
        let mut tenants = self.tenants.iter();
        let own = tenants.find(|waiting| waiting.tenant == *tenant);
        self.fresh() < limit && own.map_or(0, Waiting::fresh) < share_of(limit)
    }

    /// How many have waited since they came.
    fn fresh(&self) -> usize {
        self.tenants.iter().map(Waiting::fresh).sum()
    }

    /// Adds to the jobs of a tenant.
    fn add(&mut self, tenant: Tenant, job: T, add: impl FnOnce(&mut Waiting<T>, T)) {
        self.count = self.count.saturating_add(1);
        let mut tenants = self.tenants.iter_mut();
        if let Some(waiting) = tenants.find(|waiting| waiting.tenant == tenant) {
            return add(waiting, job);
        }
        let mut waiting = Waiting {
            tenant,
            jobs: VecDeque::new(),
            back: 0,
            passed: 0,
        };
        add(&mut waiting, job);
        self.tenants.push_back(waiting);
    }

    /// Takes a tenant's first job, and its turn.
    fn take(&mut self, place: usize) -> Option<(Tenant, T)> {
        let mut waiting = self.tenants.remove(place)?;
        let tenant = waiting.tenant.clone();
        let job = waiting.jobs.pop_front()?;
        if !waiting.jobs.is_empty() {
            self.tenants.push_back(Waiting {
                back: waiting.back.saturating_sub(1),
                passed: 0,
                ..waiting
            });
        }
        self.count = self.count.saturating_sub(1);
        Some((tenant, job))
    }
}

/// How many of `limit` one tenant may have.
pub(crate) fn share_of(limit: usize) -> usize {
    limit.div_ceil(2).max(1)
}

/// So many jobs go before one that has no room, and then all wait until it has.
const MOST_PASSED: usize = 32;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::tests::{is_left, leave};

    fn drain(queue: &Queue<u32>, share: impl Fn(&Tenant) -> usize) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop(&share, |_, _| true).map(|(_, job)| job)).collect()
    }

    #[test]
    fn tenants_take_turns() {
        let queue = Queue::new(8);
        let [a, b] = [Tenant::new(), Tenant::new()];
        for (tenant, job) in [(&a, 1), (&a, 2), (&a, 3), (&b, 4), (&b, 5)] {
            queue.push(tenant.clone(), job).unwrap();
        }
        assert_eq!(drain(&queue, |_| 0), [1, 4, 2, 5, 3]);
    }

    #[test]
    fn who_has_less_under_way_is_next() {
        let queue = Queue::new(8);
        let [a, b] = [Tenant::new(), Tenant::new()];
        for (tenant, job) in [(&a, 1), (&a, 2), (&b, 3), (&b, 4)] {
            queue.push(tenant.clone(), job).unwrap();
        }
        assert_eq!(
            drain(&queue, |tenant| usize::from(*tenant == a)),
            [3, 4, 1, 2]
        );
    }

    #[test]
    fn one_tenant_cannot_fill_the_queue() {
        let queue = Queue::new(4);
        let [a, b] = [Tenant::new(), Tenant::new()];
        queue.push(a.clone(), 1).unwrap();
        queue.push(a.clone(), 2).unwrap();
        assert!(!queue.has_room(&a) && queue.has_room(&b));
        assert_eq!(queue.push(a, 3), Err(3));
        queue.push(b.clone(), 4).unwrap();
        queue.push(b, 5).unwrap();
        assert_eq!(queue.push(Tenant::new(), 6), Err(6));
    }

    #[test]
    fn what_does_not_fit_stays_first() {
        let queue = Queue::new(4);
        let tenant = Tenant::new();
        queue.push(tenant.clone(), 1).unwrap();
        assert_eq!(queue.pop(|_| 0, |_, _| false), None);
        assert_eq!(queue.pop(|_| 0, |_, _| true), Some((tenant, 1)));
    }

    #[test]
    fn what_does_not_fit_lets_so_many_pass_and_no_more() {
        let queue = Queue::new(100);
        let (large, small) = (Tenant::new(), Tenant::new());
        queue.push(large.clone(), 1000).unwrap();
        let pop = || {
            let _full = queue.push(small.clone(), 1);
            queue.pop(|_| 0, |_, job| *job < 10).map(|(_, job)| job)
        };
        for _ in 0..MOST_PASSED {
            assert_eq!(pop(), Some(1));
        }
        assert_eq!(pop(), None);
        assert_eq!(queue.pop(|_| 0, |_, _| true), Some((large, 1000)));
        assert_eq!(pop(), Some(1));
    }

    #[test]
    fn what_stands_behind_what_nobody_wants_has_not_been_passed() {
        let queue = Queue::new(100);
        let (large, small) = (Tenant::new(), Tenant::new());
        for job in [1000, 2000] {
            queue.push(large.clone(), job).unwrap();
        }
        let pop = || {
            let _full = queue.push(small.clone(), 1);
            queue.pop(|_| 0, |_, job| *job < 10).map(|(_, job)| job)
        };
        for _ in 0..MOST_PASSED {
            assert_eq!(pop(), Some(1));
        }
        assert_eq!(pop(), None);
        queue.retain(|job| *job != 1);
        assert_eq!(pop(), None, "the same is first");
        queue.retain(|job| *job != 1000);
        assert_eq!(pop(), Some(1));
    }

    #[test]
    fn what_is_put_back_waits_for_others_but_not_for_its_own() {
        let queue = Queue::new(8);
        let [a, b] = [Tenant::new(), Tenant::new()];
        for (tenant, job) in [(&a, 1), (&a, 2), (&b, 3), (&b, 4)] {
            queue.push(tenant.clone(), job).unwrap();
        }
        let (tenant, first) = queue.pop(|_| 0, |_, _| true).unwrap();
        queue.put_back(tenant, first);
        assert_eq!(drain(&queue, |_| 0), [3, 1, 4, 2]);
        queue.put_back(a, 5);
        assert_eq!(drain(&queue, |_| 0), [5]);
    }

    #[test]
    fn what_is_put_back_takes_room_of_nobody() {
        let queue = Queue::new(4);
        let [a, b] = [Tenant::new(), Tenant::new()];
        for job in 1..=6 {
            queue.put_back(a.clone(), job);
        }
        for (tenant, job) in [(&a, 7), (&a, 8), (&b, 9)] {
            queue.push(tenant.clone(), job).unwrap();
        }
        assert!(!queue.has_room(&a) && queue.has_room(&b) && !queue.is_full());
        // Of those that go, some had been put back.
        queue.retain(|job| ![6, 1, 8].contains(job));
        assert!(queue.has_room(&a));
        queue.push(a.clone(), 10).unwrap();
        assert!(!queue.has_room(&a));
        for job in (2..=5).rev() {
            assert!(!queue.has_room(&a));
            let next = queue.pop(|tenant| usize::from(*tenant == b), |_, _| true);
            assert_eq!(next, Some((a.clone(), job)));
        }
        queue.push(b.clone(), 11).unwrap();
        assert!(queue.is_full());
        assert_eq!(drain(&queue, |_| 0), [9, 7, 11, 10]);
        assert!(queue.has_room(&a));
    }

    #[test]
    fn whoever_waits_has_wiped_its_stack() {
        let queue = Queue::<u32>::new(4);
        queue.close();
        let place = leave();
        assert!(!queue.wait());
        assert!(!is_left(place), "of who waits for a job");
        let place = leave();
        assert!(!queue.wait_for(Duration::ZERO));
        assert!(!is_left(place), "of who waits for a time");
    }

    #[test]
    fn whoever_rings_wakes_once() {
        let queue = Queue::<u32>::new(4);
        queue.ring();
        assert!(queue.wait_for(Duration::MAX), "it does not wait");
        queue.close();
        assert!(!queue.wait_for(Duration::MAX));
    }

    #[test]
    fn a_closed_queue_is_emptied_and_then_over() {
        let queue = Queue::new(4);
        queue.push(Tenant::new(), 1).unwrap();
        queue.close();
        assert_eq!(queue.push(Tenant::new(), 2), Err(2));
        assert!(queue.wait());
        queue.retain(|_| false);
        assert!(!queue.wait());
    }
}
