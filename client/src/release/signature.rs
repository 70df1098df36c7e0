//! What a builder signs, in three forms that other tools read too.
//!
//! | File | Form | Over |
//! |---|---|---|
//! | `KEY.sig.json` | ours | every byte of the manifest |
//! | `KEY.dsse.json` | DSSE v1 | the provenance |
//! | `KEY.cose` | COSE_Sign1 (RFC 9052) | the CoRIM |
//!
//! `KEY` is the beginning of the key's name. No form can be taken for another: what is
//! hashed begins with `{` in the first, `DSSEv1` in the second, and a CBOR array in the third.

use attestation::register::Digest256;
use attestation::signature::Signature as Bytes;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use coset::cbor::Value;
use coset::{
    CoseSign1, CoseSign1Builder, HeaderBuilder, RegisteredLabelWithPrivate, TaggedCborSerializable,
    iana,
};
use serde::{Deserialize, Serialize};

use super::documents::Manifest;
use super::key::{KeyError, SigningKey, VerifyingKey};
use super::provenance::{ProvenanceError, Stated};

/// A signature file, read but not checked.
#[derive(Debug)]
pub struct Signature {
    /// Whose it says it is.
    pub key: Digest256,
    form: Form,
}

#[derive(Debug)]
enum Form {
    Manifest {
        digest: Digest256,
        signature: Vec<u8>,
    },
    Provenance {
        payload: Vec<u8>,
        signature: Vec<u8>,
    },
    Corim(Box<CoseSign1>),
}

impl Signature {
    /// Reads any of the three forms.
    pub fn parse(bytes: &[u8]) -> Result<Self, SignatureError> {
        if !bytes.starts_with(b"{") {
            return cose(bytes).ok_or(SignatureError::Malformed);
        }
        let read = || match serde_json::from_slice(bytes).ok()? {
            File::Detached(Detached {
                format: FORMAT,
                key,
                manifest: digest,
                signature,
            }) => Some(Self {
                key,
                form: Form::Manifest {
                    digest,
                    signature: STANDARD.decode(signature).ok()?,
                },
            }),
            File::Envelope(Envelope {
                payload_type,
                payload,
                signatures: [signature],
            }) if payload_type == PAYLOAD_TYPE => Some(Self {
                key: signature.keyid,
                form: Form::Provenance {
                    payload: STANDARD.decode(payload).ok()?,
                    signature: STANDARD.decode(signature.sig).ok()?,
                },
            }),
            _ => None,
        };
        read().ok_or(SignatureError::Malformed)
    }

    /// What it speaks for.
    #[must_use]
    pub const fn subject(&self) -> Subject {
        match self.form {
            Form::Manifest { .. } => Subject::Manifest,
            Form::Provenance { .. } => Subject::Provenance,
            Form::Corim(_) => Subject::Corim,
        }
    }

    /// Checks that the holder of `key` signed this release.
    pub fn check(&self, key: &VerifyingKey, manifest: &Manifest) -> Result<(), SignatureError> {
        let forged = |_| SignatureError::Forged;
        match &self.form {
            Form::Manifest { digest, signature } => {
                if *digest != manifest.digest {
                    return Err(SignatureError::OtherManifest { found: *digest });
                }
                key.verify(manifest.text.as_bytes(), Bytes::Asn1(signature))
                    .map_err(forged)
            }
            Form::Provenance { payload, signature } => {
                key.verify(&encoding(payload), Bytes::Asn1(signature))
                    .map_err(forged)?;
                Stated::read(payload, manifest)?;
                Ok(())
            }
            Form::Corim(sign1) => {
                let (bytes, signature) = (sign1.tbs_data(b""), &sign1.signature);
                key.verify(&bytes, Bytes::Fixed(signature))
                    .map_err(forged)?;
                match sign1.payload.as_ref() == Some(&manifest.corim()) {
                    true => Ok(()),
                    false => Err(SignatureError::OtherCorim),
                }
            }
        }
    }
}

/// What a signature speaks for.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Subject {
    /// The release itself.
    Manifest,
    /// How it was built.
    Provenance,
    /// Its reference values.
    Corim,
}

impl std::fmt::Display for Subject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Manifest => "manifest",
            Self::Provenance => "provenance",
            Self::Corim => "CoRIM",
        })
    }
}

