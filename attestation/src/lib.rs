//! Evidence in, trust or reasons out.
//!
//! A pure library: every input is an argument, the time and the collateral
//! included, so that an auditor can replay any decision.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

#[cfg(feature = "verify")]
pub mod aci;
pub mod appraisal;
pub mod batch;
pub mod binding;
pub mod cbor;
#[cfg(feature = "verify")]
pub mod certificate;
#[cfg(feature = "verify")]
mod cmw;
pub mod config;
#[cfg(feature = "verify")]
pub mod crl;
#[cfg(feature = "verify")]
pub mod der;
pub mod eventlog;
#[cfg(feature = "verify")]
pub mod evidence;
pub mod merkle;
#[cfg(feature = "verify")]
pub mod model_key;
#[cfg(feature = "verify")]
pub mod nvidia;
#[cfg(feature = "verify")]
pub mod ocsp;
#[cfg(feature = "verify")]
pub mod pem;
#[cfg(feature = "verify")]
pub mod policy;
#[cfg(feature = "verify")]
pub mod protocol;
pub mod ratls;
pub mod reader;
pub mod register;
#[cfg(feature = "verify")]
pub mod signature;
#[cfg(feature = "verify")]
pub mod tdx;
pub mod time;
pub mod verity;
#[cfg(feature = "verify")]
pub mod vtpm;
