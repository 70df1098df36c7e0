//! ECDSA signatures: one function, two curves.
//!
//! It says that the holder of a key signed a message, and nothing of whose key
//! that is. `s` and `n - s` are both valid, so a signed blob's bytes are no
//! identity: never key a replay cache by their hash.
//!
//! Native builds check with AWS-LC, wasm with the RustCrypto crates.

/// Checks `signature` over `message` by `key`, an uncompressed point.
pub fn verify(
    scheme: Scheme,
    key: &[u8],
    message: &[u8],
    signature: Signature<'_>,
) -> Result<(), Forged> {
    backend::verify(scheme, key, message, signature)
}

/// A curve and the hash that goes with it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Scheme {
    /// ECDSA on P-256 with SHA-256.
    P256Sha256,
    /// ECDSA on P-384 with SHA-256: NVIDIA's revocation lists.
    P384Sha256,
    /// ECDSA on P-384 with SHA-384.
    P384Sha384,
}

impl Scheme {
    /// The same curve with this hash, if we take the two together.
    #[must_use]
    pub const fn with(self, hash: Hash) -> Option<Self> {
        match (self, hash) {
            (Self::P256Sha256, Hash::Sha256) => Some(self),
            (Self::P256Sha256, Hash::Sha384) => None,
            (Self::P384Sha256 | Self::P384Sha384, Hash::Sha256) => Some(Self::P384Sha256),
            (Self::P384Sha256 | Self::P384Sha384, Hash::Sha384) => Some(Self::P384Sha384),
        }
    }
}

/// What is signed of a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hash {
    /// SHA-256.
    Sha256,
    /// SHA-384.
    Sha384,
}

