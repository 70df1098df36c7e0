//! Authenticode digest of a PE image: what firmware measures of a program.
//!
//! Not the file's hash: the checksum field, the directory entry of the
//! certificate table and the table itself are left out, so that signing an
//! image does not change what it measures as.
//!
//! Source: Windows Authenticode Portable Executable Signature Format 1.0,
//! "Calculating the PE Image Hash"; edk2
//! SecurityPkg/Tcg/Tcg2Dxe/MeasureBootPeCoff.c, whose step numbers are quoted.
//! Unlike a signer, firmware does not pad the file to 8 bytes first.

use alloc::vec::Vec;

use attestation::reader::{Reader, Truncated};

use crate::digests::Digests;

/// Digest of the PE image in `file`.
pub fn authenticode(file: &[u8]) -> Result<Digests, PeError> {
    let layout = Layout::read(file)?;
    let range = |from: usize, to: usize| file.get(from..to).ok_or(PeError::Header { from, to });
    // 4, 5, 7-9: the headers, without checksum and certificate directory entry.
    let mut parts: Vec<&[u8]> = match layout.certificate_entry {
        Some(entry) => [
            range(0, layout.checksum)?,
            range(layout.checksum.saturating_add(4), entry)?,
            range(entry.saturating_add(8), layout.headers)?,
        ]
        .to_vec(),
        None => [
            range(0, layout.checksum)?,
            range(layout.checksum.saturating_add(4), layout.headers)?,
        ]
        .to_vec(),
    };
    // 10: the sum of bytes hashed begins with all headers.
    let mut sum = layout.headers;
    // 11-15: sections with content, in file order.
    for entry in layout.sections.iter().filter(|entry| entry.size != 0) {
        parts.push(entry.content(file)?);
        sum = sum.saturating_add(entry.size);
    }
    // Not in the procedure: sections that overlap would make it hash without end.
    let rest = file.len().checked_sub(sum).ok_or(PeError::Overlap {
        sum,
        len: file.len(),
    })?;
    // 16: whatever follows, without the certificates at its end.
    let extra = rest
        .checked_sub(layout.certificates)
        .ok_or(PeError::Certificates {
            size: layout.certificates,
            left: rest,
        })?;
    parts.push(range(sum, sum.saturating_add(extra))?);
    Ok(Digests::of_parts(parts))
}

/// The sections of the PE image in `file`, by their place in it.
pub(crate) fn sections(file: &[u8]) -> Result<Vec<Section<'_>>, PeError> {
    let section = |entry: Entry| {
        Ok(Section {
            name: entry.name,
            virtual_size: entry.virtual_size,
            content: entry.content(file)?,
        })
    };
    Layout::read(file)?
        .sections
        .into_iter()
        .map(section)
        .collect()
}

/// One section of an image.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Section<'a> {
    /// Padded with NULs.
    pub(crate) name: [u8; 8],
    /// Bytes in memory.
    pub(crate) virtual_size: usize,
    /// Bytes in the file, which may be fewer or more.
    pub(crate) content: &'a [u8],
}

/// Where the parts of an image are; offsets in the file.
struct Layout {
    checksum: usize,
    /// The directory entry, if the image has that many.
    certificate_entry: Option<usize>,
    headers: usize,
    certificates: usize,
    /// In file order.
    sections: Vec<Entry>,
}

/// One line of the section table.
struct Entry {
    name: [u8; 8],
    virtual_size: usize,
    offset: usize,
    size: usize,
}

impl Entry {
    fn content<'a>(&self, file: &'a [u8]) -> Result<&'a [u8], PeError> {
        let Self { offset, size, .. } = *self;
        let content = file.get(offset..offset.saturating_add(size));
        content.ok_or(PeError::Section { offset, size })
    }
}

