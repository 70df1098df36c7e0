//! ACPI machine language, written the way QEMU writes it.
//!
//! A [`Term`] is encoded when it is made. A number becomes the shortest
//! constant, a `&str` a reference to the object of that name; literal strings
//! are made by [`text`]. Only the terms that QEMU's tables use are here.
//!
//! Source: ACPI specification 6.5, chapter 20; QEMU hw/acpi/aml-build.c where
//! the specification leaves a choice.

use alloc::vec::Vec;

pub(crate) mod resource;

/// Anything encoded.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Term(pub(crate) Vec<u8>);

impl From<u64> for Term {
    /// ZeroOp, OneOp, or the shortest constant that holds the value.
    fn from(value: u64) -> Self {
        let bytes = value.to_le_bytes();
        let (prefix, width): (&[u8], usize) = match value {
            0 => (&[0x00], 0),
            1 => (&[0x01], 0),
            2..=0xff => (&[0x0a], 1),
            0x100..=0xffff => (&[0x0b], 2),
            0x1_0000..=0xffff_ffff => (&[0x0c], 4),
            _ => (&[0x0e], 8),
        };
        let (value, _) = bytes.split_at(width);
        Self([prefix, value].concat())
    }
}

impl From<&str> for Term {
    /// NameString: prefixes, then segments of four characters.
    fn from(path: &str) -> Self {
        let name = path.trim_start_matches(['\\', '^']);
        let (prefix, _) = path.split_at(path.len().saturating_sub(name.len()));
        let segments: Vec<&str> = name.split('.').collect();
        let mut bytes = prefix.as_bytes().to_vec();
        match segments.len() {
            1 if name.is_empty() => bytes.push(0x00),
            1 => {}
            2 => bytes.push(0x2e),
            count => bytes.extend([0x2f, byte(count)]),
        }
        for segment in segments.iter().filter(|segment| !segment.is_empty()) {
            bytes.extend(segment.bytes().chain([b'_'; 4]).take(4));
        }
        Self(bytes)
    }
}

/// Argument of the method, from 0.
pub(crate) fn arg(index: u8) -> Term {
    Term([0x68_u8.saturating_add(index)].into())
}

/// Local variable of the method, from 0.
pub(crate) fn local(index: u8) -> Term {
    Term([0x60_u8.saturating_add(index)].into())
}

/// DebugObj.
pub(crate) fn debug() -> Term {
    Term([0x5b, 0x31].into())
}

/// String.
pub(crate) fn text(text: &str) -> Term {
    Term([&[0x0d], text.as_bytes(), &[0]].concat())
}

/// DefBuffer.
pub(crate) fn buffer(bytes: &[u8]) -> Term {
    sized(&[0x11], [number(bytes.len()), Term(bytes.to_vec())])
}

/// DefPackage with as many elements as are given.
pub(crate) fn package(elements: impl IntoIterator<Item = Term>) -> Term {
    let elements: Vec<Term> = elements.into_iter().collect();
    let count = Term([byte(elements.len())].into());
    sized(&[0x12], [count].into_iter().chain(elements))
}

/// DefPackage of `count` elements that are not initialised.
pub(crate) fn empty_package(count: u8) -> Term {
    sized(&[0x12], [Term([count].into())])
}

/// The compressed form of an identifier such as `PNP0A08`: three letters of five
/// bits, four hexadecimal digits.
pub(crate) fn eisa_id(id: &str) -> Term {
    let (letters, digits) = id.split_at(3);
    let letters = letters.bytes().fold(0_u16, |packed, letter| {
        packed << 5 | u16::from(letter.saturating_sub(b'@') & 0x1f)
    });
    let digits = u16::from_str_radix(digits, 16).unwrap_or_default();
    let [a, b] = letters.to_be_bytes();
    let [c, d] = digits.to_be_bytes();
    Term([0x0c, a, b, c, d].into())
}

