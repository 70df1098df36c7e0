//! The verifier for JavaScript: what `attestation` judges, for browsers and node.
//!
//! Glue and nothing else. It is a crate of its own so that wasm-bindgen stays out
//! of the pure one; `cargo xtask web build` makes the npm package of it.
//!
//! As in Rust, each step takes what the one before made, and nothing else makes it:
//! a [`Verified`] comes of a [`Collateral`], a [`Trusted`] of a [`Policy`]. There is
//! no clock in here either: time is an argument, in seconds since 1970. The roots are
//! Intel's and NVIDIA's, and there is no way to name another.
//!
//! What these comments say of the exported items, the package's types say too.

mod collateral;
mod convert;
mod error;
mod evidence;
mod gpu;
mod policy;
mod sealed;
mod stored;
mod verified;
mod voucher;

pub use collateral::Collateral;
pub use evidence::{Binding, Evidence};
pub use gpu::verify_gpu;
pub use policy::{Policy, Trusted};
pub use sealed::{Conversation, Peer, settled};
pub use stored::{verify_log, verify_tdx};
pub use verified::Verified;
pub use voucher::Voucher;

use wasm_bindgen::prelude::wasm_bindgen;

#[wasm_bindgen(typescript_custom_section)]
const TYPES: &str = include_str!("types.ts");
