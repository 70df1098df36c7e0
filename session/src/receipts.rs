//! The key that signs receipts, the one that requests are sealed to, and the keyset that
//! names them.
//!
//! Both are made at boot, in memory, live as long as it, and are used for nothing else.
//! The keyset is made anew with each identity, whose TLS key is in it; evidence names the
//! newest.

use std::fmt;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{SystemTime, UNIX_EPOCH};

use attestation::aci::{JsonError, Keyset, KeysetError, Receipt};
use attestation::register::Digest256;
use aws_lc_rs::rand;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use sealed::{OpenError, SecretKey};

use crate::identity::Identity;

/// Signs for as long as this machine runs.
pub(crate) struct Signer {
    key: Ed25519KeyPair,
    pub(crate) seal: SecretKey,
    keyset: RwLock<Option<Arc<Keyset>>>,
}

impl Signer {
    pub(crate) fn new() -> Result<Self, KeyError> {
        let mut seed = [0; 32];
        rand::fill(&mut seed).map_err(|_| KeyError::Random)?;
        Ok(Self {
            key: Ed25519KeyPair::generate().map_err(|_| KeyError::Random)?,
            seal: SecretKey::from_seed(seed).map_err(KeyError::Seal)?,
            keyset: RwLock::default(),
        })
    }

    /// Makes the keyset of a new identity.
    pub(crate) fn renew(&self, tls: &Digest256) -> Result<(), KeyError> {
        let key = self.key.public_key().as_ref().try_into();
        let key = key.map_err(|_| KeyError::Random)?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let end = now.unwrap_or_default().saturating_add(Identity::LIFETIME);
        let keyset = Keyset::new(key, &self.seal.public().bytes(), tls, end.as_secs())
            .map_err(KeyError::Keyset)?;
        let mut place = self.keyset.write().unwrap_or_else(PoisonError::into_inner);
        *place = Some(Arc::new(keyset));
        Ok(())
    }

    /// The newest; there is none before the first identity.
    pub(crate) fn keyset(&self) -> Option<Arc<Keyset>> {
        self.keyset
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// The receipt as a document, under the newest keyset.
    pub(crate) fn sign(&self, mut receipt: Receipt) -> Result<String, SignError> {
        let keyset = self.keyset().ok_or(SignError::NoKeyset)?;
        receipt.workload_keyset_digest = *keyset.digest();
        receipt.key_id = Keyset::RECEIPTS.into();
        let unsigned = receipt.unsigned().map_err(SignError::Document)?;
        let signature = self.signature(unsigned.as_bytes())?;
        receipt.with(&signature).map_err(SignError::Document)
    }

    /// A signature over the hash of a cell.
    pub(crate) fn sign_hash(&self, hash: &[u8; 32]) -> Result<[u8; 64], SignError> {
        self.signature(hash)
    }

    fn signature(&self, bytes: &[u8]) -> Result<[u8; 64], SignError> {
        let signature = self.key.sign(bytes);
        signature
            .as_ref()
            .try_into()
            .map_err(|_| SignError::Signature)
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signer").finish_non_exhaustive()
    }
}

/// Why there are no keys.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// A time beyond what JSON can say.
    #[error("cannot name the keys")]
    Keyset(#[source] KeysetError),
    /// The system gives none.
    #[error("no randomness")]
    Random,
    /// Not for a seed of its own length.
    #[error("cannot make the key that requests are sealed to")]
    Seal(#[source] OpenError),
}

/// Why an answer has no receipt.
#[derive(Debug, thiserror::Error)]
pub enum SignError {
    /// A number beyond what JSON can say.
    #[error("cannot write the receipt")]
    Document(#[source] JsonError),
    /// Before the first identity.
    #[error("no keyset yet")]
    NoKeyset,
    /// Of another length than Ed25519 has.
    #[error("no signature of 64 bytes")]
    Signature,
}
