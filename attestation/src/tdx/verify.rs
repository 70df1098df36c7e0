//! From a quote to claims that Intel's hardware stands behind.
//!
//! ```text
//! pinned root -> PCK CA -> PCK certificate -> QE report -> attestation key -> quote
//!             -> TCB signing -> TCB info, QE identity: what all of these are worth
//! ```
//!
//! The result says who speaks and how far Intel trusts that platform. Whether the
//! TD is one that the reader wants, [`Verified::appraise`] decides.
//!
//! Source: Intel SGX-TDX-DCAP Quote Verification Library, section 4.1.2; where it
//! is lax, the rule here is the strict one.

use alloc::collections::BTreeSet;
use alloc::string::String;

use sha2::{Digest, Sha256};

use crate::certificate::Serial;
use crate::pem::{self, PemError};
use crate::register::Digest256;
use crate::signature::{Scheme, Signature, verify as verify_signature};
use crate::time::{OutsideWindow, UnixTime, Window};

use super::body::TdBody;
use super::cache::PlatformCache;
use super::chain::{ChainError, Fault, Role};
use super::collateral::{Collateral, issuers_digest};
use super::hex::Hex;
use super::pck::{Pck, Platform};
use super::qe_identity::QeReport;
use super::quote::Quote;
use super::status::TcbStatus;

/// Checks every signature under `quote`, and finds the status of its platform.
pub fn verify(
    quote: Quote<'_>,
    collateral: &Collateral,
    at: UnixTime,
) -> Result<Verified, VerifyError> {
    let endorsed = Endorsed::check(&quote, collateral)?;
    judge(quote, &endorsed, collateral, at)
}

/// The same, and remembers the platform: its next quote costs one signature.
pub fn verify_cached(
    quote: Quote<'_>,
    collateral: &Collateral,
    at: UnixTime,
    cache: &mut PlatformCache,
) -> Result<Verified, VerifyError> {
    let endorsed = cache.endorse(&quote, collateral)?;
    judge(quote, &endorsed, collateral, at)
}

/// A quote whose signatures hold and whose platform has a status.
///
/// Nobody has said yet that the TD is one to trust.
#[derive(Clone, Debug)]
pub struct Verified {
    body: TdBody,
    platform: Platform,
    status: TcbStatus,
    tcb_date: UnixTime,
    advisories: BTreeSet<String>,
    evaluation_number: u32,
    pce_svn: u16,
    qe_svn: u16,
}

impl Verified {
    /// What the TDX module reported.
    #[must_use]
    pub const fn body(&self) -> &TdBody {
        &self.body
    }

    /// Which platform it runs on.
    #[must_use]
    pub const fn platform(&self) -> &Platform {
        &self.platform
    }

    /// What Intel says of that platform; never [`TcbStatus::Revoked`].
    #[must_use]
    pub const fn status(&self) -> TcbStatus {
        self.status
    }

    /// The oldest date of the levels that it has reached. Weaknesses that became known
    /// before it are fixed.
    #[must_use]
    pub const fn tcb_date(&self) -> UnixTime {
        self.tcb_date
    }

    /// Intel's advisories about weaknesses that the platform has.
    #[must_use]
    pub const fn advisories(&self) -> &BTreeSet<String> {
        &self.advisories
    }

    /// Number of the TCB recovery that the collateral was made after.
    #[must_use]
    pub const fn evaluation_number(&self) -> u32 {
        self.evaluation_number
    }

    /// Version of the provisioning certification enclave, as in the PCK certificate.
    #[must_use]
    pub const fn pce_svn(&self) -> u16 {
        self.pce_svn
    }

    /// Version of the quoting enclave.
    #[must_use]
    pub const fn qe_svn(&self) -> u16 {
        self.qe_svn
    }
}

/// An attestation key that a platform vouches for: true at any time, of any quote.
#[derive(Clone, Copy, Debug)]
pub(super) struct Endorsed {
    serial: Serial,
    validity: Window,
    pck: Pck,
    qe_report: QeReport,
}

