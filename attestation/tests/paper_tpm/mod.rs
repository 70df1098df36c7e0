//! A TPM on paper: says what a TPM would, and anything else that a test wants.

pub(crate) mod der;

use aes::cipher::{BlockEncrypt, KeyInit};
use attestation::binding::ReportData;
use attestation::vtpm::{Credential, Evidence};
use aws_lc_rs::rsa::{OAEP_SHA256_MGF1SHA256, OaepPrivateDecryptingKey, PrivateDecryptingKey};
use hmac::Mac;
use p256::ecdsa::signature::Signer;
use p256::ecdsa::{Signature, SigningKey};
use sha2::{Digest, Sha256};

use der::Key;

/// Public area of an attestation key, as the template of a good one makes it.
#[derive(Clone)]
pub(crate) struct AkPublic {
    pub(crate) kind: u16,
    pub(crate) name_alg: u16,
    pub(crate) attributes: u32,
    pub(crate) symmetric: u16,
    pub(crate) scheme: u16,
    pub(crate) hash: u16,
    pub(crate) curve: u16,
    pub(crate) kdf: u16,
}

impl AkPublic {
    pub(crate) const GOOD: Self = Self {
        kind: 0x0023,
        name_alg: 0x000b,
        attributes: 0x0005_0472,
        symmetric: 0x0010,
        scheme: 0x0018,
        hash: 0x000b,
        curve: 0x0003,
        kdf: 0x0010,
    };

    /// TPMT_PUBLIC.
    pub(crate) fn marshal(&self) -> Vec<u8> {
        let point = signing_key().verifying_key().to_sec1_point(false);
        [
            &self.kind.to_be_bytes()[..],
            &self.name_alg.to_be_bytes(),
            &self.attributes.to_be_bytes(),
            &[0, 0],
            &self.symmetric.to_be_bytes(),
            &self.scheme.to_be_bytes(),
            &self.hash.to_be_bytes(),
            &self.curve.to_be_bytes(),
            &self.kdf.to_be_bytes(),
            &sized(point.x().unwrap()),
            &sized(point.y().unwrap()),
        ]
        .concat()
    }
}

/// A quote, before it is signed.
#[derive(Clone)]
pub(crate) struct Attest {
    pub(crate) magic: u32,
    pub(crate) kind: u16,
    pub(crate) extra_data: Vec<u8>,
    pub(crate) banks: u32,
    pub(crate) bank: u16,
    pub(crate) selection: Vec<u8>,
    pub(crate) pcrs: [u8; 512],
    pub(crate) trailing: Vec<u8>,
}

impl Attest {
    pub(crate) fn good(report_data: &ReportData) -> Self {
        Self {
            magic: 0xff54_4347,
            kind: 0x8018,
            extra_data: report_data.0.to_vec(),
            banks: 1,
            bank: 0x000b,
            selection: vec![0xff, 0xff, 0],
            pcrs: [0x5a; 512],
            trailing: vec![],
        }
    }

    /// TPMS_ATTEST.
    pub(crate) fn marshal(&self) -> Vec<u8> {
        [
            &self.magic.to_be_bytes()[..],
            &self.kind.to_be_bytes(),
            &sized(b"qualified signer"),
            &sized(&self.extra_data),
            &[0; 17 + 8],
            &self.banks.to_be_bytes(),
            &self.bank.to_be_bytes(),
            &[u8::try_from(self.selection.len()).unwrap()],
            &self.selection,
            &sized(&Sha256::digest(self.pcrs)),
            &self.trailing,
        ]
        .concat()
    }

    /// Signed, with the answer to a challenge.
    pub(crate) fn answer(&self, credential: &Credential) -> Evidence {
        let attest = self.marshal();
        Evidence {
            signature: sign(&attest),
            attest,
            pcrs: self.pcrs,
            secret: activate(credential),
        }
    }
}

/// TPMT_SIGNATURE of the attestation key.
pub(crate) fn sign(message: &[u8]) -> Vec<u8> {
    let signature: Signature = signing_key().sign(message);
    let (r, s) = signature.split_bytes();
    [&[0x00, 0x18, 0x00, 0x0b][..], &sized(&r), &sized(&s)].concat()
}

fn signing_key() -> SigningKey {
    SigningKey::from_slice(&[0x11; 32]).unwrap()
}

/// TPM2_ActivateCredential by the endorsement key (part 1, section 24), written
/// from the TPM's side.
pub(crate) fn activate(credential: &Credential) -> [u8; 32] {
    let key = PrivateDecryptingKey::from_pkcs8(&Key::endorsement().pkcs8()).unwrap();
    let key = OaepPrivateDecryptingKey::new(key).unwrap();
    let mut seed = vec![0; key.min_output_size()];
    let label = Some(&b"IDENTITY\0"[..]);
    let seed = key
        .decrypt(
            &OAEP_SHA256_MGF1SHA256,
            &credential.encrypted_secret,
            &mut seed,
            label,
        )
        .unwrap();
    let public = Sha256::digest(AkPublic::GOOD.marshal());
    let name = [&[0x00, 0x0b][..], &public].concat();

    let (integrity, identity) = credential.id_object.split_at(2 + 32);
    let hmac_key = kdf_a(seed, b"INTEGRITY\0", &[], 256);
    assert_eq!(integrity[2..], hmac(&hmac_key, &[identity, &name]));

    let cipher_key = kdf_a(seed, b"STORAGE\0", &name, 128);
    let secret = decrypt_cfb(&cipher_key[..16], identity);
    assert_eq!(secret[..2], [0, 32]);
    secret[2..].try_into().unwrap()
}

fn kdf_a(seed: &[u8], label: &[u8], context: &[u8], bits: u32) -> Vec<u8> {
    hmac(seed, &[&[0, 0, 0, 1], label, context, &bits.to_be_bytes()])
}

fn hmac(key: &[u8], parts: &[&[u8]]) -> Vec<u8> {
    let mut mac = <hmac::Hmac<Sha256> as Mac>::new_from_slice(key).unwrap();
    mac.update(&parts.concat());
    mac.finalize().into_bytes().to_vec()
}

fn decrypt_cfb(key: &[u8], data: &[u8]) -> Vec<u8> {
    let cipher = aes::Aes128::new_from_slice(key).unwrap();
    let mut previous = vec![0; 16];
    let mut plain = Vec::new();
    for chunk in data.chunks(16) {
        let mut block = aes::Block::clone_from_slice(&previous);
        cipher.encrypt_block(&mut block);
        plain.extend(chunk.iter().zip(block).map(|(byte, pad)| byte ^ pad));
        previous = chunk.to_vec();
    }
    plain
}

/// A TPM2B: two bytes of length, then the content.
fn sized(content: &[u8]) -> Vec<u8> {
    let len = u16::try_from(content.len()).unwrap();
    [&len.to_be_bytes()[..], content].concat()
}
