//! Certificates and revocation lists in the profile of Intel's, of keys that anyone has.

use std::cell::RefCell;
use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use p256::ecdsa::signature::Signer as _;
use p256::ecdsa::{Signature, SigningKey};

use super::COMPONENTS;
use super::der::{bits, boolean, integer, octets, oid, sequence, tlv};

/// A P-256 key, by number.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Key(u8);

impl Key {
    pub(crate) const ROOT: Self = Self(1);
    pub(crate) const CA: Self = Self(2);
    pub(crate) const PCK: Self = Self(3);
    pub(crate) const TCB_SIGNING: Self = Self(4);
    pub(crate) const ATTESTATION: Self = Self(5);
    /// A key that has no part in this.
    pub(crate) const STRANGER: Self = Self(6);
    pub(crate) const PROCESSOR_CA: Self = Self(7);

    /// `x || y`.
    pub(crate) fn coordinates(self) -> Vec<u8> {
        self.remembered(None, |key| {
            let point = key.verifying_key().to_sec1_point(false);
            point.as_bytes()[1..].to_vec()
        })
    }

    /// `r || s`.
    pub(crate) fn sign_raw(self, message: &[u8]) -> [u8; 64] {
        self.sign(message).to_bytes().into()
    }

    fn sign_der(self, message: &[u8]) -> Vec<u8> {
        self.sign(message).to_der().as_bytes().to_vec()
    }

    fn sign(self, message: &[u8]) -> Signature {
        let sign = |key: SigningKey| {
            let signature: Signature = key.sign(message);
            signature.to_bytes().to_vec()
        };
        Signature::from_slice(&self.remembered(Some(message), sign)).unwrap()
    }

    /// The signature of a message, or the key's point, as it was made before: most of a
    /// paper is that of the last one.
    fn remembered(
        self,
        message: Option<&[u8]>,
        make: impl FnOnce(SigningKey) -> Vec<u8>,
    ) -> Vec<u8> {
        type Made = BTreeMap<(u8, Option<Vec<u8>>), Vec<u8>>;
        thread_local! {
            static MADE: RefCell<Made> = RefCell::default();
        }
        let key = (self.0, message.map(Vec::from));
        MADE.with_borrow_mut(|made| {
            if made.len() > 1000 {
                made.clear();
            }
            made.entry(key)
                .or_insert_with(|| make(self.signing()))
                .clone()
        })
    }

    fn signing(self) -> SigningKey {
        SigningKey::from_slice(&[self.0; 32]).unwrap()
    }
}

/// What a certificate says, and who signs it.
#[derive(Clone, Debug)]
pub(crate) struct Certificate {
    pub(crate) version: u8,
    pub(crate) serial: Vec<u8>,
    /// Inside of what is signed.
    pub(crate) algorithm: &'static [u8],
    pub(crate) issuer: &'static str,
    pub(crate) from: &'static str,
    pub(crate) until: &'static str,
    pub(crate) subject: &'static str,
    pub(crate) key: Key,
    pub(crate) curve: &'static [u8],
    pub(crate) extensions: Vec<Vec<u8>>,
    pub(crate) signer: Key,
}

impl Certificate {
    pub(crate) fn root() -> Self {
        Self {
            subject: ROOT_NAME,
            key: Key::ROOT,
            extensions: authority(),
            ..Self::tcb_signing()
        }
    }

    pub(crate) fn platform_ca() -> Self {
        Self {
            serial: vec![2],
            subject: CA_NAME,
            key: Key::CA,
            extensions: authority(),
            ..Self::tcb_signing()
        }
    }

    pub(crate) fn processor_ca() -> Self {
        Self {
            serial: vec![3],
            subject: "Intel SGX PCK Processor CA",
            key: Key::PROCESSOR_CA,
            ..Self::platform_ca()
        }
    }

    pub(crate) fn pck() -> Self {
        Self {
            serial: [&[0], &[0xb2; 20][..]].concat(),
            issuer: CA_NAME,
            subject: "Intel SGX PCK Certificate",
            key: Key::PCK,
            extensions: [signer_only(), vec![sgx_extension(&sgx_fields())]].concat(),
            signer: Key::CA,
            ..Self::tcb_signing()
        }
    }

    pub(crate) fn tcb_signing() -> Self {
        Self {
            version: 2,
            serial: vec![1],
            algorithm: ECDSA_WITH_SHA256,
            issuer: ROOT_NAME,
            from: "20200101000000Z",
            until: "20400101000000Z",
            subject: "Intel SGX TCB Signing",
            key: Key::TCB_SIGNING,
            curve: PRIME256V1,
            extensions: signer_only(),
            signer: Key::ROOT,
        }
    }

    pub(crate) fn sign(&self) -> Vec<u8> {
        let point = [&[4], &self.key.coordinates()[..]].concat();
        let body = sequence(&[
            tlv(0xa0, &integer(&[self.version])),
            integer(&self.serial),
            sequence(&[oid(self.algorithm)]),
            name(self.issuer),
            sequence(&[time(self.from), time(self.until)]),
            name(self.subject),
            sequence(&[sequence(&[oid(EC_KEY), oid(self.curve)]), bits(&point)]),
            tlv(0xa3, &sequence(&self.extensions)),
        ]);
        sealed(body, self.signer)
    }
}

/// What a revocation list says, and who signs it.
#[derive(Clone, Debug)]
pub(crate) struct Crl {
    pub(crate) version: u8,
    pub(crate) issuer: &'static str,
    pub(crate) from: &'static str,
    pub(crate) until: &'static str,
    /// Serial numbers, and extensions of their entries.
    pub(crate) revoked: Vec<(Vec<u8>, Vec<Vec<u8>>)>,
    pub(crate) extensions: Option<Vec<Vec<u8>>>,
    pub(crate) signer: Key,
}

