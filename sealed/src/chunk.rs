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
    pub fn chunk(&mut self, data: &[u8], out: &mut impl Place) -> Result<(), SealError> {
        let len = sealed_len(data);
        let mut place = out.room(len).ok_or(SealError)?;
        let mut chunks = data.chunks(MAX_DATA);
        chunks.try_for_each(|part| self.0.seal(part, false, &mut place))?;
        out.keep(len, len);
        Ok(())
    }

    /// Seals `data`, and says that nothing follows.
    pub fn last(mut self, data: &[u8], out: &mut impl Place) -> Result<(), SealError> {
        let whole = data.len().saturating_sub(1) / MAX_DATA;
        let (before, last) = data.split_at(whole.saturating_mul(MAX_DATA));
        let len = sealed_len(before).saturating_add(chunk_len(last));
        let mut place = out.room(len).ok_or(SealError)?;
        self.chunk(before, &mut place)?;
        self.0.seal(last, true, &mut place)?;
        out.keep(len, len);
        Ok(())
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

/// Where bytes go that are sealed or opened.
pub trait Place {
    /// Room for so many; `None` if there is none.
    fn room(&mut self, len: usize) -> Option<&mut [u8]>;

    /// Of `len` bytes that room was made for, the first `kept` were written.
    fn keep(&mut self, kept: usize, len: usize);
}

/// After what it holds.
impl Place for Vec<u8> {
    fn room(&mut self, len: usize) -> Option<&mut [u8]> {
        let start = self.len();
        self.resize(start.saturating_add(len), 0);
        self.get_mut(start..)
    }

    fn keep(&mut self, kept: usize, len: usize) {
        self.truncate(self.len().saturating_sub(len).saturating_add(kept));
    }
}

/// To its front, which is then taken off: nothing is written twice, as a `Vec` is.
impl Place for &mut [u8] {
    fn room(&mut self, len: usize) -> Option<&mut [u8]> {
        self.get_mut(..len)
    }

    fn keep(&mut self, kept: usize, _: usize) {
        if let Some((_, rest)) = mem::take(self).split_at_mut_checked(kept) {
            *self = rest;
        }
    }
}

/// Opens the chunks of a request.
#[derive(Debug)]
pub struct Opener(Chunks);

impl Opener {
    /// Takes the stream from the front of `bytes`, which are pieces of any size, up to the
    /// end of a chunk, and writes what that chunk held. False if the bytes are used up
    /// before. After an error there is nothing but that error.
    pub fn open(&mut self, bytes: &mut &[u8], out: &mut impl Place) -> Result<bool, ChunkError> {
        self.0.open(bytes, out)
    }

    /// What each chunk held that is whole once these bytes have come.
    pub fn push(&mut self, bytes: &[u8]) -> Result<Vec<Vec<u8>>, ChunkError> {
        each(bytes, |bytes, out| self.open(bytes, out))
    }

    /// The stream is over: an error if its last chunk has not come.
    pub fn end(self) -> Result<(), ChunkError> {
        self.0.end().map(drop)
    }

    pub(crate) const fn new(direction: Direction) -> Self {
        Self(Chunks::new(direction, 0))
    }
}

/// Opens as long as there is a chunk to open.
pub(crate) fn each(
    mut bytes: &[u8],
    mut open: impl FnMut(&mut &[u8], &mut Vec<u8>) -> Result<bool, ChunkError>,
) -> Result<Vec<Vec<u8>>, ChunkError> {
    let (mut all, mut next) = (Vec::new(), Vec::new());
    while open(&mut bytes, &mut next)? {
        all.push(mem::take(&mut next));
    }
    Ok(all)
}

/// Opens a stream of chunks, and keeps what follows them.
#[derive(Debug)]
pub(crate) struct Chunks {
    direction: Direction,
    frames: Frames,
    header: [u8; 4],
    /// What came of a chunk that is not whole.
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

    pub(crate) fn open(
        &mut self,
        bytes: &mut &[u8],
        out: &mut impl Place,
    ) -> Result<bool, ChunkError> {
        let opened = self.next(bytes, out);
        opened.inspect_err(|error| self.frames.fail(*error))
    }

    /// What followed the chunks.
    pub(crate) fn end(self) -> Result<Vec<u8>, ChunkError> {
        self.frames.end()?;
        Ok(self.after)
    }

    fn next(&mut self, bytes: &mut &[u8], out: &mut impl Place) -> Result<bool, ChunkError> {
        while let Some(piece) = self.frames.next(bytes)? {
            match piece {
                Piece::Before(_) => {}
                Piece::Header(header) => self.header = header,
                Piece::Body { part, whole } => {
                    if whole && self.body.is_empty() {
                        self.direction.open(self.header, part, out)?;
                        return Ok(true);
                    }
                    self.keep(part, whole);
                    if whole {
                        self.direction.open(self.header, &self.body, out)?;
                        self.body.clear();
                        return Ok(true);
                    }
                }
                Piece::After(part) => self.after.extend_from_slice(part),
            }
        }
        Ok(false)
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

    fn seal(&mut self, data: &[u8], last: bool, out: &mut impl Place) -> Result<(), SealError> {
        let padded = padded_len(data);
        let padding = PADDING.get(..padded.saturating_sub(data.len()));
        let parts = [data, padding.ok_or(SealError)?];
        let header = header(padded.saturating_add(TAG), last).ok_or(SealError)?;
        // Before anything is sealed: no nonce comes twice.
        let next = self.chunk.checked_add(1).ok_or(SealError)?;
        let len = chunk_len(data);
        let place = out.room(len).ok_or(SealError)?;
        let (front, sealed) = place.split_first_chunk_mut().ok_or(SealError)?;
        *front = header;
        self.key.seal(self.nonce(), &header, parts, sealed)?;
        out.keep(len, len);
        self.chunk = next;
        Ok(())
    }

    /// Nothing of a chunk is kept before all of it was authenticated.
    fn open(
        &mut self,
        header: [u8; 4],
        sealed: &[u8],
        out: &mut impl Place,
    ) -> Result<(), ChunkError> {
        let (chunk, len) = (self.chunk, sealed.len().saturating_sub(TAG));
        let place = out.room(len).ok_or(ChunkError::Room { needed: len })?;
        let opened = match self.key.open(self.nonce(), &header, sealed, place) {
            Some(()) => data_len(place).ok_or(ChunkError::Padding { chunk }),
            None => Err(ChunkError::Forged { chunk }),
        };
        out.keep(*opened.as_ref().unwrap_or(&0), len);
        self.chunk = chunk.saturating_add(1);
        opened.map(drop)
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

/// What `data` takes in as many chunks as it needs.
fn sealed_len(data: &[u8]) -> usize {
    data.chunks(MAX_DATA).map(chunk_len).sum()
}

/// And in one.
const fn chunk_len(data: &[u8]) -> usize {
    padded_len(data).saturating_add(HEADER + TAG)
}

const fn padded_len(data: &[u8]) -> usize {
    data.len().saturating_add(1).next_multiple_of(BLOCK)
}

/// How much stands before the padding.
fn data_len(padded: &[u8]) -> Option<usize> {
    let blocks = padded.as_rchunks::<16>().1;
    let zeros = blocks.iter().rev().take_while(|block| **block == [0; 16]);
    let rest = padded.len().checked_sub(zeros.count().checked_mul(16)?)?;
    let end = padded.get(..rest)?.iter().rposition(|byte| *byte != 0)?;
    (padded.get(end) == Some(&END)).then_some(end)
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

/// With its padding a multiple of 768 bytes, which AWS-LC takes at a time where there is
/// AVX-512: of a text with a rest it is up to half as fast, unless a cache holds it.
const MAX_DATA: usize = MAX_CHUNK / 768 * 768 - 64;

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    fn at(chunk: u64) -> Direction {
        Direction {
            chunk,
            ..Direction::new(&[1; 32], [0xff; 12]).unwrap()
        }
    }

    /// Seals where one counts so far, opens where another does.
    fn passes(sealed: u64, opened: u64) -> bool {
        let (mut out, mut opener) = (Vec::new(), Chunks::new(at(opened), 0));
        at(sealed).seal(b"data", false, &mut out).unwrap();
        opener.open(&mut &out[..], &mut Vec::new()) == Ok(true)
    }

    #[test]
    fn chunks_are_counted_in_64_bits_and_no_number_comes_twice() {
        for chunk in [0, 1 << 32, u64::MAX - 1] {
            assert!(passes(chunk, chunk));
        }
        assert!(!passes(1 << 32, 0));
        assert!(!passes(0, 1 << 32));
        let (mut direction, mut out) = (at(u64::MAX - 1), Vec::new());
        direction.seal(b"one", false, &mut out).unwrap();
        let len = out.len();
        assert_eq!(direction.seal(b"more", true, &mut out), Err(SealError));
        assert_eq!(out.len(), len, "not even sealed");
    }

    #[test]
    fn padding_ends_where_the_last_byte_is_that_is_not_zero() {
        for len in [0, 1, 15, 16, 17, 255, 256, 300] {
            let text = [&vec![7; len][..], &[END]].concat();
            for zeros in [0, 1, 15, 16, 31, 32, 255] {
                let padded = [&text[..], &vec![0; zeros]].concat();
                assert_eq!(data_len(&padded), Some(len), "{len} and {zeros} zeros");
            }
            assert_eq!(data_len(&vec![0; len]), None);
            assert_eq!(data_len(&[&text[..], &[2, 0]].concat()), None);
        }
    }
}
