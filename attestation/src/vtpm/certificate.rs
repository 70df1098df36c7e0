//! The certificate of an endorsement key, up to an anchor that the caller trusts.
//!
//! Revocation is not looked at: TPM manufacturers publish no lists that a
//! verifier could demand.
//!
//! Source: TCG EK Credential Profile 2.5, section 3.2; RFC 5280, section 6.1.

use core::fmt;

use minicbor::bytes::ByteVec;

use super::key::KeyError;
use super::rsa;
use super::x509::{Extensions, Key, X509, X509Error};
use crate::der::{self, Der, DerError};
use crate::time::UnixTime;

/// Most certificates between the endorsement's and an anchor.
const MAX_CHAIN: usize = 4;

pub(super) fn verify(
    certificate: &[u8],
    chain: &[ByteVec],
    anchors: &[&[u8]],
    now: UnixTime,
) -> Result<rsa::PublicKey, EndorsementError> {
    if chain.len() > MAX_CHAIN {
        return Err(EndorsementError::ChainTooLong { len: chain.len() });
    }
    let leaf = parse(certificate, Place::Endorsement, now)?;
    let key = endorsement_key(&leaf)?;
    let mut issued = leaf;
    for (depth, bytes) in (0..).zip(chain) {
        let issuer = authority(bytes, Place::Intermediate(depth), depth, now)?;
        let issued_place = Place::below(depth);
        if !issued.names_as_issuer(&issuer) {
            return Err(EndorsementError::NotItsIssuer { at: issued_place });
        }
        issued.check_signature(&issuer.key).at(issued_place)?;
        issued = issuer;
    }
    let depth = u16::try_from(chain.len()).unwrap_or(u16::MAX);
    for bytes in anchors {
        let anchor = authority(bytes, Place::Anchor, depth, now)?;
        if issued.names_as_issuer(&anchor) && issued.check_signature(&anchor.key).is_ok() {
            return Ok(key);
        }
    }
    Err(EndorsementError::NoAnchor {
        at: Place::below(depth),
    })
}

fn parse(bytes: &[u8], at: Place, now: UnixTime) -> Result<X509<'_>, EndorsementError> {
    let certificate = X509::parse(bytes).at(at)?;
    certificate.check_validity(now).at(at)?;
    Ok(certificate)
}

/// A certificate that may issue others, with `below` authorities under it.
fn authority(
    bytes: &[u8],
    at: Place,
    below: u16,
    now: UnixTime,
) -> Result<X509<'_>, EndorsementError> {
    let certificate = parse(bytes, at, now)?;
    let extensions = &certificate.extensions;
    let constraints = extensions.constraints.filter(|found| found.ca);
    let may_sign = extensions
        .key_usage
        .is_some_and(|bits| bits & KEY_CERT_SIGN != 0);
    let room = constraints.is_some_and(|found| found.path_len.is_none_or(|len| len >= below));
    match may_sign && room {
        true => Ok(certificate),
        false => Err(EndorsementError::NotAnAuthority { at }),
    }
}

/// What the profile demands of an endorsement certificate.
fn endorsement_key(leaf: &X509<'_>) -> Result<rsa::PublicKey, EndorsementError> {
    let extensions = &leaf.extensions;
    if extensions.constraints.is_some_and(|found| found.ca) {
        return Err(EndorsementError::Authority);
    }
    if extensions.key_usage != Some(KEY_ENCIPHERMENT) {
        return Err(EndorsementError::KeyUsage {
            found: extensions.key_usage,
        });
    }
    if !has_ek_purpose(extensions).at(Place::Endorsement)? {
        return Err(EndorsementError::Purpose);
    }
    if !names_a_tpm(extensions).at(Place::Endorsement)? {
        return Err(EndorsementError::NoTpm);
    }
    match &leaf.key {
        Key::Rsa(key) if key.len() == 256 => Ok(key.clone()),
        _ => Err(EndorsementError::Key),
    }
}

fn has_ek_purpose(extensions: &Extensions<'_>) -> Result<bool, X509Error> {
    let Some(mut value) = extensions.extended_key_usage.clone() else {
        return Ok(false);
    };
    let mut purposes = value.nested(der::SEQUENCE, "extKeyUsage")?;
    value.end("extKeyUsage")?;
    let mut found = false;
    while !purposes.is_empty() {
        found |= purposes.value(der::OID, "KeyPurposeId")? == EK_CERTIFICATE;
    }
    Ok(found)
}

