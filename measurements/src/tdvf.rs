//! TDVF metadata: which parts of a firmware file become which pages of a TD.
//!
//! ```text
//! end - 48  footer GUID, then 32 bytes of reset vector
//! end - 50  u16: length of the GUIDed table, itself and the footer included
//!           entries, read backwards: data | u16 length | GUID
//! ```
//!
//! The entry of TDX metadata holds the distance from the end of the file to the
//! descriptor: `"TDVF"`, length, version, count, then 32 bytes a section. All
//! integers are little-endian.
//!
//! Source: Intel TDX Virtual Firmware Design Guide, section 11 "TDVF metadata";
//! edk2 OvmfPkg/ResetVector/Ia16/ResetVectorVtf0.asm for the table.

use alloc::vec::Vec;

use attestation::reader::{Reader, Truncated};

use crate::guid::Guid;

/// The sections of one firmware file, in table order.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tdvf<'a> {
    sections: Vec<Section<'a>>,
}

impl<'a> Tdvf<'a> {
    /// Finds and checks the metadata of a firmware file.
    pub fn parse(firmware: &'a [u8]) -> Result<Self, TdvfError> {
        let offset = descriptor_offset(firmware)?;
        let descriptor = firmware
            .len()
            .checked_sub(offset)
            .and_then(|start| firmware.get(start..))
            .ok_or(TdvfError::Offset { offset })?;
        let mut reader = Reader::new(descriptor);
        if reader.array::<4>("signature")? != b"TDVF" {
            return Err(TdvfError::Signature { offset });
        }
        let length = reader.u32_le("length")?;
        let version = reader.u32_le("version")?;
        let count = reader.u32_le("number of sections")?;
        if version != 1 {
            return Err(TdvfError::Version { version });
        }
        if u64::from(length) != u64::from(count).saturating_mul(32).saturating_add(16) {
            return Err(TdvfError::Length { length, count });
        }
        let mut sections = Vec::new();
        let mut total = 0_u64;
        for index in 0..count {
            let section = Section::read(&mut reader, firmware, index)?;
            total = total.saturating_add(section.memory_size);
            if total > MAX_MEMORY {
                return Err(TdvfError::Memory { index });
            }
            sections.push(section);
        }
        Ok(Self { sections })
    }

    /// In table order, which is the order of measurement.
    #[must_use]
    pub fn sections(&self) -> &[Section<'a>] {
        &self.sections
    }

    /// The one section of `kind`.
    pub fn section(&self, kind: Kind) -> Result<&Section<'a>, TdvfError> {
        let mut found = self.sections.iter().filter(|section| section.kind == kind);
        match (found.next(), found.next()) {
            (Some(section), None) => Ok(section),
            _ => Err(TdvfError::NotOne { kind }),
        }
    }
}

/// Bytes per page of a TD.
pub const PAGE: u64 = 4096;

/// Most memory that the sections together may name. OVMF's name under 5 MiB.
pub const MAX_MEMORY: u64 = 64 << 20;

/// A range of guest memory that exists before the first instruction.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Section<'a> {
    /// What the range is for.
    pub kind: Kind,
    /// Initial content; zeros follow up to `memory_size`.
    pub data: &'a [u8],
    /// Guest physical address, page aligned.
    pub address: u64,
    /// In bytes, whole pages.
    pub memory_size: u64,
    /// MR.EXTEND: the content is measured, not only the address.
    pub extend: bool,
    /// PAGE.AUG: added at run time, so not measured at all.
    pub aug: bool,
}

impl<'a> Section<'a> {
    fn read(reader: &mut Reader<'_>, firmware: &'a [u8], index: u32) -> Result<Self, TdvfError> {
        let offset = reader.u32_le("data offset")?;
        let raw_size = reader.u32_le("raw data size")?;
        let address = reader.u64_le("memory address")?;
        let memory_size = reader.u64_le("memory data size")?;
        let kind = reader.u32_le("type")?;
        let attributes = reader.u32_le("attributes")?;
        let kind = Kind::from_u32(kind).ok_or(TdvfError::Kind { index, kind })?;
        if attributes & !(EXTEND | AUG) != 0 {
            return Err(TdvfError::Attributes { index, attributes });
        }
        let aligned = address.is_multiple_of(PAGE) && memory_size.is_multiple_of(PAGE);
        if !aligned || address.checked_add(memory_size).is_none() {
            return Err(TdvfError::Range {
                index,
                address,
                memory_size,
            });
        }
        let data = slice(firmware, offset, raw_size)
            .filter(|_| u64::from(raw_size) <= memory_size)
            .ok_or(TdvfError::Data {
                index,
                offset,
                raw_size,
            })?;
        Ok(Self {
            kind,
            data,
            address,
            memory_size,
            extend: attributes & EXTEND != 0,
            aug: attributes & AUG != 0,
        })
    }
}

