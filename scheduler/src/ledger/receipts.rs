//! What a worker's receipt has to say to be paid for, and the tree over all that a Channel
//! paid for.
//!
//! The tree is that of `contracts::receipt`; here it grows by one leaf at a time, from the
//! heads of its full subtrees, the largest first.

use attestation::merkle::{Path, leaf, parent, tree};
use contracts::receipt::{Receipt, ReceiptError};
use sha2::Sha256;
use tycho_types::cell::HashBytes;

use super::account::Order;

/// A worker's receipt, and what the scheduler has seen go by.
#[derive(Clone, Debug)]
pub struct Served {
    /// As the worker has it.
    pub receipt: Receipt,
    /// By the worker.
    pub signature: [u8; 64],
    /// The receipt key that the worker's evidence proves.
    pub key: HashBytes,
    /// SHA-256 of the sealed request.
    pub request: HashBytes,
    /// SHA-256 of the sealed response, up to its last chunk.
    pub response: HashBytes,
}

impl Served {
    /// Of a worker that says what came of a request, or has said so: nobody compares that
    /// with what went by.
    #[must_use]
    pub const fn told(receipt: Receipt, signature: [u8; 64], key: HashBytes) -> Self {
        Self {
            request: receipt.request,
            response: receipt.response,
            receipt,
            signature,
            key,
        }
    }

    /// The tokens to pay for, and the receipt's hash, once its worker is known to have
    /// signed it for this very request.
    pub fn check(
        &self,
        global_id: i32,
        channel: &HashBytes,
        order: &Order,
    ) -> Result<(u64, [u8; 32]), SettleError> {
        self.receipt.verify(&self.key, &self.signature)?;
        let receipt = &self.receipt;
        if receipt.global_id != global_id
            || receipt.channel.workchain != 0
            || receipt.channel.address != *channel
        {
            return Err(SettleError::Channel);
        }
        if receipt.request != self.request {
            return Err(SettleError::Request);
        }
        if receipt.response != self.response {
            return Err(SettleError::Response);
        }
        if receipt.price != order.ask {
            return Err(SettleError::Price {
                found: receipt.price,
                expected: order.ask,
            });
        }
        let tokens = receipt.work.load().map_err(ReceiptError::from)?.tokens();
        if tokens > order.limit {
            return Err(SettleError::Limit {
                found: tokens,
                limit: order.limit,
            });
        }
        Ok((tokens, receipt.hash().map_err(ReceiptError::from)?))
    }
}

/// Why a receipt is not paid for.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum SettleError {
    /// To be paid from elsewhere.
    #[error("the receipt is for another Channel or network")]
    Channel,
    /// More than was asked for.
    #[error("the receipt is for {found} tokens, and the request for {limit} at most")]
    Limit {
        /// In the receipt.
        found: u64,
        /// In the request.
        limit: u64,
    },
    /// The books do not hold what the request reserved.
    #[error("the books hold less than the request reserved")]
    Overflow,
    /// Not what was agreed.
    #[error("the receipt's price is {found}, and {expected} was agreed")]
    Price {
        /// In the receipt.
        found: u64,
        /// In the request.
        expected: u64,
    },
    /// Not signed, or no receipt.
    #[error("not a receipt of the worker's")]
    Receipt(#[from] ReceiptError),
    /// It ended without one.
    #[error("the request was released, and nothing is reserved for it any more")]
    Released,
    /// For something else.
    #[error("the receipt is for another request")]
    Request,
    /// Of something else.
    #[error("the receipt is for another response")]
    Response,
    /// One request, one receipt; one receipt, one request.
    #[error("the request or the receipt is settled already, with another one")]
    Twice,
    /// Nobody was admitted with it.
    #[error("the ledger knows no such request")]
    Unknown,
}

/// The tree over a Channel's receipts, as far as it is needed to go on.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Tree {
    /// Receipts in it.
    pub size: u64,
    /// Heads of its full subtrees, one for each bit of the size.
    pub peaks: Vec<[u8; 32]>,
}

impl Tree {
    /// With one more receipt, by its hash.
    #[must_use]
    pub fn with(mut self, receipt: &[u8; 32]) -> Self {
        let mut node = leaf::<Sha256>(receipt);
        for _ in 0..self.size.trailing_ones() {
            let left = self.peaks.pop().unwrap_or_default();
            node = parent::<Sha256>(&left, &node);
        }
        self.peaks.push(node.into());
        self.size = self.size.saturating_add(1);
        self
    }

    /// Of the whole; zero while there is nothing, as a Channel's first voucher has it.
    #[must_use]
    pub fn head(&self) -> HashBytes {
        let mut peaks = self.peaks.iter().rev();
        let last = peaks.next().copied().unwrap_or_default();
        HashBytes(peaks.fold(last, |right, left| parent::<Sha256>(left, &right).into()))
    }
}

/// The head over receipts by their hashes, and the path of each.
pub fn paths(receipts: &[[u8; 32]]) -> (HashBytes, Vec<Path>) {
    let leaves: Vec<_> = receipts.iter().map(|hash| leaf::<Sha256>(hash)).collect();
    let (head, paths) = tree::<Sha256>(&leaves);
    (HashBytes(head.into()), paths)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_that_grows_has_the_head_over_all_its_receipts() {
        let mut tree = Tree::default();
        assert_eq!(tree.head(), HashBytes::ZERO);
        let hashes: Vec<_> = (0..40).map(|number| [number; 32]).collect();
        for (count, hash) in (1..).zip(&hashes) {
            tree = tree.with(hash);
            assert_eq!(tree.head(), paths(&hashes[..count]).0, "{count}");
        }
    }
}
