//! A stand-in is paid into the agent's own purse.

use std::fmt;
use std::sync::Arc;

use agent::network::{NotCovered, Purse};
use contracts::voucher::Signed;
use tests::chain::now;
use tests::stand_in::{Earned, Till};
use tycho_types::models::StdAddr;

pub(crate) struct Takes(pub(crate) Arc<Purse>);

impl fmt::Debug for Takes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Till for Takes {
    fn channel(&self) -> (StdAddr, i32) {
        (self.0.address().clone(), self.0.network())
    }

    fn reserve(&self, voucher: Option<&Signed>, cost: u64) -> Result<Earned, u64> {
        match self.0.reserve(voucher, cost, now()) {
            Ok(reservation) => Ok(Box::new(|earned| reservation.settle(earned))),
            Err(NotCovered::Short { spent, .. }) => Err(spent),
            Err(refused) => panic!("{refused}"),
        }
    }
}
