//! X.509 certificates (RFC 5280), as far as a fixed chain of ECDSA keys needs them.
//!
//! Version 3, positive serial, one of two curves, no critical extension but the
//! two that are understood here. Parsing proves the shape and nothing more: who
//! issued a certificate, and whether it holds at some time, is the chain's part.

use alloc::vec::Vec;
use core::fmt;

use crate::der::{
    BIT_STRING, BOOLEAN, CONTEXT_0, CONTEXT_3, Der, DerError, GENERALIZED_TIME, INTEGER,
    OCTET_STRING, OID, PRINTABLE_STRING, SEQUENCE, SET, UTC_TIME, UTF8_STRING, write,
};
use crate::signature::{self, Forged, Hash, Scheme, Signature};
use crate::time::{UnixTime, Window};

/// A well-formed certificate that nobody has verified yet.
#[derive(Clone, Copy, Debug)]
pub struct Certificate<'a> {
    /// What the issuer signed.
    pub signed: Signed<'a>,
    /// Unique with its issuer.
    pub serial: Serial,
    /// DER of the issuer's name.
    pub issuer: &'a [u8],
    /// DER of the holder's name.
    pub subject: &'a [u8],
    /// When it holds.
    pub validity: Window,
    /// The holder's key.
    pub key: PublicKey<'a>,
    /// Whether the holder may issue certificates (basic constraints).
    pub authority: bool,
    /// How many authorities may stand between it and the last certificate, where it says.
    pub path_len: Option<u16>,
    /// First byte of the key usage: [`DIGITAL_SIGNATURE`] and so on; zero where absent.
    pub key_usage: u8,
    extensions: &'a [u8],
}

impl<'a> Certificate<'a> {
    /// Reads one certificate and nothing after it.
    pub fn parse(der: &'a [u8]) -> Result<Self, DerError> {
        Self::parse_knowing(der, &[])
    }

    /// The same, where the caller reads these extensions too, critical or not.
    pub fn parse_knowing(der: &'a [u8], extensions_read: &[&[u8]]) -> Result<Self, DerError> {
        let (signed, mut body) = Signed::read(der, "certificate")?;
        let mut version = body.nested(CONTEXT_0, "version")?;
        if version.u16("version")? != V3 {
            return Err(DerError::Value { field: "version" });
        }
        version.end("version")?;
        let serial = Serial::read(&mut body)?;
        signed.expect_hash(&mut body)?;
        let issuer = body.whole(SEQUENCE, "issuer")?;
        let mut times = body.nested(SEQUENCE, "validity")?;
        let validity = Window {
            from: read_time(&mut times, "notBefore")?,
            until: read_time(&mut times, "notAfter")?,
        };
        times.end("validity")?;
        let subject = body.whole(SEQUENCE, "subject")?;
        let key = PublicKey::read(&mut body)?;
        let mut extensions = body.nested(CONTEXT_3, "extensions")?;
        let list = extensions.value(SEQUENCE, "extensions")?;
        extensions.end("extensions")?;
        body.end("tbsCertificate")?;

        let certificate = Self {
            signed,
            serial,
            issuer,
            subject,
            validity,
            key,
            authority: false,
            path_len: None,
            key_usage: 0,
            extensions: list,
        };
        let understood = [&[BASIC_CONSTRAINTS, KEY_USAGE], extensions_read].concat();
        refuse_critical(Der::new(list), &understood)?;
        let (authority, path_len) = certificate.read_authority()?;
        Ok(Self {
            authority,
            path_len,
            key_usage: certificate.read_key_usage()?,
            ..certificate
        })
    }

