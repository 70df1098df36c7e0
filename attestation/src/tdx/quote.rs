//! TDX quotes, versions 4 and 5: bytes in, named fields out.
//!
//! ```text
//! offset  size  field
//!      0    48  header: version u16 = 4 or 5, key type u16 = 2, TEE type u32 = 0x81, ...
//!     48     6  version 5 only: body type u16 = 2, 3 or 4, body size u32
//!      +   584  TD report body; type 3: 648, type 4: 885
//!      +     4  n: length of the signature data
//!      +     n  signature r || s, attestation key x || y, certification data of
//!               type 6: QE report, its signature, QE authentication data, and
//!               certification data of type 5: PEM of the PCK chain
//! ```
//!
//! Integers are little-endian. The attestation key signs everything before `n`;
//! the PCK signs the QE report, and that names the attestation key.
//!
//! Every length must be exact, and the quote must end where it says: who has a
//! padded one cuts it first. Inside the innermost data, zero bytes and line ends
//! may follow the PEM, as Intel's quote generator leaves them there.
//!
//! Parsing proves the shape and nothing more: no signature, no freshness, no
//! policy. A [`Quote`] is a claim until it has been verified.
//!
//! Source: Intel TDX DCAP Quoting Library API, revision 0.9, "Quote Format".

use alloc::vec::Vec;

use crate::certificate::Certificate;
use crate::reader::{Reader, Truncated};

use super::body::TdBody;
use super::pck::{Pck, Platform};
use super::qe_identity::QeReport;

/// A well-formed quote that nobody has verified yet.
#[derive(Clone, Debug)]
pub struct Quote<'a> {
    /// What the attestation key signed.
    pub(super) signed: &'a [u8],
    pub(super) signature: &'a [u8; 64],
    /// All that stays the same from one quote of a platform to the next.
    pub(super) platform: &'a [u8],
    /// `x || y`.
    pub(super) attestation_key: &'a [u8; 64],
    /// What the PCK signed.
    pub(super) signed_by_pck: &'a [u8; 384],
    /// The same, read.
    pub(super) qe_report: QeReport,
    pub(super) qe_report_signature: &'a [u8; 64],
    pub(super) qe_auth_data: &'a [u8],
    /// PEM.
    pub(super) pck_chain: &'a [u8],
    pub(super) body: TdBody,
}

impl<'a> Quote<'a> {
    /// Reads one quote and nothing after it.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, QuoteError> {
        let mut reader = Reader::new(bytes);
        let version = read_header(&mut reader)?;
        let body_type = match version {
            V4 => BodyType::Td10,
            _ => BodyType::read(&mut reader)?,
        };
        let body = TdBody::read(&mut reader, body_type)?;
        let signed = reader.consumed();

        expect_to_end(&mut reader, "signature data")?;
        let signature = reader.array("quote signature")?;
        let platform = reader.rest();
        let attestation_key = reader.array("attestation key")?;
        expect_type(&mut reader, "certification data type", QE_REPORT)?;
        expect_to_end(&mut reader, "certification data")?;
        let signed_by_pck = reader.clone().array("QE report")?;
        let qe_report = QeReport::read(&mut reader)?;
        let qe_report_signature = reader.array("QE report signature")?;
        let len = reader.u16_le("QE authentication data length")?;
        let qe_auth_data = reader.slice("QE authentication data", usize::from(len))?;
        expect_type(&mut reader, "QE certification data type", PCK_CHAIN)?;
        expect_to_end(&mut reader, "PCK certificate chain")?;
        let pck_chain = reader.rest();
        Ok(Self {
            signed,
            signature,
            platform,
            attestation_key,
            signed_by_pck,
            qe_report,
            qe_report_signature,
            qe_auth_data,
            pck_chain,
            body,
        })
    }

    /// What the quote claims: fit for diagnostics, not for trust.
    #[must_use]
    pub const fn unverified_body(&self) -> &TdBody {
        &self.body
    }

    /// PEM of the CA that issued the quote's PCK certificate, and of the root.
    ///
    /// It is what must come with that CA's revocation list, where the list's own
    /// issuer chain is not at hand. Empty where the quote has no chain.
    #[must_use]
    pub fn unverified_pck_issuer_chain(&self) -> &'a [u8] {
        crate::pem::after_first(self.pck_chain)
    }

    /// DER of the name that the quote's first certificate says issued it.
    pub(super) fn unverified_pck_issuer(&self) -> Option<Vec<u8>> {
        let [leaf, _, _] = crate::pem::certificates(self.pck_chain).ok()?;
        let certificate = Certificate::parse(&leaf).ok()?;
        Some(certificate.issuer.to_vec())
    }

    /// The signed bytes and the signatures, for who verifies them elsewhere.
    #[must_use]
    pub const fn unverified_parts(&self) -> QuoteParts<'a> {
        QuoteParts {
            signed: self.signed,
            signature: self.signature,
            attestation_key: self.attestation_key,
            qe_report: self.signed_by_pck,
            qe_report_signature: self.qe_report_signature,
            qe_auth_data: self.qe_auth_data,
            pck_chain: self.pck_chain,
        }
    }

    /// The platform that the quote's first certificate names: fit for fetching
    /// the collateral that speaks of it, not for trust.
    #[must_use]
    pub fn unverified_platform(&self) -> Option<Platform> {
        let [leaf, _, _] = crate::pem::certificates(self.pck_chain).ok()?;
        let certificate = Certificate::parse(&leaf).ok()?;
        let pck = Pck::read(&leaf, &certificate).ok()?;
        Some(pck.platform)
    }
}

