//! TON as its validators sign it.
//!
//! A liteserver is asked, and believed in nothing: what it answers is followed from one
//! block that the user pins to the newest one by the signatures of two thirds of the
//! validators ([`block`], [`signatures`]), and from there by Merkle proofs to an account
//! ([`account`]) and by hashes to its transactions ([`transaction`]). What a server can
//! still do is not answer, or answer with what was true a while ago; [`client`] asks
//! another then, and bounds the age.
//!
//! [`adnl`] and [`tl`] speak to a liteserver, [`wallet`] and [`link`] have something sent.

pub mod account;
pub mod adnl;
pub mod bag;
pub mod block;
pub mod client;
pub mod link;
pub mod liteserver;
pub mod network;
pub mod signatures;
pub mod tl;
pub mod transaction;
pub mod wallet;
