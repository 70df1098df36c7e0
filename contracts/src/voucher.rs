//! Vouchers: what a payer owes a payee so far, signed. The newest one is worth all of it.
//!
//! ```text
//! voucher#564f5543 global_id:int32 channel:MsgAddressInt epoch:uint32 cap:uint64
//!   amount:uint64 tokens:uint64 receipts:uint256 = Voucher;
//!
//! signature = Ed25519 over the hash of the voucher's cell
//! ```
//!
//! The tag, the network and the Channel are in what is signed, so a voucher is worth
//! something in one place. Amounts are nanotons, prices nanotons for a million tokens.
//! It does not establish that the Channel has the coins: [`Channel`] says that.
//!
//! [`Channel`]: crate::channel::Channel

use tycho_types::cell::{Cell, CellBuilder, HashBytes, Load, Store};
use tycho_types::error::Error;
use tycho_types::models::StdAddr;

use crate::cells::Bytes;
use crate::signature;

/// What a payer owes.
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
#[tlb(tag = "#564f5543")]
pub struct Voucher {
    /// Which network: -239 the main one, -3 the test one.
    pub global_id: i32,
    /// From which Channel.
    pub channel: StdAddr,
    /// In which the price held that was paid last: see [`epoch`](crate::reports::epoch).
    pub epoch: u32,
    /// The payer's highest price; on average no more was paid.
    pub cap: u64,
    /// Since the beginning.
    pub amount: u64,
    /// For so many tokens.
    pub tokens: u64,
    /// Head of the tree over the receipts for them.
    pub receipts: HashBytes,
}

impl Voucher {
    /// The first one of a Channel: nothing is owed.
    #[must_use]
    pub const fn first(global_id: i32, channel: StdAddr) -> Self {
        Self {
            global_id,
            channel,
            epoch: 0,
            cap: 0,
            amount: 0,
            tokens: 0,
            receipts: HashBytes::ZERO,
        }
    }

    /// The next one, after so many more tokens at a price. `None` where a number has no
    /// place.
    #[must_use]
    pub fn next(&self, tokens: u64, price: u64, epoch: u32, receipts: HashBytes) -> Option<Self> {
        Some(Self {
            global_id: self.global_id,
            channel: self.channel.clone(),
            epoch,
            cap: self.cap.max(price),
            amount: self.amount.checked_add(cost(tokens, price)?)?,
            tokens: self.tokens.checked_add(tokens)?,
            receipts,
        })
    }

    /// The next one, for at least `amount`, at a price that its cap allows. `None` where a
    /// number has no place.
    #[must_use]
    pub fn raised(&self, amount: u64, price: u64, epoch: u32, receipts: HashBytes) -> Option<Self> {
        let amount = amount.max(self.amount);
        let more = least_tokens(amount.checked_sub(self.amount)?, price)?;
        let next = self.next(more, price, epoch, receipts)?;
        // Tokens were rounded up; what they are for is not.
        Some(Self { amount, ..next })
    }

    /// Whether no more was paid than the cap allows for so many tokens.
    #[must_use]
    pub fn keeps_its_cap(&self) -> bool {
        let paid = u128::from(self.amount).saturating_mul(MILLION);
        paid <= u128::from(self.tokens).saturating_mul(self.cap.into())
    }

    /// What is signed.
    pub fn hash(&self) -> Result<[u8; 32], Error> {
        Ok(self.cell()?.repr_hash().0)
    }

    /// With its signature.
    pub fn signed(&self, signature: [u8; 64]) -> Result<Signed, Error> {
        Ok(Signed {
            signature: Bytes(signature),
            voucher: self.cell()?,
        })
    }

    fn cell(&self) -> Result<Cell, Error> {
        CellBuilder::build_from(self)
    }
}

/// What so many tokens cost, rounded down.
#[must_use]
pub fn cost(tokens: u64, price: u64) -> Option<u64> {
    let product = u128::from(tokens).checked_mul(price.into())?;
    product.checked_div(MILLION)?.try_into().ok()
}

