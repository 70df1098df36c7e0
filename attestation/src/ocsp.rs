//! Questions to an OCSP responder and its answers (RFC 6960): whether certificates were revoked.
//!
//! ```text
//! OCSPResponse { status, [0] { id-pkix-ocsp-basic, BasicOCSPResponse } }
//! BasicOCSPResponse { ResponseData, algorithm, signature, [0] { certificates } }
//! ResponseData { responder, producedAt, { SingleResponse ... } }
//! SingleResponse { CertID, good | revoked | unknown, thisUpdate, [0] nextUpdate }
//! ```
//!
//! Signed by the certificates' issuer, or by a responder that the issuer made one and
//! that is exempt from revocation itself. An answer without an end is refused. It is
//! fresh by its window alone: a nonce would be the asker's, and this is for answers that
//! somebody else asked for.
//!
//! Names and keys of issuers are compared by SHA-256 or SHA-384; we ask with the latter.

use alloc::vec::Vec;

use sha2::{Digest, Sha256, Sha384};

use crate::certificate::{
    Certificate, DIGITAL_SIGNATURE, Serial, Signed, read_time, refuse_critical,
};
use crate::der::{
    CONTEXT_0, CONTEXT_1, CONTEXT_2, Der, DerError, ENUMERATED, GENERALIZED_TIME, NULL,
    OCTET_STRING, OID, SEQUENCE, write,
};
use crate::signature::Hash;
use crate::time::{OutsideWindow, UnixTime, Window};

/// Asks whether `issuer` took back the certificate with this number (section 4.1.1), in the
/// bytes of NVIDIA's own tools.
#[must_use]
pub fn request(serial: Serial, issuer: &Certificate<'_>) -> Vec<u8> {
    let hash = |of: &[u8]| write(OCTET_STRING, &Sha384::digest(of));
    let algorithm = [write(OID, SHA384), write(NULL, &[])].concat();
    let id = [
        write(SEQUENCE, &algorithm),
        hash(issuer.subject),
        hash(issuer.key.point),
        serial.write(),
    ];
    // Around a CertID: Request, requestList, TBSRequest, OCSPRequest; nothing else is in them.
    let id = write(SEQUENCE, &id.concat());
    (0..4).fold(id, |inner, _| write(SEQUENCE, &inner))
}

/// A well-formed answer that nobody has verified yet.
#[derive(Clone, Debug)]
pub struct Response<'a> {
    signed: Signed<'a>,
    /// DER of the responder's certificate, where it is not the issuer.
    responder: Option<&'a [u8]>,
    singles: Vec<Single<'a>>,
}

/// What an issuer says of one certificate.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Status {
    /// Not revoked.
    Good,
    /// Revoked, or on hold, which comes to the same here.
    Revoked,
    /// The responder has never heard of it.
    Unknown,
}

impl<'a> Response<'a> {
    /// Reads one response and nothing after it.
    pub fn parse(der: &'a [u8]) -> Result<Self, OcspError> {
        let mut whole = Der::new(der);
        let mut outer = whole.nested(SEQUENCE, "OCSP response")?;
        whole.end("OCSP response")?;
        match outer.value(ENUMERATED, "responseStatus")? {
            [0] => {}
            [status] => return Err(OcspError::Unsuccessful { status: *status }),
            _ => return Err(bad("responseStatus").into()),
        }
        let mut bytes = outer.nested(CONTEXT_0, "responseBytes")?;
        outer.end("OCSP response")?;
        let mut kind = bytes.nested(SEQUENCE, "responseBytes")?;
        bytes.end("responseBytes")?;
        kind.expect_oid(BASIC, "responseType")?;
        let basic = kind.value(OCTET_STRING, "response")?;
        kind.end("responseBytes")?;
        Ok(Self::parse_basic(basic)?)
    }

    fn parse_basic(der: &'a [u8]) -> Result<Self, DerError> {
        let mut whole = Der::new(der);
        let mut fields = whole.nested(SEQUENCE, "BasicOCSPResponse")?;
        whole.end("BasicOCSPResponse")?;
        let signed = Signed::read_fields(&mut fields, "ResponseData")?;
        let mut responder = None;
        if let Some(mut outer) = fields.optional(CONTEXT_0, "certs")? {
            let mut certificates = outer.nested(SEQUENCE, "certs")?;
            outer.end("certs")?;
            // Those after the first would be above it, where the reader's own are.
            responder = Some(certificates.whole(SEQUENCE, "certs")?);
        }
        fields.end("BasicOCSPResponse")?;

        let mut data = Der::new(signed.body).nested(SEQUENCE, "ResponseData")?;
        match data.peek() {
            Some(CONTEXT_1) => data.value(CONTEXT_1, "responderID")?,
            _ => data.value(CONTEXT_2, "responderID")?,
        };
        time(&mut data, "producedAt")?;
        let mut list = data.nested(SEQUENCE, "responses")?;
        let mut singles = Vec::new();
        while !list.is_empty() {
            singles.push(Single::read(&mut list)?);
        }
        read_extensions(&mut data, "responseExtensions")?;
        data.end("ResponseData")?;
        Ok(Self {
            signed,
            responder,
            singles,
        })
    }

