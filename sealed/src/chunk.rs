//! One direction of a conversation: bytes into sealed chunks, and back.

use alloc::vec::Vec;
use core::{fmt, mem};

use crate::aead::{Key, Nonce, TAG};
use crate::frame::{ChunkError, Frames, MAX_CHUNK, Piece, header};
use crate::key::SealError;

/// Seals the chunks of one direction.
pub struct Sealer(Direction);

impl Sealer {
    /// Seals `data` in as many chunks as it takes, which are none for no data.
    pub fn chunk(&mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        out.reserve(sealed_len(data));
        let mut chunks = data.chunks(MAX_DATA);
        chunks.try_for_each(|part| self.0.seal(part, false, out))
    }

    /// Seals `data`, and says that nothing follows.
    pub fn last(mut self, data: &[u8], out: &mut Vec<u8>) -> Result<(), SealError> {
        let whole = data.len().saturating_sub(1) / MAX_DATA;
        let (before, last) = data.split_at(whole.saturating_mul(MAX_DATA));
        out.reserve(sealed_len(data));
        self.chunk(before, out)?;
        self.0.seal(last, true, out)
    }

    pub(crate) const fn new(direction: Direction) -> Self {
        Self(direction)
    }
}

impl fmt::Debug for Sealer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sealer").finish_non_exhaustive()
    }
}

/// Opens the chunks of a request.
#[derive(Debug)]
pub struct Opener(Chunks);

impl Opener {
    /// Takes more of the stream, in pieces of any size, and gives what each chunk held
    /// that is whole now. After an error there is nothing but that error.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, ChunkError> {
        let mut opened = Vec::new();
        self.0.push(bytes, &mut opened)?;
        Ok(opened)
    }

    /// The stream is over: an error if its last chunk has not come.
    pub fn end(self) -> Result<(), ChunkError> {
        self.0.end().map(drop)
    }

    pub(crate) const fn new(direction: Direction) -> Self {
        Self(Chunks::new(direction, 0))
    }
}

/// Opens a stream of chunks, and keeps what follows them.
#[derive(Debug)]
pub(crate) struct Chunks {
    direction: Direction,
    frames: Frames,
    header: [u8; 4],
    body: Vec<u8>,
    after: Vec<u8>,
}

impl Chunks {
    /// With at most so many bytes after the chunks.
    pub(crate) const fn new(direction: Direction, tail: usize) -> Self {
        Self {
            direction,
            frames: Frames::new(0, tail),
            header: [0; 4],
            body: Vec::new(),
            after: Vec::new(),
        }
    }

    pub(crate) fn push(
        &mut self,
        bytes: &[u8],
        opened: &mut Vec<Vec<u8>>,
    ) -> Result<(), ChunkError> {
        self.take(bytes, opened)
            .inspect_err(|error| self.frames.fail(*error))
    }

    /// What followed the chunks.
    pub(crate) fn end(self) -> Result<Vec<u8>, ChunkError> {
        self.frames.end()?;
        Ok(self.after)
    }

    fn take(&mut self, mut bytes: &[u8], opened: &mut Vec<Vec<u8>>) -> Result<(), ChunkError> {
        while let Some(piece) = self.frames.next(&mut bytes)? {
            match piece {
                Piece::Before(_) => {}
                Piece::Header(header) => self.header = header,
                Piece::Body { part, whole } => {
                    self.keep(part, whole);
                    if whole {
                        let body = mem::take(&mut self.body);
                        opened.push(self.direction.open(self.header, body)?);
                    }
                }
                Piece::After(part) => self.after.extend_from_slice(part),
            }
        }
        Ok(())
    }

    /// In room for as much as came, or, while more is to come, for some times that.
    fn keep(&mut self, part: &[u8], whole: bool) {
        let needed = self.body.len().saturating_add(part.len());
        if needed > self.body.capacity() {
            let ahead = needed.saturating_mul(4).min(MAX_CHUNK.saturating_add(TAG));
            let room = if whole { needed } else { ahead.max(needed) };
            self.body
                .reserve_exact(room.saturating_sub(self.body.len()));
        }
        self.body.extend_from_slice(part);
    }
}

/// A key and its nonces: for one direction of one conversation.
pub(crate) struct Direction {
    key: Key,
    base: Nonce,
    chunk: u64,
}

impl Direction {
    pub(crate) fn new(key: &[u8; Key::LEN], base: Nonce) -> Result<Self, SealError> {
        Ok(Self {
            key: Key::new(key)?,
            base,
            chunk: 0,
        })
    }

    fn seal(&mut self, data: &[u8], last: bool, out: &mut Vec<u8>) -> Result<(), SealError> {
        let padded = data.len().saturating_add(1).next_multiple_of(BLOCK);
        let header = header(padded.saturating_add(TAG), last).ok_or(SealError)?;
        let padding = PADDING.get(..padded.saturating_sub(data.len()));
        out.extend_from_slice(&header);
        let start = out.len();
        out.resize(start.saturating_add(padded).saturating_add(TAG), 0);
        let parts = [data, padding.ok_or(SealError)?];
        let place = out.get_mut(start..).ok_or(SealError)?;
        self.key.seal(self.nonce(), &header, parts, place)?;
        self.chunk = self.chunk.checked_add(1).ok_or(SealError)?;
        Ok(())
    }

    fn open(&mut self, header: [u8; 4], sealed: Vec<u8>) -> Result<Vec<u8>, ChunkError> {
        let chunk = self.chunk;
        let text = self.key.open(self.nonce(), &header, sealed);
        let mut text = text.ok_or(ChunkError::Forged { chunk })?;
        let end = text.iter().rposition(|byte| *byte != 0);
        let end = end.filter(|end| text.get(*end) == Some(&END));
        text.truncate(end.ok_or(ChunkError::Padding { chunk })?);
        self.chunk = chunk.saturating_add(1);
        Ok(text)
    }

    /// `base XOR chunk` (RFC 9180, section 5.2, as draft-ietf-ohai-chunked-ohttp has it
    /// for its chunks).
    fn nonce(&self) -> Nonce {
        let mut nonce = self.base;
        let low = nonce.iter_mut().rev();
        low.zip(self.chunk.to_be_bytes().iter().rev())
            .for_each(|(byte, count)| *byte ^= count);
        nonce
    }
}

impl fmt::Debug for Direction {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Direction").finish_non_exhaustive()
    }
}

/// At most: for one allocation.
fn sealed_len(data: &[u8]) -> usize {
    let chunks = data.len().div_ceil(MAX_DATA).max(1);
    let beside = HEADER.saturating_add(BLOCK).saturating_add(TAG);
    data.len().saturating_add(chunks.saturating_mul(beside))
}

/// Between data and padding (ISO/IEC 7816-4 has 0x80; TLS 1.3 a type that is not zero).
const END: u8 = 1;
const PADDING: [u8; BLOCK] = {
    let mut padding = [0; BLOCK];
    padding[0] = END;
    padding
};
const BLOCK: usize = 256;
const HEADER: usize = 4;

/// Whole lines of a cache: a chunk's text begins where one does if the first one's does.
const MAX_DATA: usize = MAX_CHUNK - 64;
