//! placeholder
pub mod debs;
pub mod lock;
pub mod renew;
