//! X.509 certificates, written field by field so that each can be wrong.

use std::sync::OnceLock;

use aws_lc_rs::encoding::{AsDer, Pkcs8V1Der};
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{KeyPair, RSA_PKCS1_SHA256, RSA_PKCS1_SHA384, RsaKeyPair};
use p256::ecdsa::signature::Signer as _;

pub(crate) const SHA256_RSA: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0b\x05\x00";
pub(crate) const SHA384_RSA: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x0c\x05\x00";
pub(crate) const SHA1_RSA: &[u8] = b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x05\x05\x00";
const ECDSA_SHA256: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x02";
const ECDSA_SHA384: &[u8] = b"\x06\x08\x2a\x86\x48\xce\x3d\x04\x03\x03";

/// What a certificate says; the default is a good authority's.
#[derive(Clone)]
pub(crate) struct Certificate {
    pub(crate) version: u8,
    pub(crate) issuer: &'static str,
    pub(crate) subject: &'static str,
    pub(crate) from: &'static str,
    pub(crate) until: &'static str,
    pub(crate) spki: Vec<u8>,
    pub(crate) extensions: Vec<Vec<u8>>,
}

impl Certificate {
    /// An authority's, with room for `path_len` authorities below it.
    pub(crate) fn authority(subject: &'static str, key: &Key, path_len: Option<u8>) -> Self {
        let path_len = path_len.map_or(vec![], |len| tlv(2, &[len]));
        let constraints = [&[1, 1, 0xff][..], &path_len].concat();
        Self {
            version: 2,
            issuer: "root",
            subject,
            from: "20260101000000Z",
            until: "99991231235959Z",
            spki: key.spki(),
            extensions: vec![
                extension(b"\x55\x1d\x13", true, &tlv(0x30, &constraints)),
                key_usage(0x04),
            ],
        }
    }

    /// An endorsement key's.
    pub(crate) fn endorsement(key: &Key) -> Self {
        Self {
            subject: "",
            extensions: vec![
                extension(b"\x55\x1d\x13", true, &tlv(0x30, &[])),
                key_usage(0x20),
                purpose(b"\x67\x81\x05\x08\x01"),
                tpm_name(&[1, 2, 3]),
                extension(b"\x55\x1d\x23", false, &tlv(0x30, &[])),
            ],
            ..Self::authority("", key, None)
        }
    }

    pub(crate) fn sign(&self, issuer: &Key) -> Vec<u8> {
        self.sign_saying(issuer, issuer.algorithm(), issuer.algorithm())
    }

    /// Names algorithms inside and outside of what is signed.
    pub(crate) fn sign_saying(&self, issuer: &Key, inside: &[u8], outside: &[u8]) -> Vec<u8> {
        let signed = tlv(
            0x30,
            &[
                tlv(0xa0, &tlv(2, &[self.version])),
                tlv(2, &[1]),
                tlv(0x30, inside),
                name(self.issuer),
                tlv(0x30, &[time(self.from), time(self.until)].concat()),
                name(self.subject),
                self.spki.clone(),
                tlv(0xa3, &tlv(0x30, &self.extensions.concat())),
            ]
            .concat(),
        );
        let signature = issuer.sign(&signed);
        tlv(
            0x30,
            &[signed, tlv(0x30, outside), bits(&signature)].concat(),
        )
    }
}

pub(crate) fn extension(oid: &[u8], critical: bool, value: &[u8]) -> Vec<u8> {
    let critical: &[u8] = if critical { &[1, 1, 0xff] } else { &[] };
    tlv(0x30, &[&tlv(6, oid)[..], critical, &tlv(4, value)].concat())
}

pub(crate) fn key_usage(bits: u8) -> Vec<u8> {
    extension(b"\x55\x1d\x0f", true, &tlv(3, &[0, bits]))
}

pub(crate) fn purpose(oid: &[u8]) -> Vec<u8> {
    extension(b"\x55\x1d\x25", false, &tlv(0x30, &tlv(6, oid)))
}

/// A subjectAltName with the attributes 2.23.133.2.x.
pub(crate) fn tpm_name(attributes: &[u8]) -> Vec<u8> {
    names(&[tpm_names(attributes)])
}

/// A subjectAltName of these GeneralNames.
pub(crate) fn names(names: &[Vec<u8>]) -> Vec<u8> {
    extension(b"\x55\x1d\x11", true, &tlv(0x30, &names.concat()))
}

