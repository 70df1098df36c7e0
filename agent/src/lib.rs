//! Placeholder.

pub mod tsm;
pub mod vtpm;
