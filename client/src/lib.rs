//! The client's side: verify a worker, then simply talk to it.
//!
//! There is no way here to send a request to a peer that was not verified.

#[cfg(all(feature = "test-root", not(debug_assertions)))]
compile_error!("feature `test-root` adds a trust anchor: it has no place in a release build");

pub mod address;
pub mod artefacts;
pub mod audit;
pub mod chain;
pub mod gateway;
pub mod gpu;
pub mod host;
pub mod log;
pub mod measure;
pub mod model;
pub mod network;
pub mod platform;
pub mod receipt;
pub mod receipts;
pub mod release;
pub mod scheduler;
pub mod stored;
pub mod trust;
pub mod verify;
pub mod worker;
