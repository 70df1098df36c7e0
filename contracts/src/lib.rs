//! What is agreed on TON, from this side of it.
//!
//! The contracts are written in Tolk (`tolk/`), compiled once (`compiled/`) and
//! embedded here ([`code`]). Beside them is what their senders need: one type for
//! each message and state, both ways, and the preparation of evidence, since a
//! contract checks what it could not find out.
//!
//! A pure library: no clock, socket, file or randomness. It needs `std` for the
//! crate of cells.

#![forbid(unsafe_code)]

#[cfg(not(target_arch = "wasm32"))]
pub mod answer;
pub mod app;
pub mod cells;
pub mod channel;
pub mod claim;
pub mod code;
pub mod collateral;
mod evidence;
pub mod exit;
pub mod market;
pub mod messages;
pub mod node;
pub mod p256;
pub mod price;
pub mod receipt;
pub mod registry;
pub mod reports;
mod signature;
pub mod voucher;

pub use evidence::EvidenceError;
