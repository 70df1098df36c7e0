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