/// A UUID as a buffer; its first three fields are little-endian.
pub(crate) fn uuid(a: u32, b: u16, c: u16, d: [u8; 8]) -> Term {
    buffer(&crate::guid::Guid::new(a, b, c, d).0)
}

/// DefName.
pub(crate) fn name(name: &str, value: impl Into<Term>) -> Term {
    join(&[0x08], [name.into(), value.into()])
}

/// DefScope.
pub(crate) fn scope(name: &str, body: impl IntoIterator<Item = Term>) -> Term {
    sized(&[0x10], [name.into()].into_iter().chain(body))
}

/// DefDevice.
pub(crate) fn device(name: &str, body: impl IntoIterator<Item = Term>) -> Term {
    sized(&[0x5b, 0x82], [name.into()].into_iter().chain(body))
}

/// DefProcessor without a register block.
pub(crate) fn processor(name: &str, id: u8, body: impl IntoIterator<Item = Term>) -> Term {
    let id = Term([id, 0, 0, 0, 0, 0].into());
    sized(&[0x5b, 0x83], [name.into(), id].into_iter().chain(body))
}

/// DefMethod that may run more than once at a time.
pub(crate) fn method(name: &str, args: u8, body: impl IntoIterator<Item = Term>) -> Term {
    let flags = Term([args].into());
    sized(&[0x14], [name.into(), flags].into_iter().chain(body))
}

/// DefMethod that is Serialized.
pub(crate) fn serialized(name: &str, args: u8, body: impl IntoIterator<Item = Term>) -> Term {
    method(name, args | 1 << 3, body)
}

/// A method call.
pub(crate) fn call(name: &str, args: impl IntoIterator<Item = Term>) -> Term {
    join(&[], [name.into()].into_iter().chain(args))
}

/// DefOpRegion.
pub(crate) fn region(name: &str, space: Space, at: impl Into<Term>, length: u64) -> Term {
    let space = Term(
        [match space {
            Space::Memory => 0,
            Space::Io => 1,
            Space::PciConfig => 2,
        }]
        .into(),
    );
    join(
        &[0x5b, 0x80],
        [name.into(), space, at.into(), length.into()],
    )
}

/// Where an operation region is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Space {
    /// SystemMemory.
    Memory,
    /// SystemIO.
    Io,
    /// PCI_Config of the device that the region is in.
    PciConfig,
}

/// DefField; each element has fewer than 63 bits, and a name unless it is a gap.
pub(crate) fn field(name: &str, access: Access, update: Update, elements: &[(&str, u8)]) -> Term {
    let access: u8 = match access {
        Access::Any => 0,
        Access::Byte => 1,
        Access::DWord => 3,
    };
    let update: u8 = match update {
        Update::Preserve => 0,
        Update::WriteAsZeros => 2 << 5,
    };
    let elements = elements.iter().map(|(name, bits)| match *name {
        "" => Term([0, *bits].into()),
        name => join(&[], [name.into(), Term([*bits].into())]),
    });
    let flags = Term([access | update].into());
    sized(
        &[0x5b, 0x81],
        [name.into(), flags].into_iter().chain(elements),
    )
}

/// AccessType.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Access {
    Any,
    Byte,
    DWord,
}

/// UpdateRule.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Update {
    Preserve,
    WriteAsZeros,
}

/// DefCreateDWordField.
pub(crate) fn dword_field(source: impl Into<Term>, index: u64, name: &str) -> Term {
    join(&[0x8a], [source.into(), index.into(), name.into()])
}

/// DefMutex.
pub(crate) fn mutex(name: &str) -> Term {
    join(&[0x5b, 0x01], [name.into(), Term([0].into())])
}

/// DefAcquire, for as long as it takes.
pub(crate) fn acquire(name: &str) -> Term {
    join(&[0x5b, 0x23], [name.into(), Term([0xff, 0xff].into())])
}

/// DefRelease.
pub(crate) fn release(name: &str) -> Term {
    join(&[0x5b, 0x27], [name.into()])
}

