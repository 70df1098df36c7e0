//! NVIDIA's certificates: two roots, and a chain of fixed length under each.
//!
//! ```text
//! NVIDIA Device Identity CA             NVIDIA CoRIM signing Root CA
//! └── NVIDIA GH100 Identity             └── NVIDIA Reference Value GH100 CA
//!     └── ... Provisioner ICA ...           └── NVIDIA Reference Value L3 GH100 ...
//!         └── GH100 ... BROM                    └── ... RIM L4 Signer: two years each
//!             └── GH100 ... FMC LF
//! ```
//!
//! Left: one chain per device; BROM is burnt in, FMC LF is a boot's key, which signs
//! reports and whose certificate names the firmware that holds it. Right: who signs
//! reference manifests. All keys are P-384, all signatures with SHA-384. The roots' keys
//! are pinned; a root that comes with a chain must carry its key.
//!
//! Sources: RFC 5280, section 6.1; names as NVIDIA issues them.

use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use crate::certificate::{Certificate, DIGITAL_SIGNATURE, KEY_CERT_SIGN, PublicKey, Serial};
use crate::crl::CrlError;
use crate::der::DerError;
use crate::ocsp::{self, OcspError};
use crate::signature::{Hash, Scheme};
use crate::time::{OutsideWindow, UnixTime, Window};

use super::architecture::Architecture;
use super::fwid;
use super::revocation::Revocation;

/// One of the two keys that trust starts from.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct TrustAnchor {
    /// DER of the root's name.
    name: Vec<u8>,
    point: Vec<u8>,
}

impl TrustAnchor {
    /// NVIDIA's root of devices.
    pub(super) fn devices() -> Self {
        Self {
            name: DEVICES_NAME.to_vec(),
            point: DEVICES_POINT.to_vec(),
        }
    }

    /// NVIDIA's root of reference manifests.
    pub(super) fn manifests() -> Self {
        Self {
            name: MANIFESTS_NAME.to_vec(),
            point: MANIFESTS_POINT.to_vec(),
        }
    }

    /// A made-up root, for tests.
    #[cfg(feature = "test-root")]
    pub fn from_certificate(der: &[u8]) -> Result<Self, DerError> {
        Certificate::parse(der).map(|root| Self {
            name: root.subject.to_vec(),
            point: root.key.point.to_vec(),
        })
    }

    fn is(&self, root: &Certificate<'_>) -> bool {
        let key = PublicKey {
            scheme: Scheme::P384Sha384,
            point: &self.point,
        };
        root.subject == self.name && root.key == key
    }
}

/// A chain that leads to a pinned root.
#[derive(Debug)]
pub(super) struct Chain<'a, const N: usize> {
    /// As they came: the root last.
    pub(super) certificates: [Certificate<'a>; N],
    /// When all of it holds, what was asked about revocation included.
    pub(super) validity: Window,
    /// Of whom nobody said whether they were revoked.
    pub(super) unasked: Vec<Unasked>,
}

impl<'a, const N: usize> Chain<'a, N> {
    /// Checks a whole chain at a stated time.
    pub(super) fn verify(
        ders: &'a [Vec<u8>; N],
        roles: [Role; N],
        anchor: &TrustAnchor,
        revocation: &Revocation<'_>,
        at: UnixTime,
    ) -> Result<Self, ChainError> {
        let mut certificates = Vec::with_capacity(N);
        for (below, (der, role)) in ders.iter().zip(roles).enumerate() {
            certificates.push(role.read(der, below)?);
        }
        let [.., top] = roles.as_slice() else {
            return Err(Role::DeviceRoot.fault(Fault::Key));
        };
        if !certificates.last().is_some_and(|root| anchor.is(root)) {
            return Err(top.fault(Fault::Key));
        }
        let mut chain = Self {
            validity: Window {
                from: UnixTime(0),
                until: UnixTime(u64::MAX),
            },
            unasked: Vec::new(),
            certificates: certificates.try_into().map_err(|_| top.fault(Fault::Key))?,
        };
        // From the root down: whoever vouches was vouched for before.
        for (certificate, role) in chain.certificates.iter().zip(roles).rev() {
            let fault = |fault| role.fault(fault);
            let window = |error| fault(Fault::Window(error));
            certificate.validity.check(at).map_err(window)?;
            chain.validity = chain.validity.and(certificate.validity);
        }
        for (issued, issuer, role) in links(&chain.certificates, roles) {
            if issued.issuer != issuer.subject {
                return Err(role.fault(Fault::Issuer));
            }
            let signed = issued.signed.verify(issuer.key);
            signed.map_err(|_| role.fault(Fault::Signature))?;
        }
        for (issued, issuer, role) in links(&chain.certificates, roles) {
            let answered = revocation
                .check(issued, issuer, at)
                .map_err(|fault| role.fault(fault))?;
            match answered {
                Some(window) => chain.validity = chain.validity.and(window),
                None if role.is_answered_for() => chain.unasked.push(Unasked {
                    role,
                    request: ocsp::request(issued.serial, issuer),
                }),
                None => {}
            }
        }
        Ok(chain)
    }
}

