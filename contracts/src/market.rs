//! Market: what one model costs on one kind of GPU, and how much of it is used. What the
//! contract keeps and hears, as in `tolk/market-types.tolk`, and what it does with it.
//!
//! Amounts are nanotons, prices nanotons for a million tokens.

use attestation::merkle;
use sha2::Sha256;
use tycho_types::cell::{Cell, CellBuilder, HashBytes, Lazy, Load, Store};
use tycho_types::dict::Dict;
use tycho_types::error::Error;
use tycho_types::models::StdAddr;

use crate::cells::Bytes;
use crate::channel::{self, COUNTED, STORAGE_RESERVE};
use crate::code::{self, Code};
use crate::receipt::Reported;
use crate::reports::{Demand, Presence, Redeemed, epoch};
use crate::voucher::MILLION;
use crate::{app, node, price};

/// What a Market keeps.
///
/// ```text
/// _ epoch:uint32 price:uint64 backlog:uint64 workers:uint32 wanted:uint64 tokens:uint64
///   amount:uint64 reports:uint32 asks:(HashmapE 8 uint32) peaks:(HashmapE 8 uint256)
///   last:(Maybe ^Totals) terms:^MarketTerms = MarketState;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct State {
    /// Which one it is: see [`epoch`].
    pub epoch: u32,
    /// In this epoch.
    pub price: u64,
    /// What was paid and not yet counted: each epoch counts a part of it.
    pub backlog: u64,
    /// Who could serve.
    pub workers: u32,
    /// Tokens that Apps want and could pay for.
    pub wanted: u64,
    /// Tokens that were paid for.
    pub tokens: u64,
    /// What was paid.
    pub amount: u64,
    /// How often that was said.
    pub reports: u32,
    /// How many workers ask for so much, by [`bracket`](price::bracket).
    pub asks: Dict<u8, u32>,
    /// Heads of the full subtrees over the reports, by their height.
    pub peaks: Dict<u8, HashBytes>,
    /// The epoch before.
    pub last: Option<Lazy<Totals>>,
    /// What never changes.
    pub terms: Lazy<Terms>,
}

/// What a Market is for.
///
/// ```text
/// _ model:uint256 gpu:bits128 capacity:uint32 stake:uint64 ceiling:uint64
///   children:^Children = MarketTerms;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct Terms {
    /// Root hash.
    pub model: HashBytes,
    /// As a Node's owner writes it.
    pub gpu: Bytes<16>,
    /// What one of them serves in an epoch, in tokens.
    pub capacity: u32,
    /// The least of a Node.
    pub stake: u64,
    /// The highest price.
    pub ceiling: u64,
    /// Whose word counts.
    pub children: Lazy<Children>,
}

/// Whose word counts: contracts of these codes, and Nodes under these two.
///
/// ```text
/// _ collateral:MsgAddressInt registry:MsgAddressInt node:^Cell channel:^Cell app:^Cell
///   = Children;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct Children {
    /// Who knows what hardware is worth.
    pub collateral: StdAddr,
    /// Who knows which software counts.
    pub registry: StdAddr,
    /// Code of a Node.
    pub node: Cell,
    /// Code of a Channel.
    pub channel: Cell,
    /// Code of an App.
    pub app: Cell,
}

impl Children {
    /// Of the codes that are embedded here.
    pub fn new(collateral: StdAddr, registry: StdAddr) -> Result<Self, Error> {
        let of = |code: Code| code.cell().map_err(|_| Error::InvalidCell);
        Ok(Self {
            collateral,
            registry,
            node: of(Code::NODE)?,
            channel: of(Code::CHANNEL)?,
            app: of(Code::APP)?,
        })
    }
}

/// What was used in an epoch. Each one names the one before it, so the newest commits to
/// all.
///
/// ```text
/// totals#544f5441 epoch:uint32 price:uint64 workers:uint32 wanted:uint64 tokens:uint64
///   amount:uint64 reports:uint32 head:uint256 before:uint256 = Totals;
/// ```
#[derive(Clone, Copy, Debug, Eq, Load, PartialEq, Store)]
#[tlb(tag = "#544f5441")]
pub struct Totals {
    /// Which one it was.
    pub epoch: u32,
    /// In it.
    pub price: u64,
    /// Who could serve.
    pub workers: u32,
    /// Tokens that Apps wanted and could pay for.
    pub wanted: u64,
    /// Tokens that were paid for.
    pub tokens: u64,
    /// What was paid.
    pub amount: u64,
    /// How often that was said.
    pub reports: u32,
    /// Head of the tree over the reports: see [`reports`](crate::receipt::reports).
    pub head: HashBytes,
    /// Hash of the cell before.
    pub before: HashBytes,
}

