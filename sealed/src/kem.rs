//! X-Wing for whoever opens much: a private key that is expanded once. `x-wing` keeps the
//! seed alone, and makes a key pair of it for every request.
//!
//! ```text
//! lattice seed, curve secret = SHAKE256(seed, 96), of 64 and 32 bytes
//! secret = SHA3-256(ML-KEM-768's || X25519's || enc's X25519 || public X25519 || "\.//^\")
//! ```
//!
//! Keys are made, and requests sealed, by `x-wing`.
//!
//! Source: draft-connolly-cfrg-xwing-kem, sections 5.2 to 5.5.

use alloc::boxed::Box;

use hpke::hybrid_array::Array;
use hpke::hybrid_array::sizes::U1088;
use hpke::kem::{SharedSecret, XWing};
use hpke::{Deserializable, HpkeError, Kem, Serializable};
use ml_kem::{Decapsulate as _, FromSeed as _, MlKem768, ml_kem_768};
use rand_core::CryptoRng;
use sha3::{Digest as _, Sha3_256};
use shake::{ExtendableOutput as _, Shake256, Update as _, XofReader as _};
use subtle::{Choice, ConstantTimeEq};
use x25519_dalek::{PublicKey, StaticSecret};
use zeroize::Zeroizing;

/// X-Wing with a [`PrivateKey`] of ours.
pub(crate) struct Expanded;

/// Each of its parts forgets itself when dropped.
#[derive(Clone)]
pub(crate) struct PrivateKey {
    seed: Private,
    lattice: Box<ml_kem_768::DecapsulationKey>,
    curve: StaticSecret,
    curve_public: PublicKey,
}

type Private = <XWing as Kem>::PrivateKey;
type Public = <XWing as Kem>::PublicKey;
type Enc = <XWing as Kem>::EncappedKey;

impl Kem for Expanded {
    type PublicKey = Public;
    type PrivateKey = PrivateKey;
    type EncappedKey = Enc;
    type NSecret = <XWing as Kem>::NSecret;
    const KEM_ID: u16 = XWing::KEM_ID;

    fn sk_to_pk(key: &PrivateKey) -> Public {
        XWing::sk_to_pk(&key.seed)
    }

    fn derive_keypair(ikm: &[u8]) -> (PrivateKey, Public) {
        let (seed, public) = XWing::derive_keypair(ikm);
        (PrivateKey::expand(seed), public)
    }

    fn decap(
        key: &PrivateKey,
        sender: Option<&Public>,
        enc: &Enc,
    ) -> Result<SharedSecret<Self>, HpkeError> {
        let enc = enc.to_bytes();
        let (lattice, curve) = enc.split_ref::<U1088>();
        // X-Wing authenticates no sender (draft-ietf-hpke-pq, section 4).
        if sender.is_some() {
            return Err(HpkeError::DecapError);
        }
        let curve = PublicKey::from(curve.0);
        let secret = Sha3_256::new()
            .chain_update(Zeroizing::new(key.lattice.decapsulate(lattice)))
            .chain_update(key.curve.diffie_hellman(&curve))
            .chain_update(curve)
            .chain_update(key.curve_public)
            .chain_update(LABEL);
        Ok(SharedSecret(secret.finalize()))
    }

    fn encap_with_rng(
        public: &Public,
        sender: Option<(&PrivateKey, &Public)>,
        random: &mut impl CryptoRng,
    ) -> Result<(SharedSecret<Self>, Enc), HpkeError> {
        let sender = sender.map(|(key, public)| (&key.seed, public));
        let (secret, enc) = XWing::encap_with_rng(public, sender, random)?;
        Ok((SharedSecret(secret.0), enc))
    }
}

impl PrivateKey {
    fn expand(seed: Private) -> Self {
        let mut reader = Shake256::default()
            .chain(Zeroizing::new(seed.to_bytes()))
            .finalize_xof();
        let (mut lattice, mut curve) = (Zeroizing::new(Array::default()), Zeroizing::new([0; 32]));
        reader.read(&mut lattice);
        reader.read(&mut *curve);
        let curve = StaticSecret::from(*curve);
        Self {
            seed,
            lattice: Box::new(MlKem768::from_seed(&lattice).0),
            curve_public: PublicKey::from(&curve),
            curve,
        }
    }
}

impl Serializable for PrivateKey {
    type OutputSize = <Private as Serializable>::OutputSize;

    fn write_exact(&self, out: &mut [u8]) {
        self.seed.write_exact(out);
    }
}

impl Deserializable for PrivateKey {
    fn from_bytes(seed: &[u8]) -> Result<Self, HpkeError> {
        Private::from_bytes(seed).map(Self::expand)
    }
}

impl ConstantTimeEq for PrivateKey {
    fn ct_eq(&self, other: &Self) -> Choice {
        self.seed.ct_eq(&other.seed)
    }
}

const LABEL: &[u8; 6] = br"\.//^\";

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use x_wing::EncapsulationKey;

    proptest! {
        /// What was encapsulated for the key, and what was not: ML-KEM makes a secret of
        /// anything.
        #[test]
        fn every_secret_is_the_one_that_x_wing_finds(
            seed: [u8; 32],
            random: [u8; 64],
            noise in proptest::collection::vec(any::<u8>(), 1120),
        ) {
            let (theirs, ours) = (Private::from_bytes(&seed), PrivateKey::from_bytes(&seed));
            let (theirs, ours) = (theirs.unwrap(), ours.unwrap());
            let public = XWing::sk_to_pk(&theirs);
            prop_assert_eq!(&Expanded::sk_to_pk(&ours), &public);
            let public = EncapsulationKey::try_from(&public.to_bytes()[..]).unwrap();
            let (enc, secret) = public.encapsulate_deterministic(&random.into());
            let found = |enc: &[u8]| Expanded::decap(&ours, None, &Enc::from_bytes(enc).unwrap());
            prop_assert_eq!(secret, found(&enc).unwrap().0);
            let secret = XWing::decap(&theirs, None, &Enc::from_bytes(&noise).unwrap());
            prop_assert_eq!(secret.unwrap().0, found(&noise).unwrap().0);
        }
    }

    /// The expanded key, and what secrets are hashed with on the way.
    #[test]
    fn what_holds_secrets_forgets_them_when_dropped() {
        const fn forgets<T: zeroize::ZeroizeOnDrop>() {}
        forgets::<ml_kem_768::DecapsulationKey>();
        forgets::<StaticSecret>();
        forgets::<Sha3_256>();
        forgets::<Shake256>();
        forgets::<sha2_0_11::Sha256>();
    }

    #[test]
    fn no_sender_is_authenticated() {
        let key = PrivateKey::from_bytes(&[1; 32]).unwrap();
        let enc = Enc::from_bytes(&[1; 1120]).unwrap();
        let found = Expanded::decap(&key, Some(&Expanded::sk_to_pk(&key)), &enc);
        assert_eq!(found.err(), Some(HpkeError::DecapError));
    }
}
