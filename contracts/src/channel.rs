//! Channel: one payer's deposit for one payee. What the contract keeps and hears, as in
//! `tolk/channel-types.tolk`, and what it would do: payer, payee and watchtower compute
//! it beforehand.
//!
//! Amounts are nanotons, times unix seconds. Fees of the chain are not in it: whoever
//! sends a message pays for what it causes.

use tycho_types::cell::{Cell, CellBuilder, HashBytes, Lazy, Load, Store};
use tycho_types::error::Error;
use tycho_types::models::StdAddr;

use crate::code::{self, Code};
use crate::reports::{Redeemed, epoch};
use crate::voucher::{Forged, Signed, Voucher};

/// One of them, as far as it is known.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Channel {
    /// Where it is: its terms say so.
    pub address: StdAddr,
    /// What was agreed.
    pub terms: Terms,
    /// What it keeps.
    pub state: State,
    first: Lazy<State>,
}

impl Channel {
    /// Of these terms, before anything was paid.
    pub fn new(terms: Terms) -> Result<Self, TermsError> {
        let state = terms.first()?;
        let address = code::address(Code::CHANNEL, &state)?;
        Ok(Self {
            address,
            terms,
            first: Lazy::new(&state)?,
            state,
        })
    }

    /// From what is kept at an address, which it has to be for.
    pub fn load(address: &StdAddr, data: &Cell) -> Result<Self, TermsError> {
        let state = State::load_from(&mut data.as_slice()?)?;
        let first = Self::new(state.terms()?)?;
        match first.address == *address {
            true => Ok(Self { state, ..first }),
            false => Err(TermsError::Address {
                found: address.clone(),
                expected: first.address,
            }),
        }
    }

    /// What a claim pays the payee now.
    pub fn claim(&mut self, at: &At, signed: &Signed) -> Result<u64, Refusal> {
        self.open(at)?;
        let voucher = self.check(at, signed)?;
        let owed = voucher.amount.saturating_sub(self.state.paid);
        let payment = positive(owed.min(self.funds(at.balance)))?;
        let fee = u128::from(payment).saturating_mul(self.terms.fee.into());
        let fee = fee.checked_div(1000).and_then(|fee| fee.try_into().ok());
        let fee: u64 = fee.unwrap_or(payment);
        self.state.paid = self.state.paid.saturating_add(payment);
        self.state.held = self.state.held.saturating_add(fee);
        Ok(payment.saturating_sub(fee))
    }

    /// Whether coins can still be put in.
    pub fn top_up(&self, at: &At) -> Result<(), Refusal> {
        self.open(at)
    }

    /// What ends it, or is due once it has ended.
    pub fn close(&mut self, at: &At, sender: &StdAddr) -> Result<Closed, Refusal> {
        let is_open = self.open(at).is_ok();
        if is_open && *sender != self.terms.payee {
            if *sender != self.terms.payer {
                return Err(Refusal::Sender);
            }
            let ends = at.now.checked_add(self.terms.delay);
            let sooner = ends.filter(|ends| *ends < self.state.ends);
            self.state.ends = sooner.ok_or(Refusal::Closing)?;
            return Ok(Closed::At(self.state.ends));
        }
        self.state.ends = self.state.ends.min(at.now);
        match at.now < self.terms.until {
            true => Ok(Closed::Kept(self.state.held.min(at.balance))),
            false => Ok(Closed::Gone),
        }
    }

    /// What the Market is told by a report.
    pub fn report(
        &mut self,
        at: &At,
        signed: &Signed,
        query_id: u64,
        reporter: &StdAddr,
    ) -> Result<Redeemed, Refusal> {
        let voucher = self.check(at, signed)?;
        let amount = voucher.amount.min(self.state.paid);
        let amount = positive(amount.saturating_sub(self.state.reported))?;
        let tokens = voucher.tokens.saturating_sub(self.state.tokens);
        let fee = self.state.held.saturating_sub(STORAGE_RESERVE);
        self.state.held = STORAGE_RESERVE;
        self.state.reported = self.state.reported.saturating_add(amount);
        self.state.tokens = self.state.tokens.saturating_add(tokens);
        Ok(Redeemed {
            query_id,
            amount,
            tokens,
            fee,
            receipts: voucher.receipts,
            reporter: reporter.clone(),
            first: self.first.clone(),
        })
    }