    /// Whether it is about the certificate that `issuer` gave this number.
    #[must_use]
    pub fn is_about(&self, serial: Serial, issuer: &Certificate<'_>) -> bool {
        self.singles
            .iter()
            .any(|single| single.id.is(serial, issuer))
    }

    /// When the first of its answers ends, by its own word.
    #[must_use]
    pub fn unverified_end(&self) -> Option<UnixTime> {
        self.singles.iter().map(|single| single.window.until).min()
    }

    /// What it says of that certificate, and when that holds.
    pub fn verify(
        &self,
        serial: Serial,
        issuer: &Certificate<'_>,
        at: UnixTime,
    ) -> Result<(Status, Window), OcspError> {
        let mut about = self
            .singles
            .iter()
            .filter(|single| single.id.is(serial, issuer));
        let (Some(single), None) = (about.next(), about.next()) else {
            return Err(OcspError::Subject);
        };
        let (key, window) = match self.responder {
            None => (issuer.key, single.window),
            Some(der) => {
                let responder = read_responder(der, issuer)?;
                responder.validity.check(at).map_err(OcspError::Responder)?;
                (responder.key, single.window.and(responder.validity))
            }
        };
        self.signed.verify(key).map_err(|_| OcspError::Signature)?;
        single.window.check(at)?;
        Ok((single.status, window))
    }
}

/// Why an answer is not to be believed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OcspError {
    /// The responder is not one that the issuer made.
    #[error("its responder was not made one by the certificate's issuer")]
    Delegation,
    /// Not DER of the expected shape.
    #[error(transparent)]
    Malformed(#[from] DerError),
    /// The responder's certificate does not hold at that time.
    #[error("its responder's certificate: {0}")]
    Responder(OutsideWindow),
    /// Not by the responder's key.
    #[error("the signature does not verify under its responder's key")]
    Signature,
    /// Says nothing of the certificate, or says it twice.
    #[error("does not have one answer about that certificate")]
    Subject,
    /// The responder did not answer.
    #[error("the responder refused with status {status}")]
    Unsuccessful {
        /// OCSPResponseStatus.
        status: u8,
    },
    /// Not at that time.
    #[error(transparent)]
    Window(#[from] OutsideWindow),
}

impl OcspError {
    /// Stable name, for scripts.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Delegation => "delegation",
            Self::Malformed(_) => "malformed",
            Self::Responder(_) => "responder",
            Self::Signature => "signature",
            Self::Subject => "subject",
            Self::Unsuccessful { .. } => "unsuccessful",
            Self::Window(error) => error.code(),
        }
    }
}

/// A certificate that its issuer calls a responder (section 4.2.2.2), and that need not be
/// asked about (section 4.2.2.2.1).
fn read_responder<'a>(
    der: &'a [u8],
    issuer: &Certificate<'_>,
) -> Result<Certificate<'a>, OcspError> {
    let certificate = Certificate::parse_knowing(der, &[EXTENDED_KEY_USAGE])?;
    let purposes = certificate.extension(EXTENDED_KEY_USAGE)?;
    let purposes = purposes.map(read_purposes).transpose()?;
    let made = purposes.unwrap_or_default().contains(&OCSP_SIGNING)
        && certificate.extension(OCSP_NO_CHECK)?.is_some()
        && certificate.key_usage & DIGITAL_SIGNATURE != 0
        && !certificate.authority
        && certificate.issuer == issuer.subject
        && certificate.signed.verify(issuer.key).is_ok();
    match made {
        true => Ok(certificate),
        false => Err(OcspError::Delegation),
    }
}

fn read_purposes(value: &[u8]) -> Result<Vec<&[u8]>, DerError> {
    let mut outer = Der::new(value);
    let mut list = outer.nested(SEQUENCE, "extended key usage")?;
    outer.end("extended key usage")?;
    let mut purposes = Vec::new();
    while !list.is_empty() {
        purposes.push(list.value(OID, "extended key usage")?);
    }
    Ok(purposes)
}