/// DefIfElse without DefElse.
pub(crate) fn when(predicate: Term, body: impl IntoIterator<Item = Term>) -> Term {
    sized(&[0xa0], [predicate].into_iter().chain(body))
}

/// DefElse.
pub(crate) fn otherwise(body: impl IntoIterator<Item = Term>) -> Term {
    sized(&[0xa1], body)
}

/// DefWhile.
pub(crate) fn repeat(predicate: Term, body: impl IntoIterator<Item = Term>) -> Term {
    sized(&[0xa2], [predicate].into_iter().chain(body))
}

/// DefBreak.
pub(crate) fn leave() -> Term {
    Term([0xa5].into())
}

/// DefReturn.
pub(crate) fn give(value: impl Into<Term>) -> Term {
    join(&[0xa4], [value.into()])
}

/// DefStore.
pub(crate) fn store(value: impl Into<Term>, to: impl Into<Term>) -> Term {
    join(&[0x70], [value.into(), to.into()])
}

/// DefAdd, the sum not stored.
pub(crate) fn sum(a: impl Into<Term>, b: impl Into<Term>) -> Term {
    join(&[0x72], [a.into(), b.into(), Term([0].into())])
}

/// DefSubtract, stored in `to`.
pub(crate) fn subtract(a: impl Into<Term>, b: impl Into<Term>, to: impl Into<Term>) -> Term {
    join(&[0x74], [a.into(), b.into(), to.into()])
}

/// DefIncrement.
pub(crate) fn increment(what: impl Into<Term>) -> Term {
    join(&[0x75], [what.into()])
}

/// DefAnd, stored in `to`.
pub(crate) fn and(a: impl Into<Term>, b: impl Into<Term>, to: impl Into<Term>) -> Term {
    join(&[0x7b], [a.into(), b.into(), to.into()])
}

/// DefAnd, the result not stored.
pub(crate) fn bits(a: impl Into<Term>, b: impl Into<Term>) -> Term {
    and(a, b, 0)
}

/// DefOr, stored in `to`.
pub(crate) fn or(a: impl Into<Term>, b: impl Into<Term>, to: impl Into<Term>) -> Term {
    join(&[0x7d], [a.into(), b.into(), to.into()])
}

/// DefDerefOf.
pub(crate) fn deref(what: Term) -> Term {
    join(&[0x83], [what])
}

/// DefNotify.
pub(crate) fn notify(object: &str, value: impl Into<Term>) -> Term {
    join(&[0x86], [object.into(), value.into()])
}

/// DefSizeOf.
pub(crate) fn size_of(what: Term) -> Term {
    join(&[0x87], [what])
}

/// DefIndex, the reference not stored.
pub(crate) fn index(of: impl Into<Term>, at: impl Into<Term>) -> Term {
    join(&[0x88], [of.into(), at.into(), Term([0].into())])
}

/// DefLAnd.
pub(crate) fn both(a: Term, b: Term) -> Term {
    join(&[0x90], [a, b])
}

/// DefLOr.
pub(crate) fn either(a: Term, b: Term) -> Term {
    join(&[0x91], [a, b])
}

/// DefLNot.
pub(crate) fn not(what: Term) -> Term {
    join(&[0x92], [what])
}

/// DefLEqual.
pub(crate) fn equal(a: impl Into<Term>, b: impl Into<Term>) -> Term {
    join(&[0x93], [a.into(), b.into()])
}

/// DefLLess.
pub(crate) fn less(a: impl Into<Term>, b: impl Into<Term>) -> Term {
    join(&[0x95], [a.into(), b.into()])
}

/// DefToBuffer.
pub(crate) fn to_buffer(what: Term, to: Term) -> Term {
    join(&[0x96], [what, to])
}

/// DefToHexString.
pub(crate) fn to_hex_string(what: Term, to: Term) -> Term {
    join(&[0x98], [what, to])
}