/// Signs the manifest.
pub fn manifest(key: &SigningKey, manifest: &Manifest) -> Result<Vec<u8>, KeyError> {
    let signature = key.sign(manifest.text.as_bytes())?;
    Ok(json(&File::Detached(Detached {
        format: FORMAT,
        key: key.public().id(),
        manifest: manifest.digest,
        signature: STANDARD.encode(signature),
    })))
}

/// Signs a statement.
pub fn provenance(key: &SigningKey, statement: &[u8]) -> Result<Vec<u8>, KeyError> {
    let signature = key.sign(&encoding(statement))?;
    Ok(json(&File::Envelope(Envelope {
        payload_type: PAYLOAD_TYPE.into(),
        payload: STANDARD.encode(statement),
        signatures: [EnvelopeSignature {
            keyid: key.public().id(),
            sig: STANDARD.encode(signature),
        }],
    })))
}

/// Signs the CoRIM: draft-ietf-rats-corim, section 4.2.
pub fn corim(key: &SigningKey, manifest: &Manifest) -> Result<Vec<u8>, KeyError> {
    let id = key.public().id();
    let issuer = Value::Text(format!("urn:cocoon:builder:{id}"));
    let protected = HeaderBuilder::new()
        .algorithm(iana::Algorithm::ES256)
        .content_type("application/rim+cbor".into())
        .key_id(id.as_bytes().to_vec())
        .value(CWT_CLAIMS, Value::Map(vec![(Value::from(ISSUER), issuer)]))
        .build();
    CoseSign1Builder::new()
        .protected(protected)
        .payload(manifest.corim())
        .try_create_signature(b"", |message| key.sign_fixed(message))?
        .build()
        .to_tagged_vec()
        .map_err(|_| KeyError::Sign)
}

fn cose(bytes: &[u8]) -> Option<Signature> {
    let sign1 = CoseSign1::from_tagged_slice(bytes).ok()?;
    let header = &sign1.protected.header;
    let es256 = RegisteredLabelWithPrivate::Assigned(iana::Algorithm::ES256);
    let key = <[u8; 32]>::try_from(&*header.key_id).ok()?;
    (header.alg == Some(es256)).then(|| Signature {
        key: Digest256::from_bytes(key),
        form: Form::Corim(Box::new(sign1)),
    })
}

/// `PAE` of DSSE v1: what is signed of a statement.
fn encoding(statement: &[u8]) -> Vec<u8> {
    let (kind, len) = (PAYLOAD_TYPE, statement.len());
    let mut bytes = format!("DSSEv1 {} {kind} {len} ", kind.len()).into_bytes();
    bytes.extend(statement);
    bytes
}

#[derive(Deserialize, Serialize)]
#[serde(untagged)]
enum File {
    Detached(Detached),
    Envelope(Envelope),
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Detached {
    format: u32,
    /// Name of the key.
    key: Digest256,
    /// SHA-256 of the manifest.
    manifest: Digest256,
    /// ECDSA with SHA-256 over the manifest's bytes, DER in base64.
    signature: String,
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields, rename_all = "camelCase")]
struct Envelope {
    payload_type: String,
    payload: String,
    signatures: [EnvelopeSignature; 1],
}

#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct EnvelopeSignature {
    keyid: Digest256,
    sig: String,
}

fn json(file: &File) -> Vec<u8> {
    // Strings and numbers under fixed names are always JSON.
    let text = serde_json::to_string_pretty(file).unwrap_or_default();
    (text + "\n").into_bytes()
}

const FORMAT: u32 = 1;
const PAYLOAD_TYPE: &str = "application/vnd.in-toto+json";
/// Header parameter of RFC 9597, and the claim in it.
const CWT_CLAIMS: i64 = 15;
const ISSUER: i64 = 1;

