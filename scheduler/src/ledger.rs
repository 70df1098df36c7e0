//! Accounts: what clients have signed for, what workers are owed, and that the one covers
//! the other at every moment.
//!
//! Two Channels carry each request, from its client to the scheduler and from the scheduler
//! to the worker's owner ([`account`]). [`Ledger::admit`] reserves in both and signs the
//! worker's voucher; [`Ledger::settle`] charges the client and pays the worker by the
//! worker's receipt ([`receipts`]), [`Ledger::release`] by nothing. What has come together is
//! claimed from the chain by a [`Settler`](crate::settler::Settler).
//!
//! Every call is one transaction, durable when it returns, and done twice no more than once:
//! after an error of the [`store`](StoreError) it is called again. Vouchers and receipts are kept
//! as they were signed, and [`Ledger::audit`] computes all else from them: whoever can write
//! to the database can lose what is in it, and make up nothing.
//!
//! It does not establish that a Channel is on the chain, nor whose a receipt key is: whoever
//! calls proves both first.

pub mod account;
mod audit;
#[cfg(test)]
mod cluster;
mod due;
mod endings;
#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a panic is a failure")]
mod fixture;
mod operation;
mod postgres;
pub mod receipts;
mod records;
mod requests;
mod rows;
mod sqlite;
mod store;
#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a panic is a failure")]
mod tests;
mod turn;
mod usage;

use std::error::Error;
use std::sync::Arc;

use chain::wallet::Key;
use contracts::channel::{Channel, Terms};
use contracts::voucher::{Signed, Voucher};
use tycho_types::cell::HashBytes;
use tycho_types::models::StdAddr;

use self::account::{AdmitError, MARGIN, Order, Standing, Sum};
use self::operation::Said;
use self::receipts::{Served, SettleError};
use self::store::{Connection, Engine, Store};

pub use self::audit::Flaw;
pub use self::due::{CommitError, Costs, Due};
pub use self::endings::Told;
pub use self::requests::{Asked, RequestKey, Unended};
pub use self::rows::Side;
pub use self::store::StoreError;
pub use self::usage::{Proof, Usage};

/// The books of one scheduler, or of several that share them.
#[derive(Clone, Debug)]
pub struct Ledger {
    store: Store,
    identity: Arc<Identity>,
}

/// Whose books they are.
#[derive(Clone, Debug)]
pub struct Identity {
    /// Signs vouchers for workers.
    pub key: Key,
    /// What clients pay to.
    pub payee: StdAddr,
    /// The network of all Channels.
    pub global_id: i32,
}

/// A request may be served.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Admission {
    /// For the worker; it lasts before anyone has it.
    pub voucher: Signed,
}

impl Ledger {
    /// Opens `sqlite:PATH` or `postgres://…`, makes the tables where there are none, and
    /// audits all that is there.
    pub async fn open(url: &str, identity: Identity) -> Result<Self, OpenError> {
        if let Some(path) = url.strip_prefix("sqlite:") {
            return Self::over(sqlite::Sqlite(path.into()), identity).await;
        }
        let config: ::postgres::Config = url.parse().map_err(OpenError::Url)?;
        Self::over(config, identity).await
    }

    async fn over(engine: impl Engine, identity: Identity) -> Result<Self, OpenError> {
        // Connecting blocks, and a synchronous client has a runtime of its own.
        let store = tokio::task::spawn_blocking(|| Store::new(engine)).await;
        let ledger = Self {
            store: store.map_err(|_| StoreError::Gone)??,
            identity: Arc::new(identity),
        };
        let bytes = ledger.identity.bytes();
        let is_ours = ledger.store.ask(move |open| rows::prepare(open, &bytes));
        if !is_ours.await? {
            return Err(OpenError::Stranger);
        }
        let flaws = ledger.audit().await?;
        match flaws.is_empty() {
            true => Ok(ledger),
            false => Err(OpenError::Flawed(flaws)),
        }
    }

    /// Takes note of a Channel as the chain has it at a moment: its code is the Channel's,
    /// and its state and balance are proved. Says who pays in it.
    pub async fn observe(
        &self,
        channel: Channel,
        balance: u64,
        now: u32,
    ) -> Result<Side, Failed<ObserveError>> {
        self.ask(move |open, identity| operation::observe(open, identity, &channel, balance, now))
            .await
    }

    /// Reserves what a request may cost, before its worker hears of it. The client's newest
    /// voucher may come with it. Whoever asks with another [attempt](Asked::attempt) is refused
    /// as [repeated](AdmitError::Repeated).
    pub async fn admit(
        &self,
        asked: Asked,
        order: Order,
        signed: Option<Signed>,
        now: u32,
    ) -> Result<Admission, Failed<AdmitError>> {
        self.ask(move |open, identity| {
            operation::admit(open, identity, &asked, &order, signed.as_ref(), now)
        })
        .await
    }