/// An answer about one certificate.
#[derive(Clone, Copy, Debug)]
struct Single<'a> {
    id: CertId<'a>,
    status: Status,
    window: Window,
}

impl<'a> Single<'a> {
    fn read(list: &mut Der<'a>) -> Result<Self, DerError> {
        let mut fields = list.nested(SEQUENCE, "SingleResponse")?;
        let id = CertId::read(&mut fields)?;
        let status = read_status(&mut fields)?;
        let from = time(&mut fields, "thisUpdate")?;
        let mut next = fields.nested(CONTEXT_0, "nextUpdate")?;
        let until = time(&mut next, "nextUpdate")?;
        next.end("nextUpdate")?;
        read_extensions(&mut fields, "singleExtensions")?;
        fields.end("SingleResponse")?;
        Ok(Self {
            id,
            status,
            window: Window { from, until },
        })
    }
}

fn read_status(fields: &mut Der<'_>) -> Result<Status, DerError> {
    let field = "certStatus";
    let (tag, status) = match fields.peek() {
        Some(GOOD) => (GOOD, Status::Good),
        Some(REVOKED) => (REVOKED, Status::Revoked),
        _ => (UNKNOWN, Status::Unknown),
    };
    let content = fields.value(tag, field)?;
    match status == Status::Revoked || content.is_empty() {
        true => Ok(status),
        false => Err(bad(field)),
    }
}

/// A certificate, by hashes of its issuer's name and key and by its number.
#[derive(Clone, Copy, Debug)]
struct CertId<'a> {
    hash: Hash,
    name: &'a [u8],
    key: &'a [u8],
    serial: Serial,
}

impl<'a> CertId<'a> {
    fn read(fields: &mut Der<'a>) -> Result<Self, DerError> {
        let mut id = fields.nested(SEQUENCE, "certID")?;
        let mut algorithm = id.nested(SEQUENCE, "hashAlgorithm")?;
        let hash = match algorithm.value(OID, "hashAlgorithm")? {
            SHA256 => Hash::Sha256,
            SHA384 => Hash::Sha384,
            _ => return Err(bad("hashAlgorithm")),
        };
        // Parameters are absent or null (RFC 5754, section 2).
        algorithm.optional(NULL, "hashAlgorithm")?;
        algorithm.end("hashAlgorithm")?;
        let id_fields = Self {
            hash,
            name: id.value(OCTET_STRING, "issuerNameHash")?,
            key: id.value(OCTET_STRING, "issuerKeyHash")?,
            serial: Serial::read(&mut id)?,
        };
        id.end("certID")?;
        Ok(id_fields)
    }

    fn is(&self, serial: Serial, issuer: &Certificate<'_>) -> bool {
        let same = |hash: &[u8], of: &[u8]| match self.hash {
            Hash::Sha256 => hash == Sha256::digest(of).as_slice(),
            Hash::Sha384 => hash == Sha384::digest(of).as_slice(),
        };
        self.serial == serial && same(self.name, issuer.subject) && same(self.key, issuer.key.point)
    }
}

fn read_extensions(fields: &mut Der<'_>, field: &'static str) -> Result<(), DerError> {
    let Some(mut outer) = fields.optional(CONTEXT_1, field)? else {
        return Ok(());
    };
    let list = outer.nested(SEQUENCE, field)?;
    outer.end(field)?;
    refuse_critical(list, &[])
}

/// The one form of time here.
fn time(fields: &mut Der<'_>, field: &'static str) -> Result<UnixTime, DerError> {
    match fields.peek() {
        Some(GENERALIZED_TIME) => read_time(fields, field),
        _ => Err(bad(field)),
    }
}

const fn bad(field: &'static str) -> DerError {
    DerError::Value { field }
}

const GOOD: u8 = 0x80;
const REVOKED: u8 = 0xa1;
const UNKNOWN: u8 = 0x82;

/// 1.3.6.1.5.5.7.48.1.1.
const BASIC: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x01];
/// 1.3.6.1.5.5.7.48.1.5.
const OCSP_NO_CHECK: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x30, 0x01, 0x05];
/// 1.3.6.1.5.5.7.3.9.
const OCSP_SIGNING: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x09];
/// 2.5.29.37.
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
/// 2.16.840.1.101.3.4.2.1 and .2.
const SHA256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
const SHA384: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02];