/// A certificate of which it is not known whether it was revoked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Unasked {
    /// Which.
    pub role: Role,
    /// What to ask NVIDIA: an OCSP request, DER.
    pub request: Vec<u8>,
}

/// Each certificate with the one above it, from the top.
fn links<'c, 'a, const N: usize>(
    certificates: &'c [Certificate<'a>; N],
    roles: [Role; N],
) -> impl Iterator<Item = (&'c Certificate<'a>, &'c Certificate<'a>, Role)> {
    let above = certificates.iter().skip(1);
    let pairs = certificates.iter().zip(above).zip(roles);
    let pairs: Vec<_> = pairs.map(|((a, b), role)| (a, b, role)).collect();
    pairs.into_iter().rev()
}

/// A device's chain, as NVML gives it.
pub(super) const DEVICE: [Role; 5] = [
    Role::Firmware,
    Role::Brom,
    Role::Provisioner,
    Role::Identity,
    Role::DeviceRoot,
];

/// A manifest's chain, as it stands in its signature.
pub(super) const MANIFEST: [Role; 4] = [
    Role::Signer,
    Role::Level3,
    Role::ReferenceCa,
    Role::ManifestRoot,
];

/// What a certificate is for.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Role {
    /// Signs reports: a device with one firmware.
    Firmware,
    /// A device.
    Brom,
    /// Issues devices' certificates.
    Provisioner,
    /// Issues provisioners' certificates.
    Identity,
    /// Pinned.
    DeviceRoot,
    /// Signs reference manifests.
    Signer,
    /// Issues signers' certificates.
    Level3,
    /// Stands for a family of products.
    ReferenceCa,
    /// Pinned.
    ManifestRoot,
}

