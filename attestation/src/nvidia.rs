//! NVIDIA GPUs and switches: from the bytes of a report to devices that a policy takes.
//!
//! ```text
//! bytes    -> Report     shape
//!          -> Verified   signatures, our nonce, a stated time
//! manifest -> Rim        signatures, a stated time; once for many reports
//!          -> Trusted    policy, over all devices of a machine
//! ```
//!
//! Each step consumes the one before, and only this module makes the last three.
//!
//! What it does not establish:
//! - That a device protects anything. Whether confidential computing is on, and not in the
//!   mode for developers, is in no report; the measured agent has to say it.
//! - That a device is in the machine that shows its report. Until PCIe links are bound to
//!   devices, what helps is that only measured software asks, that nonces come from the
//!   session ([`TreeHead::gpu_nonce`](crate::batch::TreeHead::gpu_nonce)), and that a
//!   policy pins serial numbers.
//!
//! ```
//! use attestation::nvidia::{Policy, Report, Revocation, Rim, Trusted, appraise, verify};
//! use attestation::time::UnixTime;
//!
//! fn judge(
//!     (report, chain): (&[u8], &[u8]),
//!     manifests: &[&[u8]],
//!     nonce: &[u8; 32],
//!     policy: &Policy,
//!     now: UnixTime,
//! ) -> Result<Trusted, Box<dyn std::error::Error>> {
//!     let revocation = Revocation::default();
//!     let rims: Result<Vec<_>, _> = manifests
//!         .iter()
//!         .map(|manifest| Rim::verify(manifest, &revocation, now))
//!         .collect();
//!     let verified = verify(Report::parse(report)?, chain, &revocation, nonce, now)?;
//!     Ok(appraise(vec![verified], &rims?, policy)?)
//! }
//! ```
//!
//! Sources: DMTF DSP0274 1.1 (SPDM); NVIDIA Attestation SDK and nvtrust; XML Signature 1.1.

mod architecture;
mod c14n;
mod chain;
mod compare;
mod dsig;
mod fwid;
mod judge;
mod machine;
mod opaque;
mod policy;
mod report;
mod revocation;
mod rim;
mod verify;
mod version;
mod xml;

pub use architecture::Architecture;
pub use chain::{ChainError, Fault, Role, TrustAnchor, Unasked};
pub use dsig::DsigError;
pub use judge::{GpuFiles, judge};
pub use machine::{Trusted, appraise};
pub use opaque::{Opaque, OpaqueError, PROTECTED_PCIE};
pub use policy::{Demand, DevicePolicy, Mode, Policy};
pub use report::{Report, ReportError};
pub use revocation::{Revocation, RevocationError};
pub use rim::{Rim, RimError};
#[cfg(feature = "test-root")]
pub use verify::verify_under;
pub use verify::{Device, Verified, VerifyError, verify};
pub use version::{Version, VersionError};
pub use xml::XmlError;
