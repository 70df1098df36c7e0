//! AES-256-GCM (NIST SP 800-38D), sealed from one place to another and opened where it
//! stands: AWS-LC natively, RustCrypto in wasm.
//!
//! Whoever calls sees to it that no nonce comes twice under one key.

use alloc::vec::Vec;

use crate::key::SealError;

/// A key, and nothing that counts.
pub(crate) struct Key(backend::Key);

impl Key {
    /// Bytes of a key.
    pub(crate) const LEN: usize = 32;

    pub(crate) fn new(key: &[u8; Self::LEN]) -> Result<Self, SealError> {
        backend::key(key).map(Self)
    }

    /// Encrypts `data` and, after it, `padding`; `out` is as long as both and a tag.
    pub(crate) fn seal(
        &self,
        nonce: Nonce,
        aad: &[u8],
        [data, padding]: [&[u8]; 2],
        out: &mut [u8],
    ) -> Result<(), SealError> {
        let (text, tail) = out.split_at_mut_checked(data.len()).ok_or(SealError)?;
        match tail.len() == padding.len().saturating_add(TAG) {
            true => backend::seal(&self.0, nonce, aad, [data, padding], [text, tail]),
            false => Err(SealError),
        }
    }

    /// Decrypts where it stands what comes before the tag, and takes the tag off. `None` if
    /// it is not what was sealed under this nonce beside this `aad`.
    pub(crate) fn open(&self, nonce: Nonce, aad: &[u8], mut sealed: Vec<u8>) -> Option<Vec<u8>> {
        let (text, tag) = sealed.split_last_chunk_mut()?;
        backend::open(&self.0, nonce, aad, text, tag)?;
        let length = text.len();
        sealed.truncate(length);
        Some(sealed)
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
        [data, padding]: [&[u8]; 2],
        [text, tail]: [&mut [u8]; 2],
    ) -> Result<(), SealError> {
        let (nonce, aad) = (Once::assume_unique_for_key(nonce), Aad::from(aad));
        key.seal_out_of_place_scatter(nonce, aad, data, text, padding, tail)
            .map_err(|_| SealError)
    }

    pub(super) fn open(
        key: &Key,
        nonce: Nonce,
        aad: &[u8],
        text: &mut [u8],
        tag: &[u8; TAG],
    ) -> Option<()> {
        let (nonce, aad) = (Once::assume_unique_for_key(nonce), Aad::from(aad));
        let opened = key.open_in_place_separate_tag(nonce, aad, tag, text);
        opened.ok().map(drop)
    }
}

#[cfg(any(test, target_arch = "wasm32"))]
mod portable;

#[cfg(target_arch = "wasm32")]
use portable as backend;

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn both_backends_write_the_same_and_open_each_others(
            key: [u8; 32],
            nonce: Nonce,
            aad: [u8; 4],
            data in proptest::collection::vec(any::<u8>(), 0..600),
            padding in proptest::collection::vec(any::<u8>(), 0..300),
        ) {
            let (native, other) = (Key::new(&key).unwrap(), portable::key(&key).unwrap());
            let mut sealed = [&data[..], &padding, &[0; TAG]].concat();
            let mut theirs = sealed.clone();
            native.seal(nonce, &aad, [&data, &padding], &mut sealed).unwrap();
            let (text, tail) = theirs.split_at_mut(data.len());
            portable::seal(&other, nonce, &aad, [&data, &padding], [text, tail]).unwrap();
            prop_assert_eq!(&sealed, &theirs);

            let whole = Some([data, padding].concat());
            let open = |sealed: &[u8]| {
                let mut theirs = sealed.to_vec();
                let (text, tag) = theirs.split_last_chunk_mut().unwrap();
                let opened = portable::open(&other, nonce, &aad, text, tag);
                let opened = opened.map(|()| text.to_vec());
                [native.open(nonce, &aad, sealed.to_vec()), opened]
            };
            prop_assert_eq!(open(&sealed), [whole.clone(), whole]);
            sealed[0] ^= 1;
            prop_assert_eq!(open(&sealed), [None, None]);
        }
    }

    #[test]
    fn what_is_shorter_than_a_tag_is_nothing_that_was_sealed_nor_a_place_to_seal_to() {
        let key = Key::new(&[1; 32]).unwrap();
        for len in 0..TAG {
            assert_eq!(key.open([0; 12], &[], vec![0; len]), None);
            let sealed = key.seal([0; 12], &[], [b"", b""], &mut vec![0; len]);
            assert_eq!(sealed, Err(SealError));
        }
    }
}