impl Role {
    /// Reads a certificate with so many others below it, and checks that it may play
    /// this part.
    fn read<'a>(self, der: &'a [u8], below: usize) -> Result<Certificate<'a>, ChainError> {
        let malformed = |error| self.fault(Fault::Malformed(error));
        let certificate = Certificate::parse_knowing(der, &fwid::EXTENSIONS).map_err(malformed)?;
        let name = certificate.common_name().map_err(malformed)?;
        let (before, after) = self.name();
        if !name.starts_with(before) || !name.ends_with(after) {
            let found = name.into();
            return Err(self.fault(Fault::Name { found }));
        }
        let (authority, usage) = match self {
            Self::Firmware | Self::Signer => (false, DIGITAL_SIGNATURE),
            _ => (true, KEY_CERT_SIGN),
        };
        // RFC 5280, section 4.2.1.9: the last certificate does not count.
        let room = certificate
            .path_len
            .is_none_or(|most| below <= usize::from(most).saturating_add(1));
        if certificate.authority != authority || certificate.key_usage & usage != usage || !room {
            return Err(self.fault(Fault::Usage));
        }
        let algorithms = (certificate.key.scheme, certificate.signed.hash);
        match algorithms == (Scheme::P384Sha384, Hash::Sha384) {
            true => Ok(certificate),
            false => Err(self.fault(Fault::Algorithm)),
        }
    }

    /// Whether NVIDIA says of such certificates if they were revoked.
    const fn is_answered_for(self) -> bool {
        !matches!(self, Self::Firmware)
    }

    /// How a common name begins and ends.
    const fn name(self) -> (&'static str, &'static str) {
        match self {
            Self::Firmware => ("", " FMC LF"),
            Self::Brom => ("", " BROM"),
            Self::Provisioner => ("NVIDIA ", ""),
            Self::Identity => ("NVIDIA ", " Identity"),
            Self::DeviceRoot | Self::ManifestRoot => ("", ""),
            Self::Signer => ("", "RIM L4 Signer"),
            Self::Level3 => (LEVEL_3, ""),
            Self::ReferenceCa => ("NVIDIA Reference Value ", ""),
        }
    }

    /// The chip that a common name in this part begins with.
    pub(super) fn architecture(
        self,
        certificate: &Certificate<'_>,
    ) -> Result<Option<Architecture>, ChainError> {
        let name = certificate
            .common_name()
            .map_err(|error| self.fault(Fault::Malformed(error)))?;
        let name = match self {
            Self::Level3 => name.strip_prefix(LEVEL_3),
            Self::Provisioner | Self::Identity => name.strip_prefix("NVIDIA "),
            _ => Some(name),
        };
        let chip = name.and_then(|name| name.split([' ', '-']).next());
        Ok(chip.and_then(Architecture::of_chip))
    }

    pub(super) const fn fault(self, fault: Fault) -> ChainError {
        ChainError {
            certificate: self,
            fault,
        }
    }

    const fn code(self) -> &'static str {
        match self {
            Self::Firmware => "device",
            Self::Brom => "brom",
            Self::Provisioner => "provisioner",
            Self::Identity => "identity",
            Self::DeviceRoot => "device-root",
            Self::Signer => "rim-signer",
            Self::Level3 => "rim-level-3",
            Self::ReferenceCa => "rim-ca",
            Self::ManifestRoot => "rim-root",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Firmware => "firmware certificate of the device",
            Self::Brom => "BROM certificate of the device",
            Self::Provisioner => "provisioner certificate",
            Self::Identity => "identity certificate",
            Self::DeviceRoot => "root certificate of devices",
            Self::Signer => "signer of the manifest",
            Self::Level3 => "level 3 certificate of the manifest",
            Self::ReferenceCa => "reference value CA of the manifest",
            Self::ManifestRoot => "root certificate of the manifest",
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
    /// Another curve or hash.
    #[error("not a key on P-384, or not signed with SHA-384")]
    Algorithm,
    /// Its name is of another product than the certificates around it.
    #[error("for another product than the rest of the chain")]
    Architecture,
    /// What says whether it was revoked is not to be believed.
    #[error("its revocation list: {0}")]
    Crl(CrlError),
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
    /// What says whether it was revoked is not to be believed.
    #[error("its OCSP response: {0}")]
    Ocsp(OcspError),
    /// The issuer took it back.
    #[error("revoked, serial number {serial}")]
    Revoked {
        /// Its number.
        serial: Serial,
    },
    /// Not signed by the certificate above.
    #[error("the signature does not verify under the key above it")]
    Signature,
    /// The issuer does not know it.
    #[error("unknown to its issuer, serial number {serial}")]
    Unknown {
        /// Its number.
        serial: Serial,
    },
    /// It may not do what it is here for.
    #[error("basic constraints, path length or key usage do not fit its place in the chain")]
    Usage,
    /// Not at that time.
    #[error("{0}")]
    Window(OutsideWindow),
}

impl Fault {
    fn code(&self) -> String {
        match self {
            Self::Algorithm => "algorithm".into(),
            Self::Architecture => "architecture".into(),
            Self::Crl(error) => alloc::format!("crl-{}", error.code()),
            Self::Issuer => "issuer".into(),
            Self::Key => "key".into(),
            Self::Malformed(_) => "malformed".into(),
            Self::Name { .. } => "name".into(),
            Self::Ocsp(error) => alloc::format!("ocsp-{}", error.code()),
            Self::Revoked { .. } => "revoked".into(),
            Self::Signature => "signature".into(),
            Self::Unknown { .. } => "unknown".into(),
            Self::Usage => "usage".into(),
            Self::Window(error) => error.code().into(),
        }
    }
}

