//! Intel's certificates for SGX and TDX: one root, and two chains under it.
//!
//! ```text
//! Intel SGX Root CA
//! ├── Intel SGX PCK Platform CA, Intel SGX PCK Processor CA
//! │   └── Intel SGX PCK Certificate: one per platform and TCB, signs QE reports
//! └── Intel SGX TCB Signing: signs TCB info and QE identity
//! ```
//!
//! The root's key is pinned; a root that comes with a chain must carry it.
//!
//! Source: Intel SGX PCK Certificate and CRL Profile Specification, revision 1.5.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::certificate::{
    CRL_SIGN, Certificate, DIGITAL_SIGNATURE, KEY_CERT_SIGN, PublicKey, Serial,
};
use crate::crl::Revoked;
use crate::der::DerError;
use crate::register::Digest256;
use crate::signature::Scheme;
use crate::time::{OutsideWindow, UnixTime, Window};

/// The one key that trust starts from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TrustAnchor(Authority);

impl TrustAnchor {
    /// Intel's root of 2018, whose certificate runs until 2049.
    pub(super) fn intel() -> Self {
        Self(Authority {
            name: INTEL_NAME.to_vec(),
            scheme: Scheme::P256Sha256,
            point: INTEL_POINT.to_vec(),
            issued: &INTEL_ISSUED,
        })
    }

    /// A made-up root, for tests.
    #[cfg(feature = "test-root")]
    pub fn from_certificate(der: &[u8]) -> Result<Self, DerError> {
        Certificate::parse(der).map(|root| Self(Authority::of(&root)))
    }

    /// Whoever holds the key.
    pub(super) const fn authority(&self) -> &Authority {
        &self.0
    }

    /// Refuses a root certificate of another key or name.
    pub(super) fn check(&self, der: &[u8]) -> Result<(), ChainError> {
        let root = parse(der, Role::Root)?;
        match root.subject == self.0.name && root.key == self.0.key() {
            true => Ok(()),
            false => Err(Role::Root.fault(Fault::Key)),
        }
    }
}

/// A name, and the key that signs under it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Authority {
    /// DER.
    name: Vec<u8>,
    scheme: Scheme,
    point: Vec<u8>,
    /// Certificates whose signature by this key was checked beforehand.
    issued: &'static [Digest256],
}

impl Authority {
    pub(super) fn of(certificate: &Certificate<'_>) -> Self {
        Self {
            name: certificate.subject.to_vec(),
            scheme: certificate.key.scheme,
            point: certificate.key.point.to_vec(),
            issued: &[],
        }
    }

    pub(super) fn key(&self) -> PublicKey<'_> {
        PublicKey {
            scheme: self.scheme,
            point: &self.point,
        }
    }

    /// DER.
    pub(super) fn name(&self) -> &[u8] {
        &self.name
    }

    /// Reads a certificate, and checks that it plays `role` and was issued here.
    ///
    /// Says nothing of time and revocation: see [`Role::check_validity`].
    pub(super) fn check<'a>(
        &self,
        der: &'a [u8],
        role: Role,
    ) -> Result<Certificate<'a>, ChainError> {
        let certificate = parse(der, role)?;
        role.check_purpose(&certificate)?;
        if certificate.issuer != self.name {
            return Err(role.fault(Fault::Issuer));
        }
        if !self.issued(der) {
            certificate
                .signed
                .verify(self.key())
                .map_err(|_| role.fault(Fault::Signature))?;
        }
        Ok(certificate)
    }

    fn issued(&self, der: &[u8]) -> bool {
        !self.issued.is_empty() && self.issued.contains(&Digest256::of(der))
    }
}

/// What a certificate is for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// Provisioning certification key: one platform at one TCB.
    Pck,
    /// Issues PCK certificates.
    PckCa,
    /// Issues everything else.
    Root,
    /// Signs TCB info and QE identities.
    TcbSigning,
}

impl Role {
    /// Refuses a certificate that is outside its window, or taken back.
    pub(super) fn check_validity(
        self,
        serial: Serial,
        validity: Window,
        revoked: &Revoked,
        at: UnixTime,
    ) -> Result<(), ChainError> {
        validity
            .check(at)
            .map_err(|error| self.fault(Fault::Window(error)))?;
        match revoked.contains(serial) {
            true => Err(self.fault(Fault::Revoked { serial })),
            false => Ok(()),
        }
    }

