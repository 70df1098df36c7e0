//! CBOR with one encoding per value (RFC 8949, section 4.2).
//!
//! What is read must be what we would have written: so unknown keys, repeated
//! keys, longer integers and trailing bytes are refused in one comparison.

use alloc::vec::Vec;

use minicbor::{Decode, Encode};

/// Writes `value`.
pub fn encode<T: Encode<()>>(value: &T) -> Vec<u8> {
    // Memory takes everything, and no value of ours refuses to be written.
    minicbor::to_vec(value).unwrap_or_default()
}

/// Reads one value that is the whole of `bytes`.
pub fn decode<'b, T>(bytes: &'b [u8]) -> Result<T, CborError>
where
    T: Decode<'b, ()> + Encode<()>,
{
    let value = minicbor::decode(bytes).map_err(|error| CborError::Malformed {
        offset: error.position(),
    })?;
    match encode(&value) == bytes {
        true => Ok(value),
        false => Err(CborError::NotCanonical),
    }
}

/// Why bytes are not a value of the wanted type.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum CborError {
    /// Not CBOR, or not of this shape.
    #[error("malformed CBOR at offset {offset:?}")]
    Malformed {
        /// Where the reader stopped, if it knows.
        offset: Option<usize>,
    },
    /// Readable, and still not the one encoding of its value.
    #[error(
        "not the canonical encoding: an unknown or repeated key, a longer form, or trailing bytes"
    )]
    NotCanonical,
}
