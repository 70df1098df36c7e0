//! One measured thing, hashed for both kinds of machine.
//!
//! TPM events are extended into the SHA-256 bank, TD events as SHA-384.

use attestation::register::{Digest256, Digest384};
use sha2::{Digest, Sha256, Sha384};

/// SHA-256 and SHA-384 of the same bytes.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Digests {
    /// For a TPM.
    pub sha256: Digest256,
    /// For a TD.
    pub sha384: Digest384,
}

impl Digests {
    /// Hashes `bytes`.
    #[must_use]
    pub fn of(bytes: &[u8]) -> Self {
        Self::of_parts([bytes])
    }

    /// Hashes the parts as if they were one piece.
    pub fn of_parts<'a>(parts: impl IntoIterator<Item = &'a [u8]>) -> Self {
        let (mut sha256, mut sha384) = (Sha256::new(), Sha384::new());
        for part in parts {
            sha256.update(part);
            sha384.update(part);
        }
        Self {
            sha256: Digest256::from_bytes(sha256.finalize().into()),
            sha384: Digest384::from_bytes(sha384.finalize().into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_hash_like_the_whole() {
        let parts = Digests::of_parts([&b"ab"[..], b"", b"c"]);
        assert_eq!(parts, Digests::of(b"abc"));
        assert_eq!(parts.sha256, Digest256::of(b"abc"));
        assert_eq!(parts.sha384, Digest384::of(b"abc"));
    }
}
