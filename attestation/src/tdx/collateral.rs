//! What Intel says about platforms: checked once, then used for many quotes.
//!
//! Verifying it costs six signatures, and a quote against it two or three. All of
//! it is public and signed, so anyone may deliver it, the peer included.
//!
//! It holds for the PCK CA that its issuer chain names, and for the processor
//! family of its TCB info; a quote of another is refused.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::certificate::Certificate;
use crate::crl::{Crl, CrlError, Revoked};
use crate::pem::{self, PemError};
use crate::register::Digest256;
use crate::time::{UnixTime, Window};

use super::chain::{Authority, ChainError, Role, TrustAnchor};
use super::document::DocumentError;
use super::qe_identity::QeIdentity;
use super::tcb_info::TcbInfo;

/// Collateral as it is delivered, none of it believed yet.
#[derive(Clone, Copy, Debug)]
pub struct CollateralParts<'a> {
    /// TCB info version 3, JSON with its signature.
    pub tcb_info: &'a str,
    /// PEM: TCB signing certificate, root.
    pub tcb_info_issuer_chain: &'a [u8],
    /// TD QE identity version 2, JSON with its signature.
    pub qe_identity: &'a str,
    /// PEM: TCB signing certificate, root.
    pub qe_identity_issuer_chain: &'a [u8],
    /// DER: PCK certificates that the platform or processor CA revoked.
    pub pck_crl: &'a [u8],
    /// PEM: that CA, root. A quote carries it too:
    /// [`Quote::unverified_pck_issuer_chain`](super::Quote::unverified_pck_issuer_chain).
    pub pck_crl_issuer_chain: &'a [u8],
    /// DER: certificates that the root revoked.
    pub root_crl: &'a [u8],
}

/// Collateral that was verified: signatures, chains, revocation, windows.
#[derive(Clone, Debug)]
pub struct Collateral {
    validity: Window,
    /// Issues the PCK certificates that `revoked_pcks` is about.
    pub(super) pck_ca: Authority,
    /// Of the certificates above the PCK's: see [`issuers_digest`].
    pub(super) pck_issuers: Digest256,
    pub(super) revoked_pcks: Revoked,
    pub(super) tcb_info: TcbInfo,
    pub(super) qe_identity: QeIdentity,
}

impl Collateral {
    /// Checks everything under Intel's root, at the stated time.
    pub fn verify(parts: CollateralParts<'_>, at: UnixTime) -> Result<Self, CollateralError> {
        verify(&TrustAnchor::intel(), parts, at)
    }

    /// Checks everything under a made-up root, at the stated time.
    #[cfg(feature = "test-root")]
    pub fn verify_under(
        anchor: &TrustAnchor,
        parts: CollateralParts<'_>,
        at: UnixTime,
    ) -> Result<Self, CollateralError> {
        verify(anchor, parts, at)
    }

    /// When all of it holds.
    #[must_use]
    pub const fn validity(&self) -> Window {
        self.validity
    }

    /// Number of the TCB recovery that both documents were made after.
    #[must_use]
    pub const fn evaluation_number(&self) -> u32 {
        self.tcb_info.evaluation_number
    }
}

fn verify(
    anchor: &TrustAnchor,
    parts: CollateralParts<'_>,
    at: UnixTime,
) -> Result<Collateral, CollateralError> {
    let (revoked, root_window) =
        RevocationList::Root.open(parts.root_crl, anchor.authority(), at)?;
    let root = Root {
        anchor,
        revoked,
        at,
    };

    let pck_issuers = IssuerChain::PckCrl.read(parts.pck_crl_issuer_chain)?;
    let ca = root.check(&pck_issuers, Role::PckCa)?;
    let pck_ca = Authority::of(&ca);
    let (revoked_pcks, pck_window) = RevocationList::Pck.open(parts.pck_crl, &pck_ca, at)?;

    let signers = IssuerChain::TcbInfo.read(parts.tcb_info_issuer_chain)?;
    let signer = root.check(&signers, Role::TcbSigning)?;
    let (tcb_info, tcb_window) = TcbInfo::open(parts.tcb_info, signer.key, at)?;

    // Intel serves one chain for both documents; it need not be checked twice.
    let qe_signers = match parts.qe_identity_issuer_chain == parts.tcb_info_issuer_chain {
        true => None,
        false => Some(IssuerChain::QeIdentity.read(parts.qe_identity_issuer_chain)?),
    };
    let qe_signer = match &qe_signers {
        None => signer,
        Some(signers) => root.check(signers, Role::TcbSigning)?,
    };
    let (qe_identity, qe_window) = QeIdentity::open(parts.qe_identity, qe_signer.key, at)?;

    // Both documents change together in a TCB recovery; a mixture hides half of one.
    if tcb_info.evaluation_number != qe_identity.evaluation_number {
        return Err(CollateralError::EvaluationNumbers {
            tcb_info: tcb_info.evaluation_number,
            qe_identity: qe_identity.evaluation_number,
        });
    }
    let windows = [
        pck_window,
        ca.validity,
        signer.validity,
        qe_signer.validity,
        tcb_window,
        qe_window,
    ];
    Ok(Collateral {
        validity: windows.into_iter().fold(root_window, Window::and),
        pck_ca,
        pck_issuers: issuers_digest(&pck_issuers),
        revoked_pcks,
        tcb_info,
        qe_identity,
    })
}

