//! X.509 certificates as TPM manufacturers issue them: RSA or ECDSA, and only
//! the extensions that decide anything. A critical one that is not read here
//! refuses the certificate.
//!
//! Who is trusted, and for what, is decided in `certificate`.
//!
//! Source: RFC 5280, section 4; RFC 4055 and RFC 5758 for the algorithms.

use super::rsa;
use crate::der::{self, Der, DerError};
use crate::signature::{self, Scheme, Signature};
use crate::time::{OutsideWindow, UnixTime, Window};

/// A well-formed certificate that nobody has verified.
#[derive(Clone, Debug)]
pub(super) struct X509<'a> {
    signed: &'a [u8],
    algorithm: Algorithm,
    signature: &'a [u8],
    issuer: &'a [u8],
    subject: &'a [u8],
    window: Window,
    pub(super) key: Key<'a>,
    pub(super) extensions: Extensions<'a>,
}

/// A subject's public key.
#[derive(Clone, Debug)]
pub(super) enum Key<'a> {
    /// A point; which curve it must be on follows from what it signed.
    Ec(&'a [u8]),
    Rsa(rsa::PublicKey),
}

#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Algorithm {
    Ecdsa(Scheme),
    Rsa(rsa::Hash),
}

/// What is read of the extensions; `None` where absent.
#[derive(Clone, Debug, Default)]
pub(super) struct Extensions<'a> {
    /// The first eight bits, digitalSignature highest.
    pub(super) key_usage: Option<u8>,
    pub(super) constraints: Option<Constraints>,
    pub(super) extended_key_usage: Option<Der<'a>>,
    pub(super) alternative_name: Option<Der<'a>>,
}

/// BasicConstraints.
#[derive(Clone, Copy, Debug)]
pub(super) struct Constraints {
    pub(super) ca: bool,
    pub(super) path_len: Option<u16>,
}

impl<'a> X509<'a> {
    pub(super) fn parse(bytes: &'a [u8]) -> Result<Self, X509Error> {
        let mut outer = Der::new(bytes);
        let mut certificate = outer.nested(der::SEQUENCE, "certificate")?;
        outer.end("certificate")?;
        let signed = certificate.whole(der::SEQUENCE, "tbsCertificate")?;
        let outer_algorithm = certificate.whole(der::SEQUENCE, "signatureAlgorithm")?;
        let signature = certificate.bits("signatureValue")?;
        certificate.end("certificate")?;

        let mut tbs = Der::new(signed).nested(der::SEQUENCE, "tbsCertificate")?;
        let mut version = tbs.nested(der::CONTEXT_0, "version")?;
        if version.u16("version")? != 2 {
            return Err(X509Error::Version);
        }
        tbs.value(der::INTEGER, "serialNumber")?;
        // The copy inside is signed, the one outside is not (section 4.1.1.2).
        if tbs.whole(der::SEQUENCE, "signature")? != outer_algorithm {
            return Err(X509Error::AlgorithmCopies);
        }
        let algorithm = Algorithm::parse(outer_algorithm)?;
        let issuer = tbs.whole(der::SEQUENCE, "issuer")?;
        let window = read_validity(&mut tbs)?;
        let subject = tbs.whole(der::SEQUENCE, "subject")?;
        let key = Key::parse(tbs.nested(der::SEQUENCE, "subjectPublicKeyInfo")?)?;
        let mut extensions = tbs.nested(der::CONTEXT_3, "extensions")?;
        tbs.end("tbsCertificate")?;
        let list = extensions.nested(der::SEQUENCE, "extensions")?;
        extensions.end("extensions")?;
        Ok(Self {
            signed,
            algorithm,
            signature,
            issuer,
            subject,
            window,
            key,
            extensions: Extensions::parse(list)?,
        })
    }

    pub(super) fn check_validity(&self, now: UnixTime) -> Result<(), X509Error> {
        self.window.check(now).map_err(X509Error::Validity)
    }

    /// Whether the names chain; the signature is [`Self::check_signature`]'s.
    pub(super) fn names_as_issuer(&self, issuer: &X509<'_>) -> bool {
        self.issuer == issuer.subject
    }

    pub(super) fn check_signature(&self, issuer: &Key<'_>) -> Result<(), X509Error> {
        let signature = Signature::Asn1(self.signature);
        let good = match (issuer, self.algorithm) {
            (Key::Rsa(key), Algorithm::Rsa(hash)) => {
                key.verifies(hash, self.signed, self.signature)
            }
            (Key::Ec(point), Algorithm::Ecdsa(scheme)) => {
                signature::verify(scheme, point, self.signed, signature).is_ok()
            }
            _ => false,
        };
        match good {
            true => Ok(()),
            false => Err(X509Error::Signature),
        }
    }
}

impl Algorithm {
    fn parse(bytes: &[u8]) -> Result<Self, X509Error> {
        Ok(match bytes {
            SHA256_WITH_RSA => Self::Rsa(rsa::Hash::Sha256),
            SHA384_WITH_RSA => Self::Rsa(rsa::Hash::Sha384),
            ECDSA_WITH_SHA256 => Self::Ecdsa(Scheme::P256Sha256),
            ECDSA_WITH_SHA384 => Self::Ecdsa(Scheme::P384Sha384),
            _ => return Err(X509Error::Algorithm),
        })
    }
}

