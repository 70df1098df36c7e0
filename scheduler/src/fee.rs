//! What a scheduler keeps for itself: a share on top of what a worker asks, which its clients
//! see as part of every price.

/// In thousandths of the ask.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Fee(u16);

impl Fee {
    /// Nothing.
    pub const NONE: Self = Self(0);

    /// At most as much as the worker gets.
    #[must_use]
    pub const fn per_mille(share: u16) -> Option<Self> {
        match share {
            0..=1000 => Some(Self(share)),
            _ => None,
        }
    }

    /// In thousandths.
    #[must_use]
    pub const fn share(self) -> u16 {
        self.0
    }

    /// What a client pays where a worker asks so much; more than fits is paid by nobody.
    #[must_use]
    pub fn price(self, ask: u64) -> u64 {
        let price = u128::from(ask).saturating_mul(self.thousandths()) / 1000;
        u64::try_from(price).unwrap_or(u64::MAX)
    }

    /// The most that a worker may ask for a client to pay no more than `price`.
    #[must_use]
    pub fn ask(self, price: u64) -> u64 {
        let above = u128::from(price).saturating_add(1).saturating_mul(1000);
        let most = above.saturating_sub(1).checked_div(self.thousandths());
        most.and_then(|most| u64::try_from(most).ok())
            .unwrap_or(u64::MAX)
    }

    fn thousandths(self) -> u128 {
        u128::from(self.0).saturating_add(1000)
    }
}

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a panic is a failure")]
mod tests {
    use super::*;

    use proptest::prelude::*;

    #[test]
    fn a_share_is_on_top_of_what_the_worker_asks() {
        let fee = Fee::per_mille(25).unwrap();
        assert_eq!(fee.price(1_000_000), 1_025_000);
        assert_eq!(fee.price(39), 39, "less than a nanoton is nothing");
        assert_eq!(Fee::default().price(u64::MAX), u64::MAX);
        assert_eq!(fee.price(u64::MAX), u64::MAX);
        assert_eq!(Fee::per_mille(1001), None);
    }

    proptest! {
        #[test]
        fn whoever_asks_the_most_is_within_the_price_and_nobody_above(
            share in 0..=1000_u16,
            price in 0..u64::MAX / 4,
        ) {
            let fee = Fee::per_mille(share).unwrap();
            let most = fee.ask(price);
            prop_assert!(fee.price(most) <= price);
            prop_assert!(fee.price(most + 1) > price);
        }
    }
}
