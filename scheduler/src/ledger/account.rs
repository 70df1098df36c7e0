//! The book of one Channel, and what a request does to two of them.
//!
//! In nanotons since a Channel began, always:
//!
//! ```text
//! spent + reserved <= vouchered <= funds
//! ```
//!
//! `funds` is what the chain has paid out of it and can still pay, `vouchered` what the
//! payer has signed for, `reserved` what requests may cost that are not settled yet. Each
//! request is in two books, its client's at the price and its worker's at the ask, for the
//! same tokens: what clients have spent is what workers have earned, and the scheduler's fee.
//!
//! Vouchers are prepaid and cannot be taken back. What a worker holds beyond what it has
//! earned pays for its next requests, and is at most its exposure, or one request's cost
//! where that is more: so much is lost if it vanishes.
//!
//! Pure: no clock, no key, no file. Who signed what is established elsewhere.

use contracts::channel::{At, Channel, Refusal};
use contracts::reports::epoch;
use contracts::voucher::{Signed, Voucher, cost, least_tokens};
use tycho_types::cell::HashBytes;

/// One Channel's.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Account {
    /// As the chain has it.
    pub channel: Channel,
    /// With so much, of which the Channel holds something back.
    pub balance: u64,
    /// When that was so, in unix seconds.
    pub seen: u32,
    /// The newest that its payer signed.
    pub voucher: Voucher,
    /// What receipts show.
    pub spent: Sum,
    /// What open requests may still cost.
    pub reserved: Sum,
}

/// Nanotons, and the tokens they are for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Sum {
    /// In nanotons.
    pub amount: u64,
    /// Prompt and completion.
    pub tokens: u64,
}

/// How a payer stands, in nanotons: what it needs to know to sign for more.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Standing {
    /// What a further request may cost.
    pub free: u64,
    /// What receipts show.
    pub spent: u64,
    /// What open requests may still cost.
    pub reserved: u64,
}

/// What a request may cost at most.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Order {
    /// Tokens, prompt and completion.
    pub limit: u64,
    /// Nanotons for a million of them, from the client.
    pub price: u64,
    /// The same, to the worker's owner: no more than that.
    pub ask: u64,
    /// How much the worker may hold that no receipt shows.
    pub exposure: u64,
    /// What the worker says it has earned beyond this book: by receipts whose scheduler died
    /// before it wrote them down. It counts as exposure.
    pub unseen: u64,
}

impl Account {
    /// Of a Channel of which nothing was ever used.
    #[must_use]
    pub fn new(channel: Channel, balance: u64, global_id: i32, seen: u32) -> Self {
        Self {
            voucher: Voucher::first(global_id, channel.address.clone()),
            channel,
            balance,
            seen,
            spent: Sum::default(),
            reserved: Sum::default(),
        }
    }

    /// What the Channel has paid and can still pay, less what storing it takes.
    #[must_use]
    pub fn funds(&self) -> u64 {
        let left = self.channel.funds(self.balance).saturating_sub(STORAGE);
        self.channel.state.paid.saturating_add(left)
    }

    /// What a further request may cost.
    #[must_use]
    pub fn free(&self) -> u64 {
        let covered = self.voucher.amount.min(self.funds());
        let taken = self.spent.amount.saturating_add(self.reserved.amount);
        covered.saturating_sub(taken)
    }

    /// The same, and what is taken.
    #[must_use]
    pub fn standing(&self) -> Standing {
        Standing {
            free: self.free(),
            spent: self.spent.amount,
            reserved: self.reserved.amount,
        }
    }

    /// What a claim would bring.
    #[must_use]
    pub fn unclaimed(&self) -> u64 {
        let covered = self.voucher.amount.min(self.funds());
        covered.saturating_sub(self.channel.state.paid)
    }

    /// Takes a voucher of the payer's, if the Channel would pay all of it. One that allows
    /// no more than the newest changes nothing: requests overtake each other.
    pub fn receive(&mut self, signed: &Signed, now: u32) -> Result<bool, VoucherError> {
        let at = At {
            now,
            global_id: self.voucher.global_id,
            balance: self.balance,
        };
        if let Some(ends) = too_soon(self.may_end(), now) {
            return Err(VoucherError::Ended { ends });
        }
        let voucher = signed
            .verify(&self.channel.terms.key)
            .map_err(Refusal::from)?;
        let newest = (self.voucher.amount, self.voucher.cap);
        if (voucher.amount, voucher.cap) <= newest && voucher.channel == self.channel.address {
            return Ok(false);
        }
        match self.channel.clone().claim(&at, signed) {
            // A higher cap alone, and all was claimed.
            Err(Refusal::Nothing) if voucher.amount == self.voucher.amount => {}
            outcome => drop(outcome?),
        }
        if voucher.amount > self.funds() {
            return Err(VoucherError::Funds {
                amount: voucher.amount,
                funds: self.funds(),
            });
        }
        self.voucher = voucher;
        Ok(true)
    }