/// Identifies the certificates above the PCK's, byte for byte.
pub(super) fn issuers_digest([ca, root]: &[Vec<u8>; 2]) -> Digest256 {
    Digest256::of(ca).extend(Digest256::of(root))
}

/// Why collateral is not to be believed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CollateralError {
    /// A certificate is not what it must be.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// A revocation list is not what it must be.
    #[error("{list}: {error}")]
    Crl {
        /// Which one.
        list: RevocationList,
        /// What is wrong with it.
        error: CrlError,
    },
    /// A document is not what it must be.
    #[error(transparent)]
    Document(#[from] DocumentError),
    /// The documents were made after different TCB recoveries.
    #[error(
        "evaluation number is {tcb_info} in the TCB info and {qe_identity} in the QE identity, expected one for both"
    )]
    EvaluationNumbers {
        /// As read.
        tcb_info: u32,
        /// As read.
        qe_identity: u32,
    },
    /// A chain is not text of the expected form.
    #[error("{chain}: {error}")]
    Pem {
        /// Which one.
        chain: IssuerChain,
        /// What is wrong with it.
        error: PemError,
    },
}

impl CollateralError {
    /// Stable name, for scripts.
    #[must_use]
    pub fn code(&self) -> String {
        match self {
            Self::Chain(error) => error.code(),
            Self::Crl { list, error } => format!("{}-{}", list.code(), error.code()),
            Self::Document(error) => error.code(),
            Self::EvaluationNumbers { .. } => "evaluation-numbers".into(),
            Self::Pem { .. } => "issuer-chain-malformed".into(),
        }
    }
}

/// A revocation list.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum RevocationList {
    /// Of the platform or processor CA.
    Pck,
    /// Of the root.
    Root,
}

impl RevocationList {
    fn open(
        self,
        der: &[u8],
        issuer: &Authority,
        at: UnixTime,
    ) -> Result<(Revoked, Window), CollateralError> {
        Crl::parse(der)
            .map_err(CrlError::Malformed)
            .and_then(|crl| crl.verify(issuer.name(), issuer.key(), at))
            .map_err(|error| CollateralError::Crl { list: self, error })
    }

    const fn code(self) -> &'static str {
        match self {
            Self::Pck => "pck-crl",
            Self::Root => "root-crl",
        }
    }
}

impl fmt::Display for RevocationList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pck => "PCK CRL",
            Self::Root => "root CRL",
        })
    }
}

/// A chain of two certificates.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum IssuerChain {
    /// Above the PCK CRL.
    PckCrl,
    /// Above the QE identity.
    QeIdentity,
    /// Above the TCB info.
    TcbInfo,
}

impl IssuerChain {
    fn read(self, text: &[u8]) -> Result<[Vec<u8>; 2], CollateralError> {
        pem::certificates(text).map_err(|error| CollateralError::Pem { chain: self, error })
    }
}

impl fmt::Display for IssuerChain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::PckCrl => "issuer chain of the PCK CRL",
            Self::QeIdentity => "issuer chain of the QE identity",
            Self::TcbInfo => "issuer chain of the TCB info",
        })
    }
}

/// The pinned root, with what it took back.
struct Root<'a> {
    anchor: &'a TrustAnchor,
    revoked: Revoked,
    at: UnixTime,
}

impl Root<'_> {
    /// Checks a certificate that the root issued, and the root beside it.
    fn check<'c>(
        &self,
        [subject, root]: &'c [Vec<u8>; 2],
        role: Role,
    ) -> Result<Certificate<'c>, ChainError> {
        self.anchor.check(root)?;
        let certificate = self.anchor.authority().check(subject, role)?;
        role.check_validity(
            certificate.serial,
            certificate.validity,
            &self.revoked,
            self.at,
        )?;
        Ok(certificate)
    }
}
