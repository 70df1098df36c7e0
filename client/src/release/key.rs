//! A builder's key: ECDSA on P-256, as PEM.
//!
//! The private one is a PKCS#8 file that nobody but its owner may read. The public
//! one is a SubjectPublicKeyInfo, whose SHA-256 names the key. OpenSSL makes and
//! reads both.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use attestation::register::Digest256;
use attestation::signature::{self, Forged, Scheme, Signature};
use aws_lc_rs::encoding::AsDer;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair,
};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{PrivatePkcs8KeyDer, SubjectPublicKeyInfoDer};
use zeroize::Zeroizing;

/// Signs.
#[derive(Debug)]
pub struct SigningKey {
    asn1: EcdsaKeyPair,
    fixed: EcdsaKeyPair,
    public: VerifyingKey,
}

impl SigningKey {
    /// Makes a new key in a new file.
    pub fn generate(path: &Path) -> Result<Self, KeyError> {
        let unusable = |_| KeyError::Unusable { path: path.into() };
        let pair = EcdsaKeyPair::generate(&ECDSA_P256_SHA256_ASN1_SIGNING).map_err(unusable)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(unusable)?;
        let text = Zeroizing::new(pem("PRIVATE KEY", pkcs8.as_ref()));
        let file = |source| KeyError::File {
            path: path.into(),
            source,
        };
        let mut options = OpenOptions::new();
        options.write(true).create_new(true).mode(0o600);
        let mut created = options.open(path).map_err(file)?;
        created.write_all(text.as_bytes()).map_err(file)?;
        created.sync_all().map_err(file)?;
        Self::read(path)
    }

    /// Reads a key that only its owner may read.
    pub fn read(path: &Path) -> Result<Self, KeyError> {
        let file = |source| KeyError::File {
            path: path.into(),
            source,
        };
        let mut opened = File::open(path).map_err(file)?;
        let mode = opened.metadata().map_err(file)?.mode() & 0o7777;
        if mode & 0o077 != 0 {
            let path = path.into();
            return Err(KeyError::Mode { path, mode });
        }
        let mut text = Zeroizing::new(Vec::new());
        opened.read_to_end(&mut text).map_err(file)?;
        let unusable = || KeyError::Unusable { path: path.into() };
        let der = PrivatePkcs8KeyDer::from_pem_slice(&text).map_err(|_| unusable())?;
        let load = |algorithm| {
            EcdsaKeyPair::from_pkcs8(algorithm, der.secret_pkcs8_der()).map_err(|_| unusable())
        };
        let asn1 = load(&ECDSA_P256_SHA256_ASN1_SIGNING)?;
        let spki = asn1.public_key().as_der().map_err(|_| unusable())?;
        let public = VerifyingKey::from_spki(spki.as_ref()).ok_or_else(unusable)?;
        Ok(Self {
            fixed: load(&ECDSA_P256_SHA256_FIXED_SIGNING)?,
            asn1,
            public,
        })
    }

    /// Its public half.
    #[must_use]
    pub const fn public(&self) -> VerifyingKey {
        self.public
    }

    /// A signature in DER, as OpenSSL and DSSE want it.
    pub(super) fn sign(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        sign(&self.asn1, message)
    }

    /// A signature as two numbers, as COSE wants it.
    pub(crate) fn sign_fixed(&self, message: &[u8]) -> Result<Vec<u8>, KeyError> {
        sign(&self.fixed, message)
    }
}

fn sign(pair: &EcdsaKeyPair, message: &[u8]) -> Result<Vec<u8>, KeyError> {
    let signature = pair.sign(&SystemRandom::new(), message);
    signature
        .map(|signature| signature.as_ref().to_vec())
        .map_err(|_| KeyError::Sign)
}

/// Checks.
#[derive(Clone, Copy, Eq, PartialEq)]
pub struct VerifyingKey([u8; POINT]);

impl VerifyingKey {
    /// Reads what [`fmt::Display`] writes.
    #[must_use]
    pub fn from_pem(text: &str) -> Option<Self> {
        Self::from_spki(&SubjectPublicKeyInfoDer::from_pem_slice(text.as_bytes()).ok()?)
    }

