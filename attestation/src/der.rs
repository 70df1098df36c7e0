//! DER (ITU-T X.690): a cursor that accepts one encoding of each value, and that encoding.
//!
//! Definite, minimal lengths; single-byte tags; integers without a sign. It
//! borrows, recurses nowhere, and names the field that was wrong.

use alloc::vec::Vec;

use crate::reader::Reader;

/// Reads one value after the other.
#[derive(Clone, Debug)]
pub struct Der<'a>(Reader<'a>);

impl<'a> Der<'a> {
    /// Starts at the first byte.
    #[must_use]
    pub const fn new(bytes: &'a [u8]) -> Self {
        Self(Reader::new(bytes))
    }

    /// The content of the next value, which must carry `tag`.
    pub fn value(&mut self, tag: u8, field: &'static str) -> Result<&'a [u8], DerError> {
        let found = self.peek().ok_or(DerError::Missing { field })?;
        if found != tag {
            return Err(DerError::Tag {
                field,
                expected: tag,
                found,
            });
        }
        let mut reader = self.0.clone();
        let content = read_tlv(&mut reader).ok_or(DerError::Length { field })?;
        self.0 = reader;
        Ok(content)
    }

    /// The next value, header included: what a signature covers, or a name to compare.
    pub fn whole(&mut self, tag: u8, field: &'static str) -> Result<&'a [u8], DerError> {
        let before = self.0.rest();
        self.value(tag, field)?;
        let len = before.len().saturating_sub(self.0.rest().len());
        Ok(before.get(..len).unwrap_or_default())
    }

    /// A cursor over the content of the next value.
    pub fn nested(&mut self, tag: u8, field: &'static str) -> Result<Self, DerError> {
        self.value(tag, field).map(Self::new)
    }

    /// A cursor over the next value where it carries `tag`, which it need not.
    pub fn optional(&mut self, tag: u8, field: &'static str) -> Result<Option<Self>, DerError> {
        match self.peek() == Some(tag) {
            true => self.nested(tag, field).map(Some),
            false => Ok(None),
        }
    }

    /// Two booleans exist: 00 and FF (X.690, section 11.1).
    pub fn boolean(&mut self, field: &'static str) -> Result<bool, DerError> {
        match self.value(BOOLEAN, field)? {
            [0x00] => Ok(false),
            [0xff] => Ok(true),
            _ => Err(DerError::Value { field }),
        }
    }

    /// Magnitude of an integer that is not negative, without leading zeros.
    pub fn unsigned(&mut self, field: &'static str) -> Result<&'a [u8], DerError> {
        match self.value(INTEGER, field)? {
            [0] => Ok(&[]),
            [0, rest @ ..] if rest.first() >= Some(&0x80) => Ok(rest),
            number @ [1..0x80, ..] => Ok(number),
            _ => Err(DerError::Value { field }),
        }
    }

    /// An integer below 65536.
    pub fn u16(&mut self, field: &'static str) -> Result<u16, DerError> {
        match *self.unsigned(field)? {
            [] => Ok(0),
            [low] => Ok(u16::from(low)),
            [high, low] => Ok(u16::from_be_bytes([high, low])),
            _ => Err(DerError::Value { field }),
        }
    }

    /// An octet string of exactly `N` bytes.
    pub fn octets<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], DerError> {
        self.value(OCTET_STRING, field)?
            .try_into()
            .map_err(|_| DerError::Value { field })
    }

    /// A bit string of whole bytes.
    pub fn bits(&mut self, field: &'static str) -> Result<&'a [u8], DerError> {
        match self.value(BIT_STRING, field)? {
            [0, bytes @ ..] => Ok(bytes),
            _ => Err(DerError::Value { field }),
        }
    }

    /// Demands one object identifier, given as its content bytes.
    pub fn expect_oid(&mut self, oid: &[u8], field: &'static str) -> Result<(), DerError> {
        match self.value(OID, field)? == oid {
            true => Ok(()),
            false => Err(DerError::Value { field }),
        }
    }

    /// Demands that nothing is left.
    pub fn end(self, field: &'static str) -> Result<(), DerError> {
        match self.0.rest().len() {
            0 => Ok(()),
            left => Err(DerError::Trailing { field, left }),
        }
    }

    /// Whether nothing is left.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.0.rest().is_empty()
    }

    /// Bytes not read yet.
    #[must_use]
    pub const fn rest(&self) -> &'a [u8] {
        self.0.rest()
    }

    /// Tag of the next value.
    #[must_use]
    pub fn peek(&self) -> Option<u8> {
        self.0.rest().first().copied()
    }
}

/// One value, as [`Der`] reads it.
#[must_use]
pub fn write(tag: u8, content: &[u8]) -> Vec<u8> {
    let len = content.len().to_be_bytes();
    let zeros = len.iter().take_while(|byte| **byte == 0).count();
    let digits = len.get(zeros..).unwrap_or_default();
    // The long form has their number in front (X.690, section 8.1.3.5).
    let header = match (digits, u8::try_from(digits.len())) {
        ([], _) => [tag, 0].to_vec(),
        ([short @ 0..0x80], _) => [tag, *short].to_vec(),
        (_, count) => [&[tag, 0x80 | count.unwrap_or_default()], digits].concat(),
    };
    [&header, content].concat()
}

/// Why bytes are not the DER that was expected.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum DerError {
    /// The length is not minimal, or longer than what is there.
    #[error("{field} has a malformed length or is cut short")]
    Length {
        /// Name in the specification.
        field: &'static str,
    },
    /// There is no value left.
    #[error("{field} is missing")]
    Missing {
        /// Name in the specification.
        field: &'static str,
    },
    /// The value is of another type.
    #[error("{field} has tag {found:#04x}, expected {expected:#04x}")]
    Tag {
        /// Name in the specification.
        field: &'static str,
        /// As specified.
        expected: u8,
        /// As read.
        found: u8,
    },
    /// Something follows where nothing may.
    #[error("{left} bytes after the last field of {field}")]
    Trailing {
        /// Name in the specification.
        field: &'static str,
        /// How many bytes.
        left: usize,
    },
    /// The type is right and the value is not one that we accept.
    #[error("{field} has a value that is not allowed there")]
    Value {
        /// Name in the specification.
        field: &'static str,
    },
}

