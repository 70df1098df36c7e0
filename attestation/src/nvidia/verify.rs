//! From a report to claims that NVIDIA's hardware stands behind.
//!
//! ```text
//! pinned root -> identity -> provisioner -> BROM -> firmware -> report, our nonce
//! ```
//!
//! The result says which device speaks, now, and under which firmware's key. Whether it
//! runs what NVIDIA released, and whether it is one of those that are wanted, a policy
//! decides: [`Verified::check`], [`appraise`](super::appraise).
//!
//! Sources: DMTF DSP0274, section 10.11.1; NVIDIA Attestation SDK; where it is lax, the
//! rule here is the strict one.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::pem::{self, PemError};
use crate::register::Digest384;
use crate::signature::{Scheme, Signature, verify as verify_signature};
use crate::tdx::Hex;
use crate::time::{UnixTime, Window};

use super::architecture::Architecture;
use super::chain::{Chain, ChainError, DEVICE, Fault, Role, TrustAnchor, Unasked};
use super::fwid;
use super::opaque::Opaque;
use super::report::Report;
use super::revocation::Revocation;

/// Checks every signature over `report`, and that it answers `nonce`. `chain` is PEM, the
/// device's own certificate first.
pub fn verify(
    report: Report<'_>,
    chain: &[u8],
    revocation: &Revocation<'_>,
    nonce: &[u8; 32],
    at: UnixTime,
) -> Result<Verified, VerifyError> {
    check(
        &TrustAnchor::devices(),
        report,
        chain,
        revocation,
        nonce,
        at,
    )
}

/// The same under a made-up root.
#[cfg(feature = "test-root")]
pub fn verify_under(
    anchor: &TrustAnchor,
    report: Report<'_>,
    chain: &[u8],
    revocation: &Revocation<'_>,
    nonce: &[u8; 32],
    at: UnixTime,
) -> Result<Verified, VerifyError> {
    check(anchor, report, chain, revocation, nonce, at)
}

/// A report that its device signed for us.
///
/// Nobody has said yet that its measurements are any good.
#[derive(Clone, Debug)]
pub struct Verified {
    device: Device,
    opaque: Opaque,
    measurements: Vec<Digest384>,
    validity: Window,
    unasked: Vec<Unasked>,
    at: UnixTime,
}

impl Verified {
    /// Who speaks.
    #[must_use]
    pub const fn device(&self) -> &Device {
        &self.device
    }

    /// What it says of itself.
    #[must_use]
    pub const fn opaque(&self) -> &Opaque {
        &self.opaque
    }

    /// What it measured, as manifests count: from zero.
    #[must_use]
    pub fn measurements(&self) -> &[Digest384] {
        &self.measurements
    }

    /// When its certificates hold, and what is known of their revocation.
    #[must_use]
    pub const fn validity(&self) -> Window {
        self.validity
    }

    /// Of which of its certificates it is not known whether they were revoked. NVIDIA
    /// never says so of the last.
    #[must_use]
    pub fn unasked(&self) -> &[Unasked] {
        &self.unasked
    }

    /// When it was verified.
    #[must_use]
    pub const fn at(&self) -> UnixTime {
        self.at
    }
}

/// Which device.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Device {
    /// What kind.
    pub architecture: Architecture,
    /// Serial number of the certificate that signs: the device, and its firmware's first
    /// stage.
    pub serial: Hex<20>,
    /// What other devices call it: the serial number of its BROM certificate, which no
    /// firmware changes.
    pub pdi: Hex<8>,
}

/// Why a report is not to be believed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum VerifyError {
    /// The report is of another kind of device than its certificates.
    #[error("the report is of {found}, the certificates of {expected}")]
    Architecture {
        /// By the report.
        found: String,
        /// By the certificates.
        expected: Architecture,
    },
    /// A certificate of its chain.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The firmware is not the one whose key signs.
    #[error("firmware {found} in the report, {expected} in the certificate")]
    Fwid {
        /// By the report.
        found: Digest384,
        /// By the certificate.
        expected: String,
    },
    /// An answer to another question.
    #[error("answers nonce {found}, asked with {expected}")]
    Nonce {
        /// By the report.
        found: Hex<32>,
        /// As asked.
        expected: Hex<32>,
    },
    /// The switch calls itself by another name than its certificate.
    #[error("the switch calls itself {found}, its certificate {expected}")]
    Pdi {
        /// By the report.
        found: String,
        /// By the certificate.
        expected: Hex<8>,
    },
    /// The chain is not five certificates.
    #[error(transparent)]
    Pem(#[from] PemError),
    /// Not by the device.
    #[error("the signature does not verify under the device's key")]
    Signature,
}