    /// When it ends, or would if its payer had begun to close it just after it was seen.
    fn may_end(&self) -> u32 {
        let closed = self.seen.saturating_add(self.channel.terms.delay);
        self.channel.state.ends.min(closed)
    }

    fn reserve(&mut self, most: Sum) -> Option<()> {
        self.reserved = self.reserved.plus(most)?;
        Some(())
    }

    fn settle(&mut self, most: Sum, used: Sum) -> Option<()> {
        self.reserved = self.reserved.minus(most)?;
        self.spent = self.spent.plus(used)?;
        Some(())
    }
}

/// Reserves what a request may cost in both books, and says what the scheduler has to have
/// signed for the worker, whose receipts so far have that head.
pub fn admit(
    client: &mut Account,
    worker: &mut Account,
    order: &Order,
    receipts: HashBytes,
    now: u32,
) -> Result<Voucher, AdmitError> {
    if order.limit > MOST_TOKENS || i64::try_from(order.price).is_err() {
        return Err(AdmitError::Overflow);
    }
    if order.ask > order.price {
        return Err(AdmitError::Loss {
            price: order.price,
            ask: order.ask,
        });
    }
    let most = order.used(order.limit).ok_or(AdmitError::Overflow)?;
    let owed = order.owed(order.limit).ok_or(AdmitError::Overflow)?;
    if let Some(ends) = too_soon(client.may_end(), now) {
        return Err(AdmitError::ClientEnds { ends });
    }
    // The scheduler knows whether it closes, and an owner who does harms nobody else.
    if let Some(ends) = too_soon(worker.channel.state.ends, now) {
        return Err(AdmitError::WorkerEnds { ends });
    }
    if most.amount > client.free() {
        return Err(AdmitError::NotCovered {
            needed: most.amount,
            standing: client.standing(),
        });
    }
    if order.price > client.voucher.cap {
        return Err(AdmitError::Price {
            found: order.price,
            cap: client.voucher.cap,
        });
    }
    let voucher = prepaid(worker, order, owed, receipts, now)?;
    client.reserve(most).ok_or(AdmitError::Overflow)?;
    worker.reserve(owed).ok_or(AdmitError::Overflow)?;
    worker.voucher = voucher.clone();
    Ok(voucher)
}

/// An end that leaves no time to serve, and to claim afterwards.
fn too_soon(ends: u32, now: u32) -> Option<u32> {
    (now >= ends.saturating_sub(MARGIN)).then_some(ends)
}

/// The newest voucher for a worker, or a newer one that also covers a request.
fn prepaid(
    worker: &Account,
    order: &Order,
    owed: Sum,
    receipts: HashBytes,
    now: u32,
) -> Result<Voucher, AdmitError> {
    let taken = worker.spent.plus(worker.reserved);
    let taken = taken.and_then(|taken| taken.plus(owed));
    let taken = taken.ok_or(AdmitError::Overflow)?;
    let amount = taken.amount.checked_add(order.unseen);
    let amount = amount.ok_or(AdmitError::Overflow)?;
    if amount <= worker.voucher.amount && order.ask <= worker.voucher.cap {
        return Ok(worker.voucher.clone());
    }
    let amount = amount.max(worker.voucher.amount);
    let out = amount.saturating_sub(worker.spent.amount);
    let allowed = order.exposure.max(owed.amount);
    if out > allowed && amount > worker.voucher.amount {
        return Err(AdmitError::Exposed { out, allowed });
    }
    if amount > worker.funds() {
        return Err(AdmitError::Unfunded {
            amount,
            funds: worker.funds(),
        });
    }
    let cap = worker.voucher.cap.max(order.ask);
    let enough = least_tokens(amount, cap).ok_or(AdmitError::Overflow)?;
    Ok(Voucher {
        epoch: epoch(now).max(worker.voucher.epoch),
        cap,
        amount,
        tokens: taken.tokens.max(worker.voucher.tokens).max(enough),
        receipts,
        ..worker.voucher.clone()
    })
}

/// A request is done, for so many tokens: of a receipt, or for none. Says what it cost.
pub fn settle(
    client: &mut Account,
    worker: &mut Account,
    order: &Order,
    tokens: u64,
) -> Option<Sum> {
    let used = order.used(tokens)?;
    client.settle(order.used(order.limit)?, used)?;
    worker.settle(order.owed(order.limit)?, order.owed(tokens)?)?;
    Some(used)
}