    /// Value of the extension with this object identifier, which may occur once.
    pub fn extension(&self, oid: &[u8]) -> Result<Option<&'a [u8]>, DerError> {
        let mut found = None;
        let mut list = Der::new(self.extensions);
        while !list.is_empty() {
            let extension = Extension::read(&mut list)?;
            if extension.oid == oid && found.replace(extension.value).is_some() {
                return Err(DerError::Value {
                    field: "repeated extension",
                });
            }
        }
        Ok(found)
    }

    /// The common name of the subject, of which there must be one.
    pub fn common_name(&self) -> Result<&'a str, DerError> {
        let bad = DerError::Value {
            field: "common name",
        };
        let mut found = None;
        let mut name = Der::new(self.subject).nested(SEQUENCE, "subject")?;
        while !name.is_empty() {
            let mut set = name.nested(SET, "relative name")?;
            let mut attribute = set.nested(SEQUENCE, "name attribute")?;
            set.end("relative name")?;
            let kind = attribute.value(OID, "name attribute")?;
            let tag = attribute.peek().unwrap_or(UTF8_STRING);
            let text = attribute.value(tag, "name attribute")?;
            attribute.end("name attribute")?;
            if kind == COMMON_NAME {
                let readable = matches!(tag, UTF8_STRING | PRINTABLE_STRING);
                if !readable || found.replace(text).is_some() {
                    return Err(bad);
                }
            }
        }
        found
            .and_then(|text| core::str::from_utf8(text).ok())
            .ok_or(bad)
    }

    fn read_authority(&self) -> Result<(bool, Option<u16>), DerError> {
        let Some(value) = self.extension(BASIC_CONSTRAINTS)? else {
            return Ok((false, None));
        };
        let mut outer = Der::new(value);
        let mut fields = outer.nested(SEQUENCE, "basic constraints")?;
        outer.end("basic constraints")?;
        // DEFAULT FALSE, yet some issuers write it out.
        let authority = match fields.peek() {
            Some(BOOLEAN) => fields.boolean("cA")?,
            _ => false,
        };
        let path_len = match authority && !fields.is_empty() {
            true => Some(fields.u16("pathLenConstraint")?),
            false => None,
        };
        fields.end("basic constraints")?;
        Ok((authority, path_len))
    }

    fn read_key_usage(&self) -> Result<u8, DerError> {
        let bad = DerError::Value { field: "key usage" };
        let Some(value) = self.extension(KEY_USAGE)? else {
            return Ok(0);
        };
        let mut outer = Der::new(value);
        let bits = outer.value(BIT_STRING, "key usage")?;
        outer.end("key usage")?;
        match bits {
            [0..8, first, ..] => Ok(*first),
            _ => Err(bad),
        }
    }
}

/// A body, and the signature over it: the outer form of certificates and CRLs.
#[derive(Clone, Copy, Debug)]
pub struct Signed<'a> {
    /// The bytes under the signature.
    pub body: &'a [u8],
    /// DER `SEQUENCE { r, s }`.
    pub signature: &'a [u8],
    /// What was signed of the body.
    pub hash: Hash,
}

impl<'a> Signed<'a> {
    /// Reads the three outer fields, and opens the body.
    pub fn read(der: &'a [u8], field: &'static str) -> Result<(Self, Der<'a>), DerError> {
        let mut whole = Der::new(der);
        let mut outer = whole.nested(SEQUENCE, field)?;
        whole.end(field)?;
        let signed = Self::read_fields(&mut outer, field)?;
        outer.end(field)?;
        let body = Der::new(signed.body).nested(SEQUENCE, field)?;
        Ok((signed, body))
    }

    /// Reads the three fields, after which there may be more.
    pub fn read_fields(outer: &mut Der<'a>, field: &'static str) -> Result<Self, DerError> {
        Ok(Self {
            body: outer.whole(SEQUENCE, field)?,
            hash: read_hash(outer)?,
            signature: outer.bits("signature value")?,
        })
    }

    /// The body repeats the algorithm (RFC 5280, section 4.1.2.3).
    pub fn expect_hash(&self, body: &mut Der<'a>) -> Result<(), DerError> {
        match read_hash(body)? == self.hash {
            true => Ok(()),
            false => Err(DerError::Value {
                field: "signature algorithm of the body",
            }),
        }
    }

    /// Whether `key` signed.
    pub fn verify(&self, key: PublicKey<'_>) -> Result<(), Forged> {
        let scheme = key.scheme.with(self.hash).ok_or(Forged)?;
        let signature = Signature::Asn1(self.signature);
        signature::verify(scheme, key.point, self.body, signature)
    }
}

/// A point on one of the curves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct PublicKey<'a> {
    /// The curve, and the hash that we use with it.
    pub scheme: Scheme,
    /// `04 || x || y`; not yet known to be on the curve.
    pub point: &'a [u8],
}

impl<'a> PublicKey<'a> {
    fn read(body: &mut Der<'a>) -> Result<Self, DerError> {
        let mut info = body.nested(SEQUENCE, "subject public key")?;
        let mut algorithm = info.nested(SEQUENCE, "public key algorithm")?;
        algorithm.expect_oid(EC_PUBLIC_KEY, "public key algorithm")?;
        let (scheme, len) = match algorithm.value(OID, "curve")? {
            PRIME256V1 => (Scheme::P256Sha256, 65),
            SECP384R1 => (Scheme::P384Sha384, 97),
            _ => return Err(DerError::Value { field: "curve" }),
        };
        algorithm.end("public key algorithm")?;
        let point = info.bits("public key")?;
        info.end("subject public key")?;
        match point.first() == Some(&UNCOMPRESSED) && point.len() == len {
            true => Ok(Self { scheme, point }),
            false => Err(DerError::Value {
                field: "public key",
            }),
        }
    }
}