/// For how many tokens a price allows an amount.
#[must_use]
pub fn least_tokens(amount: u64, price: u64) -> Option<u64> {
    let tokens = u128::from(amount).checked_mul(MILLION)?;
    match price {
        0 => (amount == 0).then_some(0),
        _ => tokens.div_ceil(price.into()).try_into().ok(),
    }
}

/// Prices are for so many tokens.
pub const MILLION: u128 = 1_000_000;

/// A voucher that anyone can bring.
///
/// ```text
/// _ signature:bits512 voucher:^Voucher = Signed;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct Signed {
    /// By the payer's key.
    pub signature: Bytes<64>,
    voucher: Cell,
}

impl Signed {
    /// What was signed, once it is known that the holder of `key` did. The contract would
    /// not look at what is behind a voucher; a payee refuses it.
    pub fn verify(&self, key: &HashBytes) -> Result<Voucher, Forged> {
        signature::verify(&key.0, &self.voucher.repr_hash().0, &self.signature.0)
            .map_err(|_| Forged::Signature)?;
        let mut slice = self.voucher.as_slice_allow_exotic();
        let voucher = Voucher::load_from(&mut slice).map_err(|_| Forged::Voucher)?;
        match slice.is_empty() {
            true => Ok(voucher),
            false => Err(Forged::Voucher),
        }
    }

    /// What it says, whoever said it.
    pub fn unverified(&self) -> Result<Voucher, Error> {
        Voucher::load_from(&mut self.voucher.as_slice()?)
    }
}

/// Why something is no voucher of a payer's.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Forged {
    /// Not signed by that key.
    #[error("the voucher is not signed by the payer's key")]
    Signature,
    /// Something else was signed.
    #[error("what the payer's key has signed is no voucher")]
    Voucher,
}

#[cfg(test)]
mod tests {
    use super::*;

    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
    use tycho_types::cell::CellFamily as _;

    fn key() -> Ed25519KeyPair {
        Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap()
    }

    fn first() -> Voucher {
        Voucher::first(-239, StdAddr::new(0, HashBytes([2; 32])))
    }

    fn sign(cell: &Cell) -> Signed {
        let signature = key().sign(&cell.repr_hash().0);
        Signed {
            signature: Bytes(signature.as_ref().try_into().unwrap()),
            voucher: cell.clone(),
        }
    }

    #[test]
    fn the_next_voucher_adds_what_was_served_and_keeps_its_cap() {
        let one = first().next(1_500_000, 1000, 5, HashBytes::ZERO).unwrap();
        assert_eq!((one.amount, one.tokens, one.cap), (1500, 1_500_000, 1000));
        let two = one.next(500_001, 10, 6, HashBytes::ZERO).unwrap();
        assert_eq!(
            (two.amount, two.cap),
            (1505, 1000),
            "never less than before"
        );
        assert!(one.keeps_its_cap() && two.keeps_its_cap());
        assert!(!Voucher { cap: 999, ..one }.keeps_its_cap());
        assert_eq!(two.next(u64::MAX, 1, 6, HashBytes::ZERO), None);
        assert_eq!(two.next(1 << 40, u64::MAX, 6, HashBytes::ZERO), None);
    }

    #[test]
    fn only_a_whole_voucher_by_that_key_is_one() {
        let public = HashBytes(key().public_key().as_ref().try_into().unwrap());
        let cell = first().cell().unwrap();
        let signed = sign(&cell);
        assert_eq!(signed.verify(&public), Ok(first()));
        assert_eq!(signed.verify(&HashBytes([1; 32])), Err(Forged::Signature));
        let mut forged = signed.clone();
        forged.signature.0[0] ^= 1;
        assert_eq!(forged.verify(&public), Err(Forged::Signature));
        let mut longer = CellBuilder::new();
        longer.store_slice(cell.as_slice().unwrap()).unwrap();
        longer.store_bit_one().unwrap();
        for other in [longer.build().unwrap(), Cell::empty_cell()] {
            assert_eq!(sign(&other).verify(&public), Err(Forged::Voucher));
        }
    }
}
