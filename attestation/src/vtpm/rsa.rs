//! The two RSA operations that endorsement needs, both with a public key:
//! RSAES-OAEP encryption and RSASSA-PKCS1-v1_5 verification.
//!
//! No private key ever comes near this file. The signature check compares whole
//! encoded messages, so there is no padding to parse.
//!
//! Source: RFC 8017, sections 7.1.1, 8.2.2 and 9.2.

use alloc::vec::Vec;

use crypto_bigint::modular::{BoxedMontyForm, BoxedMontyParams};
use crypto_bigint::{BoxedUint, Odd};
use sha2::{Digest, Sha256, Sha384};

/// A modulus of 2048, 3072 or 4096 bits, with the exponent 65537.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct PublicKey {
    modulus: Vec<u8>,
}

/// Hash functions that certificate issuers use.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Hash {
    Sha256,
    Sha384,
}

impl PublicKey {
    /// `modulus` big-endian, without leading zeros.
    pub(super) fn new(modulus: &[u8], exponent: &[u8]) -> Option<Self> {
        let wide = matches!(modulus.len(), 256 | 384 | 512);
        let full = modulus.first().is_some_and(|byte| *byte >= 0x80);
        let odd = modulus.last().is_some_and(|byte| byte % 2 == 1);
        (wide && full && odd && exponent == [1, 0, 1]).then(|| Self {
            modulus: modulus.to_vec(),
        })
    }

    /// Modulus in bytes.
    pub(super) fn len(&self) -> usize {
        self.modulus.len()
    }

    /// RSAES-OAEP with SHA-256; `seed` must be random and never used again.
    pub(super) fn encrypt_oaep(
        &self,
        label: &[u8],
        message: &[u8; 32],
        seed: &[u8; 32],
    ) -> Vec<u8> {
        let hash = Sha256::digest(label);
        let padding = self.len().saturating_sub(OAEP_FIXED);
        let mut block = [&hash[..], &alloc::vec![0; padding], &[1], message].concat();
        let mut masked_seed = *seed;
        xor_mgf1(&mut block, seed);
        xor_mgf1(&mut masked_seed, &block);
        // Below the modulus, as its first byte is zero.
        let encoded = [&[0][..], &masked_seed, &block].concat();
        self.power(&encoded).unwrap_or_default()
    }

    /// RSASSA-PKCS1-v1_5: rebuilds the one encoding that `message` can have.
    pub(super) fn verifies(&self, hash: Hash, message: &[u8], signature: &[u8]) -> bool {
        let digest_info = match hash {
            Hash::Sha256 => [SHA256_INFO, &Sha256::digest(message)].concat(),
            Hash::Sha384 => [SHA384_INFO, &Sha384::digest(message)].concat(),
        };
        let padding = self
            .len()
            .saturating_sub(digest_info.len())
            .saturating_sub(3);
        let padding = alloc::vec![0xff; padding];
        let encoded = [&[0, 1][..], &padding, &[0], &digest_info].concat();
        signature.len() == self.len() && self.power(signature).is_some_and(|em| em == encoded)
    }

    /// `base ^ 65537 mod n`, for a base below n.
    fn power(&self, base: &[u8]) -> Option<Vec<u8>> {
        let bits = u32::try_from(self.len()).ok()?.checked_mul(8)?;
        let modulus = BoxedUint::from_be_slice(&self.modulus, bits).ok()?;
        let base = BoxedUint::from_be_slice(base, bits).ok()?;
        if base >= modulus {
            return None;
        }
        let modulus = Option::<Odd<BoxedUint>>::from(Odd::new(modulus))?;
        let form = BoxedMontyForm::new(base, BoxedMontyParams::new_vartime(modulus));
        let power = form.pow_bounded_exp(&BoxedUint::from(65_537_u32), 17);
        Some(power.retrieve().to_be_bytes().into_vec())
    }
}

