//! The RustCrypto backend, for targets that AWS-LC does not reach.

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{AeadInOut as _, KeyInit as _};

use super::{Nonce, TAG};
use crate::key::SealError;

pub(super) type Key = Aes256Gcm;

pub(super) fn key(key: &[u8; 32]) -> Result<Key, SealError> {
    Ok(Aes256Gcm::new(key.into()))
}

pub(super) fn seal(
    key: &Key,
    nonce: Nonce,
    aad: &[u8],
    parts: [&[u8]; 2],
    [text, tail]: [&mut [u8]; 2],
) -> Result<(), SealError> {
    let mut whole = parts.concat();
    let tag = key.encrypt_inout_detached(&nonce.into(), aad, whole.as_mut_slice().into());
    whole.extend(tag.map_err(|_| SealError)?);
    let places = text.iter_mut().chain(tail);
    places.zip(whole).for_each(|(place, byte)| *place = byte);
    Ok(())
}

pub(super) fn open(
    key: &Key,
    nonce: Nonce,
    aad: &[u8],
    text: &mut [u8],
    tag: &[u8; TAG],
) -> Option<()> {
    key.decrypt_inout_detached(&nonce.into(), aad, text.into(), tag.into())
        .ok()
}