/// What is signed in a quote, by whom, and how.
#[derive(Clone, Copy, Debug)]
pub struct QuoteParts<'a> {
    /// Header and body.
    pub signed: &'a [u8],
    /// `r || s` by the attestation key.
    pub signature: &'a [u8; 64],
    /// `x || y`.
    pub attestation_key: &'a [u8; 64],
    /// What the quoting enclave reports of itself.
    pub qe_report: &'a [u8; 384],
    /// `r || s` by the PCK.
    pub qe_report_signature: &'a [u8; 64],
    /// Hashed with the attestation key into the QE report.
    pub qe_auth_data: &'a [u8],
    /// PEM: PCK certificate, its CA, the root.
    pub pck_chain: &'a [u8],
}

/// Which fields the body has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum BodyType {
    /// TDX 1.0, and every quote of version 4.
    Td10,
    /// TDX 1.5.
    Td15,
    /// TDX 1.5 with the fields of TD partitioning and TDX Connect.
    Td15Ex,
}

impl BodyType {
    fn read(reader: &mut Reader<'_>) -> Result<Self, QuoteError> {
        let found = reader.u16_le("body type")?;
        let (body_type, expected) = match found {
            2 => (Self::Td10, 584),
            3 => (Self::Td15, 648),
            4 => (Self::Td15Ex, 885),
            _ => return Err(QuoteError::BodyType { found }),
        };
        let found = reader.u32_le("body size")?;
        match found == expected {
            true => Ok(body_type),
            false => Err(QuoteError::BodySize { found, expected }),
        }
    }
}

/// Why bytes are not a quote.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum QuoteError {
    /// The body is not as long as its type says.
    #[error("body size is {found}, expected {expected}")]
    BodySize {
        /// As read.
        found: u32,
        /// Size of that type.
        expected: u32,
    },
    /// The body is not one of a TD.
    #[error("body type is {found}, expected 2, 3 or 4 (TD report)")]
    BodyType {
        /// As read.
        found: u16,
    },
    /// Certification data of another kind, such as an encrypted PPID.
    #[error("{field} is {found}, expected {expected}")]
    CertificationType {
        /// Which of the two.
        field: &'static str,
        /// As read.
        found: u16,
        /// As specified.
        expected: u16,
    },
    /// Only ECDSA P-256 attestation keys are accepted.
    #[error("attestation key type is {found}, expected {ECDSA_P256} (ECDSA P-256)")]
    KeyType {
        /// As read.
        found: u16,
    },
    /// The quote is for another kind of TEE.
    #[error("TEE type is {found:#x}, expected {TEE_TDX:#x} (TDX)")]
    TeeType {
        /// As read.
        found: u32,
    },
    /// Something follows where nothing may.
    #[error("{left} bytes after the end of the {after}")]
    Trailing {
        /// What had ended.
        after: &'static str,
        /// How many bytes follow.
        left: usize,
    },
    /// The input ended inside a field.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// Another vendor's quoting enclave.
    #[error("QE vendor is {}, expected Intel", hex::encode(found))]
    Vendor {
        /// As read.
        found: [u8; 16],
    },
    /// The format version is one this crate does not read.
    #[error("quote version is {found}, expected 4 or 5")]
    Version {
        /// As read.
        found: u16,
    },
}