/// Serial number: at most 20 bytes (RFC 5280, section 4.1.2.2), padded in front.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Serial([u8; 20]);

impl Serial {
    /// Reads the next value.
    pub fn read(der: &mut Der<'_>) -> Result<Self, DerError> {
        let magnitude = der.unsigned("serial number")?;
        let mut bytes = [0; 20];
        bytes
            .len()
            .checked_sub(magnitude.len())
            .and_then(|start| bytes.get_mut(start..))
            .filter(|_| !magnitude.is_empty())
            .ok_or(DerError::Value {
                field: "serial number",
            })?
            .copy_from_slice(magnitude);
        Ok(Self(bytes))
    }

    /// As [`Self::read`] reads it.
    pub(crate) fn write(self) -> Vec<u8> {
        let zeros = self.0.iter().take_while(|byte| **byte == 0).count();
        let magnitude = self.0.get(zeros..).unwrap_or_default();
        // The first bit is the sign (X.690, section 8.3.3).
        let sign: &[u8] = match magnitude.first() {
            Some(0..0x80) => &[],
            _ => &[0],
        };
        write(INTEGER, &[sign, magnitude].concat())
    }

    /// Padded in front.
    #[must_use]
    pub const fn as_bytes(&self) -> &[u8; 20] {
        &self.0
    }
}

impl fmt::Display for Serial {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// One extension.
#[derive(Clone, Copy, Debug)]
struct Extension<'a> {
    oid: &'a [u8],
    critical: bool,
    value: &'a [u8],
}

impl<'a> Extension<'a> {
    fn read(list: &mut Der<'a>) -> Result<Self, DerError> {
        let mut fields = list.nested(SEQUENCE, "extension")?;
        let oid = fields.value(OID, "extension")?;
        let critical = match fields.peek() {
            Some(BOOLEAN) => fields.boolean("critical")?,
            _ => false,
        };
        let value = fields.value(OCTET_STRING, "extension")?;
        fields.end("extension")?;
        Ok(Self {
            oid,
            critical,
            value,
        })
    }
}

/// A critical extension that is not understood must be refused (RFC 5280, section 4.2).
pub fn refuse_critical(mut list: Der<'_>, understood: &[&[u8]]) -> Result<(), DerError> {
    while !list.is_empty() {
        let extension = Extension::read(&mut list)?;
        if extension.critical && !understood.contains(&extension.oid) {
            return Err(DerError::Value {
                field: "critical extension",
            });
        }
    }
    Ok(())
}

/// Reads either form of time.
pub fn read_time(der: &mut Der<'_>, field: &'static str) -> Result<UnixTime, DerError> {
    match der.peek() {
        Some(GENERALIZED_TIME) => {
            UnixTime::from_generalized_time(der.value(GENERALIZED_TIME, field)?)
        }
        _ => UnixTime::from_utc_time(der.value(UTC_TIME, field)?),
    }
    .ok_or(DerError::Value { field })
}

fn read_hash(der: &mut Der<'_>) -> Result<Hash, DerError> {
    let field = "signature algorithm";
    let mut algorithm = der.nested(SEQUENCE, field)?;
    let hash = match algorithm.value(OID, field)? {
        ECDSA_WITH_SHA256 => Hash::Sha256,
        ECDSA_WITH_SHA384 => Hash::Sha384,
        _ => return Err(DerError::Value { field }),
    };
    algorithm.end(field)?;
    Ok(hash)
}

/// Key usage: may sign data.
pub const DIGITAL_SIGNATURE: u8 = 0x80;
/// Key usage: may sign certificates.
pub const KEY_CERT_SIGN: u8 = 0x04;
/// Key usage: may sign CRLs.
pub const CRL_SIGN: u8 = 0x02;

const V3: u16 = 2;
const UNCOMPRESSED: u8 = 4;

// 2.5.4.3, 2.5.29.19, 2.5.29.15 (RFC 5280).
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
// 1.2.840.10045.2.1, 1.2.840.10045.3.1.7, 1.3.132.0.34 (RFC 5480).
const EC_PUBLIC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01];
const PRIME256V1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07];
const SECP384R1: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
// 1.2.840.10045.4.3.2 and .3 (RFC 5758).
const ECDSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const ECDSA_WITH_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn serial_numbers_are_written_as_they_are_read() {
        for number in [&[1][..], &[0x7f], &[0, 0x80], &[0x7f; 20], &[0, 1 << 7, 0]] {
            let der = write(INTEGER, number);
            let serial = Serial::read(&mut Der::new(&der)).unwrap();
            assert_eq!(serial.write(), der);
        }
    }
}