impl Endorsed {
    /// Checks PCK certificate and QE report, but neither time nor revocation.
    pub(super) fn check(quote: &Quote<'_>, collateral: &Collateral) -> Result<Self, VerifyError> {
        let [leaf, ca, root] = pem::certificates(quote.pck_chain).map_err(VerifyError::PckChain)?;
        if issuers_digest(&[ca, root]) != collateral.pck_issuers {
            return Err(Role::PckCa.fault(Fault::Other).into());
        }
        let certificate = collateral.pck_ca.check(&leaf, Role::Pck)?;
        let pck = Pck::read(&leaf, &certificate)
            .map_err(|error| Role::Pck.fault(Fault::Malformed(error)))?;

        verify_signature(
            certificate.key.scheme,
            certificate.key.point,
            quote.signed_by_pck,
            Signature::Fixed(quote.qe_report_signature),
        )
        .map_err(|_| VerifyError::QeReportSignature)?;
        let qe_report = quote.qe_report;
        let key_digest = Sha256::new()
            .chain_update(quote.attestation_key)
            .chain_update(quote.qe_auth_data)
            .finalize();
        let (digest, zeros) = qe_report.report_data.split_at(Digest256::LEN);
        if *digest != *key_digest || zeros.iter().any(|byte| *byte != 0) {
            return Err(VerifyError::AttestationKey);
        }
        // Key separation and sharing, which would fill them, is off in Intel's identity.
        if !qe_report.reserved_clear {
            return Err(VerifyError::QeReserved);
        }
        Ok(Self {
            serial: certificate.serial,
            validity: certificate.validity,
            pck,
            qe_report,
        })
    }
}

fn judge(
    quote: Quote<'_>,
    endorsed: &Endorsed,
    collateral: &Collateral,
    at: UnixTime,
) -> Result<Verified, VerifyError> {
    collateral
        .validity()
        .check(at)
        .map_err(VerifyError::CollateralWindow)?;
    Role::Pck.check_validity(
        endorsed.serial,
        endorsed.validity,
        &collateral.revoked_pcks,
        at,
    )?;
    let qe = collateral.qe_identity.assess(&endorsed.qe_report)?;
    check_signature(&quote)?;

    let (tcb_info, body) = (&collateral.tcb_info, quote.body);
    tcb_info.check_platform(&endorsed.pck)?;
    tcb_info.check_module(&body)?;
    let launch = tcb_info.assess(&endorsed.pck, &body.tee_tcb_svn)?;
    let current = body
        .td15
        .map(|td15| tcb_info.assess(&endorsed.pck, &td15.tee_tcb_svn_2))
        .transpose()?;

    let at_launch = launch.status().and(qe.tcb_status);
    let status = current.map_or(at_launch, |current| {
        at_launch.after_update(current.status().and(qe.tcb_status))
    });
    let advisories = launch.advisories().chain(qe.advisories.iter());
    let advisories = advisories.map(String::from).collect();
    if status == TcbStatus::Revoked {
        return Err(VerifyError::Revoked { advisories });
    }
    Ok(Verified {
        body,
        platform: endorsed.pck.platform,
        status,
        tcb_date: launch.date().min(qe.tcb_date),
        advisories,
        evaluation_number: collateral.evaluation_number(),
        pce_svn: endorsed.pck.pcesvn,
        qe_svn: endorsed.qe_report.isvsvn,
    })
}

fn check_signature(quote: &Quote<'_>) -> Result<(), VerifyError> {
    let mut point = [UNCOMPRESSED; 65];
    for (byte, coordinate) in point.iter_mut().skip(1).zip(quote.attestation_key) {
        *byte = *coordinate;
    }
    verify_signature(
        Scheme::P256Sha256,
        &point,
        quote.signed,
        Signature::Fixed(quote.signature),
    )
    .map_err(|_| VerifyError::QuoteSignature)
}

