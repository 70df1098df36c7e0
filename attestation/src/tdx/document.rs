//! The two JSON documents that Intel signs: TCB info and QE identity.
//!
//! ```text
//! {"tcbInfo":{...},"signature":"<r || s in hex>"}
//! {"enclaveIdentity":{...},"signature":"<r || s in hex>"}
//! ```
//!
//! The TCB signing key signs the exact bytes of the inner object. The outer one is
//! taken in the form that Intel serves and in no other, so the inner bytes are cut
//! out of it unread, verified, and only then parsed. A member that occurs twice is
//! refused. Unknown members are passed over: Intel adds some without a new version.
//!
//! Source: Intel SGX and TDX Provisioning Certification Service API, version 4.

use alloc::format;
use alloc::string::{String, ToString};
use core::fmt;

use serde::{Deserialize, Deserializer};

use crate::certificate::PublicKey;
use crate::signature::{Signature, verify};
use crate::time::{OutsideWindow, UnixTime, Window};

use super::advisories::Advisories;
use super::status::TcbStatus;

/// Which of the two.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Document {
    /// Identity of the TD quoting enclave.
    QeIdentity,
    /// Levels of the platform and of the TDX module.
    TcbInfo,
}

impl Document {
    /// Reads a document that `key` signed.
    pub(super) fn open<'a, T: Deserialize<'a>>(
        self,
        text: &'a str,
        key: PublicKey<'_>,
    ) -> Result<T, DocumentError> {
        let (body, signature) = self.split(text).ok_or_else(|| {
            let reason = format!("not {}{{...}}{SIGNATURE}...\"}}", self.opening());
            self.error(Flaw::Malformed { reason })
        })?;
        let signature = Signature::Fixed(&signature);
        verify(key.scheme, key.point, body.as_bytes(), signature)
            .map_err(|_| self.error(Flaw::Signature))?;
        serde_json::from_str(body).map_err(|error| {
            let reason = error.to_string();
            self.error(Flaw::Malformed { reason })
        })
    }

    /// The signed text and its signature `r || s`, neither of them believed.
    #[must_use]
    pub fn split(self, text: &str) -> Option<(&str, [u8; 64])> {
        let (body, digits) = text
            .trim_ascii()
            .strip_prefix(self.opening())?
            .strip_suffix("\"}")?
            .rsplit_once(SIGNATURE)
            .filter(|(body, _)| body.starts_with('{') && body.ends_with('}'))?;
        let mut signature = [0; 64];
        ::hex::decode_to_slice(digits, &mut signature).ok()?;
        Some((body, signature))
    }

    /// Demands one value of a member.
    pub(super) fn expect<T: PartialEq + fmt::Display>(
        self,
        member: &'static str,
        found: T,
        expected: T,
    ) -> Result<(), DocumentError> {
        if found == expected {
            return Ok(());
        }
        Err(self.error(Flaw::Member {
            member,
            found: found.to_string(),
            expected: expected.to_string(),
        }))
    }

    /// Demands that the document holds at the stated time.
    pub(super) fn check_window(self, window: Window, at: UnixTime) -> Result<(), DocumentError> {
        window
            .check(at)
            .map_err(|error| self.error(Flaw::Window(error)))
    }

    pub(super) const fn error(self, flaw: Flaw) -> DocumentError {
        DocumentError {
            document: self,
            flaw,
        }
    }

    const fn opening(self) -> &'static str {
        match self {
            Self::QeIdentity => "{\"enclaveIdentity\":",
            Self::TcbInfo => "{\"tcbInfo\":",
        }
    }

    const fn code(self) -> &'static str {
        match self {
            Self::QeIdentity => "qe-identity",
            Self::TcbInfo => "tcb-info",
        }
    }
}

impl fmt::Display for Document {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::QeIdentity => "QE identity",
            Self::TcbInfo => "TCB info",
        })
    }
}

/// Which document is not as it must be, and why.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{document}: {flaw}")]
pub struct DocumentError {
    /// The document.
    pub document: Document,
    /// What is wrong with it.
    pub flaw: Flaw,
}

impl DocumentError {
    /// Stable name, for scripts.
    #[must_use]
    pub fn code(&self) -> String {
        format!("{}-{}", self.document.code(), self.flaw.code())
    }
}

/// What is wrong with a document.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    /// Not JSON of the expected shape.
    #[error("{reason}")]
    Malformed {
        /// What the parser says.
        reason: String,
    },
    /// A member with another value than the one that we know how to read.
    #[error("{member} is {found}, expected {expected}")]
    Member {
        /// Name of the member.
        member: &'static str,
        /// As read.
        found: String,
        /// As specified.
        expected: String,
    },
    /// Not signed by the TCB signing key, or not these bytes.
    #[error("the signature does not verify under the TCB signing key")]
    Signature,
    /// Not at that time.
    #[error("{0}")]
    Window(OutsideWindow),
}

impl Flaw {
    const fn code(&self) -> &'static str {
        match self {
            Self::Malformed { .. } => "malformed",
            Self::Member { member, .. } => member,
            Self::Signature => "signature",
            Self::Window(error) => error.code(),
        }
    }
}

/// One version of an enclave or module, and what Intel says of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct IsvLevel {
    tcb: IsvTcb,
    #[serde(deserialize_with = "moment")]
    pub(super) tcb_date: UnixTime,
    #[serde(deserialize_with = "status")]
    pub(super) tcb_status: TcbStatus,
    #[serde(default, rename = "advisoryIDs")]
    pub(super) advisories: Advisories,
}

#[derive(Clone, Debug, Deserialize)]
struct IsvTcb {
    isvsvn: u16,
}

/// The level of the highest version that is not above `isvsvn`.
pub(super) fn isv_level(levels: &[IsvLevel], isvsvn: u16) -> Option<&IsvLevel> {
    levels
        .iter()
        .filter(|level| level.tcb.isvsvn <= isvsvn)
        .max_by_key(|level| level.tcb.isvsvn)
}

/// Reads a status that a document may give: relaunch is ours to advise, not Intel's.
pub(super) fn status<'de, D: Deserializer<'de>>(from: D) -> Result<TcbStatus, D::Error> {
    match TcbStatus::deserialize(from)? {
        TcbStatus::TDRelaunchAdvised | TcbStatus::TDRelaunchAdvisedConfigurationNeeded => {
            Err(serde::de::Error::custom("relaunch is no status of a level"))
        }
        status => Ok(status),
    }
}

/// Reads a moment.
pub(super) fn moment<'de, D: Deserializer<'de>>(from: D) -> Result<UnixTime, D::Error> {
    let text = <&str>::deserialize(from)?;
    UnixTime::from_iso8601(text)
        .ok_or_else(|| serde::de::Error::custom("not a time like 2026-10-08T00:09:46Z"))
}

/// Between the inner object and its signature.
const SIGNATURE: &str = ",\"signature\":\"";
