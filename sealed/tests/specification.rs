//! What is on the wire, opened by a second reader that was written from the documents:
//! X-Wing's shared secret, RFC 9180's key schedule, RFC 9458's response keys; and the
//! same bytes as ever.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

use aes_gcm::Aes256Gcm;
use aes_gcm::aead::{AeadInOut as _, KeyInit as _};
use hkdf::Hkdf;
use sealed::{PublicKey, START};
use sha2_0_11::{Digest as _, Sha256};
use x_wing::{Ciphertext, Decapsulate as _, DecapsulationKey};

use common::{BODY, answer, envelope, head, key, open, request, response_head, settlement};

#[allow(dead_code, reason = "each file of tests uses a part")]
mod common;

#[test]
fn a_reader_of_the_documents_opens_request_and_response() {
    let (sealed, response) = request(&[&head().encode(), BODY], 1);
    let enc = &sealed[1..START];
    let mut info = b"cocoon/sealed/v1\0".to_vec();
    info.extend(Sha256::digest(envelope().encode()));
    let exporter = Exporter::new(&shared_secret(enc), &info);
    let (key, base) = (
        exporter.export("request key"),
        exporter.export("request nonce"),
    );
    let opened = read(&sealed[START..], &key, &base);
    assert_eq!(opened, [head().encode(), BODY.to_vec()]);

    let answered = answer(open(&sealed).1, &[&response_head().encode(), b"data"]);
    let (salt, chunks) = answered.split_at(32);
    let prk = Hkdf::<Sha256>::new(
        Some(&[enc, salt].concat()),
        &exporter.export::<32>("response"),
    );
    let (mut key, mut base) = ([0; 32], [0; 12]);
    prk.expand(b"key", &mut key).unwrap();
    prk.expand(b"nonce", &mut base).unwrap();
    let opened = read(chunks, &key, &base);
    assert_eq!(opened, [response_head().encode(), b"data".to_vec()]);

    let mut response = response;
    assert_eq!(response.push(&answered).unwrap(), opened);
    assert_eq!(response.end().unwrap(), settlement().encode());
}

/// Appendix C of draft-connolly-cfrg-xwing-kem, the first vector: seed and randomness are
/// the beginning of SHAKE-128 of nothing.
#[test]
fn the_seed_and_the_randomness_are_used_as_x_wing_says() {
    let seed = "7f9c2ba4e88f827d616045507605853ed73b8093f6efbc88eb1a6eacfa66ef26";
    let eseed = "3cb1eea988004b93103cfb0aeefd2a686e01fa4a58e8a3639ca8a1e3f9ae57e2\
                 35b8cc873c23dc62b8d260169afa2f75ab916a58d974918835d25e6a435085b2";
    let secret = "d2df0522128f09dd8e2c92b1e905c793d8f57a54c3da25861f10bf4ca613e384";
    let seed: [u8; 32] = hex::decode(seed).unwrap().try_into().unwrap();
    let eseed: [u8; 64] = hex::decode(eseed).unwrap().try_into().unwrap();
    let key = sealed::SecretKey::from_seed(seed).unwrap();
    let (start, ..) = sealed::seal(&key.public(), b"", eseed).unwrap();
    let enc = Ciphertext::try_from(&start[1..]).unwrap();
    let shared = DecapsulationKey::from(seed).decapsulate(&enc);
    assert_eq!(hex::encode(shared), secret);
}

#[test]
fn the_wire_is_what_it_was() {
    let (sealed, _) = request(&[&head().encode(), BODY], 1);
    let answered = answer(open(&sealed).1, &[&response_head().encode(), b"data"]);
    let golden = [
        ("key", key().public().bytes()),
        ("envelope", envelope().encode()),
        ("request", sealed),
        ("response", answered),
    ];
    let golden: String = golden
        .iter()
        .map(|(name, bytes)| format!("{name} {}\n", hex::encode(bytes)))
        .collect();
    assert_eq!(golden, include_str!("golden.txt"));
}

#[test]
fn a_worker_is_named_by_its_key() {
    let id = Sha256::digest(key().public().bytes());
    assert_eq!(PublicKey::id(&key().public()).as_bytes()[..], id[..]);
}

fn shared_secret(enc: &[u8]) -> Vec<u8> {
    let enc = Ciphertext::try_from(enc).unwrap();
    DecapsulationKey::from([7; 32]).decapsulate(&enc).to_vec()
}

/// RFC 9180, sections 5.1 and 5.3, for suite 0x647a, 0x0001, 0xffff.
struct Exporter(Hkdf<Sha256>);

impl Exporter {
    fn new(shared_secret: &[u8], info: &[u8]) -> Self {
        let mut context = vec![0];
        context.extend(extract(&[], "psk_id_hash", &[]));
        context.extend(extract(&[], "info_hash", info));
        let secret = extract(shared_secret, "secret", &[]);
        let secret = Hkdf::from_prk(&secret).unwrap();
        let exporter = expand::<32>(&secret, "exp", &context);
        Self(Hkdf::from_prk(&exporter).unwrap())
    }

    fn export<const L: usize>(&self, context: &str) -> [u8; L] {
        expand(&self.0, "sec", context.as_bytes())
    }
}

fn extract(salt: &[u8], label: &str, ikm: &[u8]) -> Vec<u8> {
    let ikm = [b"HPKE-v1", SUITE, label.as_bytes(), ikm].concat();
    Hkdf::<Sha256>::extract(Some(salt), &ikm).0.to_vec()
}

fn expand<const L: usize>(prk: &Hkdf<Sha256>, label: &str, info: &[u8]) -> [u8; L] {
    let len = u16::try_from(L).unwrap().to_be_bytes();
    let info = [&len, &b"HPKE-v1"[..], SUITE, label.as_bytes(), info].concat();
    let mut out = [0; L];
    prk.expand(&info, &mut out).unwrap();
    out
}

const SUITE: &[u8] = b"HPKE\x64\x7a\x00\x01\xff\xff";

/// Opens chunks up to the last.
fn read(mut stream: &[u8], key: &[u8; 32], base: &[u8; 12]) -> Vec<Vec<u8>> {
    let cipher = Aes256Gcm::new(key.into());
    let mut opened = Vec::new();
    for counter in 0_u64.. {
        let mut nonce = *base;
        for (place, byte) in nonce[4..].iter_mut().zip(counter.to_be_bytes()) {
            *place ^= byte;
        }
        let (header, rest) = stream.split_first_chunk::<4>().unwrap();
        let word = u32::from_be_bytes(*header);
        let (sealed, rest) = rest.split_at(usize::try_from(word & 0x7fff_ffff).unwrap());
        let (text, tag) = sealed.split_last_chunk::<16>().unwrap();
        let mut text = text.to_vec();
        cipher
            .decrypt_inout_detached(&nonce.into(), header, (&mut *text).into(), tag.into())
            .unwrap();
        assert_eq!(text.len() % 256, 0, "padded");
        while text.pop() == Some(0) {}
        opened.push(text);
        stream = rest;
        if word >> 31 == 1 {
            break;
        }
    }
    opened
}
