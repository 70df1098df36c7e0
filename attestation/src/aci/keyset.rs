//! The keys of one worker, which its evidence names by their digest.

use alloc::string::String;
use alloc::vec::Vec;

use serde::{Deserialize, Serialize};

use super::Hash;
use super::json::{Json, JsonError};
use crate::register::Digest256;

/// A keyset (section 3.1), and the digest that stands for it in evidence.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Keyset {
    text: String,
    digest: Hash,
    document: Document,
}

impl Keyset {
    /// Of a worker with one key for receipts, one that requests are sealed to, and one
    /// for TLS, until a Unix time.
    pub fn new(
        receipts: &[u8; 32],
        seal: &[u8],
        tls_spki: &Digest256,
        not_after: u64,
    ) -> Result<Self, KeysetError> {
        Self::of(Json::of(&Document {
            subject: None,
            not_after,
            receipt_signing_keys: [Key {
                key_id: Self::RECEIPTS.into(),
                algo: ED25519.into(),
                public_key: hex::encode(receipts),
            }]
            .into(),
            e2ee_public_keys: [Key {
                key_id: Self::SEAL.into(),
                algo: X_WING.into(),
                public_key: hex::encode(seal),
            }]
            .into(),
            tls_public_keys: [Tls {
                spki_sha256: *tls_spki,
                domain: None,
            }]
            .into(),
        })?)
    }

    /// Reads one that somebody shows. Nothing in it counts before its digest was found
    /// in evidence.
    pub fn parse(text: &[u8]) -> Result<Self, KeysetError> {
        Self::of(Json::parse(text)?)
    }

    fn of(json: Json) -> Result<Self, KeysetError> {
        let text = json.canonical();
        Ok(Self {
            digest: Hash::of(text.as_bytes()),
            document: json.read()?,
            text,
        })
    }

    /// In canonical form.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// What evidence names.
    #[must_use]
    pub const fn digest(&self) -> &Hash {
        &self.digest
    }

    /// Unix time after which nothing under it counts.
    #[must_use]
    pub const fn not_after(&self) -> u64 {
        self.document.not_after
    }

    /// The Ed25519 key that signs receipts by this name. Keys for other algorithms are
    /// passed over (section 3.1), and one that is no key counts as none.
    #[must_use]
    pub fn receipt_key(&self, name: &str) -> Option<[u8; 32]> {
        let mut keys = self.document.receipt_signing_keys.iter();
        let key = keys.find(|key| key.key_id == name && key.algo == ED25519)?;
        let key: Digest256 = key.public_key.parse().ok()?;
        Some(*key.as_bytes())
    }

    /// The X-Wing key that requests are sealed to, if there is one.
    #[must_use]
    pub fn seal_key(&self) -> Option<Vec<u8>> {
        let mut keys = self.document.e2ee_public_keys.iter();
        let key = keys.find(|key| key.key_id == Self::SEAL && key.algo == X_WING)?;
        hex::decode(&key.public_key).ok()
    }

    /// Name of the key for receipts in what [`Self::new`] makes.
    pub const RECEIPTS: &str = "receipt-1";

    /// Name of the key that requests are sealed to.
    pub const SEAL: &str = "seal-1";
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Document {
    subject: Option<String>,
    not_after: u64,
    receipt_signing_keys: Vec<Key>,
    e2ee_public_keys: Vec<Key>,
    tls_public_keys: Vec<Tls>,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Key {
    key_id: String,
    algo: String,
    public_key: String,
}

#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
struct Tls {
    spki_sha256: Digest256,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    domain: Option<String>,
}

const ED25519: &str = "ed25519";

/// Of no specification of ACI: who does not know it passes it over (section 3.1).
const X_WING: &str = "x-wing";

/// Not a keyset.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no keyset")]
pub struct KeysetError(#[from] JsonError);

#[cfg(test)]
mod tests {
    use super::*;

    fn keyset() -> Keyset {
        let tls = Digest256::from_bytes([1; 32]);
        Keyset::new(&[0xab; 32], &[0xcd; 1216], &tls, 1_800_000_000).unwrap()
    }

    #[test]
    fn the_digest_is_over_the_canonical_document_with_all_that_is_in_it() {
        let (key, seal) = ("ab".repeat(32), "cd".repeat(1216));
        let tls = "01".repeat(32);
        let expected = alloc::format!(
            r#"{{"e2ee_public_keys":[{{"algo":"x-wing","key_id":"seal-1","public_key":"{seal}"}}],"not_after":1800000000,"receipt_signing_keys":[{{"algo":"ed25519","key_id":"receipt-1","public_key":"{key}"}}],"subject":null,"tls_public_keys":[{{"spki_sha256":"{tls}"}}]}}"#
        );
        assert_eq!(keyset().text(), expected);
        assert_eq!(*keyset().digest(), Hash::of(expected.as_bytes()));
        assert_eq!(
            Keyset::parse(expected.replace(',', " ,\n").as_bytes()),
            Ok(keyset())
        );
        let more = expected.replace("\"subject\"", "\"other\":1,\"subject\"");
        let more = Keyset::parse(more.as_bytes()).unwrap();
        assert_ne!(more.digest(), keyset().digest());
    }

    #[test]
    fn only_an_ed25519_key_of_that_name_is_a_receipt_key() {
        assert_eq!(keyset().receipt_key("receipt-1"), Some([0xab; 32]));
        assert_eq!(keyset().receipt_key("receipt-2"), None);
        for (from, to) in [("ed25519", "ed448"), ("abab", "ABAB"), ("\"abab", "\"ab")] {
            let other = keyset().text().replacen(from, to, 1);
            let other = Keyset::parse(other.as_bytes()).unwrap();
            assert_eq!(other.receipt_key("receipt-1"), None, "{to}");
        }
    }

    #[test]
    fn only_an_x_wing_key_of_that_name_is_sealed_to() {
        assert_eq!(keyset().seal_key(), Some([0xcd; 1216].into()));
        for (from, to) in [
            ("x-wing", "x448"),
            ("seal-1", "seal-2"),
            ("\"cdcd", "\"cdc"),
        ] {
            let other = keyset().text().replacen(from, to, 1);
            let other = Keyset::parse(other.as_bytes()).unwrap();
            assert_eq!(other.seal_key(), None, "{to}");
        }
    }

    #[test]
    fn every_proper_prefix_is_refused() {
        let text = keyset().text().as_bytes().to_vec();
        for cut in 0..text.len() {
            assert!(Keyset::parse(&text[..cut]).is_err(), "{cut}");
        }
    }
}
