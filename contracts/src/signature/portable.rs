//! The dalek backend, for targets that AWS-LC does not reach.

use ed25519_dalek::{Signature, VerifyingKey};

use super::Forged;

pub(super) fn verify(key: &[u8; 32], hash: &[u8; 32], signature: &[u8; 64]) -> Result<(), Forged> {
    let key = VerifyingKey::from_bytes(key).map_err(|_| Forged)?;
    key.verify_strict(hash, &Signature::from_bytes(signature))
        .map_err(|_| Forged)
}
