//! AES-256-GCM (NIST SP 800-38D) in place: AWS-LC natively, RustCrypto in wasm.
//!
//! Whoever calls sees to it that no nonce comes twice under one key.

use crate::key::SealError;

/// A key, and nothing that counts.
pub(crate) struct Key(backend::Key);

impl Key {
    /// Bytes of a key.
    pub(crate) const LEN: usize = 32;

    pub(crate) fn new(key: &[u8; Self::LEN]) -> Result<Self, SealError> {
        backend::key(key).map(Self)
    }

    /// Encrypts `text` where it lies, and gives the tag.
    pub(crate) fn seal(
        &self,
        nonce: Nonce,
        aad: &[u8],
        text: &mut [u8],
    ) -> Result<[u8; TAG], SealError> {
        backend::seal(&self.0, nonce, aad, text)
    }

    /// Decrypts what stands before the tag where it lies. `None` if it is not what was
    /// sealed under this nonce beside this `aad`.
    pub(crate) fn open<'a>(
        &self,
        nonce: Nonce,
        aad: &[u8],
        sealed: &'a mut [u8],
    ) -> Option<&'a [u8]> {
        backend::open(&self.0, nonce, aad, sealed)
    }
}

/// 96 bits, as the mode is fastest and safest with.
pub(crate) type Nonce = [u8; 12];

/// Bytes of a tag.
pub(crate) const TAG: usize = 16;

#[cfg(not(target_arch = "wasm32"))]
mod backend {
    use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce as Once, UnboundKey};

    use super::{Nonce, TAG};
    use crate::key::SealError;

    pub(super) type Key = LessSafeKey;

    pub(super) fn key(key: &[u8; 32]) -> Result<Key, SealError> {
        let key = UnboundKey::new(&AES_256_GCM, key).map_err(|_| SealError)?;
        Ok(LessSafeKey::new(key))
    }

    pub(super) fn seal(
        key: &Key,
        nonce: Nonce,
        aad: &[u8],
        text: &mut [u8],
    ) -> Result<[u8; TAG], SealError> {
        let nonce = Once::assume_unique_for_key(nonce);
        let tag = key.seal_in_place_separate_tag(nonce, Aad::from(aad), text);
        let tag = tag.map_err(|_| SealError)?;
        tag.as_ref().try_into().map_err(|_| SealError)
    }

    pub(super) fn open<'a>(
        key: &Key,
        nonce: Nonce,
        aad: &[u8],
        sealed: &'a mut [u8],
    ) -> Option<&'a [u8]> {
        let nonce = Once::assume_unique_for_key(nonce);
        let text = key.open_in_place(nonce, Aad::from(aad), sealed).ok()?;
        Some(text)
    }
}

#[cfg(any(test, target_arch = "wasm32"))]
mod portable;

#[cfg(target_arch = "wasm32")]
use portable as backend;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_backends_write_the_same_and_open_each_others(
            key: [u8; 32],
            nonce: Nonce,
            aad: [u8; 4],
            text in proptest::collection::vec(any::<u8>(), 0..600),
        ) {
            let mut native = text.clone();
            let tag = Key::new(&key).unwrap().seal(nonce, &aad, &mut native).unwrap();
            native.extend(tag);
            let theirs = portable::key(&key).unwrap();
            let mut other = text.clone();
            let tag = portable::seal(&theirs, nonce, &aad, &mut other).unwrap();
            other.extend(tag);
            prop_assert_eq!(&native, &other);

            let mut spoilt = native.clone();
            spoilt[0] ^= 1;
            prop_assert_eq!(portable::open(&theirs, nonce, &aad, &mut spoilt), None);
            prop_assert_eq!(portable::open(&theirs, nonce, &aad, &mut native), Some(&text[..]));
            prop_assert_eq!(
                Key::new(&key).unwrap().open(nonce, &aad, &mut other),
                Some(&text[..])
            );
        }
    }

    #[test]
    fn what_is_shorter_than_a_tag_is_nothing_that_was_sealed() {
        let portable = portable::key(&[1; 32]).unwrap();
        let native = Key::new(&[1; 32]).unwrap();
        for len in 0..TAG {
            let mut short = alloc::vec![0; len];
            assert_eq!(native.open([0; 12], &[], &mut short), None);
            assert_eq!(portable::open(&portable, [0; 12], &[], &mut short), None);
        }
    }
}