/// How the two numbers are written.
#[derive(Clone, Copy, Debug)]
pub enum Signature<'a> {
    /// DER `SEQUENCE { r, s }`, as in certificates.
    Asn1(&'a [u8]),
    /// `r || s`, big-endian, each as wide as the curve: as in quotes.
    Fixed(&'a [u8]),
}

/// The signature is not by that key over that message, or is no signature at all.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the signature does not verify")]
pub struct Forged;

#[cfg(not(target_arch = "wasm32"))]
mod backend {
    use aws_lc_rs::signature::{
        ECDSA_P256_SHA256_ASN1, ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA256_ASN1,
        ECDSA_P384_SHA384_ASN1, ECDSA_P384_SHA384_FIXED, UnparsedPublicKey,
    };

    use super::{Forged, Scheme, Signature};

    pub(super) fn verify(
        scheme: Scheme,
        key: &[u8],
        message: &[u8],
        signature: Signature<'_>,
    ) -> Result<(), Forged> {
        let (algorithm, signature) = match (scheme, signature) {
            (Scheme::P256Sha256, Signature::Asn1(der)) => (&ECDSA_P256_SHA256_ASN1, der),
            (Scheme::P256Sha256, Signature::Fixed(raw)) => (&ECDSA_P256_SHA256_FIXED, raw),
            (Scheme::P384Sha256, Signature::Asn1(der)) => (&ECDSA_P384_SHA256_ASN1, der),
            // Nobody writes these.
            (Scheme::P384Sha256, Signature::Fixed(_)) => return Err(Forged),
            (Scheme::P384Sha384, Signature::Asn1(der)) => (&ECDSA_P384_SHA384_ASN1, der),
            (Scheme::P384Sha384, Signature::Fixed(raw)) => (&ECDSA_P384_SHA384_FIXED, raw),
        };
        UnparsedPublicKey::new(algorithm, key)
            .verify(message, signature)
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
    use p256::ecdsa::signature::Signer as _;

    const MESSAGE: &[u8] = b"message";

    /// A key and its signature over [`MESSAGE`], in both forms.
    struct Sample {
        scheme: Scheme,
        key: Vec<u8>,
        der: Vec<u8>,
        raw: Vec<u8>,
    }

    /// One on each curve.
    fn samples() -> [Sample; 2] {
        let small = p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
        let large = p384::ecdsa::SigningKey::from_slice(&[7; 48]).unwrap();
        let a: p256::ecdsa::Signature = small.sign(MESSAGE);
        let b: p384::ecdsa::Signature = large.sign(MESSAGE);
        [
            Sample {
                scheme: Scheme::P256Sha256,
                key: small
                    .verifying_key()
                    .to_sec1_point(false)
                    .as_bytes()
                    .to_vec(),
                der: a.to_der().as_bytes().to_vec(),
                raw: a.to_bytes().to_vec(),
            },
            Sample {
                scheme: Scheme::P384Sha384,
                key: large
                    .verifying_key()
                    .to_sec1_point(false)
                    .as_bytes()
                    .to_vec(),
                der: b.to_der().as_bytes().to_vec(),
                raw: b.to_bytes().to_vec(),
            },
        ]
    }

    #[test]
    fn both_backends_accept_both_forms_on_both_curves() {
        for Sample {
            scheme,
            key,
            der,
            raw,
        } in samples()
        {
            for signature in [Signature::Asn1(&der), Signature::Fixed(&raw)] {
                assert_eq!(verify(scheme, &key, MESSAGE, signature), Ok(()));
                assert_eq!(portable::verify(scheme, &key, MESSAGE, signature), Ok(()));
            }
        }
    }

    fn refuse(scheme: Scheme, key: &[u8], message: &[u8], signature: Signature<'_>) {
        assert_eq!(verify(scheme, key, message, signature), Err(Forged));
        let portable = portable::verify(scheme, key, message, signature);
        assert_eq!(portable, Err(Forged));
    }

    #[test]
    fn both_backends_know_one_form_of_the_shorter_hash_on_the_larger_curve() {
        use p384::ecdsa::signature::hazmat::PrehashSigner as _;
        use sha2::{Digest, Sha256};

        let signer = p384::ecdsa::SigningKey::from_slice(&[7; 48]).unwrap();
        let point = signer.verifying_key().to_sec1_point(false);
        let (scheme, key) = (Scheme::P384Sha256, point.as_bytes());
        let signed: p384::ecdsa::Signature = signer.sign_prehash(&Sha256::digest(MESSAGE)).unwrap();
        let der = signed.to_der();
        let signature = Signature::Asn1(der.as_bytes());
        assert_eq!(verify(scheme, key, MESSAGE, signature), Ok(()));
        assert_eq!(portable::verify(scheme, key, MESSAGE, signature), Ok(()));
        refuse(scheme, key, b"massage", signature);
        refuse(scheme, key, MESSAGE, Signature::Fixed(&signed.to_bytes()));
        refuse(Scheme::P384Sha384, key, MESSAGE, signature);
    }

    #[test]
    fn both_backends_refuse_what_was_not_signed() {
        for Sample {
            scheme,
            key,
            der,
            raw,
        } in samples()
        {
            for at in 0..raw.len() {
                let mut other = raw.clone();
                other[at] ^= 1;
                refuse(scheme, &key, MESSAGE, Signature::Fixed(&other));
            }
            let zero = vec![0; raw.len()];
            let off_curve = [&key[..key.len() - 1], &[0]].concat();
            refuse(scheme, &key, b"massage", Signature::Fixed(&raw));
            refuse(scheme, &key, MESSAGE, Signature::Fixed(&zero));
            refuse(scheme, &key, MESSAGE, Signature::Fixed(&raw[1..]));
            refuse(scheme, &key, MESSAGE, Signature::Fixed(&der));
            refuse(scheme, &key, MESSAGE, Signature::Asn1(&raw));
            refuse(
                scheme,
                &key,
                MESSAGE,
                Signature::Asn1(&[&der[..], &[0]].concat()),
            );
            refuse(scheme, &off_curve, MESSAGE, Signature::Fixed(&raw));
            refuse(scheme, &vec![0; key.len()], MESSAGE, Signature::Fixed(&raw));
            refuse(scheme, &key[1..], MESSAGE, Signature::Fixed(&raw));
            refuse(scheme, &[], MESSAGE, Signature::Fixed(&raw));
        }
    }

    use alloc::vec;
    use alloc::vec::Vec;
}