const EXTEND: u32 = 1;
const AUG: u32 = 2;

/// What a section is for (design guide, table 11-2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Kind {
    /// Boot firmware volume: the code.
    Bfv,
    /// Configuration firmware volume: the variables.
    Cfv,
    /// Where the VMM puts the hand-off blocks.
    TdHob,
    /// Memory for the firmware's first steps.
    TempMem,
    /// Memory that stays reserved.
    PermMem,
    /// Kernel, in td-shim.
    Payload,
    /// Its command line, in td-shim.
    PayloadParam,
}

impl Kind {
    const fn from_u32(value: u32) -> Option<Self> {
        Some(match value {
            0 => Self::Bfv,
            1 => Self::Cfv,
            2 => Self::TdHob,
            3 => Self::TempMem,
            4 => Self::PermMem,
            5 => Self::Payload,
            6 => Self::PayloadParam,
            _ => return None,
        })
    }
}

/// Distance from the end of the file to the TDVF descriptor.
fn descriptor_offset(firmware: &[u8]) -> Result<usize, TdvfError> {
    let (head, _) = split_end(firmware, RESET_VECTOR, "reset vector")?;
    let (rest, footer) = split_end(head, 16, "table footer")?;
    if footer != FOOTER.0 {
        return Err(TdvfError::NoFooter);
    }
    let (_, length) = split_end(rest, 2, "table length")?;
    let entries = usize::from(Reader::new(length).u16_le("table length")?)
        .checked_sub(18)
        .ok_or(TdvfError::NoMetadata)?;
    let (rest, _) = split_end(rest, 2, "table length")?;
    let (_, mut table) = split_end(rest, entries, "table entries")?;
    while !table.is_empty() {
        let (rest, guid) = split_end(table, 16, "entry GUID")?;
        let (_, length) = split_end(rest, 2, "entry length")?;
        let length = usize::from(Reader::new(length).u16_le("entry length")?);
        if length < 18 {
            return Err(TdvfError::EntryLength { length });
        }
        let (before, entry) = split_end(table, length, "entry")?;
        if guid == METADATA.0 {
            let offset = Reader::new(entry).u32_le("metadata offset")?;
            return Ok(usize::try_from(offset).unwrap_or(usize::MAX));
        }
        table = before;
    }
    Err(TdvfError::NoMetadata)
}

const RESET_VECTOR: usize = 32;
const FOOTER: Guid = Guid::new(
    0x96b5_82de,
    0x1fb2,
    0x45f7,
    [0xba, 0xea, 0xa3, 0x66, 0xc5, 0x5a, 0x08, 0x2d],
);
const METADATA: Guid = Guid::new(
    0xe47a_6535,
    0x984a,
    0x4798,
    [0x86, 0x5e, 0x46, 0x85, 0xa7, 0xbf, 0x8e, 0xc2],
);

fn split_end<'a>(
    bytes: &'a [u8],
    needed: usize,
    field: &'static str,
) -> Result<(&'a [u8], &'a [u8]), TdvfError> {
    bytes
        .len()
        .checked_sub(needed)
        .and_then(|at| bytes.split_at_checked(at))
        .ok_or(TdvfError::Short {
            field,
            needed,
            left: bytes.len(),
        })
}

fn slice(bytes: &[u8], offset: u32, len: u32) -> Option<&[u8]> {
    let start = usize::try_from(offset).ok()?;
    let end = start.checked_add(usize::try_from(len).ok()?)?;
    bytes.get(start..end)
}

