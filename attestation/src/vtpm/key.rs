//! The attestation key: what a TPM says of it, its name, and its signatures.
//!
//! Big-endian throughout. Source: TPM 2.0 Library, part 2, sections 8.3
//! (TPMA_OBJECT), 11.3.4 (TPMT_SIGNATURE) and 12.2.4 (TPMT_PUBLIC); part 1,
//! section 16 (names).

use sha2::{Digest, Sha256};

use crate::reader::{Reader, Truncated};
use crate::signature::{self, Scheme, Signature};

/// nameAlg and digest of a TPM object's public area.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Name(pub(super) [u8; 34]);

/// An ECDSA P-256 key that signs only what the TPM itself made, and that no
/// other TPM can hold. Whether it is in a real TPM is not shown here.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct AttestationKey {
    pub(super) name: Name,
    /// Uncompressed: 04, x, y.
    point: [u8; 65],
}

impl AttestationKey {
    /// Reads a marshalled TPMT_PUBLIC.
    pub(super) fn parse(public: &[u8]) -> Result<Self, KeyError> {
        let mut reader = Reader::new(public);
        expect("type", reader.u16_be("type")?, ALG_ECC)?;
        expect("nameAlg", reader.u16_be("nameAlg")?, ALG_SHA256)?;
        let attributes = reader.u32_be("objectAttributes")?;
        if attributes & ATTRIBUTES_THAT_MATTER != ATTRIBUTES {
            return Err(KeyError::Attributes { found: attributes });
        }
        let policy = reader.u16_be("authPolicy size")?;
        reader.slice("authPolicy", usize::from(policy))?;
        expect("symmetric", reader.u16_be("symmetric")?, ALG_NULL)?;
        expect("scheme", reader.u16_be("scheme")?, ALG_ECDSA)?;
        expect("scheme hash", reader.u16_be("scheme hash")?, ALG_SHA256)?;
        expect("curveID", reader.u16_be("curveID")?, ECC_NIST_P256)?;
        expect("kdf", reader.u16_be("kdf")?, ALG_NULL)?;
        let mut point = [4; 65];
        let (_, pair) = point.split_at_mut(1);
        pair.copy_from_slice(&read_pair(&mut reader)?);
        expect_end(&reader)?;
        Ok(Self {
            name: Name::of(public),
            point,
        })
    }

    /// Checks a marshalled TPMT_SIGNATURE over `message`.
    pub(super) fn verify(&self, message: &[u8], signature: &[u8]) -> Result<(), KeyError> {
        let mut reader = Reader::new(signature);
        expect("sigAlg", reader.u16_be("sigAlg")?, ALG_ECDSA)?;
        expect("signature hash", reader.u16_be("hash")?, ALG_SHA256)?;
        let pair = read_pair(&mut reader)?;
        expect_end(&reader)?;
        let pair = Signature::Fixed(&pair);
        signature::verify(Scheme::P256Sha256, &self.point, message, pair)
            .map_err(|_| KeyError::Signature)
    }
}

impl Name {
    fn of(public: &[u8]) -> Self {
        let mut name = [0; 34];
        let (algorithm, digest) = name.split_at_mut(2);
        algorithm.copy_from_slice(&ALG_SHA256.to_be_bytes());
        digest.copy_from_slice(&Sha256::digest(public));
        Self(name)
    }
}

/// Two TPM2B_ECC_PARAMETER of a 256-bit curve. TPMs differ in whether they
/// drop leading zeros.
fn read_pair(reader: &mut Reader<'_>) -> Result<[u8; 64], KeyError> {
    let mut pair = [0; 64];
    for half in pair.chunks_mut(32) {
        let size = usize::from(reader.u16_be("parameter size")?);
        let value = reader.slice("parameter", size)?;
        let padding = half.len().checked_sub(size);
        let to = padding.and_then(|padding| half.get_mut(padding..));
        to.ok_or(KeyError::Parameter { size })?
            .copy_from_slice(value);
    }
    Ok(pair)
}

fn expect(field: &'static str, found: u16, expected: u16) -> Result<(), KeyError> {
    match found == expected {
        true => Ok(()),
        false => Err(KeyError::Field {
            field,
            found,
            expected,
        }),
    }
}

fn expect_end(reader: &Reader<'_>) -> Result<(), KeyError> {
    match reader.rest().len() {
        0 => Ok(()),
        left => Err(KeyError::Trailing { left }),
    }
}

pub(super) const ALG_SHA256: u16 = 0x000b;
const ALG_NULL: u16 = 0x0010;
const ALG_ECDSA: u16 = 0x0018;
const ALG_ECC: u16 = 0x0023;
const ECC_NIST_P256: u16 = 0x0003;

const FIXED_TPM: u32 = 1 << 1;
const FIXED_PARENT: u32 = 1 << 4;
const SENSITIVE_DATA_ORIGIN: u32 = 1 << 5;
const RESTRICTED: u32 = 1 << 16;
const DECRYPT: u32 = 1 << 17;
const SIGN: u32 = 1 << 18;
/// A restricted signing key refuses to sign what looks like a quote and is not.
const ATTRIBUTES: u32 = FIXED_TPM | FIXED_PARENT | SENSITIVE_DATA_ORIGIN | RESTRICTED | SIGN;
const ATTRIBUTES_THAT_MATTER: u32 = ATTRIBUTES | DECRYPT;

/// Why an attestation key, or its signature, is refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The key could sign something that is not from the TPM, or leave it.
    #[error(
        "attestation key attributes are {found:#010x}, expected {ATTRIBUTES:#010x} under the mask {ATTRIBUTES_THAT_MATTER:#010x}"
    )]
    Attributes {
        /// TPMA_OBJECT.
        found: u32,
    },
    /// Another algorithm than ECDSA P-256 with SHA-256.
    #[error("{field} is {found:#06x}, expected {expected:#06x}")]
    Field {
        /// Name in the specification.
        field: &'static str,
        /// As read.
        found: u16,
        /// The one value that is accepted.
        expected: u16,
    },
    /// Wider than the curve.
    #[error("ECC parameter has {size} bytes, expected at most 32")]
    Parameter {
        /// As read.
        size: usize,
    },
    /// Not by this key, or not over these bytes.
    #[error("signature is not by the attestation key")]
    Signature,
    /// The structure ended early.
    #[error("{left} bytes follow the structure")]
    Trailing {
        /// Bytes left.
        left: usize,
    },
    /// The input ended inside a field.
    #[error(transparent)]
    Truncated(#[from] Truncated),
}
