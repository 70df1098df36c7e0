//! Whether what followed an answer pays for it: the worker's receipt, about these bytes.
//!
//! It does not establish that the tokens were counted honestly: a TD of a published build
//! counts them, and both ends can compare them with what they asked and read.

use attestation::cbor::CborError;
use attestation::register::Digest256;
use contracts::receipt::{Receipt, ReceiptError};
use sealed::{Envelope, Settlement};
use tycho_types::boc::{Boc, de};
use tycho_types::cell::HashBytes;
use tycho_types::error::Error;

use crate::directory::Outcome;
use crate::ledger::Failed;
use crate::ledger::receipts::{Served, SettleError};
use crate::relay::Ended;

/// A receipt for one answer that passed.
#[derive(Clone, Debug)]
pub struct Settled {
    /// What is paid for.
    pub tokens: u64,
    /// As the books take it.
    pub served: Served,
}

impl Settled {
    /// Compares a settlement with what passed, and what was agreed; what the worker asks is
    /// no part of the envelope.
    pub fn of(
        ended: &Ended,
        envelope: &Envelope,
        ask: u64,
        key: [u8; 32],
    ) -> Result<Self, SettlementError> {
        let (receipt, settlement) = read(&ended.settlement, key)?;
        let request = ended.request.ok_or(SettlementError::Request)?;
        same("request", receipt.request, request)?;
        same("response", receipt.response, ended.response)?;
        if receipt.price != ask {
            return Err(SettlementError::Price {
                found: receipt.price,
                expected: ask,
            });
        }
        let tokens = receipt
            .work
            .load()
            .map_err(SettlementError::Receipt)?
            .tokens();
        if tokens > envelope.limit || tokens != settlement.tokens {
            return Err(SettlementError::Tokens {
                found: tokens,
                said: settlement.tokens,
                limit: envelope.limit,
            });
        }
        let served = Served {
            request: HashBytes(*request.as_bytes()),
            response: HashBytes(*ended.response.as_bytes()),
            ..Served::told(receipt, settlement.signature, HashBytes(key))
        };
        Ok(Self { tokens, served })
    }
}

/// A settlement, and the receipt in it, which is signed by `key`.
pub(crate) fn read(
    settlement: &[u8],
    key: [u8; 32],
) -> Result<(Receipt, Settlement), SettlementError> {
    let settlement = Settlement::parse(settlement).map_err(SettlementError::Settlement)?;
    let cell = Boc::decode(&settlement.receipt).map_err(SettlementError::Cells)?;
    let receipt: Receipt = cell.parse().map_err(SettlementError::Receipt)?;
    receipt
        .verify(&HashBytes(key), &settlement.signature)
        .map_err(SettlementError::Signature)?;
    Ok((receipt, settlement))
}

/// A receipt is of what passed.
pub(crate) fn same(
    name: &'static str,
    found: HashBytes,
    expected: Digest256,
) -> Result<(), SettlementError> {
    let found = Digest256::from_bytes(found.0);
    match found == expected {
        true => Ok(()),
        false => Err(SettlementError::Hash {
            name,
            found,
            expected,
        }),
    }
}

/// What it says of a worker that the books do not take its receipt.
pub(crate) const fn outcome(refused: &Failed<SettleError>) -> Outcome {
    match refused {
        Failed::Store(_)
        | Failed::Refused(SettleError::Overflow | SettleError::Released | SettleError::Unknown) => {
            Outcome::Abandoned
        }
        Failed::Refused(SettleError::Channel | SettleError::Receipt(_)) => Outcome::Failed,
        Failed::Refused(_) => Outcome::Lied,
    }
}

impl SettlementError {
    /// What it says of the worker. What is signed and not true is a lie, which nobody but the
    /// worker can have told; what is not signed may be a failure.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        match self {
            Self::Hash { .. } | Self::Price { .. } | Self::Tokens { .. } => Outcome::Lied,
            // Its client cut it.
            Self::Request => Outcome::Abandoned,
            Self::Cells(_) | Self::Receipt(_) | Self::Settlement(_) | Self::Signature(_) => {
                Outcome::Failed
            }
        }
    }
}

/// Why an answer is not paid for.
#[derive(Debug, thiserror::Error)]
pub enum SettlementError {
    /// Not a bag of cells.
    #[error("the receipt is no bag of cells")]
    Cells(#[source] de::Error),
    /// About other bytes.
    #[error("the receipt is about {name} {found}, {expected} passed")]
    Hash {
        /// Of which direction.
        name: &'static str,
        /// In the receipt.
        found: Digest256,
        /// Of what passed.
        expected: Digest256,
    },
    /// For another price.
    #[error("the receipt is for {found} nanotons a million tokens, {expected} were agreed")]
    Price {
        /// In the receipt.
        found: u64,
        /// As the worker offered.
        expected: u64,
    },
    /// Cells of something else.
    #[error("the receipt is malformed")]
    Receipt(#[source] Error),
    /// The worker answered what it had not read.
    #[error("the answer ended before the request did")]
    Request,
    /// Not CBOR of ours.
    #[error("no settlement")]
    Settlement(#[source] CborError),
    /// By nobody who proved that key.
    #[error("the receipt is not the worker's")]
    Signature(#[source] ReceiptError),
    /// More than agreed, or two numbers.
    #[error("{found} tokens in the receipt and {said} beside it, at most {limit} were agreed")]
    Tokens {
        /// In the receipt.
        found: u64,
        /// Beside it.
        said: u64,
        /// In the envelope.
        limit: u64,
    },
}
