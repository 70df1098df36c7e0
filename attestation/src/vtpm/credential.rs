//! TPM2_MakeCredential, outside a TPM.
//!
//! Encrypts a secret so that only the TPM that holds the endorsement key can
//! read it, and that TPM will only if it also holds the object of that name.
//!
//! Source: TPM 2.0 Library, part 1, section 24 (credential protection),
//! 11.4.10.2 (KDFa) and annex B.10.4 (secret sharing for RSA).

use alloc::vec::Vec;

use aes::Aes128;
use aes::cipher::{BlockEncrypt, KeyInit};
use hmac::{Hmac, Mac};
use minicbor::{Decode, Encode};
use sha2::Sha256;

use super::key::Name;
use super::rsa;

/// A secret for one attestation key in one TPM.
#[derive(Clone, Debug, Decode, Encode, Eq, PartialEq)]
#[cbor(map)]
pub struct Credential {
    /// TPMS_ID_OBJECT, marshalled: the content of a TPM2B_ID_OBJECT.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub id_object: Vec<u8>,
    /// Content of a TPM2B_ENCRYPTED_SECRET.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub encrypted_secret: Vec<u8>,
}

/// What one challenge consumes: fresh random bytes, used once.
pub struct Randomness {
    /// What the TPM must give back.
    pub secret: [u8; 32],
    /// Of the keys that protect `secret`.
    pub seed: [u8; 32],
    /// Of the padding of `seed`.
    pub padding: [u8; 32],
}

pub(super) fn make(ek: &rsa::PublicKey, ak: &Name, random: &Randomness) -> Credential {
    let key = kdf_a::<16>(&random.seed, b"STORAGE\0", &ak.0);
    let mut identity = [&32_u16.to_be_bytes()[..], &random.secret].concat();
    encrypt_cfb(&key, &mut identity);
    let key = kdf_a::<32>(&random.seed, b"INTEGRITY\0", &[]);
    let integrity = hmac(&key, &[&identity, &ak.0]);
    Credential {
        id_object: [&32_u16.to_be_bytes()[..], &integrity, &identity].concat(),
        encrypted_secret: ek.encrypt_oaep(b"IDENTITY\0", &random.seed, &random.padding),
    }
}

/// KDFa with HMAC-SHA-256, for outputs of one block. The label counts its NUL,
/// contextU is the name and contextV is empty.
fn kdf_a<const N: usize>(seed: &[u8; 32], label: &[u8], context: &[u8]) -> [u8; N] {
    let bits = u32::try_from(N).unwrap_or_default().saturating_mul(8);
    let block = hmac(
        seed,
        &[&1_u32.to_be_bytes(), label, context, &bits.to_be_bytes()],
    );
    let mut key = [0; N];
    key.iter_mut().zip(block).for_each(|(to, from)| *to = from);
    key
}

fn hmac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    // A key shorter than a block is filled up with zeros (RFC 2104, section 2).
    let mut block = [0; 64];
    block.iter_mut().zip(key).for_each(|(to, from)| *to = *from);
    let mut mac = <Hmac<Sha256> as KeyInit>::new(&block.into());
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

/// AES-128 in CFB mode with an IV of zeros, as every TPM object is protected.
fn encrypt_cfb(key: &[u8; 16], data: &mut [u8]) {
    let cipher = Aes128::new(key.into());
    let mut feedback = [0; 16];
    for chunk in data.chunks_mut(16) {
        let mut block = feedback.into();
        cipher.encrypt_block(&mut block);
        chunk
            .iter_mut()
            .zip(block)
            .for_each(|(byte, pad)| *byte ^= pad);
        feedback
            .iter_mut()
            .zip(&*chunk)
            .for_each(|(to, from)| *to = *from);
    }
}
