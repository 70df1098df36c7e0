//! What firmware measures of the disk that it boots from: the partition table.
//!
//! ```text
//! sector 1       header: signature, revision, size = 92, CRC-32, .., entries at, number, size = 128, CRC-32
//! sector 2, ..   entries: type GUID, GUID, first and last sector, attributes, name
//! ```
//!
//! The event is the header, then the number of entries that are used as 64 bits,
//! then those entries. All integers are little-endian; a sector has 512 bytes.
//!
//! Source: UEFI 2.10, section 5.3; TCG PC Client Platform Firmware Profile 1.06,
//! section 10.2.5 (UEFI_GPT_DATA); edk2
//! SecurityPkg/Library/DxeTpm2MeasureBootLib, Tcg2MeasureGptTable().

use alloc::vec::Vec;

use attestation::reader::{Reader, Truncated};

/// The bytes of the event, from the beginning of a disk.
pub fn event(disk: &[u8]) -> Result<Vec<u8>, GptError> {
    let mut reader = Reader::new(disk);
    reader.slice("sector 0", SECTOR)?;
    let header = reader.array::<HEADER>("GPT header")?;
    let table = Table::read(header)?;
    let mut reader = Reader::new(disk);
    reader.slice("sectors before the entries", table.offset)?;
    let entries = reader.slice("GPT entries", table.entries.saturating_mul(ENTRY))?;
    check("entries", crc32(entries), table.checksum)?;
    let (entries, _) = entries.as_chunks::<ENTRY>();
    let used = entries.iter().filter(|entry| entry[..16] != [0; 16]);
    let count = u64::try_from(used.clone().count()).unwrap_or(u64::MAX);
    let mut event = [&header[..], &count.to_le_bytes()].concat();
    used.for_each(|entry| event.extend(entry));
    Ok(event)
}

/// Where the entries are.
struct Table {
    offset: usize,
    entries: usize,
    checksum: u32,
}

impl Table {
    fn read(header: &[u8; HEADER]) -> Result<Self, GptError> {
        let mut reader = Reader::new(header);
        if reader.array::<8>("signature")? != b"EFI PART" {
            return Err(GptError::NoTable);
        }
        reader.u32_le("revision")?;
        let size = reader.u32_le("header size")?;
        let checksum = reader.u32_le("header CRC-32")?;
        reader.array::<52>("sectors and disk GUID")?;
        let first = reader.u64_le("sector of the entries")?;
        let count = reader.u32_le("number of entries")?;
        let entry = reader.u32_le("size of an entry")?;
        if (size, entry) != (92, 128) || count > MAX_ENTRIES {
            return Err(GptError::Form { size, count, entry });
        }
        let mut blank = *header;
        blank[16..20].fill(0);
        check("header", crc32(&blank), checksum)?;
        Ok(Self {
            offset: usize::try_from(first.saturating_mul(512)).unwrap_or(usize::MAX),
            entries: usize::try_from(count).unwrap_or(usize::MAX),
            checksum: reader.u32_le("CRC-32 of the entries")?,
        })
    }
}

/// Firmware repairs a table whose checksums are wrong, from its copy, and then measures that.
fn check(part: &'static str, found: u32, stated: u32) -> Result<(), GptError> {
    match found == stated {
        true => Ok(()),
        false => Err(GptError::Checksum {
            part,
            found,
            stated,
        }),
    }
}

/// ISO 3309, the polynomial reversed.
fn crc32(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte), |crc, _| match crc & 1 {
            0 => crc >> 1,
            _ => crc >> 1 ^ 0xedb8_8320,
        })
    })
}

const SECTOR: usize = 512;
const HEADER: usize = 92;
const ENTRY: usize = 128;
/// Four times as many as tools make.
const MAX_ENTRIES: u32 = 512;

/// Why a disk has no measurable partition table.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum GptError {
    /// Damaged, or changed by a tool that does not know it.
    #[error("GPT {part}: CRC-32 is {found:#010x}, the header says {stated:#010x}")]
    Checksum {
        /// Header or entries.
        part: &'static str,
        /// As computed.
        found: u32,
        /// As read.
        stated: u32,
    },
    /// Allowed, but not what any tool makes.
    #[error(
        "GPT has a header of {size} bytes and {count} entries of {entry}, expected 92 bytes and up to {MAX_ENTRIES} of 128"
    )]
    Form {
        /// Of the header.
        size: u32,
        /// Of entries.
        count: u32,
        /// Of one entry.
        entry: u32,
    },
    /// No signature.
    #[error("no \"EFI PART\" in sector 1 of the disk")]
    NoTable,
    /// The disk ended inside the table.
    #[error(transparent)]
    Truncated(#[from] Truncated),
}

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "test inputs are small constants"
)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;
    use proptest::prelude::*;

    /// A disk with one partition, in the second of four entries.
    fn disk() -> Vec<u8> {
        let mut entries = vec![0; 4 * ENTRY];
        entries[ENTRY..2 * ENTRY].fill(7);
        let mut header = vec![0; SECTOR];
        header[..8].copy_from_slice(b"EFI PART");
        put(&mut header, 12, 92);
        put(&mut header, 72, 2);
        put(&mut header, 80, 4);
        put(&mut header, 84, 128);
        put(&mut header, 88, crc32(&entries));
        let sum = crc32(&header[..HEADER]);
        put(&mut header, 16, sum);
        [vec![0; SECTOR], header, entries].concat()
    }

    fn put(bytes: &mut [u8], at: usize, value: u32) {
        bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    #[test]
    fn only_used_entries_are_measured() {
        let disk = disk();
        let event = event(&disk).unwrap();
        let expected = [&disk[512..604], &[1, 0, 0, 0, 0, 0, 0, 0], &[7; 128]].concat();
        assert_eq!(event, expected);
    }

    #[test]
    fn the_checksum_is_that_of_ethernet() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn each_wrong_table_has_its_error() {
        let error = |change: &dyn Fn(&mut Vec<u8>)| {
            let mut disk = disk();
            change(&mut disk);
            event(&disk).unwrap_err().to_string()
        };
        assert_eq!(
            error(&|disk| disk[512] = 0),
            "no \"EFI PART\" in sector 1 of the disk"
        );
        assert!(error(&|disk| disk[540] ^= 1).starts_with("GPT header: CRC-32 is "));
        assert!(error(&|disk| disk[1024] ^= 1).starts_with("GPT entries: CRC-32 is "));
        assert_eq!(
            error(&|disk| put(disk, 592, u32::MAX)),
            "GPT has a header of 92 bytes and 4294967295 entries of 128, expected 92 bytes and up to 512 of 128"
        );
    }

    #[test]
    fn every_proper_prefix_is_truncated() {
        let disk = disk();
        for cut in 0..disk.len() {
            let error = event(&disk[..cut]).unwrap_err();
            assert!(matches!(error, GptError::Truncated(_)), "cut at {cut}");
        }
    }

    proptest! {
        #[test]
        fn arbitrary_tables_never_panic(
            noise in proptest::collection::vec(any::<u8>(), 0..200),
            at in 512_usize..1600,
        ) {
            let mut disk = disk();
            for (byte, new) in disk.iter_mut().skip(at).zip(&noise) {
                *byte = *new;
            }
            drop(event(&disk));
        }
    }
}