impl Order {
    /// What so many tokens cost the client. `None` where that has no place in a voucher.
    #[must_use]
    pub fn used(&self, tokens: u64) -> Option<Sum> {
        let amount = cost(tokens, self.price)?;
        Some(Sum { amount, tokens })
    }

    /// What the worker's owner gets for them.
    #[must_use]
    pub fn owed(&self, tokens: u64) -> Option<Sum> {
        let amount = cost(tokens, self.ask)?;
        Some(Sum { amount, tokens })
    }
}

impl Sum {
    /// Both together.
    #[must_use]
    pub fn plus(self, other: Self) -> Option<Self> {
        Some(Self {
            amount: self.amount.checked_add(other.amount)?,
            tokens: self.tokens.checked_add(other.tokens)?,
        })
    }

    fn minus(self, other: Self) -> Option<Self> {
        Some(Self {
            amount: self.amount.checked_sub(other.amount)?,
            tokens: self.tokens.checked_sub(other.tokens)?,
        })
    }
}

/// Why a client's voucher is not taken.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum VoucherError {
    /// There would be no time to claim it.
    #[error("the client's Channel may end at {ends}, too soon to serve and to claim")]
    Ended {
        /// Unix seconds.
        ends: u32,
    },
    /// More than the Channel has.
    #[error("the voucher is for {amount}, but its Channel has had {funds} that can be claimed")]
    Funds {
        /// Of the voucher.
        amount: u64,
        /// Paid, and left, but for storage.
        funds: u64,
    },
    /// The contract would not pay it.
    #[error("the client's Channel would not pay the voucher")]
    Refused(#[from] Refusal),
}

/// Why a request is not served.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum AdmitError {
    /// There would be no time to claim what it costs.
    #[error("the client's Channel may end at {ends}, too soon to serve and to claim")]
    ClientEnds {
        /// Unix seconds.
        ends: u32,
    },
    /// The worker would hold too much that no receipt shows.
    #[error("the worker would hold {out} that it has not earned, and may hold {allowed}")]
    Exposed {
        /// With this request.
        out: u64,
        /// The exposure, or the request's cost.
        allowed: u64,
    },
    /// Nobody would pay the difference.
    #[error("the price is {price}, and the worker asks for {ask}")]
    Loss {
        /// Of the request.
        price: u64,
        /// Of its worker.
        ask: u64,
    },
    /// What the client has signed for is used up.
    #[error("the request may cost {needed}, and the client's vouchers cover {} more", standing.free)]
    NotCovered {
        /// For the limit at the price.
        needed: u64,
        /// The client's.
        standing: Standing,
    },
    /// No such numbers.
    #[error("more than a receipt, a voucher or the books have place for")]
    Overflow,
    /// More than the payer pays.
    #[error("the price is {found}, and the client's voucher allows {cap}")]
    Price {
        /// Of the request.
        found: u64,
        /// Of the newest voucher.
        cap: u64,
    },
    /// An identifier has one meaning.
    #[error("the identifier was used before")]
    Repeated,
    /// What came with the request is no newer voucher, and the newest does not cover it.
    #[error("the voucher is for {found}, no more than the newest, which is for {newest}")]
    Stale {
        /// As it came.
        found: u64,
        /// As it is known.
        newest: u64,
        /// The client's.
        standing: Standing,
    },
    /// Nobody has shown this Channel.
    #[error("the ledger knows no such Channel on this side")]
    Unknown,
    /// The scheduler has to put more in.
    #[error("the worker's voucher would be for {amount}, but its Channel has had {funds}")]
    Unfunded {
        /// Of the next voucher.
        amount: u64,
        /// Paid, and left, but for storage.
        funds: u64,
    },
    /// What came with it is no voucher to serve for.
    #[error("the request's voucher is not taken")]
    Voucher(#[from] VoucherError),
    /// There would be no time for the owner to claim what it costs.
    #[error("the worker's Channel ends at {ends}, too soon to serve and to claim")]
    WorkerEnds {
        /// Unix seconds.
        ends: u32,
    },
}

/// Seconds before the end of a Channel in which nobody is served out of it, so that what
/// was served can be claimed.
pub const MARGIN: u32 = 1800;

/// What a receipt has place for.
const MOST_TOKENS: u64 = 0x1_ffff_fffe;

/// What a Channel pays for being stored is not there to be claimed: a year's, as measured
/// (`contracts/README.md`).
pub const STORAGE: u64 = 1_200_000;

#[cfg(test)]
#[allow(clippy::arithmetic_side_effects, reason = "a panic is a failure")]
mod tests;