impl QuoteError {
    /// Stable name, for scripts.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::BodySize { .. } => "quote-body-size",
            Self::BodyType { .. } => "quote-body-type",
            Self::CertificationType { .. } => "quote-certification-type",
            Self::KeyType { .. } => "quote-key-type",
            Self::TeeType { .. } => "quote-tee-type",
            Self::Trailing { .. } => "quote-trailing",
            Self::Truncated(_) => "quote-truncated",
            Self::Vendor { .. } => "quote-vendor",
            Self::Version { .. } => "quote-version",
        }
    }
}

fn read_header(reader: &mut Reader<'_>) -> Result<u16, QuoteError> {
    let version = reader.u16_le("version")?;
    if version != V4 && version != V5 {
        return Err(QuoteError::Version { found: version });
    }
    let found = reader.u16_le("attestation key type")?;
    if found != ECDSA_P256 {
        return Err(QuoteError::KeyType { found });
    }
    let found = reader.u32_le("TEE type")?;
    if found != TEE_TDX {
        return Err(QuoteError::TeeType { found });
    }
    // QE and PCE SVN are not meaningful here: the QE report and the PCK certificate have them.
    reader.array::<4>("QE and PCE SVN")?;
    let found = *reader.array("QE vendor")?;
    if found != INTEL {
        return Err(QuoteError::Vendor { found });
    }
    reader.array::<20>("user data")?;
    Ok(version)
}

/// A length, and exactly so many bytes: every part of a quote that has a length
/// of its own reaches to the quote's end.
fn expect_to_end(reader: &mut Reader<'_>, field: &'static str) -> Result<(), QuoteError> {
    let len = reader.u32_le(field)?;
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    reader.clone().slice(field, len)?;
    match reader.rest().len().saturating_sub(len) {
        0 => Ok(()),
        left => Err(QuoteError::Trailing { after: field, left }),
    }
}

fn expect_type(
    reader: &mut Reader<'_>,
    field: &'static str,
    expected: u16,
) -> Result<(), QuoteError> {
    let found = reader.u16_le(field)?;
    match found == expected {
        true => Ok(()),
        false => Err(QuoteError::CertificationType {
            field,
            found,
            expected,
        }),
    }
}

const V4: u16 = 4;
const V5: u16 = 5;
const ECDSA_P256: u16 = 2;
const TEE_TDX: u32 = 0x81;
const QE_REPORT: u16 = 6;
const PCK_CHAIN: u16 = 5;
/// 939a7233-f79c-4ca9-940a-0db3957f0607.
const INTEL: [u8; 16] = [
    0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07,
];

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;
    use alloc::vec::Vec;

    /// The start of a quote of version 4.
    fn header() -> Vec<u8> {
        let start = [4, 0, 2, 0, 0x81, 0, 0, 0, 0, 0, 0, 0];
        [&start[..], &INTEL, &[0; 20]].concat()
    }

    #[test]
    fn messages_name_field_offset_and_sizes() {
        let error = Quote::parse(&[4, 0, 2]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "attestation key type at offset 2 needs 2 bytes, 1 left"
        );
        let error = Quote::parse(&header()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "TEE_TCB_SVN at offset 48 needs 16 bytes, 0 left"
        );
    }

    #[test]
    fn messages_say_what_was_found_and_what_was_expected() {
        let changed = |at: usize, byte| {
            let mut quote = header();
            quote[at] = byte;
            Quote::parse(&quote).unwrap_err().to_string()
        };
        assert_eq!(changed(0, 3), "quote version is 3, expected 4 or 5");
        assert_eq!(
            changed(2, 3),
            "attestation key type is 3, expected 2 (ECDSA P-256)"
        );
        assert_eq!(changed(4, 0), "TEE type is 0x0, expected 0x81 (TDX)");
        assert_eq!(
            changed(12, 0),
            "QE vendor is 009a7233f79c4ca9940a0db3957f0607, expected Intel"
        );
    }

    #[test]
    fn no_length_of_a_peer_is_allocated_or_wraps() {
        let quote = [header(), vec![0; 584], vec![0xff; 4]].concat();
        let error = Quote::parse(&quote).unwrap_err();
        assert_eq!(
            error.to_string(),
            "signature data at offset 636 needs 4294967295 bytes, 0 left"
        );
    }
}