/// Manufacturer, model and version stand in a directoryName (section 3.2.9).
fn names_a_tpm(extensions: &Extensions<'_>) -> Result<bool, X509Error> {
    let Some(mut value) = extensions.alternative_name.clone() else {
        return Ok(false);
    };
    let mut names = value.nested(der::SEQUENCE, "subjectAltName")?;
    value.end("subjectAltName")?;
    let mut found = [false; TPM_ATTRIBUTES.len()];
    while let Some(tag) = names.peek() {
        let mut name = names.nested(tag, "GeneralName")?;
        if tag == DIRECTORY_NAME {
            read_attributes(name.nested(der::SEQUENCE, "directoryName")?, &mut found)?;
        }
    }
    Ok(found.iter().all(|found| *found))
}

fn read_attributes(mut name: Der<'_>, found: &mut [bool]) -> Result<(), DerError> {
    while !name.is_empty() {
        let mut set = name.nested(der::SET, "RelativeDistinguishedName")?;
        while !set.is_empty() {
            let mut attribute = set.nested(der::SEQUENCE, "AttributeTypeAndValue")?;
            let oid = attribute.value(der::OID, "attribute type")?;
            let known = TPM_ATTRIBUTES.iter().position(|known| *known == oid);
            if let Some(found) = known.and_then(|index| found.get_mut(index)) {
                *found = true;
            }
        }
    }
    Ok(())
}

const KEY_ENCIPHERMENT: u8 = 0x20;
const KEY_CERT_SIGN: u8 = 0x04;
const DIRECTORY_NAME: u8 = 0xa4;
/// tcg-kp-EKCertificate, 2.23.133.8.1.
const EK_CERTIFICATE: &[u8] = b"\x67\x81\x05\x08\x01";
/// tcg-at-tpmManufacturer, -tpmModel, -tpmVersion: 2.23.133.2.1 to .3.
const TPM_ATTRIBUTES: [&[u8]; 3] = [
    b"\x67\x81\x05\x02\x01",
    b"\x67\x81\x05\x02\x02",
    b"\x67\x81\x05\x02\x03",
];

/// A certificate's place in the chain.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Place {
    /// One that the caller trusts.
    Anchor,
    /// The endorsement key's.
    Endorsement,
    /// Between the two, counted from the endorsement.
    Intermediate(u16),
}

impl Place {
    const fn below(depth: u16) -> Self {
        match depth.checked_sub(1) {
            None => Self::Endorsement,
            Some(depth) => Self::Intermediate(depth),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Anchor => f.write_str("trust anchor"),
            Self::Endorsement => f.write_str("endorsement certificate"),
            Self::Intermediate(depth) => write!(f, "intermediate certificate {depth}"),
        }
    }
}

trait At<T> {
    fn at(self, at: Place) -> Result<T, EndorsementError>;
}

impl<T> At<T> for Result<T, X509Error> {
    fn at(self, at: Place) -> Result<T, EndorsementError> {
        self.map_err(|source| EndorsementError::Certificate { at, source })
    }
}

/// Why the keys of a TPM are refused.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum EndorsementError {
    /// The attestation key may do what it must not.
    #[error("the attestation key is refused")]
    AttestationKey(#[source] KeyError),
    /// An endorsement key does not issue certificates.
    #[error("endorsement certificate is an authority's")]
    Authority,
    /// Malformed, out of its time, or not signed by its issuer.
    #[error("{at} is refused")]
    Certificate {
        /// Which one.
        at: Place,
        /// What is wrong with it.
        source: X509Error,
    },
    /// More than any manufacturer uses.
    #[error("{len} intermediate certificates, at most {MAX_CHAIN} are read")]
    ChainTooLong {
        /// As sent.
        len: usize,
    },
    /// Not RSA of 2048 bits, the one that credentials are made for.
    #[error("endorsement key is not RSA of 2048 bits")]
    Key,
    /// Not a key for secrets, or for other things too.
    #[error("endorsement certificate has key usage {found:02x?}, expected 0x20 (keyEncipherment)")]
    KeyUsage {
        /// The first eight bits, if present.
        found: Option<u8>,
    },
    /// The chain ends in nobody whom the caller trusts.
    #[error("no trust anchor issued the {at}")]
    NoAnchor {
        /// The last certificate.
        at: Place,
    },
    /// The certificate speaks of no TPM.
    #[error("endorsement certificate names no TPM manufacturer, model and version")]
    NoTpm,
    /// May not issue certificates, or not so deep.
    #[error("{at} may not issue what is below it")]
    NotAnAuthority {
        /// Which one.
        at: Place,
    },
    /// The chain is not in order.
    #[error("{at} names another issuer than the next certificate")]
    NotItsIssuer {
        /// Which one.
        at: Place,
    },
    /// Issued for something else.
    #[error("endorsement certificate is not for an endorsement key (2.23.133.8.1)")]
    Purpose,
}
