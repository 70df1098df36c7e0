//! What the schedulers of one deployment have in common, and nobody else has.
//!
//! ```text
//! tag   = HMAC-SHA-256(key "tag", length of name: u64be || name || text)
//! entry = tag[32] || text
//! ```
//!
//! Each purpose has a key of its own, HMAC-SHA-256 over its name. An entry that opens was
//! made by a member, under that name; that it is the newest one is not established.

use attestation::register::Digest256;
use aws_lc_rs::hmac;
use zeroize::Zeroize as _;

/// 32 random bytes, in a file of each scheduler.
#[derive(Clone)]
pub struct Key([u8; 32]);

impl Key {
    /// Reads 64 hex digits.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let digits: Digest256 = text.trim().parse().ok()?;
        Some(Self(*digits.as_bytes()))
    }

    /// For [`Directory::new`](crate::directory::Directory::new): each finds the same worker
    /// for a conversation.
    #[must_use]
    pub fn seed(&self) -> [u8; 32] {
        self.of(b"seed")
    }

    pub(super) fn of(&self, purpose: &[u8]) -> [u8; 32] {
        let tag = hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &self.0), purpose);
        // As long as the hash, which is SHA-256.
        tag.as_ref().first_chunk().copied().unwrap_or_default()
    }

    /// An entry of that name.
    pub(super) fn close(&self, name: &str, text: &[u8]) -> Vec<u8> {
        let tag = hmac::sign(&self.tag(), &named(name, text));
        [tag.as_ref(), text].concat()
    }

    /// The text of an entry that a member made.
    pub(super) fn open<'a>(&self, name: &str, entry: &'a [u8]) -> Option<&'a [u8]> {
        let (tag, text) = entry.split_first_chunk::<32>()?;
        hmac::verify(&self.tag(), &named(name, text), tag).ok()?;
        Some(text)
    }

    fn tag(&self) -> hmac::Key {
        hmac::Key::new(hmac::HMAC_SHA256, &self.of(b"tag"))
    }
}

impl Drop for Key {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

fn named(name: &str, text: &[u8]) -> Vec<u8> {
    let length = u64::try_from(name.len()).unwrap_or(u64::MAX);
    [&length.to_be_bytes(), name.as_bytes(), text].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_opens_whole_under_its_name_and_its_key() {
        let (key, other) = (Key([1; 32]), Key([2; 32]));
        let entry = key.close("name", b"text");
        assert_eq!(key.open("name", &entry), Some(&b"text"[..]));
        assert_eq!(key.open("nam", &entry), None);
        assert_eq!(other.open("name", &entry), None);
        for length in 0..entry.len() {
            assert_eq!(key.open("name", &entry[..length]), None);
        }
        for index in 0..entry.len() {
            let mut changed = entry.clone();
            changed[index] ^= 1;
            assert_eq!(key.open("name", &changed), None);
        }
    }

    #[test]
    fn a_key_is_64_digits_and_each_purpose_has_its_own() {
        let key = Key::parse(&format!("{}\n", "ab".repeat(32))).unwrap();
        assert_eq!(key.0, [0xab; 32]);
        assert!(Key::parse(&"ab".repeat(31)).is_none());
        assert_ne!(key.seed(), key.of(b"tls"));
    }
}