    /// Charges and pays for what a receipt shows. Says how much that was.
    pub async fn settle(
        &self,
        key: RequestKey,
        served: Served,
        now: u32,
    ) -> Result<Sum, Failed<SettleError>> {
        self.ask(move |open, identity| operation::settle(open, identity, key, &served, now))
            .await
    }

    /// Ends a request without a receipt. No receipt counts for it after that, so only when
    /// none can come any more.
    pub async fn release(&self, key: RequestKey) -> Result<(), Failed<SettleError>> {
        self.ask(move |open, identity| operation::release(open, identity, key))
            .await
    }

    /// Releases what was admitted before a moment and has not ended: of a scheduler that
    /// died, once the longest deadline is over. Says how many these were.
    pub async fn expire(&self, before: u32) -> Result<usize, StoreError> {
        let mut expired = 0_usize;
        loop {
            let old = self
                .store
                .ask(move |open| requests::Request::old(open, before));
            let old = old.await?;
            if old.is_empty() {
                return Ok(expired);
            }
            for request in old {
                match self.release(request.key).await {
                    Ok(()) => expired = expired.saturating_add(1),
                    // Its receipt came meanwhile.
                    Err(Failed::Refused(_)) => {}
                    Err(Failed::Store(error)) => return Err(error),
                }
            }
        }
    }

    /// What was admitted before a moment and has not ended, by whatever scheduler; of a great
    /// many the oldest.
    pub async fn unended(&self, before: u32) -> Result<Vec<Unended>, StoreError> {
        self.store
            .ask(move |open| Unended::before(open, before))
            .await
    }

    /// Takes a client's newer voucher; says how the client stands.
    pub async fn voucher(
        &self,
        client: HashBytes,
        signed: Signed,
        now: u32,
    ) -> Result<Standing, Failed<AdmitError>> {
        self.ask(move |open, identity| operation::voucher(open, identity, &client, &signed, now))
            .await
    }

    async fn ask<T: Send + 'static, E: Error + Send + 'static>(
        &self,
        mut work: impl FnMut(&mut dyn Connection, &Identity) -> Said<T, E> + Send + 'static,
    ) -> Result<T, Failed<E>> {
        let identity = Arc::clone(&self.identity);
        let said = self.store.ask(move |open| work(open, &identity)).await?;
        said.map_err(Failed::Refused)
    }
}

impl Identity {
    /// Who pays in a Channel, if it is one that the scheduler can use.
    fn side(&self, terms: &Terms) -> Result<Side, ObserveError> {
        if terms.payee == self.payee {
            // Workers' Channels are those that a Market counts; a share of this one would be
            // missing when they are paid.
            if terms.fee > 0 {
                return Err(ObserveError::Fee { found: terms.fee });
            }
            // What is claimed after the payer began to close is claimed in this time.
            return match terms.delay >= MARGIN.saturating_mul(2) {
                true => Ok(Side::Client),
                false => Err(ObserveError::Delay { found: terms.delay }),
            };
        }
        match terms.key == self.key.public() {
            true => Ok(Side::Worker),
            false => Err(ObserveError::Stranger),
        }
    }

    fn sign(&self, voucher: &Voucher) -> Result<Signed, StoreError> {
        let hash = voucher.hash().map_err(|_| StoreError::Column)?;
        let signature = self.key.sign(&HashBytes(hash));
        voucher.signed(signature).map_err(|_| StoreError::Column)
    }

    fn bytes(&self) -> Vec<u8> {
        let mut bytes = self.key.public().0.to_vec();
        bytes.extend(self.payee.address.0);
        bytes.extend(self.global_id.to_be_bytes());
        bytes
    }
}

/// Why an operation was not done.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Failed<E: Error + 'static> {
    /// Nothing has changed, and it would be the same again.
    #[error("the ledger refuses")]
    Refused(#[source] E),
    /// It may have been done: ask again.
    #[error("the ledger cannot tell")]
    Store(#[from] StoreError),
}

/// Why a Channel is of no use.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ObserveError {
    /// A payer could close it before a voucher is claimed.
    #[error("the Channel may be closed within {found} seconds, too soon to claim")]
    Delay {
        /// As agreed.
        found: u32,
    },
    /// Less would come than is signed for.
    #[error("of the Channel's payments {found} in a thousand are held back, expected none")]
    Fee {
        /// As agreed.
        found: u16,
    },
    /// Neither to the payee nor by the key.
    #[error("the scheduler neither pays nor is paid in the Channel")]
    Stranger,
}

/// Why there are no books to go on with.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Somebody changed them.
    #[error("the books do not follow from what was signed: {0:?}")]
    Flawed(Vec<Flaw>),
    /// The database failed.
    #[error("the books cannot be opened")]
    Store(#[from] StoreError),
    /// Of another key, payee or network, or by another version.
    #[error("these are the books of another scheduler, or of another version")]
    Stranger,
    /// Neither SQLite nor PostgreSQL.
    #[error("neither sqlite:PATH nor a URL of PostgreSQL")]
    Url(#[source] ::postgres::Error),
}
