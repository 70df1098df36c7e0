//! Certificates, revocation lists and OCSP responses in the profile of NVIDIA's, of keys
//! that anyone has.

use std::collections::BTreeMap;
use std::sync::Mutex;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p384::ecdsa::signature::hazmat::PrehashSigner as _;
use p384::ecdsa::{Signature, SigningKey};
use sha2::{Digest, Sha256, Sha384};

use super::der::{bits, boolean, integer, octets, oid, sequence, tlv};

/// A P-384 key, by number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Key(pub(crate) u8);

impl Key {
    pub(crate) const DEVICE_ROOT: Self = Self(1);
    pub(crate) const IDENTITY: Self = Self(2);
    pub(crate) const PROVISIONER: Self = Self(3);
    pub(crate) const MANIFEST_ROOT: Self = Self(4);
    pub(crate) const REFERENCE_CA: Self = Self(5);
    pub(crate) const LEVEL_3: Self = Self(6);
    pub(crate) const SIGNER: Self = Self(7);
    pub(crate) const RESPONDER: Self = Self(8);
    /// A key that has no part in this.
    pub(crate) const STRANGER: Self = Self(9);
    /// Device `n` has `BROM + 2n` and the one after it.
    pub(crate) const FIRST_BROM: u8 = 100;

    /// `04 || x || y`.
    pub(crate) fn point(self) -> Vec<u8> {
        remembered((self.0, Vec::new()), || {
            let point = self.signing().verifying_key().to_sec1_point(false);
            point.as_bytes().to_vec()
        })
    }

    /// `ECPrivateKey` (RFC 5915), whose numbered parts OpenSSL wants too.
    pub(crate) fn sec1(self) -> Vec<u8> {
        sequence(&[
            integer(&[1]),
            octets(&[self.0; 48]),
            tlv(0xa0, &oid(SECP384R1)),
            tlv(0xa1, &bits(&self.point())),
        ])
    }

    /// `r || s`.
    pub(crate) fn sign_raw(self, message: &[u8]) -> Vec<u8> {
        self.sign(Sha384::digest(message).to_vec())
    }

    fn sign_der(self, message: &[u8], algorithm: &[u8]) -> Vec<u8> {
        let raw = self.sign(match algorithm == ECDSA_WITH_SHA256 {
            true => Sha256::digest(message).to_vec(),
            false => Sha384::digest(message).to_vec(),
        });
        let signature = Signature::from_slice(&raw).unwrap();
        signature.to_der().as_bytes().to_vec()
    }

    fn sign(self, digest: Vec<u8>) -> Vec<u8> {
        remembered((self.0, digest.clone()), || {
            let signature: Signature = self.signing().sign_prehash(&digest).unwrap();
            signature.to_bytes().to_vec()
        })
    }

    fn signing(self) -> SigningKey {
        SigningKey::from_slice(&[self.0; 48]).unwrap()
    }
}

/// Signatures are the same each time, and most papers differ in one of them.
fn remembered(what: (u8, Vec<u8>), make: impl FnOnce() -> Vec<u8>) -> Vec<u8> {
    type Memory = BTreeMap<(u8, Vec<u8>), Vec<u8>>;
    static MEMORY: Mutex<Memory> = Mutex::new(BTreeMap::new());
    let known = MEMORY.lock().unwrap().get(&what).cloned();
    known.unwrap_or_else(|| {
        let made = make();
        MEMORY.lock().unwrap().insert(what, made.clone());
        made
    })
}

/// What a certificate says, and who signs it.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) serial: Vec<u8>,
    pub(crate) algorithm: &'static [u8],
    pub(crate) issuer: String,
    pub(crate) from: &'static str,
    pub(crate) until: &'static str,
    pub(crate) subject: String,
    pub(crate) key: Key,
    /// Instead of the key's own point: another curve.
    pub(crate) info: Option<Vec<u8>>,
    pub(crate) extensions: Vec<Vec<u8>>,
    pub(crate) signer: Key,
}

impl Certificate {
    /// One that may issue others.
    pub(crate) fn authority(subject: &str, key: Key, issuer: &str, signer: Key) -> Self {
        Self {
            serial: vec![key.0],
            algorithm: ECDSA_WITH_SHA384,
            issuer: issuer.into(),
            from: "20200101000000Z",
            until: "99991231235959Z",
            subject: subject.into(),
            key,
            info: None,
            extensions: ca(None),
            signer,
        }
    }

