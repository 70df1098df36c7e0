//! How a machine asks the owner of an encrypted model for its key.
//!
//! ```text
//! machine                                  key server
//!   connects over TCP, then takes the server's part in attested TLS (protocol.rs):
//!                                    <-     Challenge, ...
//!   Evidence                         ->     judged by the owner's policy
//!   KeyRequest { nonce, root }       ->
//!                                    <-     Key { key, signature } or Refused
//! ```
//!
//! The key goes into the very session that the evidence is bound to, so it reaches the
//! measured machine and nobody else. The signature is over this session and the
//! machine's nonce by the key that its measured configuration names, so that no other
//! server can answer; and the key has to have the digest that the configuration names,
//! so that one root hash stands for one model.
//!
//! Each message is one frame, as at the gate.

use alloc::vec::Vec;

use minicbor::{Decode, Encode};

use crate::binding::KeyingMaterial;
use crate::config::{KEY_LEN, KeySource};
use crate::register::Digest256;
use crate::signature::{self, Scheme, Signature};

/// From the machine.
#[derive(Clone, Debug, Decode, Encode, Eq, PartialEq)]
pub struct KeyRequest {
    /// Fresh.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub nonce: [u8; 32],
    /// Root hash of the model's disk.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub root: [u8; 32],
}

impl KeyRequest {
    /// Longest frame that a key server reads, in bytes.
    pub const MAX: usize = 128;
}

/// From the key server.
#[derive(Decode, Encode)]
pub enum KeyAnswer {
    /// What was asked for.
    #[n(0)]
    Key(#[n(0)] KeyGrant),
    /// The machine is what it says, and does not get this key.
    #[n(1)]
    Refused(#[n(0)] KeyRefusal),
}

impl KeyAnswer {
    /// Longest frame that a machine reads, in bytes.
    pub const MAX: usize = 1024;
}

/// A key, and who gives it. It has no `Debug` form.
#[derive(Decode, Encode)]
pub struct KeyGrant {
    /// The secret.
    #[cbor(n(0), with = "minicbor::bytes")]
    pub key: [u8; KEY_LEN],
    /// SubjectPublicKeyInfo of the server's key, ECDSA on P-256.
    #[cbor(n(1), with = "minicbor::bytes")]
    pub spki: Vec<u8>,
    /// Over [`statement`], `r || s`.
    #[cbor(n(2), with = "minicbor::bytes")]
    pub signature: Vec<u8>,
}

impl KeyGrant {
    /// The key, if the server that `source` names gave it in this session for `root`.
    pub fn verify(
        &self,
        source: &KeySource,
        session: &KeyingMaterial,
        root: &Digest256,
    ) -> Result<&[u8; KEY_LEN], GrantError> {
        let found = Digest256::of(&self.spki);
        if found != source.server {
            return Err(GrantError::Server {
                found,
                expected: source.server,
            });
        }
        // Of what hashes to a digest that was chosen, the end is the point (RFC 5480).
        let point = self.spki.last_chunk::<65>().ok_or(GrantError::Forged)?;
        let found = Digest256::of(&self.key);
        let statement = statement(session, root, &found);
        let signature = Signature::Fixed(&self.signature);
        signature::verify(Scheme::P256Sha256, point, &statement, signature)
            .map_err(|_| GrantError::Forged)?;
        if found != source.sha256 {
            return Err(GrantError::Key {
                found,
                expected: source.sha256,
            });
        }
        Ok(&self.key)
    }
}

/// What a key server signs: who may use the key, where it goes, and for what.
#[must_use]
pub fn statement(session: &KeyingMaterial, root: &Digest256, key: &Digest256) -> Vec<u8> {
    [
        &b"cocoon/model-key/v1\0"[..],
        session,
        root.as_bytes(),
        key.as_bytes(),
    ]
    .concat()
}

/// Why a trusted machine gets no key.
#[derive(Clone, Copy, Debug, Decode, Encode, Eq, PartialEq, thiserror::Error)]
pub enum KeyRefusal {
    /// No key for this root hash.
    #[n(0)]
    #[error("the key server has no key for this model")]
    Unknown,
    /// The measured configuration names another model, key or server.
    #[n(1)]
    #[error("the machine's configuration does not name this model with its key")]
    NotConfigured,
}

/// Why an answer is no key.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GrantError {
    /// Of another session, model or key.
    #[error("the key server's signature does not cover this session, model and key")]
    Forged,
    /// Another key than was measured.
    #[error("the key has the digest {found}, the measured configuration expects {expected}")]
    Key {
        /// Of what came.
        found: Digest256,
        /// As configured.
        expected: Digest256,
    },
    /// Another server than was measured.
    #[error("the key server is {found}, the measured configuration expects {expected}")]
    Server {
        /// Of its public key.
        found: Digest256,
        /// As configured.
        expected: Digest256,
    },
}
