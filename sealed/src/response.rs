//! The way back: keys of a response, from what both ends of its request know.
//!
//! ```text
//! secret    = Export("response", 32)
//! prk       = HKDF-Extract(enc || salt, secret)
//! key       = HKDF-Expand(prk, "key", 32)
//! base      = HKDF-Expand(prk, "nonce", 12)
//! ```
//!
//! The salt is the worker's, random, and as long as the key.
//!
//! Source: RFC 9458, section 4.4.

use alloc::boxed::Box;
use alloc::vec::Vec;
use core::{fmt, mem};

use hkdf::Hkdf;
use sha2_0_11::Sha256;
use zeroize::Zeroizing;

use crate::chunk::{Chunks, Direction, Place, Sealer, each};
use crate::frame::ChunkError;
use crate::key::SealError;
use crate::settlement::Settlement;

/// With whom one request was opened: seals the answer.
#[derive(Debug)]
pub struct Responder(Secret);

impl Responder {
    /// Begins the answer. `salt` is random, and never comes twice.
    pub fn start(self, salt: [u8; SALT], out: &mut Vec<u8>) -> Result<Sealer, SealError> {
        let direction = self.0.direction(&salt)?;
        out.extend_from_slice(&salt);
        Ok(Sealer::new(direction))
    }

    pub(crate) const fn new(secret: Secret) -> Self {
        Self(secret)
    }
}

/// By whom one request was sealed: opens the answer.
#[derive(Debug)]
pub struct Response(State);

impl Response {
    /// Takes the stream, from its first byte, from the front of `bytes`, which are pieces of
    /// any size, up to the end of a chunk, and writes what that chunk held. False if the
    /// bytes are used up before. After an error there is nothing but that error.
    pub fn open(&mut self, bytes: &mut &[u8], out: &mut impl Place) -> Result<bool, ChunkError> {
        self.salt(bytes)?;
        match &mut self.0 {
            State::Chunks(chunks) => chunks.open(bytes, out),
            State::Salt(..) => Ok(false),
        }
    }

    /// What each chunk held that is whole once these bytes have come.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, ChunkError> {
        each(bytes, |bytes, out| self.open(bytes, out))
    }

    /// The stream is over: what followed its last chunk, which is the settlement.
    pub fn end(self) -> Result<Vec<u8>, ChunkError> {
        match self.0 {
            State::Chunks(chunks) => chunks.end(),
            State::Salt(..) => Err(ChunkError::Truncated { chunk: 0 }),
        }
    }

    /// Takes the salt from the front, as long as it is not whole.
    fn salt(&mut self, bytes: &mut &[u8]) -> Result<(), ChunkError> {
        let State::Salt(secret, salt) = &mut self.0 else {
            return Ok(());
        };
        let missing = SALT.saturating_sub(salt.len()).min(bytes.len());
        let (part, rest) = bytes.split_at(missing);
        salt.extend_from_slice(part);
        *bytes = rest;
        if let Ok(salt) = salt.as_slice().try_into() {
            // No cipher refuses a key of its own length.
            let direction = secret.direction(salt);
            let direction = direction.map_err(|SealError| ChunkError::Forged { chunk: 0 })?;
            let chunks = Chunks::new(direction, Settlement::MAX);
            drop(mem::replace(&mut self.0, State::Chunks(Box::new(chunks))));
        }
        Ok(())
    }

    pub(crate) const fn new(secret: Secret) -> Self {
        Self(State::Salt(secret, Vec::new()))
    }
}

/// What both ends of a request know besides its keys.
pub(crate) struct Secret {
    pub(crate) secret: Zeroizing<[u8; 32]>,
    pub(crate) enc: Vec<u8>,
}

impl Secret {
    fn direction(&self, salt: &[u8; SALT]) -> Result<Direction, SealError> {
        let salt = [&self.enc, &salt[..]].concat();
        let prk = Hkdf::<Sha256>::new(Some(&salt), &*self.secret);
        let (mut key, mut base) = (Zeroizing::new([0; 32]), [0; 12]);
        prk.expand(b"key", &mut *key).map_err(|_| SealError)?;
        prk.expand(b"nonce", &mut base).map_err(|_| SealError)?;
        Direction::new(&key, base)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").finish_non_exhaustive()
    }
}

#[derive(Debug)]
enum State {
    /// So much of it came.
    Salt(Secret, Vec<u8>),
    Chunks(Box<Chunks>),
}

/// Bytes before a response's chunks: as many as its key has (RFC 9458, section 4.4).
pub(crate) const SALT: usize = 32;
