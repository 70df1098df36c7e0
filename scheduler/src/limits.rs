//! How often one may ask for what costs somebody something, and how much of it one may have
//! at a time.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::payer::Payer;

/// So many at once, and one more each `every`.
#[derive(Debug)]
pub(crate) struct Limit {
    burst: u32,
    every: Duration,
    /// When each will have all of its burst again.
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    whole: HashMap<Payer, Instant>,
    /// When it was last looked through for those that have it by now.
    swept: Option<Instant>,
}

impl Limit {
    /// Nobody has asked yet.
    #[must_use]
    pub(crate) fn new(burst: u32, every: Duration) -> Self {
        Self {
            burst,
            every,
            table: Mutex::default(),
        }
    }

    /// Counts one, or tells how long it has to wait.
    pub(crate) fn take(&self, whose: Payer, now: Instant) -> Result<(), Duration> {
        let mut table = self.lock();
        let next = self.next(&mut table, whose, now)?;
        table.whole.insert(whose, next);
        Ok(())
    }

    /// Tells how long it would have to wait.
    pub(crate) fn check(&self, whose: Payer, now: Instant) -> Result<(), Duration> {
        self.next(&mut self.lock(), whose, now).map(drop)
    }

    /// When it would have all of its burst again.
    fn next(&self, table: &mut Table, whose: Payer, now: Instant) -> Result<Instant, Duration> {
        let crowded = table.is_crowded(self.every, now);
        let known = table.whole.get(&whose);
        let whole = known.map_or(now, |whole| now.max(*whole));
        let next = whole.checked_add(self.every).unwrap_or(whole);
        let late = next.saturating_duration_since(now);
        match late.checked_sub(self.every.saturating_mul(self.burst)) {
            Some(wait) if !wait.is_zero() => Err(wait),
            // Rather nobody new than everybody again.
            _ if crowded && known.is_none() => Err(self.every),
            _ => Ok(next),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Table {
    /// Whether there is no room, after making some, though not too often.
    fn is_crowded(&mut self, every: Duration, now: Instant) -> bool {
        let rested = |swept: Instant| now.saturating_duration_since(swept) >= every;
        if self.whole.len() >= MAX_ADDRESSES && self.swept.is_none_or(rested) {
            self.whole.retain(|_, whole| *whole > now);
            self.swept = Some(now);
        }
        self.whole.len() >= MAX_ADDRESSES
    }
}

/// Of so many, each may have as many as are left for others: one alone half, and
/// of many none more than the others.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    most: usize,
    taken: Arc<Mutex<Taken>>,
}

#[derive(Debug, Default)]
struct Taken {
    all: usize,
    each: HashMap<Payer, usize>,
}

impl Room {
    /// Nobody has any.
    #[must_use]
    pub(crate) fn new(most: usize) -> Self {
        Self {
            most,
            taken: Arc::default(),
        }
    }

    /// One of them, until what this gives is dropped.
    pub(crate) fn take(&self, whose: Payer) -> Option<Share> {
        let mut taken = self.lock();
        let own = taken.each.get(&whose).copied().unwrap_or_default();
        if own >= self.most.saturating_sub(taken.all) {
            return None;
        }
        taken.all = taken.all.saturating_add(1);
        taken.each.insert(whose, own.saturating_add(1));
        drop(taken);
        let room = self.clone();
        Some(Share { room, whose })
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One of what there is.
#[derive(Debug)]
pub(crate) struct Share {
    room: Room,
    whose: Payer,
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.room.lock();
        taken.all = taken.all.saturating_sub(1);
        if let Some(own) = taken.each.get_mut(&self.whose) {
            *own = own.saturating_sub(1);
            if *own == 0 {
                taken.each.remove(&self.whose);
            }
        }
    }
}

const MAX_ADDRESSES: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    use std::net::IpAddr;

    const EVERY: Duration = Duration::from_secs(6);

    #[test]
    fn a_burst_is_let_through_and_then_one_at_a_time() {
        let limit = Limit::new(3, EVERY);
        let start = Instant::now();
        for _ in 0..3 {
            assert_eq!(limit.take(address(1), start), Ok(()));
        }
        assert_eq!(limit.check(address(1), start), Err(EVERY));
        assert_eq!(limit.take(address(1), start), Err(EVERY));
        assert_eq!(
            limit.take(address(2), start),
            Ok(()),
            "another's is its own"
        );
        assert_eq!(limit.take(address(1), start + EVERY), Ok(()));
        assert_eq!(limit.take(address(1), start + EVERY), Err(EVERY));
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let limit = Limit::new(1, EVERY);
        let start = Instant::now();
        let take = |text: &str| limit.take(Payer::at(text.parse().unwrap()), start);
        assert!(take("2001:db8::1").is_ok());
        assert!(take("2001:db8::2").is_err());
        assert!(take("2001:db8:0:1::").is_ok());
    }

    #[test]
    fn more_addresses_than_fit_turn_nobody_out() {
        let limit = Limit::new(1, EVERY);
        let start = Instant::now();
        for number in 0..u32::try_from(MAX_ADDRESSES).unwrap() {
            assert!(limit.take(address(number), start).is_ok());
        }
        assert!(limit.take(address(u32::MAX), start).is_err());
        assert!(limit.take(address(0), start).is_err(), "it is remembered");
        assert!(limit.take(address(u32::MAX), start + EVERY).is_ok());
    }

    #[test]
    fn one_address_leaves_as_much_as_it_takes_and_gives_it_back() {
        let room = Room::new(8);
        let take = |number| room.take(address(number));
        let mut one: Vec<_> = (0..9).map_while(|_| take(1)).collect();
        let two: Vec<_> = (0..9).map_while(|_| take(2)).collect();
        let three = take(3);
        assert_eq!((one.len(), two.len()), (4, 2));
        assert!(three.is_some(), "there is some left for whoever comes");
        one.clear();
        assert_eq!((0..9).map_while(|_| take(4)).collect::<Vec<_>>().len(), 3);
        drop((two, three));
        assert!(room.lock().each.is_empty() && room.lock().all == 0);
    }

    fn address(number: u32) -> Payer {
        Payer::Network(IpAddr::V4(number.into()))
    }
}
