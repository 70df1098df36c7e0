//! Certificate revocation lists (RFC 5280, section 5), version 2, complete ones.
//!
//! Whatever is listed is revoked: reasons are not read, so "on hold" counts too.
//! Delta and indirect lists are marked by critical extensions, and refused with
//! them.

use alloc::vec::Vec;

use crate::certificate::{PublicKey, Serial, Signed, read_time, refuse_critical};
use crate::der::{CONTEXT_0, Der, DerError, SEQUENCE};
use crate::time::{OutsideWindow, UnixTime, Window};

/// The serial numbers that an issuer took back, sorted.
#[derive(Clone, Debug, Default)]
pub struct Revoked(Vec<Serial>);

impl Revoked {
    /// Whether the certificate with this number was taken back.
    #[must_use]
    pub fn contains(&self, serial: Serial) -> bool {
        self.0.binary_search(&serial).is_ok()
    }
}

/// A well-formed list that nobody has verified yet.
#[derive(Clone, Debug)]
pub struct Crl<'a> {
    signed: Signed<'a>,
    issuer: &'a [u8],
    window: Window,
    revoked: Revoked,
}

impl<'a> Crl<'a> {
    /// Reads one list and nothing after it.
    pub fn parse(der: &'a [u8]) -> Result<Self, DerError> {
        let (signed, mut body) = Signed::read(der, "CRL")?;
        if body.u16("version")? != V2 {
            return Err(DerError::Value { field: "version" });
        }
        signed.expect_hash(&mut body)?;
        let issuer = body.whole(SEQUENCE, "issuer")?;
        let window = Window {
            from: read_time(&mut body, "thisUpdate")?,
            until: read_time(&mut body, "nextUpdate")?,
        };
        let mut revoked = Vec::new();
        if let Some(mut entries) = body.optional(SEQUENCE, "revokedCertificates")? {
            revoked.reserve(entries.rest().len().checked_div(ENTRY_LEN).unwrap_or(0));
            while !entries.is_empty() {
                revoked.push(read_entry(&mut entries)?);
            }
        }
        revoked.sort_unstable();
        let mut extensions = body.nested(CONTEXT_0, "crlExtensions")?;
        let list = extensions.nested(SEQUENCE, "crlExtensions")?;
        extensions.end("crlExtensions")?;
        refuse_critical(list, &[])?;
        body.end("tbsCertList")?;
        Ok(Self {
            signed,
            issuer,
            window,
            revoked: Revoked(revoked),
        })
    }

    /// DER of the name that it says it is by: fit for choosing one, not for trust.
    #[must_use]
    pub const fn unverified_issuer(&self) -> &'a [u8] {
        self.issuer
    }

    /// Checks issuer, window and signature.
    pub fn verify(
        self,
        issuer: &[u8],
        key: PublicKey<'_>,
        at: UnixTime,
    ) -> Result<(Revoked, Window), CrlError> {
        if self.issuer != issuer {
            return Err(CrlError::Issuer);
        }
        self.window.check(at)?;
        self.signed.verify(key).map_err(|_| CrlError::Signature)?;
        Ok((self.revoked, self.window))
    }
}

/// Why a list is not to be believed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CrlError {
    /// Another name than the certificates' issuer.
    #[error("issued by another name than the certificates that it is for")]
    Issuer,
    /// Not DER of the expected shape.
    #[error(transparent)]
    Malformed(#[from] DerError),
    /// Not by the issuer's key.
    #[error("the signature does not verify under its issuer's key")]
    Signature,
    /// Not at that time.
    #[error(transparent)]
    Window(#[from] OutsideWindow),
}

impl CrlError {
    /// Stable name, for scripts.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Issuer => "issuer",
            Self::Malformed(_) => "malformed",
            Self::Signature => "signature",
            Self::Window(error) => error.code(),
        }
    }
}

fn read_entry(entries: &mut Der<'_>) -> Result<Serial, DerError> {
    let mut entry = entries.nested(SEQUENCE, "revoked certificate")?;
    let serial = Serial::read(&mut entry)?;
    read_time(&mut entry, "revocationDate")?;
    if let Some(extensions) = entry.optional(SEQUENCE, "crlEntryExtensions")? {
        refuse_critical(extensions, &[])?;
    }
    entry.end("revoked certificate")?;
    Ok(serial)
}

const V2: u16 = 1;

/// An entry of Intel's: number of 20 bytes, time, reason.
const ENTRY_LEN: usize = 53;
