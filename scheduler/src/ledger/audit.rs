//! Everything computed anew from what others have signed.
//!
//! One Channel at a time, in a transaction that keeps its row, so nothing moves meanwhile;
//! other Channels go on.

use contracts::voucher::Voucher;
use tycho_types::cell::HashBytes;

use super::account::Sum;
use super::receipts::Tree;
use super::requests::{Request, Stage};
use super::rows::{Book, Kept, Side};
use super::store::{Connection, StoreError};
use super::{Identity, Ledger};

/// Something in the books that does not follow from what was signed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Flaw {
    /// A client was charged for nothing.
    #[error("request {id:02x?} is settled, and there is no receipt for it")]
    Missing {
        /// Of the envelope.
        id: [u8; 16],
    },
    /// A receipt is forged, for something else, or out of its place.
    #[error("receipt {position} of Channel {channel} is not what its worker signed for it")]
    Receipt {
        /// Of the worker's owner.
        channel: HashBytes,
        /// In its tree.
        position: u64,
    },
    /// Open requests say something else.
    #[error("Channel {channel} has {found:?} reserved, and its open requests {expected:?}")]
    Reserved {
        /// Which one.
        channel: HashBytes,
        /// In its row.
        found: Sum,
        /// In those of its requests.
        expected: Sum,
    },
    /// Receipts say something else.
    #[error("Channel {channel} has {found:?} spent, and its receipts {expected:?}")]
    Spent {
        /// Which one.
        channel: HashBytes,
        /// In its row.
        found: Sum,
        /// In those of its receipts.
        expected: Sum,
    },
    /// Receipts make another tree.
    #[error("the tree of Channel {channel} is not that over its receipts")]
    Tree {
        /// Of the worker's owner.
        channel: HashBytes,
    },
    /// Its payer did not sign it, or it covers less than what was admitted.
    #[error("the voucher of Channel {channel} is not its payer's, or covers too little")]
    Voucher {
        /// Which one.
        channel: HashBytes,
    },
}

impl Ledger {
    /// All flaws there are.
    pub async fn audit(&self) -> Result<Vec<Flaw>, StoreError> {
        let global_id = self.identity.global_id;
        let books = self
            .store
            .ask(move |open| Book::all(open, global_id))
            .await?;
        let mut flaws = Vec::new();
        for book in books {
            let (identity, address) = (self.identity.clone(), *book.address());
            let found = self.store.ask(move |open| audit(open, &identity, &address));
            flaws.extend(found.await?);
        }
        Ok(flaws)
    }
}

fn audit(
    connection: &mut dyn Connection,
    identity: &Identity,
    channel: &HashBytes,
) -> Result<Vec<Flaw>, StoreError> {
    let book = Book::lock(connection, identity.global_id, channel)?;
    let book = book.ok_or(StoreError::Column)?;
    let (account, channel) = (&book.account, *channel);
    let mut flaws = Vec::new();
    if !is_covered(&book, identity.global_id) {
        flaws.push(Flaw::Voucher { channel });
    }
    let (spent, reserved) = match book.side {
        Side::Client => of_client(connection, &channel, &mut flaws)?,
        Side::Worker => {
            let (spent, tree) = receipts(connection, identity, &channel, &mut flaws)?;
            if tree != book.tree {
                flaws.push(Flaw::Tree { channel });
            }
            let open = Request::open_of_worker(connection, &channel)?;
            let reserved = open.iter().try_fold(Sum::default(), |sum, request| {
                let order = request.order();
                sum.plus(order.owed(order.limit)?)
            });
            (spent, reserved.ok_or(StoreError::Column)?)
        }
    };
    if reserved != account.reserved {
        flaws.push(Flaw::Reserved {
            channel,
            found: account.reserved,
            expected: reserved,
        });
    }
    if spent != account.spent {
        flaws.push(Flaw::Spent {
            channel,
            found: account.spent,
            expected: spent,
        });
    }
    Ok(flaws)
}

fn is_covered(book: &Book, global_id: i32) -> bool {
    let account = &book.account;
    let channel = &account.channel;
    let newest = match &book.signed {
        Some(signed) => signed.verify(&channel.terms.key).ok(),
        None => Some(Voucher::first(global_id, channel.address.clone())),
    };
    let taken = account.spent.plus(account.reserved);
    newest.zip(taken).is_some_and(|(voucher, taken)| {
        voucher.channel == channel.address
            && voucher.global_id == global_id
            && voucher.keeps_its_cap()
            && taken.amount <= voucher.amount
    })
}

/// What a client has spent and what is reserved for it, by its requests and their receipts.
fn of_client(
    connection: &mut dyn Connection,
    client: &HashBytes,
    flaws: &mut Vec<Flaw>,
) -> Result<(Sum, Sum), StoreError> {
    let (mut spent, mut reserved) = (Sum::default(), Sum::default());
    let mut last = None;
    loop {
        let requests = Request::after(connection, client, last)?;
        let Some(newest) = requests.last() else {
            return Ok((spent, reserved));
        };
        last = Some(newest.key.id);
        for request in &requests {
            let order = request.order();
            match request.stage {
                Stage::Open => reserved = add(reserved, order.used(order.limit))?,
                Stage::Released => {}
                Stage::Settled => match Kept::find(connection, &request.key)? {
                    Some(kept) => {
                        let work = kept.served.receipt.work.load();
                        let tokens = work.map_err(|_| StoreError::Column)?.tokens();
                        spent = add(spent, order.used(tokens))?;
                    }
                    None => flaws.push(Flaw::Missing { id: request.key.id }),
                },
            }
        }
    }
}

/// What a worker has earned, and the tree over its receipts, each of which is checked.
fn receipts(
    connection: &mut dyn Connection,
    identity: &Identity,
    worker: &HashBytes,
    flaws: &mut Vec<Flaw>,
) -> Result<(Sum, Tree), StoreError> {
    let (mut spent, mut tree) = (Sum::default(), Tree::default());
    loop {
        let receipts = Kept::from(connection, worker, tree.size)?;
        if receipts.is_empty() {
            return Ok((spent, tree));
        }
        for kept in receipts {
            let request = Request::find(connection, &kept.key)?;
            let request = request.filter(|request| {
                request.stage == Stage::Settled
                    && request.worker == *worker
                    && kept.position == tree.size
            });
            let checked = request.and_then(|request| {
                let order = request.order();
                let checked = kept.served.check(identity.global_id, worker, &order);
                let (tokens, hash) = checked.ok()?;
                order.owed(tokens).filter(|_| hash == kept.hash)
            });
            match checked {
                Some(used) => spent = add(spent, Some(used))?,
                None => flaws.push(Flaw::Receipt {
                    channel: *worker,
                    position: kept.position,
                }),
            }
            if kept.position != tree.size {
                return Ok((spent, tree));
            }
            tree = tree.with(&kept.hash);
        }
    }
}

fn add(sum: Sum, more: Option<Sum>) -> Result<Sum, StoreError> {
    more.and_then(|more| sum.plus(more))
        .ok_or(StoreError::Column)
}