    /// One that signs something else than certificates.
    pub(crate) fn end(subject: &str, key: Key, issuer: &str, signer: Key) -> Self {
        Self {
            extensions: vec![extension(KEY_USAGE, true, &[3, 2, 7, 0x80])],
            ..Self::authority(subject, key, issuer, signer)
        }
    }

    pub(crate) fn sign(&self) -> Vec<u8> {
        let own = sequence(&[
            sequence(&[oid(EC_KEY), oid(SECP384R1)]),
            bits(&self.key.point()),
        ]);
        let body = sequence(&[
            tlv(0xa0, &integer(&[2])),
            integer(&self.serial),
            sequence(&[oid(self.algorithm)]),
            name(&self.issuer),
            sequence(&[time(self.from), time(self.until)]),
            name(&self.subject),
            self.info.clone().unwrap_or(own),
            tlv(0xa3, &sequence(&self.extensions)),
        ]);
        sealed(body, self.algorithm, self.signer, Vec::new())
    }
}

/// What a revocation list says, and who signs it.
#[derive(Clone, Debug)]
pub(crate) struct Crl {
    pub(crate) issuer: String,
    pub(crate) algorithm: &'static [u8],
    pub(crate) from: &'static str,
    pub(crate) until: &'static str,
    pub(crate) revoked: Vec<Vec<u8>>,
    pub(crate) signer: Key,
}

impl Crl {
    /// NVIDIA's are over SHA-256.
    pub(crate) fn of(issuer: &Certificate) -> Self {
        Self {
            issuer: issuer.subject.clone(),
            algorithm: ECDSA_WITH_SHA256,
            from: "20270101000000Z",
            until: "20270131000000Z",
            revoked: vec![vec![0x70]],
            signer: issuer.key,
        }
    }

    pub(crate) fn sign(&self) -> Vec<u8> {
        let entry = |serial: &Vec<u8>| sequence(&[integer(serial), time(self.from)]);
        let entries: Vec<_> = self.revoked.iter().map(entry).collect();
        let number = extension(CRL_NUMBER, false, &integer(&[1]));
        let body = sequence(&[
            integer(&[1]),
            sequence(&[oid(self.algorithm)]),
            name(&self.issuer),
            time(self.from),
            time(self.until),
            sequence(&entries),
            tlv(0xa0, &sequence(&[number])),
        ]);
        sealed(body, self.algorithm, self.signer, Vec::new())
    }
}

/// What a responder says of one certificate, and who signs it.
#[derive(Clone, Debug)]
pub(crate) struct Ocsp {
    pub(crate) issuer_name: String,
    pub(crate) issuer_key: Key,
    pub(crate) serial: Vec<u8>,
    /// DER of `certStatus`.
    pub(crate) status: Vec<u8>,
    pub(crate) from: &'static str,
    pub(crate) until: Option<&'static str>,
    /// None where the issuer answers itself.
    pub(crate) responder: Option<Certificate>,
    /// How often the certificate is listed.
    pub(crate) answers: usize,
    pub(crate) signer: Key,
}

impl Ocsp {
    pub(crate) fn of(certificate: &Certificate) -> Self {
        let (issuer, key) = (&certificate.issuer, certificate.signer);
        let mut responder = Certificate::end("NVIDIA OCSP Responder", Key::RESPONDER, issuer, key);
        responder.extensions.extend(responder_extensions());
        Self {
            issuer_name: issuer.clone(),
            issuer_key: key,
            serial: certificate.serial.clone(),
            status: vec![0x80, 0],
            from: "20270115000000Z",
            until: Some("20270116000000Z"),
            responder: Some(responder),
            answers: 1,
            signer: Key::RESPONDER,
        }
    }

    pub(crate) fn sign(&self) -> Vec<u8> {
        let hash = |bytes: &[u8]| octets(&Sha384::digest(bytes));
        let until = self.until.map(|until| tlv(0xa0, &time(until)));
        let single = sequence(&[
            sequence(&[
                sequence(&[oid(SHA384)]),
                hash(&name(&self.issuer_name)),
                hash(&self.issuer_key.point()),
                integer(&self.serial),
            ]),
            self.status.clone(),
            time(self.from),
            until.unwrap_or_default(),
        ]);
        let data = sequence(&[
            tlv(0xa1, &name("NVIDIA OCSP Responder")),
            time(self.from),
            sequence(&vec![single; self.answers]),
        ]);
        let responder = self.responder.as_ref();
        let certificates = responder.map(|one| tlv(0xa0, &sequence(&[one.sign()])));
        let basic = sealed(
            data,
            ECDSA_WITH_SHA384,
            self.signer,
            certificates.unwrap_or_default(),
        );
        sequence(&[
            tlv(0x0a, &[0]),
            tlv(0xa0, &sequence(&[oid(OCSP_BASIC), octets(&basic)])),
        ])
    }
}