/// Why nothing in a quote is to be believed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum VerifyError {
    /// The QE report is about another attestation key.
    #[error("the QE report does not name the quote's attestation key")]
    AttestationKey,
    /// A certificate is not what it must be.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The collateral does not hold at the stated time.
    #[error("collateral: {0}")]
    CollateralWindow(OutsideWindow),
    /// The TCB info is about other processors.
    #[error("FMSPC is {found}, expected {expected} as in the TCB info")]
    Fmspc {
        /// Of the PCK certificate.
        found: Hex<6>,
        /// Of the TCB info.
        expected: Hex<6>,
    },
    /// The TDX module runs with other attributes.
    #[error("SEAMATTRIBUTES are {found:#x}, expected {expected:#x} as in the TCB info")]
    ModuleAttributes {
        /// As read.
        found: u64,
        /// Of the TCB info.
        expected: u64,
    },
    /// No level of the TDX module is this low.
    #[error("TDX module {version} has SVN {isvsvn}, below every level of the TCB info")]
    ModuleLevel {
        /// Major version.
        version: u8,
        /// As read.
        isvsvn: u8,
    },
    /// Another signer's TDX module.
    #[error("MRSIGNERSEAM is {found}, expected {expected} as in the TCB info")]
    ModuleSigner {
        /// As read.
        found: Hex<48>,
        /// Of the TCB info.
        expected: Hex<48>,
    },
    /// The TCB info does not know this TDX module.
    #[error("TDX module has major version {version}, which the TCB info does not have")]
    ModuleVersion {
        /// As read.
        version: u8,
    },
    /// The TCB info is for another provisioning certification enclave.
    #[error("PCEID is {found}, expected {expected} as in the TCB info")]
    Pceid {
        /// Of the PCK certificate.
        found: Hex<2>,
        /// Of the TCB info.
        expected: Hex<2>,
    },
    /// The PCK chain is not text of the expected form.
    #[error("PCK chain: {0}")]
    PckChain(PemError),
    /// Intel's table has no level this low.
    #[error("the platform is below every level of the TCB info")]
    PlatformLevel,
    /// Another enclave made the attestation key.
    #[error("QE {field} is {found}, expected {expected} as in the QE identity")]
    QeIdentity {
        /// Which field.
        field: &'static str,
        /// As read, in hex.
        found: String,
        /// Of the QE identity, before its mask.
        expected: String,
    },
    /// No level of the quoting enclave is this low.
    #[error("QE has SVN {isvsvn}, below every level of the QE identity")]
    QeLevel {
        /// As read.
        isvsvn: u16,
    },
    /// The platform's key did not sign the QE report.
    #[error("the signature of the QE report does not verify under the PCK")]
    QeReportSignature,
    /// A QE report that hardware does not make.
    #[error("reserved fields of the QE report are not zero")]
    QeReserved,
    /// The attestation key did not sign the quote.
    #[error("the signature of the quote does not verify under the attestation key")]
    QuoteSignature,
    /// Intel took back what the platform, its TDX module or its QE signs.
    #[error("the TCB level is revoked")]
    Revoked {
        /// Why.
        advisories: BTreeSet<String>,
    },
}

impl VerifyError {
    /// Stable name, for scripts.
    #[must_use]
    pub fn code(&self) -> String {
        match self {
            Self::AttestationKey => "attestation-key".into(),
            Self::Chain(error) => error.code(),
            Self::CollateralWindow(error) => alloc::format!("collateral-{}", error.code()),
            Self::Fmspc { .. } => "fmspc".into(),
            Self::ModuleAttributes { .. } => "td-module-attributes".into(),
            Self::ModuleLevel { .. } => "td-module-level".into(),
            Self::ModuleSigner { .. } => "td-module-signer".into(),
            Self::ModuleVersion { .. } => "td-module-version".into(),
            Self::Pceid { .. } => "pceid".into(),
            Self::PckChain(_) => "pck-chain-malformed".into(),
            Self::PlatformLevel => "platform-level".into(),
            Self::QeIdentity { field, .. } => alloc::format!("qe-{field}"),
            Self::QeLevel { .. } => "qe-level".into(),
            Self::QeReportSignature => "qe-report-signature".into(),
            Self::QeReserved => "qe-report-reserved".into(),
            Self::QuoteSignature => "quote-signature".into(),
            Self::Revoked { .. } => "tcb-status".into(),
        }
    }
}

const UNCOMPRESSED: u8 = 4;