/// An opcode and what follows it.
fn join(opcode: &[u8], parts: impl IntoIterator<Item = Term>) -> Term {
    let mut bytes = opcode.to_vec();
    parts.into_iter().for_each(|part| bytes.extend(part.0));
    Term(bytes)
}

/// The same with PkgLength in between, which counts itself.
fn sized(opcode: &[u8], parts: impl IntoIterator<Item = Term>) -> Term {
    let content = join(&[], parts).0;
    let with_own = |own: usize| content.len().saturating_add(own);
    let own = match content.len() {
        // The limits are QEMU's: one byte carries six bits, each further one eight more.
        _ if with_own(1) < 1 << 6 => 1,
        _ if with_own(2) < 1 << 12 => 2,
        _ => 3,
    };
    let total = with_own(own);
    let length = match own {
        1 => [byte(total)].into(),
        _ => {
            let lead = byte(total & 0xf) | byte(own.saturating_sub(1)) << 6;
            let mut length = Vec::from([lead]);
            length.extend(
                (total >> 4)
                    .to_le_bytes()
                    .iter()
                    .take(own.saturating_sub(1)),
            );
            length
        }
    };
    Term([opcode, &length, &content].concat())
}

fn number(value: usize) -> Term {
    u64::try_from(value).unwrap_or(u64::MAX).into()
}

fn byte(value: usize) -> u8 {
    u8::try_from(value).unwrap_or(u8::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec;

    #[test]
    fn numbers_take_the_shortest_form() {
        let encoded: [(u64, &[u8]); 7] = [
            (0, &[0x00]),
            (1, &[0x01]),
            (2, &[0x0a, 2]),
            (0xff, &[0x0a, 0xff]),
            (0x100, &[0x0b, 0, 1]),
            (0x1_0000, &[0x0c, 0, 0, 1, 0]),
            (1 << 32, &[0x0e, 0, 0, 0, 0, 1, 0, 0, 0]),
        ];
        for (value, bytes) in encoded {
            assert_eq!(Term::from(value).0, bytes, "{value:#x}");
        }
    }

    #[test]
    fn names_are_padded_and_counted() {
        let encoded: [(&str, &[u8]); 6] = [
            ("\\", b"\\\0"),
            ("DBG", b"DBG_"),
            ("\\_SB", b"\\_SB_"),
            ("^S10", b"^S10_"),
            ("PCI0.SF8", b"\x2ePCI0SF8_"),
            ("\\_SB.PCI0.PRES", b"\\\x2f\x03_SB_PCI0PRES"),
        ];
        for (path, bytes) in encoded {
            assert_eq!(Term::from(path).0, bytes, "{path}");
        }
    }

    /// The examples of section 5.6.7.1 of older editions: PNP0A08 as a number.
    #[test]
    fn an_identifier_is_packed() {
        assert_eq!(eisa_id("PNP0A08").0, [0x0c, 0x41, 0xd0, 0x0a, 0x08]);
    }

    #[test]
    fn a_length_counts_itself_and_grows() {
        let length = |content: usize| {
            let whole = sized(&[0xa1], [Term(vec![0xa5; content])]).0;
            let own = whole.len() - content;
            whole[1..own].to_vec()
        };
        assert_eq!(length(0), [1]);
        assert_eq!(length(62), [63]);
        assert_eq!(length(63), [0x41, 4]);
        assert_eq!(length(4093), [0x4f, 0xff]);
        assert_eq!(length(4094), [0x81, 0x00, 0x01]);
        assert_eq!(length(0xffff), [0x82, 0x00, 0x10]);
    }

    #[test]
    fn gaps_in_a_field_have_no_name() {
        let elements = [("AB", 8), ("", 32), ("CD", 1)];
        let field = field("R", Access::DWord, Update::WriteAsZeros, &elements);
        assert_eq!(field.0, b"\x5b\x81\x12R___\x43AB__\x08\x00\x20CD__\x01");
    }
}