impl State {
    /// Of a Market that is deployed in an epoch, with a price to begin with.
    pub fn new(epoch: u32, price: u64, terms: &Terms) -> Result<Self, Error> {
        Ok(Self {
            epoch,
            price,
            backlog: 0,
            workers: 0,
            wanted: 0,
            tokens: 0,
            amount: 0,
            reports: 0,
            asks: Dict::new(),
            peaks: Dict::new(),
            last: None,
            terms: Lazy::new(terms)?,
        })
    }

    /// Ends the epoch, if it is over: what was in it.
    pub fn turn(&mut self, now: u32) -> Result<Option<Totals>, Error> {
        let now = epoch(now);
        if now == self.epoch {
            return Ok(None);
        }
        let totals = Totals {
            epoch: self.epoch,
            price: self.price,
            workers: self.workers,
            wanted: self.wanted,
            tokens: self.tokens,
            amount: self.amount,
            reports: self.reports,
            head: self.head()?,
            before: match &self.last {
                Some(last) => *last.inner().repr_hash(),
                None => HashBytes::ZERO,
            },
        };
        let terms = self.terms.load()?;
        let spent = self.backlog >> 2;
        let demand = price::Demand {
            spent,
            workers: self.workers,
            capacity: terms.capacity,
            floor: price::floor(&self.asks, self.workers)?,
            is_wanted: self.wanted > 0,
        };
        let is_next = now.checked_sub(self.epoch) == Some(1);
        *self = Self {
            price: demand.next_price(self.price).min(terms.ceiling).max(1),
            // Nobody was there in between, so there is nothing to say of it.
            backlog: if is_next {
                self.backlog.saturating_sub(spent)
            } else {
                0
            },
            last: Some(Lazy::new(&totals)?),
            ..Self::new(now, self.price, &terms)?
        };
        Ok(Some(totals))
    }

    /// A Node counts.
    pub fn presence(&mut self, at: &At<'_>, presence: &Presence) -> Result<(), Refusal> {
        self.change(at, |state, terms, children| {
            let first = node::State::new(
                presence.owner.clone(),
                children.collateral.clone(),
                children.registry.clone(),
            );
            is_from(at, &children.node, &CellBuilder::build_from(&first)?)?;
            if presence.epoch != state.epoch {
                return Err(Refusal::Epoch);
            }
            let host = presence.host.load()?;
            if presence.model != terms.model || host.gpu != terms.gpu {
                return Err(Refusal::Class);
            }
            if presence.stake.into_inner() < terms.stake.into() {
                return Err(Refusal::Stake);
            }
            let ask = host.ask.into_inner().try_into().unwrap_or(u64::MAX);
            let bracket = price::bracket(ask);
            let others = state.asks.get(bracket)?.unwrap_or_default();
            state.asks.set(bracket, others.saturating_add(1))?;
            state.workers = state.workers.saturating_add(1);
            Ok(())
        })
    }

    /// A Channel has paid; what of its fee is kept.
    pub fn redeemed(&mut self, at: &At<'_>, redeemed: &Redeemed) -> Result<u64, Refusal> {
        self.change(at, |state, _, children| {
            is_from(at, &children.channel, redeemed.first.inner())?;
            let first: channel::State = redeemed.first.load()?;
            let began = (
                first.paid,
                first.reported,
                first.tokens,
                first.held,
                first.fee,
            );
            if began != (0, 0, 0, STORAGE_RESERVE, COUNTED) {
                return Err(Refusal::Terms);
            }
            state.append(Reported::new(at.sender, redeemed).leaf().into())?;
            state.tokens = state.tokens.saturating_add(redeemed.tokens);
            state.amount = state.amount.saturating_add(redeemed.amount);
            state.backlog = state.backlog.saturating_add(redeemed.amount);
            Ok(redeemed.fee.div_ceil(2))
        })
    }