impl<'a> Key<'a> {
    fn parse(mut spki: Der<'a>) -> Result<Self, X509Error> {
        let algorithm = spki.value(der::SEQUENCE, "key algorithm")?;
        let bits = spki.bits("subjectPublicKey")?;
        spki.end("subjectPublicKeyInfo")?;
        match algorithm {
            EC_P256 | EC_P384 => Ok(Self::Ec(bits)),
            RSA_ENCRYPTION => {
                let mut outer = Der::new(bits);
                let mut key = outer.nested(der::SEQUENCE, "RSAPublicKey")?;
                outer.end("RSAPublicKey")?;
                let (modulus, exponent) = (key.unsigned("modulus")?, key.unsigned("exponent")?);
                key.end("RSAPublicKey")?;
                let key = rsa::PublicKey::new(modulus, exponent);
                key.map(Self::Rsa).ok_or(X509Error::Key)
            }
            _ => Err(X509Error::Key),
        }
    }
}

impl<'a> Extensions<'a> {
    fn parse(mut list: Der<'a>) -> Result<Self, X509Error> {
        let mut found = Self::default();
        while !list.is_empty() {
            let mut extension = list.nested(der::SEQUENCE, "extension")?;
            let oid = extension.value(der::OID, "extnID")?;
            let critical = match extension.peek() {
                Some(der::BOOLEAN) => extension.boolean("critical")?,
                _ => false,
            };
            let value = Der::new(extension.value(der::OCTET_STRING, "extnValue")?);
            extension.end("extension")?;
            match oid {
                KEY_USAGE => once(&mut found.key_usage, read_key_usage(value)?)?,
                BASIC_CONSTRAINTS => once(&mut found.constraints, read_constraints(value)?)?,
                EXTENDED_KEY_USAGE => once(&mut found.extended_key_usage, value)?,
                ALTERNATIVE_NAME => once(&mut found.alternative_name, value)?,
                _ if critical => return Err(X509Error::CriticalExtension),
                _ => (),
            }
        }
        Ok(found)
    }
}

/// A certificate may have one extension of a kind (section 4.2).
fn once<T>(slot: &mut Option<T>, value: T) -> Result<(), X509Error> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(X509Error::RepeatedExtension),
    }
}

fn read_key_usage(mut value: Der<'_>) -> Result<u8, X509Error> {
    let bits = value.value(der::BIT_STRING, "keyUsage")?;
    value.end("keyUsage")?;
    match bits {
        [0..8, first, ..] => Ok(*first),
        _ => Err(X509Error::Der(DerError::Value { field: "keyUsage" })),
    }
}

fn read_constraints(mut value: Der<'_>) -> Result<Constraints, X509Error> {
    let mut sequence = value.nested(der::SEQUENCE, "basicConstraints")?;
    value.end("basicConstraints")?;
    let ca = sequence.peek() == Some(der::BOOLEAN) && sequence.boolean("cA")?;
    let path_len = match sequence.peek() {
        Some(der::INTEGER) => Some(sequence.u16("pathLenConstraint")?),
        _ => None,
    };
    sequence.end("basicConstraints")?;
    Ok(Constraints { ca, path_len })
}

fn read_validity(tbs: &mut Der<'_>) -> Result<Window, X509Error> {
    let mut validity = tbs.nested(der::SEQUENCE, "validity")?;
    let (from, until) = (read_time(&mut validity)?, read_time(&mut validity)?);
    validity.end("validity")?;
    Ok(Window { from, until })
}

fn read_time(validity: &mut Der<'_>) -> Result<UnixTime, X509Error> {
    let time = match validity.peek() {
        Some(der::UTC_TIME) => UnixTime::from_utc_time(validity.value(der::UTC_TIME, "time")?),
        _ => UnixTime::from_generalized_time(validity.value(der::GENERALIZED_TIME, "time")?),
    };
    time.ok_or(X509Error::Der(DerError::Value { field: "time" }))
}

/// AlgorithmIdentifier, whole: sha256WithRSAEncryption and NULL.
const SHA256_WITH_RSA: &[u8] = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00";
const SHA384_WITH_RSA: &[u8] = b"\x30\x0d\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c\x05\x00";
const ECDSA_WITH_SHA256: &[u8] = b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02";
const ECDSA_WITH_SHA384: &[u8] = b"\x30\x0a\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03";

/// AlgorithmIdentifier, content: rsaEncryption and NULL, id-ecPublicKey and curve.
const RSA_ENCRYPTION: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00";
const EC_P256: &[u8] =
    b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07";
const EC_P384: &[u8] = b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22";

const KEY_USAGE: &[u8] = b"\x55\x1d\x0f";
const ALTERNATIVE_NAME: &[u8] = b"\x55\x1d\x11";
const BASIC_CONSTRAINTS: &[u8] = b"\x55\x1d\x13";
const EXTENDED_KEY_USAGE: &[u8] = b"\x55\x1d\x25";

/// Why bytes are not a certificate that counts.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum X509Error {
    /// Not RSA PKCS#1 v1.5 or ECDSA, with SHA-256 or SHA-384.
    #[error("signature algorithm is not accepted")]
    Algorithm,
    /// The unsigned copy was changed.
    #[error("the two copies of the signature algorithm differ")]
    AlgorithmCopies,
    /// It restricts in a way that is not understood.
    #[error("a critical extension is not understood")]
    CriticalExtension,
    /// The encoding is wrong.
    #[error(transparent)]
    Der(#[from] DerError),
    /// Not RSA of 2048, 3072 or 4096 bits, P-256 or P-384.
    #[error("public key is of a kind or size that is not accepted")]
    Key,
    /// Two extensions of one kind.
    #[error("an extension is repeated")]
    RepeatedExtension,
    /// Not by the issuer's key.
    #[error("signature is not by the issuer")]
    Signature,
    /// At the stated time.
    #[error(transparent)]
    Validity(OutsideWindow),
    /// Versions 1 and 2 have no extensions.
    #[error("certificate is not of version 3")]
    Version,
}
