//! The next price, from what was paid and what could have been served: the controller of
//! EIP-1559 with a dead zone, above what workers ask for. The same as `tolk/price.tolk`,
//! to the last digit.
//!
//! Prices are nanotons for a million tokens. Every division rounds down.

use tycho_types::dict::Dict;
use tycho_types::error::Error;

use crate::voucher::MILLION;

/// What is known of an epoch at its end.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Demand {
    /// What was paid, as far as it counts in this epoch.
    pub spent: u64,
    /// Who could have served.
    pub workers: u32,
    /// What each of them could, in tokens.
    pub capacity: u32,
    /// What a fifth of them asks for at most.
    pub floor: u64,
    /// Whether Apps wanted anything.
    pub is_wanted: bool,
}

impl Demand {
    /// The price after it.
    #[must_use]
    pub fn next_price(&self, price: u64) -> u64 {
        let reach = (price >> 3).max(1);
        let highest = price.saturating_add(reach);
        let Some(used) = self.used(price) else {
            return if self.is_wanted { highest } else { price };
        };
        let moved = |by: u64| {
            let moved = u128::from(price).saturating_mul(by.into());
            let moved = moved.checked_div(8 * u128::from(TARGET));
            moved
                .and_then(|moved| moved.try_into().ok())
                .unwrap_or(reach)
        };
        let next = if used > TARGET + DEAD_ZONE {
            price.saturating_add(moved(used.saturating_sub(TARGET)).max(1))
        } else if used < TARGET - DEAD_ZONE {
            price.saturating_sub(moved(TARGET.saturating_sub(used)))
        } else {
            price
        };
        next.max(self.floor.min(highest))
    }

    /// How much of the capacity was paid for, of a thousand, twice the target at most.
    fn used(&self, price: u64) -> Option<u64> {
        let full = u128::from(self.workers).checked_mul(self.capacity.into())?;
        let full = full.checked_mul(price.into())?;
        let spent = u128::from(self.spent).checked_mul(MILLION)?;
        let used = spent.checked_mul(1000)?.checked_div(full)?;
        Some(used.try_into().unwrap_or(u64::MAX).min(2 * TARGET))
    }
}

/// Of a thousand, how much of the capacity should be used.
pub const TARGET: u64 = 600;

/// How far from that the price does not move.
pub const DEAD_ZONE: u64 = 100;

/// What a fifth of the workers asks for at most, by bracket how many ask for so much.
pub fn floor(asks: &Dict<u8, u32>, workers: u32) -> Result<u64, Error> {
    let (mut count, mut found) = (0_u64, 0);
    for entry in asks.iter() {
        if count.saturating_mul(5) >= workers.into() {
            break;
        }
        let (bracket, more) = entry?;
        count = count.saturating_add(more.into());
        found = bracket;
    }
    Ok(least(found))
}

/// The first three bits of an ask and where they are, as an index.
#[must_use]
pub fn bracket(ask: u64) -> u8 {
    let length = u64::BITS.saturating_sub(ask.leading_zeros());
    let index = match length.checked_sub(3) {
        None | Some(0) => ask,
        Some(shift) => (ask >> shift).saturating_add(u64::from(shift).saturating_mul(4)),
    };
    index.try_into().unwrap_or(u8::MAX)
}

/// The least ask of a bracket.
#[must_use]
pub const fn least(bracket: u8) -> u64 {
    let shift = (bracket >> 2).saturating_sub(1);
    let bits = bracket.saturating_sub(shift << 2);
    (u64::from_be_bytes([0, 0, 0, 0, 0, 0, 0, bits])) << shift
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const CALM: Demand = Demand {
        spent: 600,
        workers: 1,
        capacity: 1_000_000,
        floor: 0,
        is_wanted: false,
    };

    #[test]
    fn a_price_rests_in_the_dead_zone_and_moves_an_eighth_at_most() {
        let after = |spent| Demand { spent, ..CALM }.next_price(1000);
        for (spent, price) in [
            (500, 1000),
            (700, 1000),
            (499, 979),
            (701, 1021),
            (1200, 1125),
            (u64::MAX, 1125),
            (300, 938),
            (0, 875),
        ] {
            assert_eq!(after(spent), price, "{spent} of 1000");
        }
    }

    #[test]
    fn a_price_nears_what_workers_ask_for_as_slowly_as_any_other() {
        let demand = Demand {
            floor: 5000,
            ..CALM
        };
        assert_eq!(demand.next_price(1000), 1125);
        assert_eq!(
            Demand {
                floor: 1001,
                ..demand
            }
            .next_price(1000),
            1001
        );
        assert_eq!(
            Demand {
                floor: 999,
                ..demand
            }
            .next_price(1000),
            1000
        );
    }

    #[test]
    fn where_nobody_serves_only_apps_move_the_price() {
        let nobody = Demand { workers: 0, ..CALM };
        assert_eq!(nobody.next_price(1000), 1000);
        let wanted = Demand {
            is_wanted: true,
            ..nobody
        };
        assert_eq!(wanted.next_price(1000), 1125);
        assert_eq!(
            Demand {
                workers: 1,
                ..wanted
            }
            .next_price(1000),
            1000
        );
    }

    #[test]
    fn the_floor_is_what_a_fifth_asks_for_at_most() {
        let mut asks = Dict::new();
        assert_eq!(floor(&asks, 0), Ok(0));
        for (ask, count) in [(100, 1), (1000, 3), (64, 1), (5000, 5)] {
            asks.set(bracket(ask), count).unwrap();
        }
        assert_eq!(floor(&asks, 10), Ok(96), "two of ten ask for 100 at most");
    }

    proptest! {
        #[test]
        fn brackets_are_in_the_order_of_asks_and_cut_off_less_than_a_fifth(
            ask: u64,
            other: u64,
        ) {
            let cut = least(bracket(ask));
            prop_assert!(cut <= ask && ask.abs_diff(cut) <= ask / 5, "{ask} {cut}");
            prop_assert_eq!(bracket(cut), bracket(ask));
            prop_assert_eq!(bracket(ask) < bracket(other), ask < least(bracket(other)));
        }

        #[test]
        fn no_epoch_moves_a_price_by_more_than_an_eighth(
            price in 1_u64..,
            spent: u64,
            workers: u32,
            capacity: u32,
            floor: u64,
            is_wanted: bool,
        ) {
            let demand = Demand { spent, workers, capacity, floor, is_wanted };
            let next = demand.next_price(price);
            let reach = (price / 8).max(1);
            prop_assert!(next <= price.saturating_add(reach), "{price} {next}");
            prop_assert!(next >= price || price.abs_diff(next) <= reach, "{price} {next}");
        }
    }
}
