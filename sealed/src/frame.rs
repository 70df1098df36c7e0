//! A stream cut into chunks, without a key: where each begins, and where the last ends.
//!
//! ```text
//! request    start[1121] || chunks
//! response   salt[32]    || chunks || settlement
//! chunk      len u32, big-endian; top bit: the last one || len bytes
//! ```
//!
//! Nothing of this is authenticated before the chunk has been opened.

use crate::aead::TAG;

/// Most that one chunk seals, its padding included, in bytes.
pub const MAX_CHUNK: usize = 1 << 16;

/// A place in a stream that comes in pieces of any size.
#[derive(Debug)]
pub(crate) struct Frames {
    place: Place,
    chunk: u64,
    /// How many bytes may follow the last chunk.
    tail: usize,
}

impl Frames {
    /// Before a stream with so many bytes before its chunks, and at most so many after.
    pub(crate) const fn new(before: usize, tail: usize) -> Self {
        Self {
            place: Place::Before { left: before },
            chunk: 0,
            tail,
        }
    }

    /// Takes what comes next from the front of `bytes`; `None` when they are used up.
    /// After an error there is nothing but that error.
    pub(crate) fn next<'a>(
        &mut self,
        bytes: &mut &'a [u8],
    ) -> Result<Option<Piece<'a>>, ChunkError> {
        self.step(bytes).inspect_err(|error| self.fail(*error))
    }

    /// Somebody found what follows not worth reading.
    pub(crate) const fn fail(&mut self, error: ChunkError) {
        self.place = Place::Failed(error);
    }

    /// The stream is over.
    pub(crate) const fn end(&self) -> Result<(), ChunkError> {
        match self.place {
            Place::After => Ok(()),
            Place::Failed(error) => Err(error),
            _ => Err(ChunkError::Truncated { chunk: self.chunk }),
        }
    }

    fn step<'a>(&mut self, bytes: &mut &'a [u8]) -> Result<Option<Piece<'a>>, ChunkError> {
        if let Place::Before { left: 0 } = self.place {
            self.place = Place::HEADER;
        }
        if bytes.is_empty() {
            return Ok(None);
        }
        let piece = match &mut self.place {
            Place::Before { left } => Piece::Before(take(left, bytes)),
            Place::Header { known, left } => {
                let at = known.len().saturating_sub(*left);
                let part = take(left, bytes);
                let place = known.iter_mut().skip(at);
                place.zip(part).for_each(|(place, byte)| *place = *byte);
                if *left > 0 {
                    return Ok(None);
                }
                let header = *known;
                self.place = Place::body(header)?;
                Piece::Header(header)
            }
            Place::Body { left, last } => {
                let part = take(left, bytes);
                let whole = *left == 0;
                if whole {
                    self.chunk = self.chunk.saturating_add(1);
                    self.place = match *last {
                        true => Place::After,
                        false => Place::HEADER,
                    };
                }
                Piece::Body { part, whole }
            }
            Place::After => {
                let part = core::mem::take(bytes);
                let left = self.tail.checked_sub(part.len());
                self.tail = left.ok_or(ChunkError::AfterLast)?;
                Piece::After(part)
            }
            Place::Failed(error) => return Err(*error),
        };
        Ok(Some(piece))
    }
}

/// What comes next of a stream.
#[derive(Debug)]
pub(crate) enum Piece<'a> {
    /// Before the chunks.
    Before(&'a [u8]),
    /// A chunk begins.
    Header([u8; 4]),
    /// Some of the chunk, up to its end if it is whole.
    Body { part: &'a [u8], whole: bool },
    /// After the last chunk.
    After(&'a [u8]),
}

/// The four bytes before a chunk of so many, tag included.
pub(crate) fn header(len: usize, last: bool) -> Option<[u8; 4]> {
    let len = u32::try_from(len).ok().filter(|len| len & LAST == 0)?;
    Some((len | if last { LAST } else { 0 }).to_be_bytes())
}

#[derive(Debug)]
enum Place {
    Before { left: usize },
    Header { known: [u8; 4], left: usize },
    Body { left: usize, last: bool },
    After,
    Failed(ChunkError),
}

impl Place {
    const HEADER: Self = Self::Header {
        known: [0; 4],
        left: 4,
    };

    fn body(header: [u8; 4]) -> Result<Self, ChunkError> {
        let word = u32::from_be_bytes(header);
        let announced = word & !LAST;
        let left = usize::try_from(announced).ok();
        let left = left.filter(|len| (TAG..=MAX_CHUNK.saturating_add(TAG)).contains(len));
        Ok(Self::Body {
            left: left.ok_or(ChunkError::Size { announced })?,
            last: word & LAST != 0,
        })
    }
}

fn take<'a>(left: &mut usize, bytes: &mut &'a [u8]) -> &'a [u8] {
    let (part, rest) = bytes.split_at(bytes.len().min(*left));
    *left = left.saturating_sub(part.len());
    *bytes = rest;
    part
}

const LAST: u32 = 1 << 31;

/// Why a stream is not what was sealed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ChunkError {
    /// More than belongs there.
    #[error("bytes after the last chunk that do not belong there")]
    AfterLast,
    /// Changed, moved, repeated, of another stream, or for another key.
    #[error("chunk {chunk} is not what was sealed for this place")]
    Forged {
        /// Counted from 0.
        chunk: u64,
    },
    /// The sealer's own defect.
    #[error("chunk {chunk} has no padding")]
    Padding {
        /// Counted from 0.
        chunk: u64,
    },
    /// Whoever opens has too little.
    #[error("no room for what a chunk holds, which is {needed} bytes with its padding")]
    Room {
        /// As opened.
        needed: usize,
    },
    /// Larger than any chunk, or too small for a tag.
    #[error("a chunk of {announced} bytes announced, expected {TAG} to {MAX_CHUNK} + {TAG}")]
    Size {
        /// As announced.
        announced: u32,
    },
    /// The stream ended before its last chunk did.
    #[error("the stream ended in chunk {chunk}, which is not the last")]
    Truncated {
        /// Counted from 0.
        chunk: u64,
    },
}
