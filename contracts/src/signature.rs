//! Ed25519 (RFC 8032), over 32 bytes: AWS-LC natively, dalek in wasm.

/// Whether the holder of `key` signed `hash`.
pub(crate) fn verify(key: &[u8; 32], hash: &[u8; 32], signature: &[u8; 64]) -> Result<(), Forged> {
    backend::verify(key, hash, signature)
}

/// It was not.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Forged;

#[cfg(not(target_arch = "wasm32"))]
mod backend {
    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};

    use super::Forged;

    pub(super) fn verify(
        key: &[u8; 32],
        hash: &[u8; 32],
        signature: &[u8; 64],
    ) -> Result<(), Forged> {
        UnparsedPublicKey::new(&ED25519, key)
            .verify(hash, signature)
            .map_err(|_| Forged)
    }
}

#[cfg(any(test, target_arch = "wasm32"))]
mod portable;

#[cfg(target_arch = "wasm32")]
use portable as backend;

#[cfg(test)]
mod tests {
    use super::*;

    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};

    #[test]
    fn both_backends_take_what_was_signed_and_nothing_else() {
        let pair = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap();
        let key: [u8; 32] = pair.public_key().as_ref().try_into().unwrap();
        let hash = [2; 32];
        let signature: [u8; 64] = pair.sign(&hash).as_ref().try_into().unwrap();
        let both = |key: &[u8; 32], hash: &[u8; 32], signature: &[u8; 64]| {
            let native = verify(key, hash, signature);
            assert_eq!(portable::verify(key, hash, signature), native);
            native
        };
        assert_eq!(both(&key, &hash, &signature), Ok(()));
        assert_eq!(both(&key, &[3; 32], &signature), Err(Forged));
        assert_eq!(both(&[0xff; 32], &hash, &signature), Err(Forged));
        for at in 0..64 {
            let mut other = signature;
            other[at] ^= 1;
            assert_eq!(both(&key, &hash, &other), Err(Forged), "byte {at}");
        }
    }
}
