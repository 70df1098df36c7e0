//! Receipts: what a machine signs for each answer, in the form ACI/1.
//!
//! ```text
//! evidence ── keyset digest ── keyset ── receipt key ── receipt
//! ```
//!
//! A receipt binds the bytes that were asked and answered to the model, the tokens and
//! the settings in between. Its hashes of token ids are salted: the salt is in the
//! [`Opening`], which only whoever asked can have.
//!
//! It does not establish that an answer is true, nor when it was given: the time is of
//! the machine's clock, which its host sets.
//!
//! Source: Attested Confidential Inference, version `aci/1` (draft),
//! github.com/Dstack-TEE/private-ai-gateway, `spec/aci.md`; the event
//! `inference.executed.v1` is ours.

mod json;
mod keyset;
#[cfg(not(target_arch = "wasm32"))]
mod opening;
#[cfg(not(target_arch = "wasm32"))]
mod receipt;

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use core::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::binding::ReportData;
use crate::register::Digest256;

pub use json::{Json, JsonError};
pub use keyset::{Keyset, KeysetError};
#[cfg(not(target_arch = "wasm32"))]
pub use opening::{Forwarded, Opening, OpeningError, Run, Settings, hash_ids};
#[cfg(not(target_arch = "wasm32"))]
pub use receipt::{
    Counted, Engine, Event, Executed, Model, Output, Prompt, Receipt, ReceiptError, Sampling,
    SeedSource, Signed, Unit,
};

/// As artefacts and headers name it.
pub const VERSION: &str = "aci/1";

/// What the platform signs for a keyset and a client's nonce (section 3.2).
#[must_use]
pub fn report_data(keyset: &Hash, nonce: Option<&Digest256>) -> ReportData {
    ReportData::of_claims(statement(keyset, nonce).as_bytes())
}

fn statement(keyset: &Hash, nonce: Option<&Digest256>) -> String {
    let nonce = nonce.map_or("null".into(), |nonce| format!("\"{nonce}\""));
    format!(r#"{{"keyset_digest":"{keyset}","nonce":{nonce},"purpose":"aci.report_data.v1"}}"#)
}

/// SHA-256, written `sha256:` and 64 lower-case hex digits (appendix A).
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct Hash(pub Digest256);

impl Hash {
    /// Hashes `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self(Digest256::of(bytes))
    }
}

impl From<[u8; 32]> for Hash {
    fn from(digest: [u8; 32]) -> Self {
        Self(Digest256::from_bytes(digest))
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.0)
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Hash {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Hash {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = <Cow<'de, str>>::deserialize(from)?;
        let digest = text.strip_prefix("sha256:").map(str::parse);
        match digest {
            Some(Ok(digest)) => Ok(Self(digest)),
            _ => Err(de::Error::custom("no sha256:<64 lower-case hex digits>")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_statement_is_the_template_of_the_specification() {
        let keyset = Hash(Digest256::from_bytes([0xab; 32]));
        let nonce = Digest256::from_bytes([1; 32]);
        let (digits, ones) = ("ab".repeat(32), "01".repeat(32));
        let expected = |nonce: &str| {
            format!(
                r#"{{"keyset_digest":"sha256:{digits}","nonce":{nonce},"purpose":"aci.report_data.v1"}}"#
            )
        };
        assert_eq!(
            statement(&keyset, Some(&nonce)),
            expected(&format!("\"{ones}\""))
        );
        assert_eq!(statement(&keyset, None), expected("null"));
        let data = report_data(&keyset, None);
        assert_eq!(
            data.0[..32],
            *Digest256::of(expected("null").as_bytes()).as_bytes()
        );
        assert_eq!(data.0[32..], [0; 32]);
    }

    #[test]
    fn a_hash_is_read_in_its_one_form() {
        let text = format!("\"sha256:{}\"", "ab".repeat(32));
        let hash: Hash = serde_json::from_str(&text).unwrap();
        assert_eq!(serde_json::to_string(&hash).unwrap(), text);
        for other in [
            text.replace("ab", "AB"),
            text.replace("sha256:", ""),
            text.replace("sha256", "sha512"),
        ] {
            assert!(serde_json::from_str::<Hash>(&other).is_err(), "{other}");
        }
    }
}
