//! What waits for the engine, of each tenant in order.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
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
    tenants: VecDeque<(Tenant, VecDeque<T>)>,
    count: usize,
    closed: bool,
}

impl<T> Queue<T> {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            state: Mutex::new(State {
                tenants: VecDeque::new(),
                count: 0,
                closed: false,
            }),
            bell: Condvar::new(),
            limit,
        }
    }

    /// Adds a job, or gives it back: if there are too many, or this tenant has half
    /// of what may wait and so would leave too little to others.
    pub(crate) fn push(&self, tenant: Tenant, job: T) -> Result<(), T> {
        let mut state = self.lock();
        let own = state.tenants.iter().position(|(other, _)| *other == tenant);
        let waiting = own
            .and_then(|own| state.tenants.get(own))
            .map_or(0, |(_, jobs)| jobs.len());
        if state.count >= self.limit || waiting >= self.limit.div_ceil(2).max(1) {
            return Err(job);
        }
        state.count = state.count.saturating_add(1);
        match own.and_then(|own| state.tenants.get_mut(own)) {
            Some((_, jobs)) => jobs.push_back(job),
            None => state.tenants.push_back((tenant, VecDeque::from([job]))),
        }
        drop(state);
        self.bell.notify_one();
        Ok(())
    }

    /// The next job of the tenant with the smallest `share` of what is under way,
    /// if `fits`; of several, of the one that has waited longest for a turn.
    pub(crate) fn pop(
        &self,
        share: impl Fn(&Tenant) -> usize,
        fits: impl FnOnce(&T) -> bool,
    ) -> Option<(Tenant, T)> {
        let mut state = self.lock();
        let places = 0..state.tenants.len();
        let next = places
            .min_by_key(|place| state.tenants.get(*place).map(|(tenant, _)| share(tenant)))?;
        state.tenants.get(next)?.1.front().filter(|job| fits(job))?;
        let (tenant, mut jobs) = state.tenants.remove(next)?;
        let job = jobs.pop_front()?;
        if !jobs.is_empty() {
            state.tenants.push_back((tenant.clone(), jobs));
        }
        state.count = state.count.saturating_sub(1);
        Some((tenant, job))
    }

    /// Drops jobs that nobody wants.
    pub(crate) fn retain(&self, wanted: impl Fn(&T) -> bool) {
        let mut state = self.lock();
        for (_, jobs) in &mut state.tenants {
            jobs.retain(&wanted);
        }
        state.tenants.retain(|(_, jobs)| !jobs.is_empty());
        state.count = state.tenants.iter().map(|(_, jobs)| jobs.len()).sum();
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

    /// As [`Self::wait`], but for so long at most.
    pub(crate) fn wait_for(&self, time: Duration) -> bool {
        wipe_stack();
        let waits = |state: &mut State<T>| state.count == 0 && !state.closed;
        let waited = self.bell.wait_timeout_while(self.lock(), time, waits);
        let (state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        state.count > 0 || !state.closed
    }

    /// How many wait.
    pub(crate) fn len(&self) -> usize {
        self.lock().count
    }

    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.bell.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stack::tests::{is_left, leave};

    fn drain(queue: &Queue<u32>, share: impl Fn(&Tenant) -> usize) -> Vec<u32> {
        std::iter::from_fn(|| queue.pop(&share, |_| true).map(|(_, job)| job)).collect()
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
        assert_eq!(queue.pop(|_| 0, |_| false), None);
        assert_eq!(queue.pop(|_| 0, |_| true), Some((tenant, 1)));
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
    fn a_closed_queue_is_emptied_and_then_over() {
        let queue = Queue::new(4);
        queue.push(Tenant::new(), 1).unwrap();
        queue.close();
        assert!(queue.wait());
        queue.retain(|_| false);
        assert!(!queue.wait());
    }
}