/// Extended key usage, and the promise that it need not be asked about.
pub(crate) fn responder_extensions() -> [Vec<u8>; 2] {
    [
        extension(EXTENDED_KEY_USAGE, true, &sequence(&[oid(OCSP_SIGNING)])),
        extension(OCSP_NO_CHECK, false, &[5, 0]),
    ]
}

pub(crate) fn pem(chain: &[Vec<u8>]) -> String {
    let mut text = String::new();
    for der in chain {
        text += "-----BEGIN CERTIFICATE-----\n";
        for line in STANDARD.encode(der).as_bytes().chunks(64) {
            text += str::from_utf8(line).unwrap();
            text += "\n";
        }
        text += "-----END CERTIFICATE-----\n";
    }
    text
}

pub(crate) fn extension(id: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical = match critical {
        true => boolean(true),
        false => Vec::new(),
    };
    sequence(&[oid(id), critical, octets(value)])
}

/// An authority's extensions, with a path length or without.
pub(crate) fn ca(path_len: Option<u8>) -> Vec<Vec<u8>> {
    let limit = path_len.map_or(Vec::new(), |limit| integer(&[limit]));
    vec![
        extension(BASIC_CONSTRAINTS, true, &sequence(&[boolean(true), limit])),
        extension(KEY_USAGE, true, &[3, 2, 1, 0x06]),
    ]
}

/// Hopper's extension.
pub(crate) fn composite(fwid: &[u8; 48]) -> Vec<u8> {
    let value = sequence(&[integer(&[1]), sequence(&[]), fwid_sequence(fwid)]);
    extension(&DICE, false, &value)
}

/// Blackwell's extension, with the members that it has and a second, empty layer.
pub(crate) fn tcb_info(fwid: &[u8; 48]) -> Vec<u8> {
    let value = sequence(&[
        tlv(0x80, b"NVIDIA"),
        tlv(0x83, &[1]),
        tlv(
            0xa6,
            &[fwid_sequence(fwid), fwid_sequence(&[0; 48])].concat(),
        ),
        tlv(0x87, &[0, 0x80, 0, 0, 1]),
    ]);
    extension(&[&DICE[..], &[1]].concat(), false, &value)
}

fn fwid_sequence(fwid: &[u8; 48]) -> Vec<u8> {
    sequence(&[oid(SHA384), octets(fwid)])
}

pub(crate) const ECDSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
pub(crate) const ECDSA_WITH_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];
const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
pub(crate) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const CRL_NUMBER: &[u8] = &[0x55, 0x1d, 0x14];
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const SERIAL_NUMBER: &[u8] = &[0x55, 0x04, 0x05];
const DICE: [u8; 6] = [0x67, 0x81, 5, 5, 4, 1];
const EC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const SECP384R1: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const SHA384: &[u8] = &[0x60, 0x86, 0x48, 1, 0x65, 3, 4, 2, 2];
const OCSP_BASIC: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 1];
const OCSP_NO_CHECK: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 0x30, 1, 5];
const OCSP_SIGNING: &[u8] = &[0x2b, 6, 1, 5, 5, 7, 3, 9];

fn sealed(body: Vec<u8>, algorithm: &[u8], signer: Key, more: Vec<u8>) -> Vec<u8> {
    let signature = bits(&signer.sign_der(&body, algorithm));
    sequence(&[body, sequence(&[oid(algorithm)]), signature, more])
}

/// A common name; what stands after a slash is a serial number.
fn name(text: &str) -> Vec<u8> {
    let attribute =
        |(id, text): (&[u8], &str)| tlv(0x31, &sequence(&[oid(id), tlv(0x0c, text.as_bytes())]));
    let kinds = [COMMON_NAME, SERIAL_NUMBER];
    let attributes = kinds.into_iter().zip(text.split('/')).map(attribute);
    sequence(&attributes.collect::<Vec<_>>())
}

fn time(text: &str) -> Vec<u8> {
    tlv(0x18, text.as_bytes())
}
