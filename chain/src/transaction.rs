//! The newest transactions of an account, from its proved state backwards: each names the
//! one before by its hash.

use tycho_types::cell::HashBytes;
use tycho_types::error::Error;
use tycho_types::models::{StdAddr, Transaction};

use crate::bag::{self, BagError};

/// A transaction that is known to have happened.
#[derive(Clone, Debug)]
pub struct Proved {
    /// Of its cell.
    pub hash: HashBytes,
    /// What happened.
    pub transaction: Transaction,
}

impl Proved {
    /// Whether it is what came of a message.
    #[must_use]
    pub fn began(&self, message: &HashBytes) -> bool {
        let incoming = self.transaction.in_msg.as_ref();
        incoming.is_some_and(|cell| cell.repr_hash() == message)
    }
}

/// Follows what a server says came last, the newest first.
pub fn check(
    address: &StdAddr,
    last: (u64, HashBytes),
    bytes: &[u8],
) -> Result<Vec<Proved>, TransactionError> {
    let mut expected = last;
    let mut found = Vec::new();
    for root in bag::some_roots(bytes, MOST).map_err(TransactionError::Bag)? {
        let hash = *root.repr_hash();
        if root.level() != 0 || hash != expected.1 {
            return Err(TransactionError::Other {
                found: hash,
                expected: expected.1,
            });
        }
        let transaction: Transaction = root.parse().map_err(TransactionError::Read)?;
        if (transaction.account, transaction.lt) != (address.address, expected.0) {
            return Err(TransactionError::Account {
                found: transaction.account,
            });
        }
        expected = (transaction.prev_trans_lt, transaction.prev_trans_hash);
        found.push(Proved { hash, transaction });
    }
    Ok(found)
}

/// Why transactions are not proved.
#[derive(Debug, thiserror::Error)]
pub enum TransactionError {
    /// Of another account, or of another time.
    #[error("a transaction of account {found}")]
    Account {
        /// As read.
        found: HashBytes,
    },
    /// Not cells.
    #[error("the transactions cannot be decoded")]
    Bag(#[source] BagError),
    /// Another transaction.
    #[error("the transaction is {found}, expected {expected}")]
    Other {
        /// As read.
        found: HashBytes,
        /// As the one after names it.
        expected: HashBytes,
    },
    /// Not a transaction.
    #[error("not a transaction: {0}")]
    Read(Error),
}

/// What liteservers give at once.
pub const MOST: usize = 16;

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    use tycho_types::boc::Boc;
    use tycho_types::cell::{Cell, CellBuilder, Lazy};
    use tycho_types::dict::Dict;
    use tycho_types::models::{
        AccountStatus, ComputePhase, ComputePhaseSkipReason, CurrencyCollection, HashUpdate,
        OrdinaryTxInfo, SkippedComputePhase, TxInfo,
    };

    #[test]
    fn a_transaction_counts_for_its_own_account_and_time_alone() {
        let cell = transaction();
        let bytes = Boc::encode(&cell);
        let last = |lt| (lt, *cell.repr_hash());
        let of = |byte| StdAddr::new(0, HashBytes([byte; 32]));
        let found = check(&of(7), last(5), &bytes).unwrap();
        assert_eq!(found.first().unwrap().hash, *cell.repr_hash());
        for (account, lt) in [(8, 5), (7, 6)] {
            let error = check(&of(account), last(lt), &bytes).unwrap_err();
            let TransactionError::Account { found } = error else {
                unreachable!("{error}")
            };
            assert_eq!(found, HashBytes([7; 32]));
        }
    }

    /// Of account 7 at time 5, in which nothing was done.
    fn transaction() -> Cell {
        let info = OrdinaryTxInfo {
            credit_first: false,
            storage_phase: None,
            credit_phase: None,
            compute_phase: ComputePhase::Skipped(SkippedComputePhase {
                reason: ComputePhaseSkipReason::NoState,
            }),
            action_phase: None,
            aborted: true,
            bounce_phase: None,
            destroyed: false,
        };
        CellBuilder::build_from(Transaction {
            account: HashBytes([7; 32]),
            lt: 5,
            prev_trans_hash: HashBytes::ZERO,
            prev_trans_lt: 0,
            now: 1,
            out_msg_count: Default::default(),
            orig_status: AccountStatus::Uninit,
            end_status: AccountStatus::Uninit,
            in_msg: None,
            out_msgs: Dict::new(),
            total_fees: CurrencyCollection::ZERO,
            state_update: Lazy::new(&HashUpdate {
                old: HashBytes::ZERO,
                new: HashBytes::ZERO,
            })
            .unwrap(),
            info: Lazy::new(&TxInfo::Ordinary(info)).unwrap(),
        })
        .unwrap()
    }
}