    fn check_purpose(self, certificate: &Certificate<'_>) -> Result<(), ChainError> {
        let name = certificate
            .common_name()
            .map_err(|error| self.fault(Fault::Malformed(error)))?;
        if !self.names().contains(&name) {
            let found = name.into();
            return Err(self.fault(Fault::Name { found }));
        }
        let (authority, usage) = match self {
            Self::Root | Self::PckCa => (true, KEY_CERT_SIGN | CRL_SIGN),
            Self::Pck | Self::TcbSigning => (false, DIGITAL_SIGNATURE),
        };
        match certificate.authority == authority && certificate.key_usage & usage == usage {
            true => Ok(()),
            false => Err(self.fault(Fault::Usage)),
        }
    }

    const fn names(self) -> &'static [&'static str] {
        match self {
            Self::Pck => &["Intel SGX PCK Certificate"],
            Self::PckCa => &["Intel SGX PCK Platform CA", "Intel SGX PCK Processor CA"],
            Self::Root => &["Intel SGX Root CA"],
            Self::TcbSigning => &["Intel SGX TCB Signing"],
        }
    }

    pub(super) const fn fault(self, fault: Fault) -> ChainError {
        ChainError {
            certificate: self,
            fault,
        }
    }

    const fn code(self) -> &'static str {
        match self {
            Self::Pck => "pck",
            Self::PckCa => "pck-ca",
            Self::Root => "root",
            Self::TcbSigning => "tcb-signing",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Pck => "PCK certificate",
            Self::PckCa => "PCK CA certificate",
            Self::Root => "root certificate",
            Self::TcbSigning => "TCB signing certificate",
        })
    }
}

/// Which certificate of a chain is not as it must be, and why.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{certificate}: {fault}")]
pub struct ChainError {
    /// The certificate.
    pub certificate: Role,
    /// What is wrong with it.
    pub fault: Fault,
}

impl ChainError {
    /// Stable name, for scripts.
    #[must_use]
    pub fn code(&self) -> String {
        alloc::format!("{}-{}", self.certificate.code(), self.fault.code())
    }
}

/// What is wrong with a certificate.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// Its issuer's name is not that of the certificate above.
    #[error("issued by another name than that of the certificate above it")]
    Issuer,
    /// It does not carry the pinned key and name.
    #[error("not the pinned one")]
    Key,
    /// Not X.509 in DER of the expected shape.
    #[error("{0}")]
    Malformed(DerError),
    /// It belongs to somebody with another part in this.
    #[error("common name is \"{found}\"")]
    Name {
        /// As read.
        found: String,
    },
    /// Not the one that the collateral was verified with.
    #[error("not the one whose revocation list was verified")]
    Other,
    /// The issuer took it back.
    #[error("revoked, serial number {serial}")]
    Revoked {
        /// Its number.
        serial: Serial,
    },
    /// Not signed by the certificate above.
    #[error("the signature does not verify under the key above it")]
    Signature,
    /// It may not do what it is here for.
    #[error("basic constraints or key usage do not fit its place in the chain")]
    Usage,
    /// Not at that time.
    #[error("{0}")]
    Window(OutsideWindow),
}

impl Fault {
    const fn code(&self) -> &'static str {
        match self {
            Self::Issuer => "issuer",
            Self::Key => "key",
            Self::Malformed(_) => "malformed",
            Self::Name { .. } => "name",
            Self::Other => "other",
            Self::Revoked { .. } => "revoked",
            Self::Signature => "signature",
            Self::Usage => "usage",
            Self::Window(error) => error.code(),
        }
    }
}

fn parse(der: &[u8], role: Role) -> Result<Certificate<'_>, ChainError> {
    Certificate::parse(der).map_err(|error| role.fault(Fault::Malformed(error)))
}

/// C=US, ST=CA, L=Santa Clara, O=Intel Corporation, CN=Intel SGX Root CA.
const INTEL_NAME: &[u8] = b"\x30\x68\
    \x31\x1a\x30\x18\x06\x03\x55\x04\x03\x0c\x11Intel SGX Root CA\
    \x31\x1a\x30\x18\x06\x03\x55\x04\x0a\x0c\x11Intel Corporation\
    \x31\x14\x30\x12\x06\x03\x55\x04\x07\x0c\x0bSanta Clara\
    \x31\x0b\x30\x09\x06\x03\x55\x04\x08\x0c\x02CA\
    \x31\x0b\x30\x09\x06\x03\x55\x04\x06\x13\x02US";