/// Why a file does not speak for a release.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum SignatureError {
    /// Not by that key, or not over that.
    #[error("the signature is not by that key over this")]
    Forged,
    /// None of the three forms.
    #[error("no signature file: expected our JSON, a DSSE envelope or a COSE_Sign1")]
    Malformed,
    /// Signed, but other reference values.
    #[error("the signed CoRIM is not the one of this manifest")]
    OtherCorim,
    /// Signed, but another release.
    #[error("the signature is for the manifest with SHA-256 {found}")]
    OtherManifest {
        /// As signed.
        found: Digest256,
    },
    /// Signed, but another statement.
    #[error(transparent)]
    Provenance(#[from] ProvenanceError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::release::provenance::tests::{manifest as published, statement};
    use ::corim::types::signed::{decode_signed_corim, validate_signed_corim_payload};
    use measurements::release::Release;

    fn key() -> SigningKey {
        let dir = tempfile::tempdir().unwrap();
        SigningKey::generate(&dir.path().join("key")).unwrap()
    }

    fn files(key: &SigningKey, release: &Manifest) -> [Vec<u8>; 3] {
        [
            manifest(key, release).unwrap(),
            provenance(key, statement(release).as_bytes()).unwrap(),
            corim(key, release).unwrap(),
        ]
    }

    fn check(file: &[u8], key: &SigningKey, release: &Manifest) -> Result<(), SignatureError> {
        Signature::parse(file)?.check(&key.public(), release)
    }

    /// The same release with another version.
    fn other(release: &Manifest) -> Manifest {
        let text = release.text.replacen("0.1.0", "0.1.1", 1);
        Manifest::of(Release::parse(text.as_bytes()).unwrap()).unwrap()
    }

    #[test]
    fn every_form_speaks_for_its_key_and_release_only() {
        let (key, release) = (key(), published());
        let subjects = [Subject::Manifest, Subject::Provenance, Subject::Corim];
        for (file, subject) in files(&key, &release).iter().zip(subjects) {
            let signature = Signature::parse(file).unwrap();
            assert_eq!(
                (signature.key, signature.subject()),
                (key.public().id(), subject)
            );
            assert_eq!(check(file, &key, &release), Ok(()));
            assert_eq!(
                check(file, &self::key(), &release),
                Err(SignatureError::Forged)
            );
            let error = check(file, &key, &other(&release)).unwrap_err().to_string();
            let expected = match subject {
                Subject::Manifest => format!(
                    "the signature is for the manifest with SHA-256 {}",
                    release.digest
                ),
                Subject::Provenance => format!(
                    "provenance does not speak of release.json with SHA-256 {}",
                    other(&release).digest
                ),
                Subject::Corim => "the signed CoRIM is not the one of this manifest".into(),
            };
            assert_eq!(error, expected);
        }
    }

    #[test]
    fn a_signature_that_claims_another_manifest_does_not_verify() {
        let (key, release) = (key(), published());
        let other = other(&release);
        let file = String::from_utf8(manifest(&key, &release).unwrap()).unwrap();
        let file = file.replace(&release.digest.to_string(), &other.digest.to_string());
        assert_eq!(
            check(file.as_bytes(), &key, &other),
            Err(SignatureError::Forged)
        );
    }

    #[test]
    fn a_changed_byte_is_never_accepted() {
        let (key, release) = (key(), published());
        for file in files(&key, &release) {
            // Every byte of the short one, some of the long ones.
            for at in (0..file.len()).step_by((file.len() / 300).max(1)) {
                let mut changed = file.clone();
                changed[at] ^= 1;
                let Ok(signature) = Signature::parse(&changed) else {
                    continue;
                };
                let mine = signature.key == key.public().id();
                let result = signature.check(&key.public(), &release);
                assert!(!mine || result.is_err(), "byte {at}");
            }
        }
    }

    #[test]
    fn every_proper_prefix_is_malformed() {
        for file in files(&key(), &published()) {
            let end = file.trim_ascii_end().len();
            for cut in (0..end).step_by((end / 200).max(1)) {
                let error = Signature::parse(&file[..cut]).unwrap_err();
                assert_eq!(error, SignatureError::Malformed, "cut at {cut}");
            }
        }
    }

    #[test]
    fn an_independent_reader_takes_the_signed_corim() {
        let (key, release) = (key(), published());
        let signed = decode_signed_corim(&corim(&key, &release).unwrap()).unwrap();
        assert!(validate_signed_corim_payload(&signed, 0).is_ok());
        let bytes = signed.to_be_signed(b"").unwrap();
        let fixed = Bytes::Fixed(&signed.signature);
        assert_eq!(key.public().verify(&bytes, fixed), Ok(()));
    }
}
