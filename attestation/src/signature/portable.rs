//! The RustCrypto backend, for targets that AWS-LC does not reach.

use sha2::{Digest, Sha256, Sha384};

use super::{Forged, Scheme, Signature};

pub(super) fn verify(
    scheme: Scheme,
    key: &[u8],
    message: &[u8],
    signature: Signature<'_>,
) -> Result<(), Forged> {
    match (scheme, signature) {
        (Scheme::P256Sha256, _) => p256(key, &Sha256::digest(message), signature),
        (Scheme::P384Sha256, Signature::Asn1(_)) => p384(key, &Sha256::digest(message), signature),
        // Nobody writes these.
        (Scheme::P384Sha256, Signature::Fixed(_)) => return Err(Forged),
        (Scheme::P384Sha384, _) => p384(key, &Sha384::digest(message), signature),
    }
    .map_err(|_| Forged)
}

macro_rules! curve {
    ($curve:ident) => {
        fn $curve(
            key: &[u8],
            digest: &[u8],
            signature: Signature<'_>,
        ) -> Result<(), $curve::ecdsa::Error> {
            use $curve::ecdsa::signature::hazmat::PrehashVerifier as _;

            let signature = match signature {
                Signature::Asn1(der) => $curve::ecdsa::Signature::from_der(der)?,
                Signature::Fixed(raw) => $curve::ecdsa::Signature::from_slice(raw)?,
            };
            $curve::ecdsa::VerifyingKey::from_sec1_bytes(key)?.verify_prehash(digest, &signature)
        }
    };
}

curve!(p256);
curve!(p384);
