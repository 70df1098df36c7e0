//! Placeholder.

pub mod tsm;
