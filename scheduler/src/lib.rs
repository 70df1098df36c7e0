//! Brings sealed requests to workers by model, latency, capacity and price, and settles what
//! they cost. It sees who asks for which model and how much, never what.
#![forbid(unsafe_code)]

mod affinity;
pub mod api;
pub mod books;
mod candidates;
pub mod choice;
pub mod decay;
pub mod desk;
pub mod dice;
pub mod directory;
pub mod fabric;
pub mod fee;
mod held;
pub mod ledger;
mod limits;
mod link;
pub mod look;
pub mod machine;
pub mod metrics;
pub mod onchain;
pub mod pass;
pub mod payer;
pub mod queue;
mod recovery;
pub mod relay;
pub mod reputation;
pub mod retry;
pub mod scheduler;
mod seat;
pub mod serve;
pub mod settlement;
pub mod settler;
mod snapshot;
pub mod standings;
mod status;
mod unended;
pub mod workers;