/// Why a file is not TDX firmware.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum TdvfError {
    /// Bits that no version defines.
    #[error("section {index} has attributes {attributes:#x}, of which only bits 0 and 1 are known")]
    Attributes {
        /// Position in the table.
        index: u32,
        /// As read.
        attributes: u32,
    },
    /// The content is not in the file, or larger than its memory.
    #[error(
        "section {index} has {raw_size:#x} bytes at file offset {offset:#x}: outside the file or its memory"
    )]
    Data {
        /// Position in the table.
        index: u32,
        /// As read.
        offset: u32,
        /// As read.
        raw_size: u32,
    },
    /// A table entry shorter than its own frame.
    #[error("GUIDed table has an entry of {length} bytes, expected at least 18")]
    EntryLength {
        /// As read.
        length: usize,
    },
    /// A section type of no version.
    #[error("section {index} is of unknown type {kind}")]
    Kind {
        /// Position in the table.
        index: u32,
        /// As read.
        kind: u32,
    },
    /// The descriptor disagrees with its own count.
    #[error("TDVF descriptor says {length} bytes for {count} sections of 32 bytes after 16")]
    Length {
        /// As read.
        length: u32,
        /// As read.
        count: u32,
    },
    /// More memory than firmware has.
    #[error("sections 0 to {index} name more than {MAX_MEMORY:#x} bytes of memory")]
    Memory {
        /// Position in the table.
        index: u32,
    },
    /// No GUIDed table: not OVMF, or not built for confidential guests.
    #[error("no GUIDed table 48 bytes before the end of the firmware")]
    NoFooter,
    /// The table has no TDX entry.
    #[error("GUIDed table has no TDX metadata entry")]
    NoMetadata,
    /// A kind that must occur once does not.
    #[error("firmware has not exactly one {kind:?} section")]
    NotOne {
        /// Which.
        kind: Kind,
    },
    /// The descriptor lies outside the file.
    #[error("TDVF descriptor is {offset:#x} bytes before the end, outside the file")]
    Offset {
        /// As read.
        offset: usize,
    },
    /// Not whole pages, or past the end of memory.
    #[error("section {index} is {memory_size:#x} bytes at {address:#x}, not whole pages of memory")]
    Range {
        /// Position in the table.
        index: u32,
        /// As read.
        address: u64,
        /// As read.
        memory_size: u64,
    },
    /// The file ended (towards its beginning) inside a field.
    #[error("{field} needs {needed} bytes, {left} left towards the beginning of the firmware")]
    Short {
        /// Name.
        field: &'static str,
        /// Size of the field, in bytes.
        needed: usize,
        /// Bytes before it.
        left: usize,
    },
    /// The descriptor's magic is missing.
    #[error("no \"TDVF\" signature {offset:#x} bytes before the end of the firmware")]
    Signature {
        /// Where it was expected.
        offset: usize,
    },
    /// The descriptor ended inside a field.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// A later format.
    #[error("TDVF descriptor has version {version}, expected 1")]
    Version {
        /// As read.
        version: u32,
    },
}

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "test inputs are small constants"
)]
pub(crate) mod tests {
    use super::*;
    use crate::vectors;
    use alloc::string::ToString;
    use alloc::vec;
    use proptest::prelude::*;

    /// A firmware file: one measured page of code, one page of hand-off blocks.
    pub(crate) fn firmware() -> Vec<u8> {
        let mut file = vec![0x5a; 4096];
        let descriptor_at = file.len();
        for word in [u32::from_le_bytes(*b"TDVF"), 16 + 2 * 32, 1, 2] {
            file.extend(word.to_le_bytes());
        }
        section(&mut file, [0, 4096], [0xffc0_0000, 4096], [0, 1]);
        section(&mut file, [0, 0], [0x80_9000, 4096], [2, 0]);
        let entry_at = file.len();
        file.extend([0; 4]);
        file.extend(22_u16.to_le_bytes());
        file.extend(METADATA.0);
        file.extend((22_u16 + 18).to_le_bytes());
        file.extend(FOOTER.0);
        file.extend([0; RESET_VECTOR]);
        let distance = u32::try_from(file.len() - descriptor_at).unwrap();
        file[entry_at..entry_at + 4].copy_from_slice(&distance.to_le_bytes());
        file
    }

    fn section(file: &mut Vec<u8>, raw: [u32; 2], memory: [u64; 2], kind_attributes: [u32; 2]) {
        raw.iter().for_each(|word| file.extend(word.to_le_bytes()));
        memory
            .iter()
            .for_each(|word| file.extend(word.to_le_bytes()));
        kind_attributes
            .iter()
            .for_each(|word| file.extend(word.to_le_bytes()));
    }

    #[test]
    fn sections_come_in_table_order() {
        let file = firmware();
        let tdvf = Tdvf::parse(&file).unwrap();
        let kinds: Vec<Kind> = tdvf.sections().iter().map(|section| section.kind).collect();
        assert_eq!(kinds, [Kind::Bfv, Kind::TdHob]);
        assert!(tdvf.sections()[0].extend && !tdvf.sections()[1].extend);
        assert_eq!(tdvf.section(Kind::Bfv).unwrap().data, &file[..4096]);
    }

