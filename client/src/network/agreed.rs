//! What was agreed upon for one request, and which settlement is for it.
//!
//! It does not establish which answer a settlement is of, nor that the tokens are what
//! there was: whoever has the answer compares it (`deal.rs`).

use attestation::cbor::CborError;
use attestation::register::Digest256;
use contracts::receipt::{Receipt, ReceiptError};
use contracts::voucher::cost;
use sealed::Settlement;
use serde::{Deserialize, Serialize};
use tycho_types::boc::Boc;
use tycho_types::cell::HashBytes;
use tycho_types::error::Error;

use super::purse::PurseError;

/// Between a client, and the worker that it sealed a request to.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Agreed {
    /// Tokens at most.
    pub limit: u64,
    /// Nanotons for a million of them.
    pub price: u64,
    /// SHA-256 of the sealed request.
    pub request: Digest256,
    /// Of the worker's proved keyset.
    pub receipt_key: Digest256,
    /// Unix seconds, after which nobody takes the request up any more.
    pub until: u32,
}

impl Agreed {
    /// At most, in nanotons. None where that has no place in a voucher.
    #[must_use]
    pub fn cost(&self) -> Option<u64> {
        cost(self.limit, self.price)
    }

    /// The worker's receipt for this very request, at no more than the agreed price.
    pub fn receipt(&self, settlement: &Settlement) -> Result<Receipt, SettlementError> {
        let receipt = Boc::decode(&settlement.receipt).map_err(|_| SettlementError::Receipt)?;
        let receipt: Receipt = receipt.parse().map_err(|_| SettlementError::Receipt)?;
        let key = HashBytes(*self.receipt_key.as_bytes());
        receipt.verify(&key, &settlement.signature)?;
        if receipt.request.0 != *self.request.as_bytes() {
            return Err(SettlementError::Request);
        }
        match receipt.price > self.price {
            true => Err(SettlementError::Price {
                found: receipt.price,
                agreed: self.price,
            }),
            false => Ok(receipt),
        }
    }
}

/// Why a settlement is not taken for a request's.
#[derive(Debug, thiserror::Error)]
pub enum SettlementError {
    /// Nothing, or nothing of ours.
    #[error("the answer ends without a settlement")]
    Absent(#[source] CborError),
    /// Two numbers.
    #[error("the worker signed for {signed} tokens, and the answer says {said}")]
    Counts {
        /// In the receipt.
        signed: u64,
        /// In the answer.
        said: u64,
    },
    /// More than agreed.
    #[error("the receipt asks {found} for a million tokens, and {agreed} were agreed upon")]
    Price {
        /// In the receipt.
        found: u64,
        /// In the envelope.
        agreed: u64,
    },
    /// The purse does not take it.
    #[error("the settlement was not counted")]
    Purse(#[from] PurseError),
    /// Cells of something else.
    #[error("the settlement has no receipt that can be read")]
    Receipt,
    /// About other bytes.
    #[error("the receipt is of another request")]
    Request,
    /// About other bytes.
    #[error("the receipt is of another answer")]
    Response,
    /// By nobody who proved that key.
    #[error("the worker's proved key did not sign the receipt")]
    Signature(#[from] ReceiptError),
    /// More than there are.
    #[error("the receipt counts {found} tokens of {what}, and there can be {most}")]
    Tokens {
        /// Of which direction.
        what: &'static str,
        /// In the receipt.
        found: u64,
        /// By the bytes there are.
        most: u64,
    },
}

impl From<Error> for SettlementError {
    fn from(_: Error) -> Self {
        Self::Receipt
    }
}