const LEVEL_3: &str = "NVIDIA Reference Value L3 ";

/// CN=NVIDIA Device Identity CA, O=NVIDIA.
const DEVICES_NAME: &[u8] = b"\x30\x35\
    \x31\x22\x30\x20\x06\x03\x55\x04\x03\x0c\x19NVIDIA Device Identity CA\
    \x31\x0f\x30\x0d\x06\x03\x55\x04\x0a\x0c\x06NVIDIA";

/// Of the certificate with SHA-256 102bf659d5419614c9d8e6aecebc80454eb26b1df6a769ac720b9a690b167b48.
const DEVICES_POINT: [u8; 97] = [
    0x04, 0x0e, 0x4c, 0x14, 0xa3, 0x3b, 0xf8, 0xa5, 0x62, 0x66, 0x58, 0xdb, 0x41, 0x29, 0x60, 0x7e,
    0x4c, 0xbf, 0x45, 0x19, 0xc4, 0x41, 0x27, 0x16, 0xf4, 0xd0, 0xd9, 0x17, 0xc4, 0x97, 0x80, 0x05,
    0xbd, 0xea, 0xbe, 0xae, 0xfd, 0x57, 0xbc, 0x66, 0x08, 0x2d, 0x71, 0x8a, 0x4f, 0x8b, 0x60, 0x52,
    0xe1, 0x51, 0x6e, 0xe8, 0xa7, 0xc4, 0x22, 0xb8, 0x4d, 0xe8, 0x57, 0x07, 0x1b, 0xb5, 0x8f, 0xd3,
    0x95, 0xbe, 0xa0, 0xcf, 0xa1, 0xc6, 0x3e, 0xe7, 0xc8, 0x0d, 0x6b, 0xd6, 0x39, 0x01, 0xd9, 0x1c,
    0xbb, 0xd1, 0x87, 0xd3, 0x85, 0x7d, 0xc1, 0x6b, 0x5c, 0xce, 0xaf, 0x23, 0x8f, 0xf8, 0xc2, 0x7d,
    0xbd,
];

/// C=US, O=NVIDIA, CN=NVIDIA CoRIM signing Root CA.
const MANIFESTS_NAME: &[u8] = b"\x30\x45\
    \x31\x0b\x30\x09\x06\x03\x55\x04\x06\x13\x02US\
    \x31\x0f\x30\x0d\x06\x03\x55\x04\x0a\x0c\x06NVIDIA\
    \x31\x25\x30\x23\x06\x03\x55\x04\x03\x0c\x1cNVIDIA CoRIM signing Root CA";

/// Of the certificate with SHA-256 12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1.
const MANIFESTS_POINT: [u8; 97] = [
    0x04, 0xb8, 0x40, 0xb2, 0x8b, 0xdb, 0xcd, 0x33, 0xe2, 0x30, 0xda, 0x57, 0xd4, 0xcf, 0x20, 0x65,
    0x74, 0x70, 0x30, 0x68, 0x2d, 0x47, 0x17, 0xb4, 0xc2, 0x82, 0x9d, 0x76, 0x41, 0xc1, 0x32, 0x51,
    0x39, 0xb7, 0x4d, 0xa8, 0x31, 0xc2, 0xbe, 0x3c, 0x77, 0x9e, 0x7e, 0x2b, 0x65, 0x48, 0x95, 0x66,
    0x08, 0x0e, 0x4e, 0xcd, 0x94, 0x02, 0x10, 0x75, 0xc5, 0x7f, 0x15, 0xfe, 0xde, 0xb8, 0x62, 0xc8,
    0xf9, 0x06, 0xae, 0x8f, 0xdd, 0xc7, 0xb1, 0x22, 0x38, 0x59, 0x7d, 0xbd, 0xf0, 0xfa, 0x56, 0xe7,
    0x84, 0x53, 0x83, 0x3f, 0x6d, 0x0b, 0xe4, 0x3a, 0xf3, 0x87, 0x1a, 0x47, 0xf0, 0x57, 0x58, 0x47,
    0x99,
];
