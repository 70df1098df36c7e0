//! How often one address may ask for what costs a worker something.

use std::collections::HashMap;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// So many at once, and one more each `every`.
#[derive(Debug)]
pub(crate) struct Limit {
    burst: u32,
    every: Duration,
    /// When each address will have all of its burst again.
    table: Mutex<Table>,
}

#[derive(Debug, Default)]
struct Table {
    whole: HashMap<IpAddr, Instant>,
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
    pub(crate) fn take(&self, address: IpAddr, now: Instant) -> Result<(), Duration> {
        let mut table = self.table.lock().unwrap_or_else(PoisonError::into_inner);
        let crowded = table.is_crowded(self.every, now);
        let address = network(address);
        let known = table.whole.get(&address);
        let whole = known.map_or(now, |whole| now.max(*whole));
        let next = whole.checked_add(self.every).unwrap_or(whole);
        let late = next.saturating_duration_since(now);
        match late.checked_sub(self.every.saturating_mul(self.burst)) {
            Some(wait) if !wait.is_zero() => Err(wait),
            // Rather nobody new than everybody again.
            _ if crowded && known.is_none() => Err(self.every),
            _ => {
                table.whole.insert(address, next);
                Ok(())
            }
        }
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

/// One customer's addresses: of IPv6, 64 bits of them.
fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let bits = address.to_bits() & !u128::from(u64::MAX);
            Ipv6Addr::from_bits(bits).into()
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

const MAX_ADDRESSES: usize = 1 << 16;

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(6);

    #[test]
    fn a_burst_is_let_through_and_then_one_at_a_time() {
        let limit = Limit::new(3, EVERY);
        let start = Instant::now();
        for _ in 0..3 {
            assert_eq!(limit.take(address(1), start), Ok(()));
        }
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
        assert!(limit.take("2001:db8::1".parse().unwrap(), start).is_ok());
        assert!(limit.take("2001:db8::2".parse().unwrap(), start).is_err());
        assert!(limit.take("2001:db8:0:1::".parse().unwrap(), start).is_ok());
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

    fn address(number: u32) -> IpAddr {
        IpAddr::V4(number.into())
    }
}
