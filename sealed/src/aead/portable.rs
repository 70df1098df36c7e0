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
    text: &mut [u8],
) -> Result<[u8; TAG], SealError> {
    let tag = key.encrypt_inout_detached(&nonce.into(), aad, text.into());
    Ok(tag.map_err(|_| SealError)?.into())
}

pub(super) fn open<'a>(
    key: &Key,
    nonce: Nonce,
    aad: &[u8],
    sealed: &'a mut [u8],
) -> Option<&'a [u8]> {
    let (text, tag) = sealed.split_last_chunk_mut::<TAG>()?;
    let tag = (*tag).into();
    key.decrypt_inout_detached(&nonce.into(), aad, (&mut *text).into(), &tag)
        .ok()?;
    Some(text)
}
