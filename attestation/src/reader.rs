//! A cursor over untrusted bytes that names the field it could not read.
//!
//! It borrows and never copies, so no length that a peer chose allocates.

/// Reads fields from the front of a slice.
#[derive(Clone, Debug)]
pub struct Reader<'a> {
    whole: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Starts at the first byte.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self {
            whole: bytes,
            rest: bytes,
        }
    }

    /// Exactly `N` bytes.
    pub fn array<const N: usize>(&mut self, field: &'static str) -> Result<&'a [u8; N], Truncated> {
        let (head, rest) = self
            .rest
            .split_first_chunk()
            .ok_or_else(|| self.short(field, N))?;
        self.rest = rest;
        Ok(head)
    }

    /// As many bytes as an earlier field said.
    pub fn slice(&mut self, field: &'static str, len: usize) -> Result<&'a [u8], Truncated> {
        let (head, rest) = self
            .rest
            .split_at_checked(len)
            .ok_or_else(|| self.short(field, len))?;
        self.rest = rest;
        Ok(head)
    }

    /// One byte.
    pub fn u8(&mut self, field: &'static str) -> Result<u8, Truncated> {
        self.array(field).map(|[byte]| *byte)
    }

    /// Little-endian 16 bits.
    pub fn u16_le(&mut self, field: &'static str) -> Result<u16, Truncated> {
        self.array(field).map(|bytes| u16::from_le_bytes(*bytes))
    }

    /// Little-endian 32 bits.
    pub fn u32_le(&mut self, field: &'static str) -> Result<u32, Truncated> {
        self.array(field).map(|bytes| u32::from_le_bytes(*bytes))
    }

    /// Little-endian 64 bits.
    pub fn u64_le(&mut self, field: &'static str) -> Result<u64, Truncated> {
        self.array(field).map(|bytes| u64::from_le_bytes(*bytes))
    }

    /// Big-endian 16 bits.
    pub fn u16_be(&mut self, field: &'static str) -> Result<u16, Truncated> {
        self.array(field).map(|bytes| u16::from_be_bytes(*bytes))
    }

    /// Big-endian 32 bits.
    pub fn u32_be(&mut self, field: &'static str) -> Result<u32, Truncated> {
        self.array(field).map(|bytes| u32::from_be_bytes(*bytes))
    }

    /// Big-endian 64 bits.
    pub fn u64_be(&mut self, field: &'static str) -> Result<u64, Truncated> {
        self.array(field).map(|bytes| u64::from_be_bytes(*bytes))
    }

    /// Bytes read so far.
    #[must_use]
    pub fn consumed(&self) -> &'a [u8] {
        self.whole.get(..self.offset()).unwrap_or_default()
    }

    /// How many bytes were read so far.
    #[must_use]
    pub const fn offset(&self) -> usize {
        self.whole.len().saturating_sub(self.rest.len())
    }

    /// Bytes not read yet.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.rest
    }

    const fn short(&self, field: &'static str, needed: usize) -> Truncated {
        Truncated {
            field,
            offset: self.offset(),
            needed,
            left: self.rest.len(),
        }
    }
}

/// The input ended inside a field.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{field} at offset {offset} needs {needed} bytes, {left} left")]
pub struct Truncated {
    /// Name in the specification.
    pub field: &'static str,
    /// Bytes before the field.
    pub offset: usize,
    /// Size of the field, in bytes.
    pub needed: usize,
    /// Bytes the input still had.
    pub left: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_read_in_order() {
        let mut reader = Reader::new(&[1, 2, 0, 3, 4, 5]);
        assert_eq!(reader.u8("a"), Ok(1));
        assert_eq!(reader.u16_le("b"), Ok(2));
        assert_eq!(reader.consumed(), [1, 2, 0]);
        assert_eq!(reader.slice("c", 2), Ok(&[3, 4][..]));
        assert_eq!(reader.rest(), [5]);
    }

    #[test]
    fn a_short_input_names_field_offset_and_sizes() {
        let mut reader = Reader::new(&[0; 3]);
        reader.u16_be("length").unwrap();
        let error = reader.array::<4>("value").unwrap_err();
        assert_eq!(error.to_string(), "value at offset 2 needs 4 bytes, 1 left");
        assert_eq!(reader.rest().len(), 1, "a failed read takes nothing");
    }

    #[test]
    fn a_length_near_the_limit_does_not_wrap() {
        let mut reader = Reader::new(&[0; 3]);
        assert!(reader.slice("value", usize::MAX).is_err());
    }

    use alloc::string::ToString;
}