impl Layout {
    fn read(file: &[u8]) -> Result<Self, PeError> {
        let mut reader = Reader::new(file);
        if reader.array::<2>("DOS magic")? != b"MZ" {
            return Err(PeError::NotAnImage);
        }
        reader.array::<58>("DOS header")?;
        let pe = size(reader.u32_le("PE header offset")?);
        let mut reader = Reader::new(file);
        reader.slice("bytes before the PE header", pe)?;
        if reader.array::<4>("PE signature")? != b"PE\0\0" {
            return Err(PeError::NotAnImage);
        }
        reader.u16_le("machine")?;
        let section_count = reader.u16_le("number of sections")?;
        reader.array::<12>("COFF header")?;
        let optional_size = usize::from(reader.u16_le("size of optional header")?);
        reader.u16_le("characteristics")?;
        let optional_at = reader.offset();
        let mut optional = reader.clone();
        // PE32 and PE32+ differ in the width of five fields behind the checksum.
        let behind_checksum = match optional.u16_le("optional header magic")? {
            0x10b => 24,
            0x20b => 40,
            magic => return Err(PeError::Magic { magic }),
        };
        optional.slice("optional header", 58)?;
        let headers = size(optional.u32_le("size of headers")?);
        let checksum = optional.offset();
        optional.u32_le("checksum")?;
        optional.slice("optional header", behind_checksum)?;
        let directories = optional.u32_le("number of directories")?;
        let (certificate_entry, certificates) = match directories > CERTIFICATES {
            true => {
                optional.slice("directories before the certificates", 32)?;
                let at = optional.offset();
                optional.u32_le("certificate table offset")?;
                (Some(at), size(optional.u32_le("certificate table size")?))
            }
            false => (None, 0),
        };
        let mut table = Reader::new(file);
        table.slice("optional header", optional_at.saturating_add(optional_size))?;
        let mut sections = Vec::new();
        for _ in 0..section_count {
            let name = *table.array("section name")?;
            let virtual_size = size(table.u32_le("virtual size")?);
            table.u32_le("virtual address")?;
            let length = size(table.u32_le("size of raw data")?);
            let offset = size(table.u32_le("pointer to raw data")?);
            table.array::<16>("section header")?;
            sections.push(Entry {
                name,
                virtual_size,
                offset,
                size: length,
            });
        }
        sections.sort_by_key(|entry| entry.offset);
        Ok(Self {
            checksum,
            certificate_entry,
            headers,
            certificates,
            sections,
        })
    }
}

/// EFI_IMAGE_DIRECTORY_ENTRY_SECURITY.
const CERTIFICATES: u32 = 4;

fn size(value: u32) -> usize {
    usize::try_from(value).unwrap_or(usize::MAX)
}

/// Why a file has no Authenticode digest.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PeError {
    /// More certificates than bytes after the sections.
    #[error("certificate table has {size} bytes, only {left} follow the sections")]
    Certificates {
        /// As read.
        size: usize,
        /// Bytes behind the last section.
        left: usize,
    },
    /// The headers are not where the headers say.
    #[error("headers from offset {from} to {to} do not fit the file")]
    Header {
        /// First byte.
        from: usize,
        /// Behind the last byte.
        to: usize,
    },
    /// Neither PE32 nor PE32+.
    #[error("optional header has magic {magic:#x}, expected 0x10b or 0x20b")]
    Magic {
        /// As read.
        magic: u16,
    },
    /// No DOS or PE signature.
    #[error("not a PE image")]
    NotAnImage,
    /// Sections share bytes.
    #[error("headers and sections add up to {sum} bytes in a file of {len}")]
    Overlap {
        /// Sum of their sizes.
        sum: usize,
        /// Of the file.
        len: usize,
    },
    /// A section is not in the file.
    #[error("section of {size} bytes at offset {offset} is outside the file")]
    Section {
        /// As read.
        offset: usize,
        /// As read.
        size: usize,
    },
    /// The file ended inside a field.
    #[error(transparent)]
    Truncated(#[from] Truncated),
}

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "test inputs are small constants"
)]
pub(crate) mod tests {
    use super::*;
    use alloc::string::ToString;
    use alloc::vec;
    use proptest::prelude::*;

    /// A PE32+ image: headers of 512 bytes, two sections (the second first in the
    /// file), 5 bytes behind them.
    pub(crate) fn image() -> Vec<u8> {
        let mut file = vec![0; 512];
        file[..2].copy_from_slice(b"MZ");
        put(&mut file, 60, 64);
        file[64..68].copy_from_slice(b"PE\0\0");
        put(&mut file, 68, 0x0002_8664);
        put(&mut file, 84, 240);
        put(&mut file, 88, 0x20b);
        put(&mut file, 88 + 60, 512);
        put(&mut file, CHECKSUM, 0x1234);
        put(&mut file, 88 + 108, 16);
        for (at, offset, size) in [(328, 528, 32), (368, 512, 16)] {
            put(&mut file, at + 16, size);
            put(&mut file, at + 20, offset);
        }
        file.extend([1; 16]);
        file.extend([2; 32]);
        file.extend([3; 5]);
        file
    }