impl VerifyError {
    /// Stable name, for scripts.
    #[must_use]
    pub fn code(&self) -> String {
        match self {
            Self::Architecture { .. } => "report-architecture".into(),
            Self::Chain(error) => error.code(),
            Self::Fwid { .. } => "fwid".into(),
            Self::Nonce { .. } => "nonce".into(),
            Self::Pdi { .. } => "switch-pdi".into(),
            Self::Pem(_) => "chain-malformed".into(),
            Self::Signature => "report-signature".into(),
        }
    }
}

fn check(
    anchor: &TrustAnchor,
    report: Report<'_>,
    chain: &[u8],
    revocation: &Revocation<'_>,
    nonce: &[u8; 32],
    at: UnixTime,
) -> Result<Verified, VerifyError> {
    if report.nonce != nonce {
        return Err(VerifyError::Nonce {
            found: Hex(*report.nonce),
            expected: Hex(*nonce),
        });
    }
    let ders = pem::certificates(chain)?;
    let chain = Chain::verify(&ders, DEVICE, anchor, revocation, at)?;
    let device = identify(&chain)?;
    let [leaf, ..] = &chain.certificates;
    let key = leaf.key.point;
    let signature = Signature::Fixed(report.signature);
    verify_signature(Scheme::P384Sha384, key, report.signed, signature)
        .map_err(|_| VerifyError::Signature)?;
    check_architecture(&report, device.architecture)?;
    if let Some(found) = report.opaque.fwid {
        let expected =
            fwid::read(leaf).map_err(|error| Role::Firmware.fault(Fault::Malformed(error)))?;
        if expected != Some(found) {
            let expected = expected.map_or("none".into(), |fwid| fwid.to_string());
            return Err(VerifyError::Fwid { found, expected });
        }
    }
    if !device.architecture.is_gpu() && report.opaque.switch_pdis != [device.pdi] {
        return Err(VerifyError::Pdi {
            found: alloc::format!("{:?}", report.opaque.switch_pdis),
            expected: device.pdi,
        });
    }
    Ok(Verified {
        device,
        opaque: report.opaque,
        measurements: report.measurements,
        validity: chain.validity,
        unasked: chain.unasked,
        at,
    })
}

/// All certificates of a device are for one kind of chip; those of switches are issued
/// under Hopper's identity.
fn identify(chain: &Chain<'_, 5>) -> Result<Device, ChainError> {
    let [leaf, brom, provisioner, ..] = &chain.certificates;
    let Some(architecture) = Role::Firmware.architecture(leaf)? else {
        return Err(Role::Firmware.fault(Fault::Architecture));
    };
    for (role, certificate) in [(Role::Brom, brom), (Role::Provisioner, provisioner)] {
        if role.architecture(certificate)? != Some(architecture) {
            return Err(role.fault(Fault::Architecture));
        }
    }
    // One byte in front tells who numbered it.
    let [.., a, b, c, d, e, f, g, h] = *brom.serial.as_bytes();
    Ok(Device {
        architecture,
        serial: Hex(*leaf.serial.as_bytes()),
        pdi: Hex([a, b, c, d, e, f, g, h]),
    })
}

/// A report does not say what it is of but by its form, and by the chip where it names it.
fn check_architecture(report: &Report<'_>, expected: Architecture) -> Result<(), VerifyError> {
    let chip = report.opaque.chip.as_deref();
    let fits = report.is_gpu() == expected.is_gpu()
        && chip.is_none_or(|chip| Architecture::of_chip(chip) == Some(expected));
    let form = if report.is_gpu() { "a GPU" } else { "a switch" };
    match fits {
        true => Ok(()),
        false => Err(VerifyError::Architecture {
            found: chip.unwrap_or(form).into(),
            expected,
        }),
    }
}
