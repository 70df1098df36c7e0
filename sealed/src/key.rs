//! The key that requests are sealed to, and what both ends derive of it.
//!
//! ```text
//! public key       1216 bytes: ML-KEM-768's, then X25519's
//! enc              1120 bytes
//! request's key    Export("request key", 32)
//! request's base   Export("request nonce", 12)
//! ```
//!
//! What is sealed today stays sealed for whoever keeps it until there are quantum
//! computers: X-Wing is broken only where both its halves are.
//!
//! Source: RFC 9180, sections 5.1.1 and 5.3, suite 0x647a, 0x0001, 0xffff;
//! draft-connolly-cfrg-xwing-kem.

use alloc::vec::Vec;
use core::convert::Infallible;
use core::fmt;

use attestation::register::Digest256;
use hpke::aead::{AeadCtxR, AeadCtxS, ExportOnlyAead};
use hpke::kdf::HkdfSha256;
use hpke::kem::XWing;
use hpke::{
    Deserializable as _, HpkeError, Kem as _, OpModeR, OpModeS, Serializable as _, setup_receiver,
    setup_sender_with_rng,
};
use rand_core::{TryCryptoRng, TryRng};
use zeroize::{Zeroize as _, Zeroizing};

use crate::chunk::{Direction, Opener, Sealer};
use crate::kem::{self, Expanded};
use crate::response::{Responder, Response, Secret};

/// Begins a request to the holder of `key`: its first bytes, what seals its chunks, and
/// what opens its answer. `envelope` is what travels in clear beside it.
pub fn seal(
    key: &PublicKey,
    envelope: &[u8],
    random: [u8; 64],
) -> Result<(Vec<u8>, Sealer, Response), SealError> {
    let mut random = Random(Zeroizing::new(random), 0);
    let (enc, context): (_, AeadCtxS<ExportOnlyAead, HkdfSha256, XWing>) =
        setup_sender_with_rng(&OpModeS::Base, &key.0, &info(envelope), &mut random)
            .map_err(|_| SealError)?;
    // As many as X-Wing takes: it got all of them, and nothing was made up.
    if random.1 != random.0.len() {
        return Err(SealError);
    }
    let enc = enc.to_bytes().to_vec();
    let start = [&[VERSION], &enc[..]].concat();
    let (request, secret) = derive(enc, |label, out| context.export(label, out))?;
    Ok((start, Sealer::new(request), Response::new(secret)))
}

/// Whom requests are sealed to. To have one is to know whose it is: it comes from its
/// own secret key, or from evidence.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct PublicKey(<XWing as hpke::Kem>::PublicKey);

impl PublicKey {
    /// Whoever calls has to know whose it is.
    pub(crate) fn parse(bytes: &[u8]) -> Option<Self> {
        <XWing as hpke::Kem>::PublicKey::from_bytes(bytes)
            .ok()
            .map(Self)
    }

    /// As a keyset has it.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        self.0.to_bytes().to_vec()
    }

    /// Under which its worker is known.
    #[must_use]
    pub fn id(&self) -> Digest256 {
        Digest256::of(&self.bytes())
    }
}

/// What opens requests. It forgets itself when dropped.
pub struct SecretKey(kem::PrivateKey);

impl SecretKey {
    /// The key of a random seed.
    pub fn from_seed(mut seed: [u8; 32]) -> Result<Self, OpenError> {
        let key = kem::PrivateKey::from_bytes(&seed);
        seed.zeroize();
        key.map(Self).map_err(OpenError::Hpke)
    }

    /// What requests are sealed to.
    #[must_use]
    pub fn public(&self) -> PublicKey {
        PublicKey(Expanded::sk_to_pk(&self.0))
    }

    /// Begins to open the request that came with `envelope`, of which `start` are the
    /// first [`START`] bytes. Whether it was sealed to this key, beside this envelope,
    /// shows with its first chunk.
    pub fn open(&self, envelope: &[u8], start: &[u8]) -> Result<(Opener, Responder), OpenError> {
        let len = OpenError::Length { found: start.len() };
        let enc = match start.split_first().ok_or(len)? {
            (&VERSION, enc) if start.len() == START => enc,
            (&VERSION, _) => return Err(len),
            (&found, _) => return Err(OpenError::Version { found }),
        };
        let read = <XWing as hpke::Kem>::EncappedKey::from_bytes(enc).map_err(OpenError::Hpke)?;
        let context: AeadCtxR<ExportOnlyAead, HkdfSha256, Expanded> =
            setup_receiver(&OpModeR::Base, &self.0, &read, &info(envelope))
                .map_err(OpenError::Hpke)?;
        let (request, secret) = derive(enc.to_vec(), |label, out| context.export(label, out))
            .map_err(OpenError::Cipher)?;
        Ok((Opener::new(request), Responder::new(secret)))
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretKey").finish_non_exhaustive()
    }
}

/// What both ends of a context derive of it.
fn derive(
    enc: Vec<u8>,
    export: impl Fn(&[u8], &mut [u8]) -> Result<(), HpkeError>,
) -> Result<(Direction, Secret), SealError> {
    let (mut key, mut base) = (Zeroizing::new([0; 32]), [0; 12]);
    let mut secret = Zeroizing::new([0; 32]);
    export(b"request key", &mut *key).map_err(|_| SealError)?;
    export(b"request nonce", &mut base).map_err(|_| SealError)?;
    export(b"response", &mut *secret).map_err(|_| SealError)?;
    Ok((Direction::new(&key, base)?, Secret { secret, enc }))
}

fn info(envelope: &[u8]) -> Vec<u8> {
    [
        b"cocoon/sealed/v1\0",
        &Digest256::of(envelope).as_bytes()[..],
    ]
    .concat()
}

/// The caller's random bytes, in the library's shape: how many were given is counted.
struct Random(Zeroizing<[u8; 64]>, usize);

impl TryRng for Random {
    type Error = Infallible;

    fn try_fill_bytes(&mut self, out: &mut [u8]) -> Result<(), Infallible> {
        let given = self.0.iter().skip(self.1);
        out.iter_mut().zip(given).for_each(|(to, from)| *to = *from);
        self.1 = self.1.saturating_add(out.len());
        Ok(())
    }

    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        let mut bytes = [0; 4];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u32::from_le_bytes(bytes))
    }

    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        let mut bytes = [0; 8];
        self.try_fill_bytes(&mut bytes)?;
        Ok(u64::from_le_bytes(bytes))
    }
}

impl TryCryptoRng for Random {}

/// Bytes of a request before its first chunk.
pub const START: usize = 1121;

/// Bytes of a request in all, for whoever passes one on and whoever reads it: one that is cut
/// short by the second, and not by the first, would have two hashes.
pub const MAX_REQUEST: usize = 32 << 20;

const VERSION: u8 = 1;

/// A library refused what it documents to take; nothing was sealed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("the cipher refused key or text")]
pub struct SealError;

/// Why a request is not even begun to be opened.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OpenError {
    /// After all was checked that can be.
    #[error("cannot make the keys of a request")]
    Cipher(#[source] SealError),
    /// No key, or nothing that was encapsulated for one.
    #[error("cannot decapsulate")]
    Hpke(#[source] HpkeError),
    /// Too few bytes, or too many.
    #[error("a request's start has {found} bytes, expected {START}")]
    Length {
        /// As given.
        found: usize,
    },
    /// Of another time.
    #[error("a sealed request of version {found}, expected {VERSION}")]
    Version {
        /// As read.
        found: u8,
    },
}