    /// The same headers with these sections, each of a virtual size, in the order of the file.
    pub(crate) fn with_sections(sections: &[(&str, usize, Vec<u8>)]) -> Vec<u8> {
        let mut file = image();
        file.truncate(328);
        put(
            &mut file,
            68,
            u32::try_from(sections.len() << 16).unwrap() | 0x8664,
        );
        put(&mut file, 88 + 60, 1024);
        let mut offset = 1024;
        for (name, virtual_size, content) in sections {
            let mut line = vec![0; 40];
            line[..name.len()].copy_from_slice(name.as_bytes());
            put(&mut line, 8, u32::try_from(*virtual_size).unwrap());
            put(&mut line, 16, u32::try_from(content.len()).unwrap());
            put(&mut line, 20, u32::try_from(offset).unwrap());
            offset += content.len();
            file.extend(line);
        }
        file.resize(1024, 0);
        sections
            .iter()
            .for_each(|(_, _, content)| file.extend(content));
        file
    }

    const CHECKSUM: usize = 88 + 64;
    const ENTRY: usize = 88 + 112 + 32;

    fn put(file: &mut [u8], at: usize, value: u32) {
        file[at..at + 4].copy_from_slice(&value.to_le_bytes());
    }

    #[test]
    fn checksum_and_certificates_do_not_count() {
        let plain = image();
        let expected = Digests::of_parts([
            &plain[..CHECKSUM],
            &plain[CHECKSUM + 4..ENTRY],
            &plain[ENTRY + 8..],
        ]);
        assert_eq!(authenticode(&plain), Ok(expected));
        let mut signed = plain.clone();
        put(&mut signed, CHECKSUM, 0x5678);
        put(&mut signed, ENTRY, 565);
        put(&mut signed, ENTRY + 4, 8);
        signed.extend([9; 8]);
        assert_eq!(authenticode(&signed), Ok(expected));
    }

    #[test]
    fn everything_else_counts() {
        let good = image();
        for at in [20, 100, 300, 400, 511, 512, 528, 559, 560, 564] {
            let mut changed = good.clone();
            changed[at] ^= 1;
            assert_ne!(authenticode(&changed), authenticode(&good), "byte {at}");
        }
    }

    #[test]
    fn an_image_with_few_directories_has_no_certificates() {
        let mut few = image();
        put(&mut few, 88 + 108, 4);
        let expected = Digests::of_parts([&few[..CHECKSUM], &few[CHECKSUM + 4..]]);
        assert_eq!(authenticode(&few), Ok(expected));
    }

    #[test]
    fn each_corruption_has_its_error() {
        let rows: &[(usize, u32, &str)] = &[
            (0, 0, "not a PE image"),
            (
                60,
                600,
                "bytes before the PE header at offset 0 needs 600 bytes, 565 left",
            ),
            (64, 0, "not a PE image"),
            (
                88,
                0x107,
                "optional header has magic 0x107, expected 0x10b or 0x20b",
            ),
            (
                88 + 60,
                600,
                "headers from offset 240 to 600 do not fit the file",
            ),
            (
                88 + 60,
                100,
                "headers from offset 240 to 100 do not fit the file",
            ),
            (
                ENTRY + 4,
                6,
                "certificate table has 6 bytes, only 5 follow the sections",
            ),
            (
                328 + 16,
                38,
                "section of 38 bytes at offset 528 is outside the file",
            ),
            (
                328 + 20,
                534,
                "section of 32 bytes at offset 534 is outside the file",
            ),
            (
                368 + 16,
                40,
                "headers and sections add up to 584 bytes in a file of 565",
            ),
        ];
        for (at, value, expected) in rows {
            let mut bad = image();
            put(&mut bad, *at, *value);
            assert_eq!(authenticode(&bad).unwrap_err().to_string(), *expected);
        }
    }

    #[test]
    fn every_prefix_that_cuts_a_section_is_an_error() {
        let good = image();
        for cut in 0..560 {
            authenticode(&good[..cut]).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            noise in proptest::collection::vec(any::<u8>(), 0..400),
            at in 0_usize..560,
        ) {
            let mut file = image();
            for (byte, new) in file.iter_mut().skip(at).zip(&noise) {
                *byte = *new;
            }
            drop(authenticode(&file));
            drop(authenticode(&noise));
        }
    }
}