    /// The Market did not take it.
    pub fn bounced(&mut self, redeemed: &Redeemed) {
        self.state.held = self.state.held.saturating_add(redeemed.fee);
        self.state.reported = self.state.reported.saturating_sub(redeemed.amount);
        self.state.tokens = self.state.tokens.saturating_sub(redeemed.tokens);
    }

    /// What can still be claimed of a balance: a payee serves for no more.
    #[must_use]
    pub const fn funds(&self, balance: u64) -> u64 {
        balance.saturating_sub(self.state.held)
    }

    fn open(&self, at: &At) -> Result<(), Refusal> {
        match at.now < self.state.ends {
            true => Ok(()),
            false => Err(Refusal::Ended),
        }
    }

    fn check(&self, at: &At, signed: &Signed) -> Result<Voucher, Refusal> {
        let voucher = signed.verify(&self.terms.key)?;
        if voucher.channel != self.address || voucher.global_id != at.global_id {
            return Err(Refusal::Target);
        }
        if voucher.epoch > epoch(at.now) {
            return Err(Refusal::Epoch);
        }
        match voucher.keeps_its_cap() {
            true => Ok(voucher),
            false => Err(Refusal::Cap),
        }
    }
}

const fn positive(amount: u64) -> Result<u64, Refusal> {
    match amount {
        0 => Err(Refusal::Nothing),
        _ => Ok(amount),
    }
}

/// When and where a message comes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct At {
    /// Unix seconds.
    pub now: u32,
    /// Of the network.
    pub global_id: i32,
    /// Of the Channel, before the message.
    pub balance: u64,
}

/// What a [`Close`] does.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Closed {
    /// It will end then; until then vouchers count.
    At(u32),
    /// The payer gets all but so much, which stays until the agreed end.
    Kept(u64),
    /// The payer gets all, and the Channel is no more.
    Gone,
}

/// Why the contract refuses.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// The payer's key did not sign that.
    #[error("no voucher of the payer's")]
    Forged(#[from] Forged),
    /// For another Channel or network.
    #[error("the voucher is for another Channel or network")]
    Target,
    /// Of an epoch that has not begun.
    #[error("the voucher's epoch has not begun")]
    Epoch,
    /// More than the payer's highest price for so many tokens.
    #[error("the voucher is for more than its cap allows for its tokens")]
    Cap,
    /// Not more than what was paid or reported, or there is nothing to pay with.
    #[error("the voucher is worth no more than one before it, or the Channel is empty")]
    Nothing,
    /// It has ended.
    #[error("the Channel has ended")]
    Ended,
    /// Neither payer nor payee.
    #[error("only its payer and its payee may close a Channel before its end")]
    Sender,
    /// It would not close sooner.
    #[error("the Channel ends sooner than it would if it were closed now")]
    Closing,
}

impl Refusal {
    /// As the contract has it.
    #[must_use]
    pub const fn exit_code(self) -> i32 {
        match self {
            Self::Forged(Forged::Signature) => 180,
            // Of the TVM: a cell has another prefix, or is too short.
            Self::Forged(Forged::Voucher) => 63,
            Self::Target => 181,
            Self::Epoch => 182,
            Self::Cap => 183,
            Self::Nothing => 184,
            Self::Ended => 185,
            Self::Sender => 186,
            Self::Closing => 187,
        }
    }
}

/// Why something is no Channel.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum TermsError {
    /// No such cell.
    #[error("not what a Channel keeps")]
    Cell(#[from] Error),
    /// More than everything.
    #[error("a fee of {0} in a thousand is more than is paid")]
    Fee(u16),
    /// Another contract, or one that began with something paid.
    #[error("a Channel of these terms is at {expected}, not at {found}")]
    Address {
        /// Where this is.
        found: StdAddr,
        /// Where it would have to be.
        expected: StdAddr,
    },
}

/// What payer and payee agree upon. The Channel's address is made of it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Terms {
    /// Gets what is left.
    pub payer: StdAddr,
    /// Gets what was earned: the owner's wallet, whose key is in no worker.
    pub payee: StdAddr,
    /// Ed25519, signs vouchers.
    pub key: HashBytes,
    /// When vouchers stop counting.
    pub until: u32,
    /// For how long before that, once the payer closes.
    pub delay: u32,
    /// So much of a thousand of every payment is held for the Market: [`COUNTED`], or 0
    /// in a Channel that no Market counts.
    pub fee: u16,
    /// Which one.
    pub market: StdAddr,
}

