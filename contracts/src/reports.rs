//! What a Market hears from contracts whose addresses it computes from their code, as in
//! `tolk/reports.tolk`.

use tycho_types::cell::{HashBytes, Lazy, Load, Store};
use tycho_types::models::StdAddr;
use tycho_types::num::Tokens;

use crate::channel::State;
use crate::node::Host;

/// A Node counts as capacity in an epoch.
///
/// ```text
/// presence#50524553 query_id:uint64 epoch:uint32 owner:MsgAddressInt model:uint256
///   stake:Coins host:^Host = Presence;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
#[tlb(tag = "#50524553")]
pub struct Presence {
    /// Of the sender's choice.
    pub query_id: u64,
    /// See [`epoch`].
    pub epoch: u32,
    /// Of the Node.
    pub owner: StdAddr,
    /// Root hash of the model that it was proved to serve.
    pub model: HashBytes,
    /// What the owner would lose time over: the balance of the Node.
    pub stake: Tokens,
    /// What it offers.
    pub host: Lazy<Host>,
}

/// A Channel has paid.
///
/// ```text
/// redeemed#52454445 query_id:uint64 amount:uint64 tokens:uint64 fee:uint64
///   receipts:uint256 reporter:MsgAddressInt first:^ChannelState = Redeemed;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
#[tlb(tag = "#52454445")]
pub struct Redeemed {
    /// Of the sender's choice.
    pub query_id: u64,
    /// More than before.
    pub amount: u64,
    /// More than before.
    pub tokens: u64,
    /// What comes with it for the Market; the rest is for who reported it.
    pub fee: u64,
    /// Head of the tree over all receipts of the Channel so far.
    pub receipts: HashBytes,
    /// Who gets what is left.
    pub reporter: StdAddr,
    /// What the Channel kept first: with its code, this is its address.
    pub first: Lazy<State>,
}

/// An App wants so many tokens in an epoch, and has so much to pay for them with.
///
/// ```text
/// demand#44454d41 query_id:uint64 epoch:uint32 owner:MsgAddressInt model:uint256
///   tokens:uint64 deposit:uint64 = Demand;
/// ```
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
#[tlb(tag = "#44454d41")]
pub struct Demand {
    /// Of the sender's choice.
    pub query_id: u64,
    /// See [`epoch`].
    pub epoch: u32,
    /// Of the App.
    pub owner: StdAddr,
    /// Root hash.
    pub model: HashBytes,
    /// In this epoch.
    pub tokens: u64,
    /// What it has.
    pub deposit: u64,
}

/// Seconds of an epoch, by which prices change and totals are made.
pub const EPOCH: u32 = 3600;

/// The epoch of a moment.
#[must_use]
pub const fn epoch(now: u32) -> u32 {
    now.div_euclid(EPOCH)
}
