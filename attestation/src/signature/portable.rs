//! The RustCrypto backend, for targets that AWS-LC does not reach.

use super::{Forged, Scheme, Signature};

pub(super) fn verify(
    scheme: Scheme,
    key: &[u8],
    message: &[u8],
    signature: Signature<'_>,
) -> Result<(), Forged> {
    match scheme {
        Scheme::P256Sha256 => p256(key, message, signature),
        Scheme::P384Sha384 => p384(key, message, signature),
    }
    .map_err(|_| Forged)
}

macro_rules! curve {
    ($curve:ident) => {
        fn $curve(
            key: &[u8],
            message: &[u8],
            signature: Signature<'_>,
        ) -> Result<(), $curve::ecdsa::Error> {
            use $curve::ecdsa::signature::Verifier as _;

            let signature = match signature {
                Signature::Asn1(der) => $curve::ecdsa::Signature::from_der(der)?,
                Signature::Fixed(raw) => $curve::ecdsa::Signature::from_slice(raw)?,
            };
            $curve::ecdsa::VerifyingKey::from_sec1_bytes(key)?.verify(message, &signature)
        }
    };
}

curve!(p256);
curve!(p384);
