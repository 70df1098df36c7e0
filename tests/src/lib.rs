//! Doubles for what a test machine does not have: Intel, a TD, a kernel that
//! speaks to its host.
//!
//! Nothing here is faster or kinder than the real thing: formats, errors and
//! signatures are the real ones, and only the root of trust is another. That
//! root can be added to a verifier at compile time alone (`attestation`,
//! feature `test-root`).

#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a double that breaks has to stop its test"
)]

pub mod adversary;
pub mod asker;
pub mod chain;
pub mod collateral;
pub mod kernel;
pub mod nats;
pub mod parsers;
pub mod pci;
pub mod pcs;
pub mod pki;
pub mod quote;
pub mod stand_in;
pub mod td;
pub mod tsm_fuse;
