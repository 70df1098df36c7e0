//! Brings sealed requests to workers by model, latency, capacity and price, and settles what
//! they cost. It sees who asks for which model and how much, never what.
#![forbid(unsafe_code)]

mod affinity;
mod candidates;
pub mod choice;
pub mod decay;
pub mod dice;
pub mod directory;
pub mod ledger;
pub mod queue;
pub mod reputation;
pub mod retry;
mod seat;