impl Terms {
    fn first(&self) -> Result<State, TermsError> {
        if self.fee > 1000 {
            return Err(TermsError::Fee(self.fee));
        }
        let rest = Rest {
            payer: self.payer.clone(),
            market: self.market.clone(),
            until: self.until,
            delay: self.delay,
        };
        Ok(State {
            paid: 0,
            held: STORAGE_RESERVE,
            ends: self.until,
            payee: self.payee.clone(),
            key: self.key,
            fee: self.fee,
            rest: Lazy::new(&rest)?,
            reported: 0,
            tokens: 0,
        })
    }
}

/// What a Channel keeps.
///
/// ```text
/// _ paid:uint64 held:uint64 ends:uint32 payee:MsgAddressInt key:uint256 fee:uint16
///   rest:^Rest reported:uint64 tokens:uint64 = ChannelState;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct State {
    /// What the payee has had, the Market's share with it.
    pub paid: u64,
    /// What nobody may claim: the reserve for storage, and the Market's share of what it
    /// has not heard of.
    pub held: u64,
    /// When vouchers stop counting: sooner than agreed once it is closing.
    pub ends: u32,
    /// See [`Terms::payee`].
    pub payee: StdAddr,
    /// See [`Terms::key`].
    pub key: HashBytes,
    /// See [`Terms::fee`].
    pub fee: u16,
    /// What a claim does not look at.
    pub rest: Lazy<Rest>,
    /// What the Market has heard of was paid.
    pub reported: u64,
    /// For so many tokens.
    pub tokens: u64,
}

impl State {
    /// What was agreed, of which this is what it came to.
    pub fn terms(&self) -> Result<Terms, Error> {
        let rest = self.rest.load()?;
        Ok(Terms {
            payer: rest.payer,
            payee: self.payee.clone(),
            key: self.key,
            until: rest.until,
            delay: rest.delay,
            fee: self.fee,
            market: rest.market,
        })
    }
}

/// What was agreed besides.
///
/// ```text
/// _ payer:MsgAddressInt market:MsgAddressInt until:uint32 delay:uint32 = Rest;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct Rest {
    /// See [`Terms::payer`].
    pub payer: StdAddr,
    /// See [`Terms::market`].
    pub market: StdAddr,
    /// See [`Terms::until`].
    pub until: u32,
    /// See [`Terms::delay`].
    pub delay: u32,
}

/// The fee of Channels that a Market counts.
pub const COUNTED: u16 = 10;

/// Stays for storage.
pub const STORAGE_RESERVE: u64 = 10_000_000;

/// The least value of a report.
pub const REPORT_VALUE: u64 = 10_000_000;

/// The first message to a Channel: with its first state, and the deposit.
#[derive(Clone, Debug)]
pub struct Open {
    /// Where it goes.
    pub address: StdAddr,
    /// The code to deploy.
    pub code: Cell,
    /// With what it keeps first.
    pub data: Cell,
    /// The message.
    pub body: TopUp,
}

impl Open {
    /// Whoever deploys it first, it is the same Channel.
    pub fn new(query_id: u64, terms: Terms) -> Result<Self, TermsError> {
        let first = Channel::new(terms)?;
        Ok(Self {
            address: first.address,
            code: Code::CHANNEL.cell().map_err(|_| Error::InvalidCell)?,
            data: CellBuilder::build_from(&first.state)?,
            body: TopUp { query_id },
        })
    }
}

/// Anyone brings a voucher; the payee is paid.
///
/// ```text
/// claim#434c4149 query_id:uint64 voucher:Signed = Claim;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
#[tlb(tag = "#434c4149")]
pub struct Claim {
    /// Of the sender's choice.
    pub query_id: u64,
    /// The newest one.
    pub voucher: Signed,
}

/// Anyone puts in coins for the payee to claim.
///
/// ```text
/// top_up#544f5055 query_id:uint64 = TopUp;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
#[tlb(tag = "#544f5055")]
pub struct TopUp {
    /// Of the sender's choice.
    pub query_id: u64,
}

/// The payee ends it now, the payer after the delay; once it has ended, anyone has what
/// is left sent to the payer.
///
/// ```text
/// close#434c4f53 query_id:uint64 = Close;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
#[tlb(tag = "#434c4f53")]
pub struct Close {
    /// Of the sender's choice.
    pub query_id: u64,
}

/// Anyone tells the Market what was paid, by a voucher that was.
///
/// ```text
/// report#5245504f query_id:uint64 voucher:Signed = Report;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
#[tlb(tag = "#5245504f")]
pub struct Report {
    /// Of the sender's choice.
    pub query_id: u64,
    /// The newest one that was claimed.
    pub voucher: Signed,
}