/// Any tag, then a length in the shortest form, then that many bytes.
fn read_tlv<'a>(reader: &mut Reader<'a>) -> Option<&'a [u8]> {
    reader.u8("tag").ok()?;
    // The second number is the least length that needs so many bytes.
    let (len, least) = match reader.u8("length").ok()? {
        short @ 0..=0x7f => (u32::from(short), 0),
        0x81 => (u32::from(reader.u8("length").ok()?), 0x80),
        0x82 => (u32::from(reader.u16_be("length").ok()?), 0x100),
        0x83 => {
            let [a, b, c] = *reader.array("length").ok()?;
            (u32::from_be_bytes([0, a, b, c]), 0x1_0000)
        }
        _ => return None,
    };
    let len = usize::try_from(len).ok().filter(|_| len >= least)?;
    reader.slice("content", len).ok()
}

/// `BOOLEAN`.
pub const BOOLEAN: u8 = 0x01;
/// `INTEGER`.
pub const INTEGER: u8 = 0x02;
/// `BIT STRING`.
pub const BIT_STRING: u8 = 0x03;
/// `OCTET STRING`.
pub const OCTET_STRING: u8 = 0x04;
/// `NULL`.
pub const NULL: u8 = 0x05;
/// `OBJECT IDENTIFIER`.
pub const OID: u8 = 0x06;
/// `ENUMERATED`.
pub const ENUMERATED: u8 = 0x0a;
/// `UTF8String`.
pub const UTF8_STRING: u8 = 0x0c;
/// `PrintableString`.
pub const PRINTABLE_STRING: u8 = 0x13;
/// `UTCTime`.
pub const UTC_TIME: u8 = 0x17;
/// `GeneralizedTime`.
pub const GENERALIZED_TIME: u8 = 0x18;
/// `SEQUENCE`.
pub const SEQUENCE: u8 = 0x30;
/// `SET`.
pub const SET: u8 = 0x31;
/// `[0]`, constructed.
pub const CONTEXT_0: u8 = 0xa0;
/// `[1]`, constructed.
pub const CONTEXT_1: u8 = 0xa1;
/// `[2]`, constructed.
pub const CONTEXT_2: u8 = 0xa2;
/// `[3]`, constructed.
pub const CONTEXT_3: u8 = 0xa3;

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;
    use proptest::prelude::*;

    fn octets(bytes: &[u8]) -> Result<&[u8], DerError> {
        let mut der = Der::new(bytes);
        let value = der.value(OCTET_STRING, "x")?;
        der.end("x").map(|()| value)
    }

    #[test]
    fn each_form_of_length_is_read() {
        for (header, len) in [
            (vec![4, 0x7f], 0x7f),
            (vec![4, 0x81, 0x80], 0x80),
            (vec![4, 0x82, 1, 0], 0x100),
            (vec![4, 0x83, 1, 0, 0], 0x1_0000),
        ] {
            let bytes = [header, vec![7; len]].concat();
            assert_eq!(octets(&bytes).unwrap().len(), len);
        }
    }

    #[test]
    fn what_is_written_is_read() {
        for len in [0, 0x7f, 0x80, 0xff, 0x100, 0xffff, 0x1_0000] {
            let content = vec![7; len];
            let bytes = write(OCTET_STRING, &content);
            assert_eq!(octets(&bytes), Ok(&content[..]));
        }
    }

    #[test]
    fn lengths_that_could_be_shorter_are_refused() {
        for header in [
            vec![4, 0x81, 0x01],
            vec![4, 0x81, 0x00],
            vec![4, 0x82, 0, 0x80],
            vec![4, 0x83, 0, 1, 0],
            vec![4, 0x80],
            vec![4, 0x84, 0, 0, 0, 1],
        ] {
            let bytes = [header, vec![0; 0x200]].concat();
            let error = Der::new(&bytes).value(OCTET_STRING, "x").unwrap_err();
            assert_eq!(error, DerError::Length { field: "x" });
        }
    }

    #[test]
    fn integers_have_one_form() {
        let number = |bytes: &[u8]| Der::new(bytes).u16("n").ok();
        assert_eq!(number(&[2, 1, 0]), Some(0));
        assert_eq!(number(&[2, 1, 0x7f]), Some(0x7f));
        assert_eq!(number(&[2, 2, 0, 0x80]), Some(0x80));
        assert_eq!(number(&[2, 3, 0, 0xff, 0xff]), Some(0xffff));
        assert_eq!(number(&[2, 1, 0x80]), None, "negative");
        assert_eq!(number(&[2, 2, 0, 1]), None, "not minimal");
        assert_eq!(number(&[2, 2, 0, 0]), None, "not minimal");
        assert_eq!(number(&[2, 0]), None, "empty");
        assert_eq!(number(&[2, 3, 1, 0, 0]), None, "too wide");
    }

    #[test]
    fn booleans_have_one_form() {
        let boolean = |bytes: &[u8]| Der::new(bytes).boolean("b").ok();
        assert_eq!(boolean(&[1, 1, 0xff]), Some(true));
        assert_eq!(boolean(&[1, 1, 0x00]), Some(false));
        assert_eq!(boolean(&[1, 1, 0x01]), None);
    }

    #[test]
    fn messages_name_the_field() {
        let error = Der::new(&[4, 0]).value(SEQUENCE, "validity").unwrap_err();
        assert_eq!(error.to_string(), "validity has tag 0x04, expected 0x30");
        let error = Der::new(&[]).value(SEQUENCE, "validity").unwrap_err();
        assert_eq!(error.to_string(), "validity is missing");
        let error = Der::new(&[0]).end("validity").unwrap_err();
        assert_eq!(
            error.to_string(),
            "1 bytes after the last field of validity"
        );
    }

    #[test]
    fn a_failed_read_takes_nothing() {
        let mut der = Der::new(&[4, 5, 0]);
        assert!(der.value(OCTET_STRING, "x").is_err());
        assert_eq!(der.peek(), Some(OCTET_STRING));
    }

    proptest! {
        #[test]
        fn what_is_read_is_what_was_there(bytes: Vec<u8>) {
            let mut der = Der::new(&bytes);
            if let Some(tag) = der.peek()
                && let Ok(whole) = der.whole(tag, "x")
            {
                prop_assert_eq!(whole, &bytes[..whole.len()]);
            }
        }
    }
}