impl Crl {
    pub(crate) fn of(issuer: &Certificate) -> Self {
        Self {
            version: 1,
            issuer: issuer.subject,
            from: "20270101000000Z",
            until: "20270131000000Z",
            revoked: vec![(vec![0x70], vec![]), (vec![0x60], vec![])],
            extensions: Some(vec![extension(CRL_NUMBER, false, &integer(&[1]))]),
            signer: issuer.key,
        }
    }

    pub(crate) fn sign(&self) -> Vec<u8> {
        let entries: Vec<_> = self.revoked.iter().map(entry).collect();
        let mut fields = vec![
            integer(&[self.version]),
            algorithm(),
            name(self.issuer),
            time(self.from),
            time(self.until),
        ];
        if !entries.is_empty() {
            fields.push(sequence(&entries));
        }
        if let Some(extensions) = &self.extensions {
            fields.push(tlv(0xa0, &sequence(extensions)));
        }
        sealed(sequence(&fields), self.signer)
    }
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

/// Intel's extension with these fields.
pub(crate) fn sgx_extension(fields: &[Vec<u8>]) -> Vec<u8> {
    extension(SGX, false, &sequence(fields))
}

/// Fields of Intel's extension, in its order.
pub(crate) fn sgx_fields() -> Vec<Vec<u8>> {
    let mut tcb: Vec<_> = (1..)
        .zip(COMPONENTS)
        .map(|(number, svn)| field(&[2, number], integer(&[svn])))
        .collect();
    tcb.push(field(&[2, 17], integer(&[13])));
    tcb.push(field(&[2, 18], octets(&COMPONENTS)));
    vec![
        field(&[1], octets(&PPID)),
        field(&[2], sequence(&tcb)),
        field(&[3], octets(&[0, 0])),
        field(&[4], octets(&FMSPC)),
        field(&[5], tlv(0x0a, &[1])),
        field(&[6], octets(&INSTANCE)),
        field(&[7], setup([true, true, true])),
    ]
}

/// Dynamic platform, cached keys, SMT.
pub(crate) fn setup(flags: [bool; 3]) -> Vec<u8> {
    let flags: Vec<_> = (1..)
        .zip(flags)
        .map(|(number, flag)| field(&[7, number], boolean(flag)))
        .collect();
    sequence(&flags)
}

pub(crate) fn field(ending: &[u8], value: Vec<u8>) -> Vec<u8> {
    sequence(&[oid(&[SGX, ending].concat()), value])
}

pub(crate) fn authority() -> Vec<Vec<u8>> {
    let constraints = sequence(&[boolean(true), integer(&[1])]);
    vec![
        extension(BASIC_CONSTRAINTS, true, &constraints),
        extension(KEY_USAGE, true, &[3, 2, 1, 0x06]),
    ]
}

pub(crate) fn signer_only() -> Vec<Vec<u8>> {
    vec![
        extension(BASIC_CONSTRAINTS, true, &sequence(&[])),
        extension(KEY_USAGE, true, &[3, 2, 6, 0xc0]),
    ]
}

pub(crate) const ROOT_NAME: &str = "Intel SGX Root CA";
pub(crate) const CA_NAME: &str = "Intel SGX PCK Platform CA";
pub(crate) const PPID: [u8; 16] = [0x50; 16];
pub(crate) const INSTANCE: [u8; 16] = [0x51; 16];
pub(crate) const FMSPC: [u8; 6] = [0x90, 0xc0, 0x6f, 0, 0, 0];

pub(crate) const BASIC_CONSTRAINTS: &[u8] = &[0x55, 0x1d, 0x13];
pub(crate) const KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x0f];
/// Key identifier: one that a verifier need not understand.
pub(crate) const SUBJECT_KEY_ID: &[u8] = &[0x55, 0x1d, 0x0e];
pub(crate) const SECP384R1: &[u8] = &[0x2b, 0x81, 0x04, 0x00, 0x22];
const CRL_NUMBER: &[u8] = &[0x55, 0x1d, 0x14];
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ORGANIZATION: &[u8] = &[0x55, 0x04, 0x0a];
pub(crate) const SGX: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 1, 13, 1];
const EC_KEY: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 2, 1];
const PRIME256V1: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7];
const ECDSA_WITH_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2];
pub(crate) const ECDSA_WITH_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3];

pub(crate) fn sealed(body: Vec<u8>, signer: Key) -> Vec<u8> {
    let signature = bits(&signer.sign_der(&body));
    sequence(&[body, algorithm(), signature])
}

fn entry((serial, extensions): &(Vec<u8>, Vec<Vec<u8>>)) -> Vec<u8> {
    let extensions = match extensions.is_empty() {
        true => Vec::new(),
        false => sequence(extensions),
    };
    sequence(&[integer(serial), time("20270101000000Z"), extensions])
}

fn algorithm() -> Vec<u8> {
    sequence(&[oid(ECDSA_WITH_SHA256)])
}

/// A name; a slash stands between two common names.
fn name(common: &str) -> Vec<u8> {
    let attribute = |id, text: &str| tlv(0x31, &sequence(&[oid(id), tlv(0x0c, text.as_bytes())]));
    let common = common.split('/').map(|text| attribute(COMMON_NAME, text));
    let organization = attribute(ORGANIZATION, "Intel Corporation");
    sequence(&common.chain([organization]).collect::<Vec<_>>())
}

fn time(text: &str) -> Vec<u8> {
    tlv(0x18, text.as_bytes())
}
