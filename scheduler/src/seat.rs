//! One model as one worker serves it: what it said, what was sent to it, and what came
//! of that.

use std::time::Duration;

use attestation::register::Digest256;

use crate::decay::Speed;

/// One model at one worker.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) worker: Digest256,
    pub(crate) model: usize,
    /// No other seat ever had it.
    pub(crate) serial: u64,
    /// Where it is on the ring.
    pub(crate) point: u64,
    /// Where it is in its heap, if it is open.
    pub(crate) position: Option<usize>,
    pub(crate) ask: u64,
    pub(crate) slots: u32,
    pub(crate) is_draining: bool,
    /// Of [`FULL`](crate::reputation::FULL); who has none is not asked.
    pub(crate) standing: u16,
    pub(crate) speed: Speed,
    /// As the worker said last, whoever sent it.
    busy: u32,
    /// Sent from here and not done.
    under_way: u32,
    /// Of them, when the worker spoke last.
    then_under_way: u32,
    /// In a row.
    failures: u32,
    served_at: Duration,
    rests_until: Duration,
}

impl Seat {
    pub(crate) fn new(
        worker: Digest256,
        model: usize,
        serial: u64,
        point: u64,
        standing: u16,
    ) -> Self {
        Self {
            worker,
            model,
            serial,
            point,
            position: None,
            ask: 0,
            slots: 0,
            is_draining: true,
            standing,
            speed: Speed::default(),
            busy: 0,
            under_way: 0,
            then_under_way: 0,
            failures: 0,
            served_at: Duration::ZERO,
            rests_until: Duration::ZERO,
        }
    }

    /// What is there by now: as the worker said, and what changed here since.
    pub(crate) fn load(&self) -> u32 {
        let here = self.busy.saturating_add(self.under_way);
        here.saturating_sub(self.then_under_way).max(self.under_way)
    }

    /// Whether one more may be sent.
    pub(crate) fn is_open(&self, now: Duration) -> bool {
        let takes = !self.is_draining && self.standing > 0 && now >= self.rests_until;
        // One request finds out, whatever others send.
        let is_tried = self.failures >= TOLERATED && self.under_way > 0;
        takes && !is_tried && self.load() < self.slots
    }

    /// The worker spoke.
    pub(crate) fn hear(&mut self, slots: u32, free: u32, queued: u32) {
        self.slots = slots.min(MOST_SLOTS);
        self.busy = self.slots.saturating_sub(free).saturating_add(queued);
        self.then_under_way = self.under_way;
    }

    pub(crate) fn send(&mut self) {
        self.under_way = self.under_way.saturating_add(1);
    }

    pub(crate) fn end(&mut self) {
        self.under_way = self.under_way.saturating_sub(1);
    }

    pub(crate) fn served(&mut self, now: Duration) {
        self.failures = 0;
        self.served_at = now;
    }

    /// From the second in a row on it rests, each time twice as long: when it is asked again.
    pub(crate) fn failed(&mut self, now: Duration) -> Option<Duration> {
        self.failures = self.failures.saturating_add(1);
        let times = self.failures.checked_sub(TOLERATED)?;
        let rest = REST.saturating_mul(1_u32.checked_shl(times).unwrap_or(u32::MAX));
        self.rests_until = now.saturating_add(rest.min(LONGEST_REST));
        Some(self.rests_until)
    }

    /// What was sent at `sent` waited in vain, as it may where it asked for too much. So it
    /// rests a little, unless it answered others in between, or has rested: a few clients
    /// cannot keep it from all others.
    pub(crate) fn silent(&mut self, sent: Duration, now: Duration) -> Option<Duration> {
        if sent < self.served_at.max(self.rests_until) {
            return None;
        }
        self.rests_until = now.saturating_add(REST);
        Some(self.rests_until)
    }

    /// It had no room after all: none is taken for granted until it speaks.
    pub(crate) fn was_full(&mut self) {
        self.busy = self.slots;
        self.then_under_way = self.under_way;
    }
}

/// No one place counts for more.
const MOST_SLOTS: u32 = 4096;

/// After so many failures in a row it rests.
const TOLERATED: u32 = 2;

/// For so long at first.
const REST: Duration = Duration::from_secs(1);

/// And for so long at most.
const LONGEST_REST: Duration = Duration::from_secs(300);

#[cfg(test)]
mod tests {
    use super::*;

    fn seat(slots: u32) -> Seat {
        let mut seat = Seat::new(Digest256::ZERO, 0, 0, 0, 1);
        seat.is_draining = false;
        seat.hear(slots, slots, 0);
        seat
    }

    #[test]
    fn what_was_sent_counts_until_the_worker_has_counted_it() {
        let mut seat = seat(8);
        seat.hear(8, 5, 2);
        assert_eq!(seat.load(), 5, "three under way and two waiting");
        seat.send();
        seat.send();
        assert_eq!(seat.load(), 7);
        seat.end();
        assert_eq!(seat.load(), 6);
        seat.hear(8, 8, 0);
        assert_eq!(seat.load(), 1, "it has not seen the one that is under way");
    }

    #[test]
    fn a_place_has_no_more_room_than_slots_however_many_it_says_are_free() {
        let mut seat = seat(2);
        seat.hear(2, u32::MAX, 0);
        seat.send();
        assert!(seat.is_open(Duration::ZERO));
        seat.send();
        assert!(!seat.is_open(Duration::ZERO));
        seat.hear(u32::MAX, u32::MAX, 0);
        assert_eq!(seat.slots, MOST_SLOTS);
    }

    #[test]
    fn who_fails_twice_rests_twice_as_long_each_time_and_is_then_tried_once() {
        let mut seat = seat(8);
        assert_eq!(seat.failed(Duration::ZERO), None);
        assert!(seat.is_open(Duration::ZERO));
        let mut now = Duration::ZERO;
        for rest in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            let until = seat.failed(now).unwrap();
            assert_eq!(until.saturating_sub(now), Duration::from_secs(rest));
            assert!(!seat.is_open(now) && seat.is_open(until));
            now = until;
        }
        seat.hear(8, 5, 0);
        assert!(seat.is_open(now), "others keep it busy");
        seat.send();
        assert!(!seat.is_open(now), "one finds out");
        seat.served(now);
        assert!(seat.is_open(now));
    }

    #[test]
    fn who_lets_requests_wait_in_vain_rests_once_for_all_of_them_and_not_if_it_answers() {
        let at = Duration::from_secs;
        let mut seat = seat(8);
        assert_eq!(seat.silent(at(1), at(31)), Some(at(32)));
        for sent in 1..31 {
            assert_eq!(seat.silent(at(sent), at(sent + 30)), None);
        }
        assert!(seat.is_open(at(61)), "and nothing adds up");
        seat.served(at(70));
        assert_eq!(seat.silent(at(65), at(95)), None);
        assert_eq!(seat.silent(at(71), at(101)), Some(at(102)));
    }

    #[test]
    fn who_said_that_it_is_full_has_no_room_until_it_speaks() {
        let mut seat = seat(4);
        seat.send();
        seat.was_full();
        seat.end();
        assert_eq!(seat.load(), 3);
        seat.was_full();
        assert!(!seat.is_open(Duration::ZERO));
        seat.hear(4, 1, 0);
        assert!(seat.is_open(Duration::ZERO));
    }
}