    /// An App wants something.
    pub fn demand(&mut self, at: &At<'_>, demand: &Demand) -> Result<(), Refusal> {
        self.change(at, |state, terms, children| {
            let first = app::State::new(demand.owner.clone());
            is_from(at, &children.app, &CellBuilder::build_from(&first)?)?;
            if demand.epoch != state.epoch {
                return Err(Refusal::Epoch);
            }
            if demand.model != terms.model {
                return Err(Refusal::Class);
            }
            let backed = u128::from(demand.deposit).saturating_mul(MILLION);
            let backed = backed.checked_div(state.price.into()).unwrap_or_default();
            let backed = backed.min(demand.tokens.into()).try_into();
            state.wanted = state.wanted.saturating_add(backed.unwrap_or(u64::MAX));
            Ok(())
        })
    }

    /// Anyone ends the epoch.
    pub fn step(&mut self, at: &At<'_>) -> Result<Totals, Refusal> {
        self.turn(at.now)?.ok_or(Refusal::Early)
    }

    /// In the epoch that it is by now; not at all where it is refused.
    fn change<T>(
        &mut self,
        at: &At<'_>,
        apply: impl FnOnce(&mut Self, &Terms, &Children) -> Result<T, Refusal>,
    ) -> Result<T, Refusal> {
        let mut next = self.clone();
        next.turn(at.now)?;
        let terms = next.terms.load()?;
        let done = apply(&mut next, &terms, &terms.children.load()?)?;
        *self = next;
        Ok(done)
    }

    /// One leaf more.
    fn append(&mut self, leaf: HashBytes) -> Result<(), Error> {
        let (mut node, mut height) = (leaf, 0_u8);
        let mut size = self.reports;
        while size & 1 == 1 {
            let left = self.peaks.remove(height)?.ok_or(Error::InvalidData)?;
            node = parent(&left, &node);
            height = height.saturating_add(1);
            size >>= 1;
        }
        self.peaks.set(height, node)?;
        self.reports = self.reports.saturating_add(1);
        Ok(())
    }

    fn head(&self) -> Result<HashBytes, Error> {
        let mut head = None;
        for entry in self.peaks.values() {
            let peak = entry?;
            head = Some(match head {
                None => peak,
                Some(smaller) => parent(&peak, &smaller),
            });
        }
        Ok(head.unwrap_or(HashBytes::ZERO))
    }
}

fn parent(left: &HashBytes, right: &HashBytes) -> HashBytes {
    HashBytes(merkle::parent::<Sha256>(&left.0, &right.0).into())
}

fn is_from(at: &At<'_>, code: &Cell, first: &Cell) -> Result<(), Refusal> {
    match code::address_of(code, first)? == *at.sender {
        true => Ok(()),
        false => Err(Refusal::Sender),
    }
}

/// When a message comes, and from whom.
#[derive(Clone, Copy, Debug)]
pub struct At<'a> {
    /// Unix seconds.
    pub now: u32,
    /// Whose word it is.
    pub sender: &'a StdAddr,
}

/// Why the contract refuses.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Refusal {
    /// No contract of the code and the first state that it names.
    #[error("the sender is not the contract that it says it is")]
    Sender,
    /// About another epoch.
    #[error("the report is about another epoch")]
    Epoch,
    /// Another model, or other GPUs.
    #[error("the report is about another model or other GPUs")]
    Class,
    /// Less than is asked for.
    #[error("the Node has less stake than the Market asks for")]
    Stake,
    /// It began with something paid, or pays no fee.
    #[error("the Channel is not one that a Market counts")]
    Terms,
    /// The epoch is not over.
    #[error("the epoch is not over")]
    Early,
    /// No such cell.
    #[error("a message or state that no cell holds")]
    Cell(#[from] Error),
}

impl Refusal {
    /// As the contract has it, where it has one.
    #[must_use]
    pub const fn exit_code(&self) -> Option<i32> {
        match self {
            Self::Sender => Some(200),
            Self::Epoch => Some(201),
            Self::Class => Some(202),
            Self::Stake => Some(203),
            Self::Terms => Some(204),
            Self::Early => Some(205),
            Self::Cell(_) => None,
        }
    }
}

/// Anyone ends the epoch, once it is over, for a bounty.
///
/// ```text
/// step#53544550 query_id:uint64 = Step;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
#[tlb(tag = "#53544550")]
pub struct Step {
    /// Of the sender's choice.
    pub query_id: u64,
}
