//! The RustCrypto backend, for targets that AWS-LC does not reach.

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::inout::InOutBuf;
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
    [data, padding]: [&[u8]; 2],
    out: &mut [u8],
) -> Result<(), SealError> {
    let (whole, place) = out.split_last_chunk_mut::<TAG>().ok_or(SealError)?;
    let (text, tail) = whole.split_at_mut_checked(data.len()).ok_or(SealError)?;
    text.copy_from_slice(data);
    tail.copy_from_slice(padding);
    let tag = key.encrypt_inout_detached(&nonce.into(), aad, whole.into());
    *place = tag.map_err(|_| SealError)?.into();
    Ok(())
}

pub(super) fn open(
    key: &Key,
    nonce: Nonce,
    aad: &[u8],
    (text, tag): (&[u8], &[u8; TAG]),
    out: &mut [u8],
) -> Option<()> {
    let text = InOutBuf::new(text, out).ok()?;
    key.decrypt_inout_detached(&nonce.into(), aad, text, tag.into())
        .ok()
}