/// Of the certificate with SHA-256 44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3.
const INTEL_POINT: [u8; 65] = [
    0x04, 0x0b, 0xa9, 0xc4, 0xc0, 0xc0, 0xc8, 0x61, 0x93, 0xa3, 0xfe, 0x23, 0xd6, 0xb0, 0x2c, 0xda,
    0x10, 0xa8, 0xbb, 0xd4, 0xe8, 0x8e, 0x48, 0xb4, 0x45, 0x85, 0x61, 0xa3, 0x6e, 0x70, 0x55, 0x25,
    0xf5, 0x67, 0x91, 0x8e, 0x2e, 0xdc, 0x88, 0xe4, 0x0d, 0x86, 0x0b, 0xd0, 0xcc, 0x4e, 0xe2, 0x6a,
    0xac, 0xc9, 0x88, 0xe5, 0x05, 0xa9, 0x53, 0x55, 0x8c, 0x45, 0x3f, 0x6b, 0x09, 0x04, 0xae, 0x73,
    0x94,
];

/// The certificates that Intel's root has issued for TDX, by SHA-256: two signatures
/// less in every verification. A test checks each of them against the root's key.
const INTEL_ISSUED: [Digest256; 4] = [
    // Intel SGX PCK Platform CA.
    Digest256::from_bytes([
        0x22, 0xeb, 0x77, 0x0d, 0xca, 0x21, 0x5b, 0x60, 0x7b, 0x5c, 0xcf, 0xc2, 0x1a, 0x67, 0x2b,
        0x1d, 0xa5, 0xcc, 0x66, 0x0b, 0x1a, 0xd0, 0x36, 0x50, 0x20, 0x56, 0x79, 0x79, 0xed, 0xca,
        0xa0, 0xe1,
    ]),
    // Intel SGX PCK Processor CA.
    Digest256::from_bytes([
        0x13, 0xb2, 0xdc, 0xce, 0xf8, 0xfc, 0x4e, 0xc9, 0x77, 0xee, 0x52, 0x49, 0x74, 0x3b, 0x0f,
        0x75, 0x8e, 0xbd, 0x1e, 0x28, 0xd7, 0x68, 0xb2, 0xe1, 0xe1, 0x2b, 0xc3, 0x48, 0xad, 0xaa,
        0x09, 0xfb,
    ]),
    // Intel SGX TCB Signing, 2018 to 2025.
    Digest256::from_bytes([
        0xec, 0x37, 0xd9, 0x81, 0x07, 0xbf, 0xb7, 0xda, 0xb6, 0xff, 0x8d, 0xe4, 0xd4, 0xdd, 0xa6,
        0xfd, 0xe3, 0x0a, 0x6f, 0x50, 0xb0, 0xd7, 0xb0, 0x3e, 0xef, 0xb5, 0x65, 0x2f, 0x1e, 0x65,
        0x29, 0x69,
    ]),
    // Intel SGX TCB Signing, 2025 to 2032.
    Digest256::from_bytes([
        0xc0, 0x57, 0x5e, 0x76, 0xd0, 0x30, 0x3b, 0x61, 0xd0, 0x9c, 0xde, 0x8c, 0xbd, 0xb7, 0x0d,
        0xb3, 0x4a, 0x74, 0xf3, 0x83, 0x18, 0x30, 0x0d, 0x7c, 0x0e, 0x6b, 0xa8, 0xcf, 0x4b, 0xf4,
        0x5a, 0xea,
    ]),
];

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use alloc::string::ToString;
    use std::path::PathBuf;

    #[test]
    fn the_pinned_root_signed_every_certificate_that_is_taken_as_signed() {
        let vectors = std::env::var_os("COCOON_VECTORS").map_or_else(
            || concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/vectors").into(),
            PathBuf::from,
        );
        if !vectors.exists() {
            assert!(std::env::var_os("CI").is_none(), "CI needs the vectors");
            std::println!("skipped: no vectors");
            return;
        }
        let anchor = TrustAnchor::intel();
        let mut missing = INTEL_ISSUED.to_vec();
        for entry in std::fs::read_dir(vectors.join("tdx/roots")).unwrap() {
            let bytes = std::fs::read(entry.unwrap().path()).unwrap();
            let Ok([der]) = crate::pem::certificates(&bytes) else {
                continue;
            };
            let certificate = Certificate::parse(&der).unwrap();
            let signed = certificate.signed.verify(anchor.authority().key());
            assert_eq!(signed, Ok(()), "{:?}", certificate.common_name());
            missing.retain(|digest| *digest != Digest256::of(&der));
        }
        assert!(missing.is_empty(), "not recorded: {missing:?}");
    }

    #[test]
    fn messages_name_the_certificate_and_what_is_wrong() {
        let error = Role::PckCa.fault(Fault::Revoked {
            serial: Serial::read(&mut crate::der::Der::new(&[2, 1, 7])).unwrap(),
        });
        assert_eq!(
            error.to_string(),
            "PCK CA certificate: revoked, serial number 0000000000000000000000000000000000000007"
        );
        assert_eq!(error.code(), "pck-ca-revoked");
    }
}