    fn from_spki(der: &[u8]) -> Option<Self> {
        let point = der.strip_prefix(&SPKI)?;
        point.try_into().ok().map(Self)
    }

    /// SHA-256 of the SubjectPublicKeyInfo.
    #[must_use]
    pub fn id(&self) -> Digest256 {
        Digest256::of(&self.spki())
    }

    pub(super) fn verify(&self, message: &[u8], signature: Signature<'_>) -> Result<(), Forged> {
        signature::verify(Scheme::P256Sha256, &self.0, message, signature)
    }

    /// SubjectPublicKeyInfo.
    pub(crate) fn spki(&self) -> Vec<u8> {
        [&SPKI[..], &self.0].concat()
    }
}

impl fmt::Display for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&pem("PUBLIC KEY", &self.spki()))
    }
}

impl fmt::Debug for VerifyingKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id().fmt(f)
    }
}

/// RFC 7468, in lines of 64.
fn pem(label: &str, der: &[u8]) -> String {
    let base64 = Zeroizing::new(STANDARD.encode(der));
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in base64.as_bytes().chunks(64) {
        text.push_str(&String::from_utf8_lossy(line));
        text.push('\n');
    }
    text + &format!("-----END {label}-----\n")
}

/// An uncompressed point.
const POINT: usize = 65;
/// What stands before the point: id-ecPublicKey, secp256r1 (RFC 5480, section 2.1.1).
const SPKI: [u8; 26] = [
    0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
    0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
];

/// Why there is no key, or no signature.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// Not there, there already, or not readable.
    #[error("cannot use {}", path.display())]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others than the owner may read the key.
    #[error("{} has mode {mode:o}, expected 600 or less for a private key", path.display())]
    Mode {
        /// Which.
        path: PathBuf,
        /// As found.
        mode: u32,
    },
    /// The library would not.
    #[error("the key does not sign")]
    Sign,
    /// Another kind of key, or none.
    #[error("{} is no P-256 private key in PKCS#8 PEM", path.display())]
    Unusable {
        /// Which.
        path: PathBuf,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn what_a_key_signs_its_public_half_verifies() {
        let dir = tempfile::tempdir().unwrap();
        let key = SigningKey::generate(&dir.path().join("key")).unwrap();
        let public = VerifyingKey::from_pem(&key.public().to_string()).unwrap();
        assert_eq!(public.id(), key.public().id());
        let der = key.sign(b"message").unwrap();
        let fixed = key.sign_fixed(b"message").unwrap();
        for signature in [Signature::Asn1(&der), Signature::Fixed(&fixed)] {
            assert_eq!(public.verify(b"message", signature), Ok(()));
            assert_eq!(public.verify(b"massage", signature), Err(Forged));
        }
    }

    #[test]
    fn a_private_key_that_others_may_read_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        SigningKey::generate(&path).unwrap();
        assert_eq!(path.metadata().unwrap().mode() & 0o7777, 0o600);
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let error = SigningKey::read(&path).unwrap_err().to_string();
        assert!(
            error.ends_with("has mode 640, expected 600 or less for a private key"),
            "{error}"
        );
    }

    #[test]
    fn a_key_is_never_written_over_another_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        fs::write(&path, "mine").unwrap();
        assert!(matches!(
            SigningKey::generate(&path),
            Err(KeyError::File { .. })
        ));
        assert_eq!(fs::read_to_string(&path).unwrap(), "mine");
    }

    #[test]
    fn text_that_is_no_key_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("key");
        let mut options = OpenOptions::new();
        options.write(true).create(true).mode(0o600);
        options
            .open(&path)
            .unwrap()
            .write_all(b"-----BEGIN")
            .unwrap();
        assert!(matches!(
            SigningKey::read(&path),
            Err(KeyError::Unusable { .. })
        ));
        assert_eq!(VerifyingKey::from_pem("-----BEGIN"), None);
        assert_eq!(VerifyingKey::from_pem(&pem("PUBLIC KEY", &SPKI)), None);
    }
}
