//! Receipts: what a worker signs for one answer, in the form that usage on chain is made
//! of.
//!
//! ```text
//! receipt#52435054 global_id:int32 channel:MsgAddressInt request:uint256
//!   response:uint256 price:uint64 time:uint32 ^[ model:uint256 build:uint256
//!   prompt_tokens:uint32 completion_tokens:uint32 ] = Receipt;
//!
//! signature = Ed25519 over the hash of the receipt's cell
//! leaf      = SHA-256(0x00 || that hash)
//! ```
//!
//! The receipts that a Channel's voucher pays for are the leaves of a tree (RFC 9162),
//! in their order; its head is in the voucher, signed by the payer. The reports of an
//! epoch are the leaves of another, whose head is in the Market's [`Totals`]. Both paths
//! together show that an answer was paid for and counted.
//!
//! It does not establish what was asked or answered: those are hashes, and who knows
//! neither learns nothing.
//!
//! [`Totals`]: crate::market::Totals

use attestation::merkle::{self, Path, PathError};
use sha2::Sha256;
use tycho_types::cell::{CellBuilder, HashBytes, Lazy, Load, Store};
use tycho_types::error::Error;
use tycho_types::models::StdAddr;

use crate::reports::Redeemed;
use crate::signature;
use crate::voucher::cost;

/// What a worker did for one request.
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
#[tlb(tag = "#52435054")]
pub struct Receipt {
    /// Which network.
    pub global_id: i32,
    /// Out of which it is paid.
    pub channel: StdAddr,
    /// Hash of the request.
    pub request: HashBytes,
    /// Hash of the response.
    pub response: HashBytes,
    /// For a million tokens.
    pub price: u64,
    /// Unix seconds.
    pub time: u32,
    /// By what, and how much.
    pub work: Lazy<Work>,
}

/// What worked, and how much.
#[derive(Clone, Copy, Debug, Eq, Load, PartialEq, Store)]
pub struct Work {
    /// Root hash of the model.
    pub model: HashBytes,
    /// As the Registry knows it.
    pub build: HashBytes,
    /// Tokens that were read.
    pub prompt_tokens: u32,
    /// Tokens that were made.
    pub completion_tokens: u32,
}

impl Work {
    /// What is paid for.
    #[must_use]
    pub fn tokens(&self) -> u64 {
        u64::from(self.prompt_tokens).saturating_add(self.completion_tokens.into())
    }
}

impl Receipt {
    /// What is signed.
    pub fn hash(&self) -> Result<[u8; 32], Error> {
        Ok(CellBuilder::build_from(self)?.repr_hash().0)
    }

    /// Whether the holder of a TD's receipt key signed it.
    pub fn verify(&self, key: &HashBytes, signed: &[u8; 64]) -> Result<(), ReceiptError> {
        signature::verify(&key.0, &self.hash()?, signed).map_err(|_| ReceiptError::Signature)
    }

    /// What it costs. `None` where that has no place in a voucher.
    #[must_use]
    pub fn cost(&self) -> Option<u64> {
        cost(self.work.load().ok()?.tokens(), self.price)
    }

    /// The head that a voucher pays for, if this receipt is at that place below it.
    pub fn head(&self, path: &Path) -> Result<HashBytes, ReceiptError> {
        Ok(HashBytes(path.head::<Sha256>(self.leaf()?)?.into()))
    }

    fn leaf(&self) -> Result<merkle::Node<Sha256>, Error> {
        Ok(merkle::leaf::<Sha256>(&self.hash()?))
    }
}

/// The head over receipts, which goes into the next voucher, and the path of each.
pub fn tree(receipts: &[Receipt]) -> Result<(HashBytes, Vec<Path>), Error> {
    let leaves: Result<Vec<_>, Error> = receipts.iter().map(Receipt::leaf).collect();
    let (head, paths) = merkle::tree::<Sha256>(&leaves?);
    Ok((HashBytes(head.into()), paths))
}

/// What a Market remembers of a report.
///
/// ```text
/// leaf = SHA-256(0x00 || channel:uint256 tokens:uint64 amount:uint64 receipts:uint256)
/// ```
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Reported {
    /// Which Channel, in the basechain.
    pub channel: HashBytes,
    /// So many more than before.
    pub tokens: u64,
    /// So much more than before.
    pub amount: u64,
    /// Head over all of the Channel's receipts so far.
    pub receipts: HashBytes,
}

