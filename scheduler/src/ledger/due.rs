//! What is worth a message to the chain, or a look at it.
//!
//! A claim costs the same for one request as for a million, so clients' vouchers are claimed
//! when enough has come together, or when a Channel is about to end. What was paid to
//! workers is reported to the Market that counts it when the share for whoever reports pays
//! for that.

use std::cmp::Reverse;

use contracts::channel::STORAGE_RESERVE;
use contracts::reports::epoch;
use contracts::voucher::{Signed, Voucher};
use tycho_types::cell::HashBytes;
use tycho_types::models::StdAddr;

use super::account::{Account, MARGIN};
use super::operation::Said;
use super::rows::{Book, Side};
use super::store::{Connection, StoreError};
use super::{Failed, Identity, Ledger};

/// Something to do on the chain.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Due {
    /// To be paid what a client has signed for.
    Claim(Box<Signed>),
    /// To see whether its payer has begun to close it.
    Look(StdAddr),
    /// To have it counted what a worker's Channel has paid.
    Report(StdAddr),
}

/// What messages cost, all that follows from them included, in nanotons.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Costs {
    /// Of a claim.
    pub claim: u64,
    /// Of a report.
    pub report: u64,
}

impl Default for Costs {
    /// At the network's prices of 2026, with what the wallets take that send and are paid;
    /// `tests/settlement.rs` measures it.
    fn default() -> Self {
        Self {
            claim: 1_300_000,
            report: 2_300_000,
        }
    }
}

impl Ledger {
    /// What to do now, for every Channel at most one thing: what cannot wait first, then
    /// what is worth most.
    pub async fn due(&self, costs: Costs, now: u32) -> Result<Vec<Due>, StoreError> {
        let global_id = self.identity.global_id;
        let books = self.store.ask(move |open| Book::all(open, global_id));
        let mut books = books.await?;
        books.sort_by_key(|book| book.account.rank(now));
        let due = books.iter().filter_map(|book| book.due(costs, now));
        Ok(due.collect())
    }

    /// Every Channel, by its side.
    pub async fn accounts(&self) -> Result<Vec<(Side, Account)>, StoreError> {
        let global_id = self.identity.global_id;
        let books = self.store.ask(move |open| Book::all(open, global_id));
        let books = books.await?.into_iter();
        Ok(books.map(|book| (book.side, book.account)).collect())
    }

    /// One of them.
    pub async fn account(&self, channel: HashBytes) -> Result<Option<(Side, Account)>, StoreError> {
        let global_id = self.identity.global_id;
        let book = self
            .store
            .ask(move |open| Book::lock(open, global_id, &channel));
        Ok(book.await?.map(|book| (book.side, book.account)))
    }

    /// A worker's newest voucher with the head over all receipts so far, worth the same, so
    /// that they are under what is reported.
    pub async fn commit(&self, worker: HashBytes, now: u32) -> Result<Signed, Failed<CommitError>> {
        self.ask(move |open, identity| commit(open, identity, &worker, now))
            .await
    }
}

impl Book {
    fn due(&self, costs: Costs, now: u32) -> Option<Due> {
        match self.side {
            Side::Client => self.claim(costs, now),
            Side::Worker => self.report(costs, now),
        }
    }

    fn claim(&self, costs: Costs, now: u32) -> Option<Due> {
        let account = &self.account;
        if now >= account.channel.state.ends {
            return None;
        }
        let unclaimed = account.unclaimed();
        if account.seen.saturating_add(LOOK) <= now && unclaimed > 0 {
            return Some(Due::Look(account.channel.address.clone()));
        }
        let least = match account.cannot_wait(now) {
            true => costs.claim,
            false => costs.claim.saturating_mul(WORTH),
        };
        let signed = self.signed.clone().filter(|_| unclaimed > least)?;
        Some(Due::Claim(Box::new(signed)))
    }

    fn report(&self, costs: Costs, now: u32) -> Option<Due> {
        let channel = &self.account.channel;
        let more = channel.state.paid > channel.state.reported;
        let share = channel.state.held.saturating_sub(STORAGE_RESERVE) / 2;
        let pays = more && share >= costs.report && now < channel.terms.until;
        pays.then(|| Due::Report(channel.address.clone()))
    }
}

impl Account {
    fn is_closing(&self) -> bool {
        self.channel.state.ends < self.channel.terms.until
    }

    fn cannot_wait(&self, now: u32) -> bool {
        let ends = self.channel.state.ends;
        self.is_closing() || now >= ends.saturating_sub(MARGIN)
    }

    fn rank(&self, now: u32) -> (u32, Reverse<u64>) {
        let ends = self.channel.state.ends;
        let ends = if self.cannot_wait(now) {
            ends
        } else {
            u32::MAX
        };
        (ends, Reverse(self.unclaimed()))
    }
}

fn commit(
    connection: &mut dyn Connection,
    identity: &Identity,
    worker: &HashBytes,
    now: u32,
) -> Said<Signed, CommitError> {
    let book = Book::lock(connection, identity.global_id, worker)?;
    let Some(mut book) = book.filter(|book| book.side == Side::Worker) else {
        return Ok(Err(CommitError::Unknown));
    };
    let head = book.tree.head();
    if let Some(newest) = &book.signed
        && book.account.voucher.receipts == head
    {
        return Ok(Ok(newest.clone()));
    }
    let signed = identity.sign(&Voucher {
        receipts: head,
        epoch: epoch(now).max(book.account.voucher.epoch),
        ..book.account.voucher.clone()
    })?;
    book.signed = Some(signed.clone());
    book.update(connection)?;
    Ok(Ok(signed))
}

/// Why nothing is committed to.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CommitError {
    /// Nobody has shown this Channel.
    #[error("the ledger knows no such Channel of a worker's")]
    Unknown,
}

/// Seconds after which a Channel is looked at again: half of what is left to claim in, once
/// nobody is served out of it any more.
pub(super) const LOOK: u32 = MARGIN / 2;

/// So many times its cost is a claim worth: a hundredth goes to the chain.
const WORTH: u64 = 100;
