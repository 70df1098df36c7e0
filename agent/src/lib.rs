//! The process inside the VM: shows evidence, then serves models.
//!
//! It verifies nobody. Its keys are made in memory and end with it, and it alone
//! may ask the platform for quotes.

pub mod api;
pub mod collateral;
pub mod notify;
pub mod platform;
pub mod serve;
pub mod tsm;
pub mod vtpm;
