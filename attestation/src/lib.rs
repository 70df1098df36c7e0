//! Evidence in, trust or reasons out.
//!
//! A pure library: every input is an argument, the time and the collateral
//! included, so that an auditor can replay any decision.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

pub mod binding;
pub mod cbor;
pub mod config;
pub mod ratls;
pub mod reader;
pub mod register;
pub mod verity;
