//! P-256 signatures in the form that a contract can check.
//!
//! ```text
//! signature$_ u:uint256 v:uint256 point:bits264 = Signature;
//! ```
//!
//! The TVM hashes whatever it checks a signature over, and takes 127 bytes at most.
//! With `u`, `v` in the place of `r`, `s`, and one point of the curve, which anyone can
//! compute from what is public, it can check a signature over a digest instead. None of
//! them needs to be trusted: with others, the contract refuses. The argument is in
//! `contracts/P256.md`.

use core::ops::Sub as _;

use p256::elliptic_curve::PrimeField as _;
use p256::elliptic_curve::ops::{MulByGenerator as _, Reduce};
use p256::elliptic_curve::sec1::{FromEncodedPoint as _, ToEncodedPoint as _};
use p256::{AffinePoint, EncodedPoint, ProjectivePoint, Scalar, U256};
use tycho_types::cell::{HashBytes, Load, Store};

use crate::cells::Bytes;

/// A signature with the help that the contract needs.
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct Signature {
    /// E (x - r) / e; E is SHA-256 of nothing.
    pub u: HashBytes,
    /// s u / x.
    pub v: HashBytes,
    /// (u / x) Q - (E / x) G, compressed.
    pub point: Bytes<33>,
}

impl Signature {
    /// Helps a contract to check that `key` (`x || y`) signed `digest` with
    /// `signature` (`r || s`). Whether it did is not looked at.
    pub fn new(key: &[u8; 64], digest: &[u8; 32], signature: &[u8; 64]) -> Result<Self, HintError> {
        let (x, y) = halves(key);
        let (r, s) = halves(signature);
        let key = EncodedPoint::from_affine_coordinates(&x.into(), &y.into(), false);
        let key = Option::<AffinePoint>::from(AffinePoint::from_encoded_point(&key))
            .ok_or(HintError::Key)?;
        let part = |number: [u8; 32]| Option::<Scalar>::from(Scalar::from_repr(number.into()));
        let (r, s) = part(r).zip(part(s)).ok_or(HintError::None)?;
        let (t, u, point) = hint(key, scalar(&x), scalar(digest), r).ok_or(HintError::None)?;
        let number = |scalar: Scalar| HashBytes(scalar.to_bytes().into());
        Ok(Self {
            point: Bytes::of_end(point.to_encoded_point(true).as_bytes()).ok_or(HintError::None)?,
            u: number(u),
            v: number(s.multiply(&t)),
        })
    }
}

/// Why a contract cannot be helped to check a signature.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum HintError {
    /// The key is no point of the curve.
    #[error("the key is not a point of P-256")]
    Key,
    /// One of the numbers to divide by is zero, or `r` is the key's coordinate: no
    /// honest signer comes across either in 2^250 signatures.
    #[error("the signature is one that the contract has no way to check")]
    None,
}

/// t = u / x, u, and the point.
fn hint(
    key: AffinePoint,
    x: Scalar,
    e: Scalar,
    r: Scalar,
) -> Option<(Scalar, Scalar, AffinePoint)> {
    let empty = scalar(&EMPTY);
    let of_x = Option::<Scalar>::from(x.invert())?;
    let of_e = Option::<Scalar>::from(e.invert())?;
    let u = empty.multiply(&x.sub(&r)).multiply(&of_e);
    let t = u.multiply(&of_x);
    let offset = ProjectivePoint::mul_by_generator(&empty.multiply(&of_x));
    let point = core::ops::Mul::mul(ProjectivePoint::from(key), t).sub(offset);
    let degenerate = t == Scalar::ZERO || point == ProjectivePoint::IDENTITY;
    (!degenerate).then(|| (t, u, point.to_affine()))
}

fn halves(bytes: &[u8; 64]) -> ([u8; 32], [u8; 32]) {
    let (mut first, mut second) = ([0; 32], [0; 32]);
    let (a, b) = bytes.split_at(32);
    first.copy_from_slice(a);
    second.copy_from_slice(b);
    (first, second)
}

/// A number modulo the order of the group.
fn scalar(bytes: &[u8; 32]) -> Scalar {
    <Scalar as Reduce<U256>>::reduce(U256::from_be_slice(bytes))
}

/// SHA-256 of the empty message.
const EMPTY: [u8; 32] = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24,
    0x27, 0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

#[cfg(test)]
mod tests {
    use super::*;
    use sha2::{Digest as _, Sha256};

    #[test]
    fn the_constant_is_the_digest_of_nothing() {
        assert_eq!(Sha256::digest([]).as_slice(), EMPTY);
    }

    #[test]
    fn what_cannot_be_helped_is_an_error() {
        let signer = p256::ecdsa::SigningKey::from_slice(&[7; 32]).unwrap();
        let point = signer.verifying_key().to_encoded_point(false);
        let key: [u8; 64] = point.as_bytes()[1..].try_into().unwrap();
        let (x, _) = halves(&key);
        let signature = |r: [u8; 32]| [r, [1; 32]].concat().try_into().unwrap();
        let new = |key: &[u8; 64], digest, r| Signature::new(key, &digest, &signature(r));

        assert!(new(&key, [1; 32], [1; 32]).is_ok());
        let error = new(&[1; 64], [1; 32], [1; 32]).unwrap_err();
        assert_eq!(error.to_string(), "the key is not a point of P-256");
        for error in [new(&key, [1; 32], x), new(&key, [0; 32], [1; 32])] {
            assert_eq!(
                error.unwrap_err().to_string(),
                "the signature is one that the contract has no way to check"
            );
        }
    }
}
