//! The process inside the VM: shows evidence, then serves models.
//!
//! It verifies no peer: only, before anything is served, the GPUs of its own
//! machine ([`admission`]). Its keys are made in memory and end with it, and it alone
//! may ask the platform for quotes.

pub mod admission;
pub mod api;
pub mod capacity;
pub mod collateral;
pub mod fleet;
pub mod gpu;
pub mod keys;
pub mod manifests;
pub mod network;
pub mod notify;
#[cfg(feature = "nvidia")]
pub mod nvml;
pub mod ocsp;
pub mod platform;
pub mod receipts;
pub mod secrecy;
pub mod serve;
pub mod tsm;
pub mod vtpm;
pub mod wipe;
