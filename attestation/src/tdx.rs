//! Intel TDX: from the bytes of a quote to a TD that a policy takes.
//!
//! ```text
//! bytes -> Quote         shape
//!       -> Verified      signatures, collateral, a stated time
//!       -> Trusted       policy
//! ```
//!
//! Each step consumes the one before, and only this module makes the last two.
//!
//! What it does not establish: that the platform is in safe hands. Whoever owns a
//! server can, with an interposer on its memory, extract its keys and forge quotes
//! that are up to date; a policy can pin platforms against that.
//!
//! ```
//! use attestation::binding::ReportData;
//! use attestation::tdx::{Collateral, CollateralParts, Policy, Quote, Trusted, verify};
//! use attestation::time::UnixTime;
//!
//! fn judge(
//!     quote: &[u8],
//!     parts: CollateralParts<'_>,
//!     policy: &Policy,
//!     session: &ReportData,
//!     now: UnixTime,
//! ) -> Result<Trusted, Box<dyn std::error::Error>> {
//!     let quote = Quote::parse(quote)?;
//!     let collateral = Collateral::verify(parts, now)?;
//!     let verified = verify(quote, &collateral, now)?;
//!     Ok(verified.appraise(policy, session)?)
//! }
//! ```
//!
//! Source: Intel TDX DCAP Quoting Library API; Intel SGX-TDX-DCAP Quote
//! Verification Library; Intel PCS API, version 4.

mod advisories;
mod body;
mod cache;
mod chain;
mod collateral;
mod document;
mod files;
mod hex;
mod log;
mod pck;
mod policy;
mod qe_identity;
mod quote;
mod report;
mod status;
mod tcb_info;
mod verify;

pub use body::{Td15, Td15Ex, TdAttributes, TdBody, Xfam};
pub use cache::PlatformCache;
pub use chain::{ChainError, Fault, Role, TrustAnchor};
pub use collateral::{Collateral, CollateralError, CollateralParts, IssuerChain, RevocationList};
pub use document::{Document, DocumentError, Flaw};
pub use files::{CollateralFiles, FilesError};
pub use hex::{Hex, HexError};
pub use pck::{Configuration, Platform};
pub(crate) use policy::pin;
pub use policy::{Accept, IdentityPolicy, PlatformPolicy, Policy, Trusted};
pub use quote::{Quote, QuoteError, QuoteParts};
pub use report::{QuotePolicy, Report};
pub use status::TcbStatus;
pub use verify::{Verified, VerifyError, verify, verify_cached};