    #[test]
    fn debian_firmware_has_the_published_sections() {
        let Some(file) = vectors::firmware("debian-2025.02-8+deb13u1") else {
            return;
        };
        let tdvf = Tdvf::parse(&file).unwrap();
        let seen: Vec<_> = tdvf
            .sections()
            .iter()
            .map(|s| (s.kind, s.address, s.memory_size, s.extend))
            .collect();
        assert_eq!(
            seen,
            [
                (Kind::Bfv, 0xffc8_4000, 0x37_c000, true),
                (Kind::Cfv, 0xffc0_0000, 0x8_4000, false),
                (Kind::TempMem, 0x81_1000, 0xf000, false),
                (Kind::TempMem, 0x80_b000, 0x2000, false),
                (Kind::TdHob, 0x80_9000, 0x2000, false),
                (Kind::TempMem, 0x80_0000, 0x6000, false),
            ]
        );
    }

    #[test]
    fn each_corruption_has_its_error() {
        let good = firmware();
        let end = good.len();
        let descriptor = 4096;
        type Row = (usize, &'static [u8], &'static str);
        let rows: &[Row] = &[
            (
                end - 48,
                &[0],
                "no GUIDed table 48 bytes before the end of the firmware",
            ),
            (end - 50, &[17, 0], "GUIDed table has no TDX metadata entry"),
            (
                end - 50,
                &[255, 255],
                "table entries needs 65517 bytes, 4198 left towards the beginning of the firmware",
            ),
            (end - 66, &[0], "GUIDed table has no TDX metadata entry"),
            (
                end - 68,
                &[17, 0],
                "GUIDed table has an entry of 17 bytes, expected at least 18",
            ),
            (
                end - 72,
                &[0, 0, 1, 0],
                "TDVF descriptor is 0x10000 bytes before the end, outside the file",
            ),
            (
                descriptor,
                b"X",
                "no \"TDVF\" signature 0x98 bytes before the end of the firmware",
            ),
            (
                descriptor + 4,
                &[81],
                "TDVF descriptor says 81 bytes for 2 sections of 32 bytes after 16",
            ),
            (
                descriptor + 8,
                &[2],
                "TDVF descriptor has version 2, expected 1",
            ),
            (
                descriptor + 18,
                &[1],
                "section 0 has 0x1000 bytes at file offset 0x10000: outside the file or its memory",
            ),
            (
                descriptor + 21,
                &[0x20],
                "section 0 has 0x2000 bytes at file offset 0x0: outside the file or its memory",
            ),
            (
                descriptor + 24,
                &[1],
                "section 0 is 0x1000 bytes at 0xffc00001, not whole pages of memory",
            ),
            (
                descriptor + 36,
                &[1],
                "sections 0 to 0 name more than 0x4000000 bytes of memory",
            ),
            (descriptor + 40, &[9], "section 0 is of unknown type 9"),
            (
                descriptor + 44,
                &[4],
                "section 0 has attributes 0x4, of which only bits 0 and 1 are known",
            ),
        ];
        for (at, bytes, expected) in rows {
            let mut bad = good.clone();
            bad[*at..at + bytes.len()].copy_from_slice(bytes);
            assert_eq!(Tdvf::parse(&bad).unwrap_err().to_string(), *expected);
        }
    }

    #[test]
    fn a_missing_or_second_section_is_refused() {
        let file = firmware();
        let tdvf = Tdvf::parse(&file).unwrap();
        let error = tdvf.section(Kind::Cfv).unwrap_err();
        assert_eq!(
            error.to_string(),
            "firmware has not exactly one Cfv section"
        );
    }

    #[test]
    fn every_proper_prefix_is_an_error() {
        let file = firmware();
        for cut in 0..file.len() {
            Tdvf::parse(&file[..cut]).map(drop).unwrap_err();
        }
    }

    #[test]
    fn a_file_that_begins_inside_the_descriptor_is_an_error() {
        let file = firmware();
        for cut in 4097..file.len() {
            Tdvf::parse(&file[cut..]).map(drop).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            noise in proptest::collection::vec(any::<u8>(), 160),
            at in 0_usize..160,
        ) {
            let mut file = firmware();
            let tail = file.len() - 160;
            file[tail + at..].copy_from_slice(&noise[at..]);
            drop(Tdvf::parse(&file));
            drop(Tdvf::parse(&noise));
        }
    }
}