/// First byte, seed, label's hash, 01 and message.
const OAEP_FIXED: usize = 1 + 32 + 32 + 1 + 32;

/// MGF1 with SHA-256 (appendix B.2.1), added to `data`.
fn xor_mgf1(data: &mut [u8], seed: &[u8]) {
    for (counter, chunk) in (0_u32..).zip(data.chunks_mut(32)) {
        let mask = Sha256::new()
            .chain_update(seed)
            .chain_update(counter.to_be_bytes())
            .finalize();
        chunk
            .iter_mut()
            .zip(mask)
            .for_each(|(byte, mask)| *byte ^= mask);
    }
}

/// DigestInfo up to the digest (section 9.2, note 1).
const SHA256_INFO: &[u8] = &[
    0x30, 0x31, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01, 0x05,
    0x00, 0x04, 0x20,
];
const SHA384_INFO: &[u8] = &[
    0x30, 0x41, 0x30, 0x0d, 0x06, 0x09, 0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02, 0x05,
    0x00, 0x04, 0x30,
];

#[cfg(test)]
mod tests {
    use super::*;

    const EXPONENT: &[u8] = &[1, 0, 1];

    #[test]
    fn only_full_odd_moduli_of_known_widths_are_keys() {
        let mut modulus = [0xff; 256];
        assert!(PublicKey::new(&modulus, EXPONENT).is_some());
        assert!(PublicKey::new(&modulus, &[3]).is_none(), "exponent 3");
        assert!(
            PublicKey::new(&modulus[1..], EXPONENT).is_none(),
            "2040 bits"
        );
        assert!(PublicKey::new(&[], EXPONENT).is_none(), "nothing");
        modulus[0] = 0x7f;
        assert!(PublicKey::new(&modulus, EXPONENT).is_none(), "2047 bits");
        modulus[0] = 0xff;
        modulus[255] = 0xfe;
        assert!(PublicKey::new(&modulus, EXPONENT).is_none(), "even");
    }

    #[test]
    fn a_number_not_below_the_modulus_is_no_signature() {
        let key = PublicKey::new(&[0xff; 256], EXPONENT).unwrap();
        let mut one = [0; 256];
        one[255] = 1;
        assert_eq!(key.power(&one), Some(one.to_vec()));
        // 1 + n has the same power, and would be a second form of a signature.
        let mut minimal = [0x80; 256];
        minimal[255] = 1;
        let key = PublicKey::new(&minimal, EXPONENT).unwrap();
        minimal[255] = 2;
        assert_eq!(key.power(&minimal), None);
        assert_eq!(key.power(&[0; 257]), None);
        assert!(!key.verifies(Hash::Sha256, b"", &[0; 255]));
    }
    #[test]
    fn a_signature_is_as_long_as_its_key() {
        use crate::der::{self, Der};
        use aws_lc_rs::rsa::KeySize;
        use aws_lc_rs::signature::{KeyPair as _, RSA_PKCS1_SHA256, RsaKeyPair};

        let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
        let public = Der::new(pair.public_key().as_ref()).nested(der::SEQUENCE, "key");
        let modulus = public.unwrap().unsigned("modulus").unwrap();
        let key = PublicKey::new(modulus, EXPONENT).unwrap();
        let random = aws_lc_rs::rand::SystemRandom::new();
        let mut signature = [0; 256];
        // One in 256 begins with a zero byte.
        let message = (0_u32..)
            .map(u32::to_be_bytes)
            .find(|message| {
                let signed = pair.sign(&RSA_PKCS1_SHA256, &random, message, &mut signature);
                signed.is_ok() && signature[0] == 0
            })
            .unwrap();
        assert!(key.verifies(Hash::Sha256, &message, &signature));
        assert!(!key.verifies(Hash::Sha256, &message, &signature[1..]));
        let longer = [&[0], &signature[..]].concat();
        assert!(!key.verifies(Hash::Sha256, &message, &longer));
    }
}