/// The attributes 2.23.133.2.x as a directoryName.
pub(crate) fn tpm_names(attributes: &[u8]) -> Vec<u8> {
    let sets = attributes.iter().flat_map(|last| {
        let oid = tlv(6, &[0x67, 0x81, 0x05, 0x02, *last]);
        tlv(0x31, &tlv(0x30, &[oid, tlv(0x0c, b"id:0")].concat()))
    });
    tlv(0xa4, &tlv(0x30, &sets.collect::<Vec<_>>()))
}

/// dNSName "tpm".
pub(crate) const DNS_NAME: &[u8] = b"\x82\x03tpm";

fn name(common: &str) -> Vec<u8> {
    let attribute = [tlv(6, b"\x55\x04\x03"), tlv(0x0c, common.as_bytes())].concat();
    tlv(0x30, &tlv(0x31, &tlv(0x30, &attribute)))
}

fn time(text: &str) -> Vec<u8> {
    match text.len() {
        13 => tlv(0x17, text.as_bytes()),
        _ => tlv(0x18, text.as_bytes()),
    }
}

fn bits(bytes: &[u8]) -> Vec<u8> {
    tlv(3, &[&[0], bytes].concat())
}

fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = content.len();
    let header = match u8::try_from(len) {
        Ok(len) if len < 0x80 => vec![tag, len],
        Ok(len) => vec![tag, 0x81, len],
        Err(_) => [&[tag, 0x82][..], &u16::try_from(len).unwrap().to_be_bytes()].concat(),
    };
    [&header, content].concat()
}

/// A key that signs certificates, or is in one.
pub(crate) enum Key {
    Rsa(RsaKeyPair, &'static [u8]),
    P256(p256::ecdsa::SigningKey),
    P384(p384::ecdsa::SigningKey),
}

impl Key {
    /// Takes 0.1 s at 2048 bits and 1 s at 4096.
    pub(crate) fn rsa(size: KeySize, algorithm: &'static [u8]) -> Self {
        Self::Rsa(RsaKeyPair::generate(size).unwrap(), algorithm)
    }

    pub(crate) fn p256(seed: u8) -> Self {
        Self::P256(p256::ecdsa::SigningKey::from_slice(&[seed; 32]).unwrap())
    }

    pub(crate) fn p384(seed: u8) -> Self {
        Self::P384(p384::ecdsa::SigningKey::from_slice(&[seed; 48]).unwrap())
    }

    /// The same at every call.
    pub(crate) fn endorsement() -> &'static Self {
        static KEY: OnceLock<Key> = OnceLock::new();
        KEY.get_or_init(|| Self::rsa(KeySize::Rsa2048, SHA256_RSA))
    }

    pub(crate) fn pkcs8(&self) -> Vec<u8> {
        let Self::Rsa(key, _) = self else {
            panic!("only RSA keys decrypt");
        };
        let der: Pkcs8V1Der<'_> = key.as_der().unwrap();
        der.as_ref().to_vec()
    }

    const fn algorithm(&self) -> &'static [u8] {
        match self {
            Self::Rsa(_, algorithm) => algorithm,
            Self::P256(_) => ECDSA_SHA256,
            Self::P384(_) => ECDSA_SHA384,
        }
    }

    pub(crate) fn spki(&self) -> Vec<u8> {
        let (algorithm, key): (&[u8], _) = match self {
            Self::Rsa(key, _) => (
                b"\x06\x09\x2a\x86\x48\x86\xf7\x0d\x01\x01\x01\x05\x00",
                key.public_key().as_ref().to_vec(),
            ),
            Self::P256(key) => (
                b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07",
                key.verifying_key().to_sec1_point(false).as_bytes().to_vec(),
            ),
            Self::P384(key) => (
                b"\x06\x07\x2a\x86\x48\xce\x3d\x02\x01\x06\x05\x2b\x81\x04\x00\x22",
                key.verifying_key().to_sec1_point(false).as_bytes().to_vec(),
            ),
        };
        tlv(0x30, &[tlv(0x30, algorithm), bits(&key)].concat())
    }

    fn sign(&self, message: &[u8]) -> Vec<u8> {
        match self {
            Self::Rsa(key, algorithm) => {
                let mut signature = vec![0; key.public_modulus_len()];
                let padding = match *algorithm {
                    SHA384_RSA => &RSA_PKCS1_SHA384,
                    _ => &RSA_PKCS1_SHA256,
                };
                let random = SystemRandom::new();
                key.sign(padding, &random, message, &mut signature).unwrap();
                signature
            }
            Self::P256(key) => {
                let signature: p256::ecdsa::DerSignature = key.sign(message);
                signature.as_bytes().to_vec()
            }
            Self::P384(key) => {
                let signature: p384::ecdsa::DerSignature = key.sign(message);
                signature.as_bytes().to_vec()
            }
        }
    }
}