impl Reported {
    /// What a Channel said.
    #[must_use]
    pub const fn new(channel: &StdAddr, redeemed: &Redeemed) -> Self {
        Self {
            channel: channel.address,
            tokens: redeemed.tokens,
            amount: redeemed.amount,
            receipts: redeemed.receipts,
        }
    }

    /// The head of an epoch, if this report is at that place below it.
    pub fn head(&self, path: &Path) -> Result<HashBytes, PathError> {
        Ok(HashBytes(path.head::<Sha256>(self.leaf())?.into()))
    }

    pub(crate) fn leaf(&self) -> merkle::Node<Sha256> {
        let mut value = Vec::with_capacity(80);
        value.extend(self.channel.0);
        value.extend(self.tokens.to_be_bytes());
        value.extend(self.amount.to_be_bytes());
        value.extend(self.receipts.0);
        merkle::leaf::<Sha256>(&value)
    }
}

/// The head over an epoch's reports, in the order in which they came, and the path of
/// each. Of none, the head is zero.
#[must_use]
pub fn reports(reported: &[Reported]) -> (HashBytes, Vec<Path>) {
    let leaves: Vec<_> = reported.iter().map(Reported::leaf).collect();
    match leaves.is_empty() {
        true => (HashBytes::ZERO, Vec::new()),
        false => {
            let (head, paths) = merkle::tree::<Sha256>(&leaves);
            (HashBytes(head.into()), paths)
        }
    }
}

/// Why something shows nothing about an answer.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ReceiptError {
    /// No such cell.
    #[error("a receipt that no cell holds")]
    Cell(#[from] Error),
    /// Another key.
    #[error("the receipt is not signed by that key")]
    Signature,
    /// Another tree.
    #[error("the receipt's path does not fit its tree")]
    Path(#[from] PathError),
}

#[cfg(test)]
mod tests {
    use super::*;

    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

    fn receipt(number: u8) -> Receipt {
        let work = Work {
            model: HashBytes([1; 32]),
            build: HashBytes([2; 32]),
            prompt_tokens: 900,
            completion_tokens: 100,
        };
        Receipt {
            global_id: -239,
            channel: StdAddr::new(0, HashBytes([3; 32])),
            request: HashBytes([number; 32]),
            response: HashBytes([4; 32]),
            price: 2_000_000,
            time: 5,
            work: Lazy::new(&work).unwrap(),
        }
    }

    #[test]
    fn a_receipt_is_its_workers() {
        let key = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
        let public = HashBytes(key.public_key().as_ref().try_into().unwrap());
        let signature = key.sign(&receipt(1).hash().unwrap());
        let signature: [u8; 64] = signature.as_ref().try_into().unwrap();
        assert_eq!(receipt(1).verify(&public, &signature), Ok(()));
        let other = receipt(2).verify(&public, &signature);
        assert_eq!(other, Err(ReceiptError::Signature));
        assert_eq!(receipt(1).cost(), Some(2000));
    }

    #[test]
    fn two_paths_lead_from_an_answer_to_the_totals_of_an_epoch() {
        let receipts: Vec<_> = (0..7).map(receipt).collect();
        let (head, paths) = tree(&receipts).unwrap();
        let reported = [8, 9, 10].map(|channel| Reported {
            channel: HashBytes([channel; 32]),
            tokens: 7000,
            amount: 14_000,
            receipts: head,
        });
        let (epoch, ways) = reports(&reported);
        for (receipt, path) in receipts.iter().zip(&paths) {
            assert_eq!(receipt.head(path), Ok(head));
        }
        for (reported, way) in reported.iter().zip(&ways) {
            assert_eq!(reported.head(way), Ok(epoch));
        }
        assert_ne!(receipt(8).head(&paths[0]), Ok(head), "another answer");
        let more = Reported {
            tokens: 7001,
            ..reported[0]
        };
        assert_ne!(more.head(&ways[0]), Ok(epoch), "more than was said");
        assert_eq!(reports(&[]).0, HashBytes::ZERO);
        let far = receipt(0).head(&ways[0]);
        assert!(far.is_err() || far != Ok(head), "a path of another tree");
    }
}
