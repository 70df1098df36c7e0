//! The hash of a sealed stream, for receipts: by whoever sends, passes on, or opens it.
//!
//! ```text
//! SHA-256 over all of a request, and of a response up to the end of its last chunk
//! ```

use alloc::vec::Vec;

use attestation::register::Digest256;
use sha2_0_11::{Digest as _, Sha256};

use crate::frame::{ChunkError, Frames, Piece};
use crate::key::START;
use crate::response::SALT;
use crate::settlement::Settlement;

/// Hashes a stream that comes in pieces of any size, and finds its end without a key.
#[derive(Debug)]
pub struct Transcript {
    frames: Frames,
    hash: Sha256,
    after: Vec<u8>,
}

impl Transcript {
    /// Of a request.
    #[must_use]
    pub fn request() -> Self {
        Self::of(Frames::new(START, 0))
    }

    /// Of a response.
    #[must_use]
    pub fn response() -> Self {
        Self::of(Frames::new(SALT, Settlement::MAX))
    }

    /// Takes more of the stream.
    pub fn push(&mut self, mut bytes: &[u8]) -> Result<(), ChunkError> {
        while let Some(piece) = self.frames.next(&mut bytes)? {
            match piece {
                Piece::Before(part) | Piece::Body { part, .. } => self.hash.update(part),
                Piece::Header(header) => self.hash.update(header),
                Piece::After(part) => self.after.extend_from_slice(part),
            }
        }
        Ok(())
    }

    /// The stream is over: its hash, and what followed the last chunk.
    pub fn end(self) -> Result<(Digest256, Vec<u8>), ChunkError> {
        self.frames.end()?;
        let hash = Digest256::from_bytes(self.hash.finalize().into());
        Ok((hash, self.after))
    }

    fn of(frames: Frames) -> Self {
        Self {
            frames,
            hash: Sha256::new(),
            after: Vec::new(),
        }
    }
}
