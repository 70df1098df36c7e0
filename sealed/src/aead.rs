//! AES-256-GCM (NIST SP 800-38D), from one place to another: AWS-LC natively, RustCrypto
//! in wasm.
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

    /// Encrypts `data` and, after it, `padding`; `out` is as long as both and a tag.
    pub(crate) fn seal(
        &self,
        nonce: Nonce,
        aad: &[u8],
        [data, padding]: [&[u8]; 2],
        out: &mut [u8],
    ) -> Result<(), SealError> {
        let text = data.len().saturating_add(padding.len());
        match out.len() == text.saturating_add(TAG) {
            true => backend::seal(&self.0, nonce, aad, [data, padding], out),
            false => Err(SealError),
        }
    }

    /// Decrypts what comes before the tag to `out`, which is as long. `None` if it is not
    /// what was sealed under this nonce beside this `aad`; then `out` says nothing.
    pub(crate) fn open(
        &self,
        nonce: Nonce,
        aad: &[u8],
        sealed: &[u8],
        out: &mut [u8],
    ) -> Option<()> {
        let (text, tag) = sealed.split_last_chunk()?;
        match text.len() == out.len() {
            true => backend::open(&self.0, nonce, aad, (text, tag), out),
            false => None,
        }
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
        out: &mut [u8],
    ) -> Result<(), SealError> {
        let (nonce, aad) = (Once::assume_unique_for_key(nonce), Aad::from(aad));
        let (text, tail) = out.split_at_mut_checked(data.len()).ok_or(SealError)?;
        key.seal_out_of_place_scatter(nonce, aad, data, text, padding, tail)
            .map_err(|_| SealError)
    }

    pub(super) fn open(
        key: &Key,
        nonce: Nonce,
        aad: &[u8],
        (text, tag): (&[u8], &[u8; TAG]),
        out: &mut [u8],
    ) -> Option<()> {
        let (nonce, aad) = (Once::assume_unique_for_key(nonce), Aad::from(aad));
        key.open_separate_gather(nonce, aad, text, tag, out).ok()
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
            portable::seal(&other, nonce, &aad, [&data, &padding], &mut theirs).unwrap();
            prop_assert_eq!(&sealed, &theirs);

            let whole = Some([data, padding].concat());
            let open = |sealed: &[u8]| {
                let (text, tag) = sealed.split_last_chunk().unwrap();
                let [mut ours, mut theirs] = [(); 2].map(|()| vec![0; text.len()]);
                let opened = native.open(nonce, &aad, sealed, &mut ours);
                let other = portable::open(&other, nonce, &aad, (text, tag), &mut theirs);
                [opened.map(|()| ours), other.map(|()| theirs)]
            };
            prop_assert_eq!(open(&sealed), [whole.clone(), whole]);
            sealed[0] ^= 1;
            prop_assert_eq!(open(&sealed), [None, None]);
        }
    }

    #[test]
    fn what_does_not_fit_is_neither_sealed_nor_opened() {
        let key = Key::new(&[1; 32]).unwrap();
        for len in 0..TAG {
            assert_eq!(key.open([0; 12], &[], &vec![0; len], &mut []), None);
        }
        let seal = |len| key.seal([0; 12], &[], [b"da", b"ta"], &mut vec![0; len]);
        let mut sealed = vec![0; 4 + TAG];
        key.seal([0; 12], &[], [b"da", b"ta"], &mut sealed).unwrap();
        let open = |len| key.open([0; 12], &[], &sealed, &mut vec![0; len]);
        for len in (0..4 + TAG).chain([5 + TAG]) {
            assert_eq!(seal(len), Err(SealError), "{len}");
        }
        assert_eq!([3, 4, 5].map(open), [None, Some(()), None]);
    }
}
