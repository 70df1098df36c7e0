//! OVMF's two inner firmware volumes, unpacked from the file.
//!
//! The file is a row of volumes. One of them holds a file of type
//! FIRMWARE_VOLUME_IMAGE whose only section is LZMA-compressed; inside are the
//! PEI volume and the DXE volume, in this order. OVMF's SEC phase puts them
//! into memory exactly like that, where a TPM build measures them.
//!
//! Source: UEFI Platform Initialization 1.8, volume 3, sections 3.2.1 (volume),
//! 3.2.3 (file) and 3.2.5 (section); edk2 OvmfPkg/Sec/SecMain.c,
//! DecompressMemFvs().

use alloc::vec::Vec;

use attestation::reader::{Reader, Truncated};
use lzma_rust2::{Action, LzmaStream, Status};

use crate::guid::Guid;

/// The volumes, as SEC puts them into memory.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Volumes {
    /// Pre-EFI initialisation.
    pub pei: Vec<u8>,
    /// Driver execution environment.
    pub dxe: Vec<u8>,
}

impl Volumes {
    /// Unpacks them from a firmware file.
    pub fn unpack(firmware: &[u8]) -> Result<Self, VolumeError> {
        let packed = packed_section(firmware)?;
        let unpacked = decompress(packed)?;
        let mut images = sections(&unpacked).filter_map(|section| match section {
            Ok(Section {
                kind: VOLUME_IMAGE,
                content,
            }) => Some(Ok(content)),
            Ok(_) => None,
            Err(error) => Some(Err(error)),
        });
        let mut next = |name| images.next().unwrap_or(Err(VolumeError::Missing { name }));
        let (pei, dxe) = (next("PEI volume")?, next("DXE volume")?);
        Ok(Self {
            pei: pei.to_vec(),
            dxe: dxe.to_vec(),
        })
    }
}

/// The compressed content of the first volume image file.
fn packed_section(firmware: &[u8]) -> Result<&[u8], VolumeError> {
    let mut rest = firmware;
    while !rest.is_empty() {
        let volume = Volume::read(rest)?;
        if volume.format == FFS2 {
            for file in volume.files() {
                let file = file?;
                if file.kind != VOLUME_IMAGE_FILE {
                    continue;
                }
                let section = sections(file.content).next();
                let section = section.ok_or(VolumeError::Missing { name: "section" })??;
                return lzma(&section);
            }
        }
        rest = volume.rest;
    }
    Err(VolumeError::Missing {
        name: "volume image file",
    })
}

struct Volume<'a> {
    format: Guid,
    body: &'a [u8],
    rest: &'a [u8],
}

impl<'a> Volume<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, VolumeError> {
        let mut reader = Reader::new(bytes);
        reader.array::<16>("volume zero vector")?;
        let format = Guid(*reader.array("volume format")?);
        let length = usize::try_from(reader.u64_le("volume length")?).unwrap_or(usize::MAX);
        if reader.array::<4>("volume signature")? != b"_FVH" {
            return Err(VolumeError::NotAVolume);
        }
        reader.u32_le("volume attributes")?;
        let header = usize::from(reader.u16_le("volume header length")?);
        reader.u16_le("volume checksum")?;
        let extension = usize::from(reader.u16_le("volume extension offset")?);
        let mut whole = Reader::new(bytes);
        let volume = whole.slice("volume", length)?;
        // A row of empty volumes would be read for ever.
        if volume.is_empty() {
            return Err(VolumeError::NotAVolume);
        }
        let start = match extension {
            0 => header,
            _ => {
                let mut reader = Reader::new(volume);
                reader.slice("volume up to its extension", extension)?;
                reader.array::<16>("volume name")?;
                let size = reader.u32_le("volume extension size")?;
                extension.saturating_add(usize::try_from(size).unwrap_or(usize::MAX))
            }
        };
        let start = start.checked_next_multiple_of(8).unwrap_or(usize::MAX);
        let mut reader = Reader::new(volume);
        reader.slice("volume header", start)?;
        Ok(Self {
            format,
            body: reader.rest(),
            rest: whole.rest(),
        })
    }

    fn files(&self) -> impl Iterator<Item = Result<File<'a>, VolumeError>> + use<'a> {
        let mut rest = self.body;
        core::iter::from_fn(move || {
            // Free space is erased flash: all ones.
            if rest.iter().take(FILE_HEADER).all(|byte| *byte == 0xff) {
                return None;
            }
            let file = File::read(rest);
            rest = match &file {
                Ok(file) => file.rest,
                Err(_) => &[],
            };
            Some(file)
        })
    }
}

struct File<'a> {
    kind: u8,
    content: &'a [u8],
    rest: &'a [u8],
}

impl<'a> File<'a> {
    fn read(bytes: &'a [u8]) -> Result<Self, VolumeError> {
        let mut reader = Reader::new(bytes);
        reader.array::<16>("file name")?;
        reader.u16_le("file checksum")?;
        let kind = reader.u8("file type")?;
        reader.u8("file attributes")?;
        let size = u24(*reader.array("file size")?);
        reader.u8("file state")?;
        let content = size
            .checked_sub(FILE_HEADER)
            .ok_or(VolumeError::Size { size })?;
        let content = reader.slice("file content", content)?;
        Ok(Self {
            kind,
            content,
            rest: aligned(bytes, size, 8),
        })
    }
}

struct Section<'a> {
    kind: u8,
    content: &'a [u8],
}

fn sections(bytes: &[u8]) -> impl Iterator<Item = Result<Section<'_>, VolumeError>> {
    let mut rest = bytes;
    core::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let section = read_section(&mut rest);
        if section.is_err() {
            rest = &[];
        }
        Some(section)
    })
}

/// EFI_COMMON_SECTION_HEADER, or HEADER2 with a 32-bit size.
fn read_section<'a>(rest: &mut &'a [u8]) -> Result<Section<'a>, VolumeError> {
    let mut reader = Reader::new(rest);
    let mut size = u24(*reader.array("section size")?);
    let kind = reader.u8("section type")?;
    if size == 0xff_ffff {
        size = usize::try_from(reader.u32_le("section size")?).unwrap_or(usize::MAX);
    }
    let content = size
        .checked_sub(reader.offset())
        .ok_or(VolumeError::Size { size })?;
    let content = reader.slice("section content", content)?;
    *rest = aligned(rest, size, 4);
    Ok(Section { kind, content })
}

/// The compressed bytes of an EFI_GUID_DEFINED_SECTION.
fn lzma<'a>(section: &Section<'a>) -> Result<&'a [u8], VolumeError> {
    if section.kind != GUID_DEFINED {
        return Err(VolumeError::Missing {
            name: "GUID-defined section",
        });
    }
    let mut reader = Reader::new(section.content);
    let guid = Guid(*reader.array("section GUID")?);
    match guid == LZMA {
        // DataOffset counts from the 4-byte common header; DataOffset and Attributes follow.
        true => {
            let offset = usize::from(reader.u16_le("section data offset")?);
            let skip = offset
                .checked_sub(4)
                .ok_or(VolumeError::Size { size: offset })?;
            let mut reader = Reader::new(section.content);
            reader.slice("section header", skip)?;
            Ok(reader.rest())
        }
        false => Err(VolumeError::Missing {
            name: "LZMA section",
        }),
    }
}

fn decompress(packed: &[u8]) -> Result<Vec<u8>, VolumeError> {
    let mut stream = LzmaStream::new_mem_limit(MEMORY_KIB, None);
    let (mut unpacked, mut rest) = (Vec::new(), packed);
    loop {
        let start = unpacked.len();
        if start >= MAX_UNPACKED {
            return Err(VolumeError::TooLarge);
        }
        unpacked.resize(start.saturating_add(CHUNK), 0);
        let space = unpacked.get_mut(start..).unwrap_or_default();
        let step = stream
            .process(rest, space, Action::Finish)
            .map_err(|_| VolumeError::Lzma)?;
        rest = rest.get(step.bytes_consumed..).unwrap_or_default();
        unpacked.truncate(start.saturating_add(step.bytes_produced));
        match step.status {
            Status::StreamEnd => return Ok(unpacked),
            Status::Ok if step.bytes_produced == 0 => return Err(VolumeError::Lzma),
            Status::Ok => (),
        }
    }
}

fn u24([low, middle, high]: [u8; 3]) -> usize {
    usize::try_from(u32::from_le_bytes([low, middle, high, 0])).unwrap_or(usize::MAX)
}

/// What follows `size` bytes, rounded up.
fn aligned(bytes: &[u8], size: usize, to: usize) -> &[u8] {
    let next = size.checked_next_multiple_of(to).unwrap_or(usize::MAX);
    bytes.get(next..).unwrap_or_default()
}

const FILE_HEADER: usize = 24;
/// EFI_FV_FILETYPE_FIRMWARE_VOLUME_IMAGE.
const VOLUME_IMAGE_FILE: u8 = 0x0b;
/// EFI_SECTION_GUID_DEFINED.
const GUID_DEFINED: u8 = 0x02;
/// EFI_SECTION_FIRMWARE_VOLUME_IMAGE.
const VOLUME_IMAGE: u8 = 0x17;
const FFS2: Guid = Guid::new(
    0x8c8c_e578,
    0x8a3d,
    0x4f1c,
    [0x99, 0x35, 0x89, 0x61, 0x85, 0xc3, 0x2d, 0xd3],
);
const LZMA: Guid = Guid::new(
    0xee4e_5898,
    0x3914,
    0x4259,
    [0x9d, 0x6e, 0xdc, 0x7b, 0xd7, 0x94, 0x03, 0xcf],
);
/// OVMF's dictionary is 16 MiB.
const MEMORY_KIB: u32 = 64 << 10;
/// OVMF unpacks to 16 MiB.
const MAX_UNPACKED: usize = 64 << 20;
const CHUNK: usize = 4 << 20;

/// Why the volumes cannot be unpacked.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum VolumeError {
    /// The compressed section does not decompress.
    #[error("the compressed volumes are not a whole LZMA stream")]
    Lzma,
    /// The file does not contain it where OVMF has it.
    #[error("firmware has no {name}")]
    Missing {
        /// What.
        name: &'static str,
    },
    /// The file is not a row of volumes.
    #[error("firmware is not a row of firmware volumes")]
    NotAVolume,
    /// A size smaller than its own header.
    #[error("a file or section of {size} bytes is shorter than its header")]
    Size {
        /// As read.
        size: usize,
    },
    /// More than any firmware needs.
    #[error("the compressed volumes unpack to more than {MAX_UNPACKED} bytes")]
    TooLarge,
    /// The input ended inside a field.
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
    use crate::vectors;
    use alloc::string::ToString;
    use alloc::vec;
    use attestation::register::Digest256;
    use lzma_rust2::{LzmaOptions, LzmaWriter, Write as _};
    use proptest::prelude::*;

    /// The bytes `decompress` must give back: `two volumes` with section headers.
    fn unpacked() -> Vec<u8> {
        let mut bytes = Vec::new();
        for content in [&b"pei"[..], b"dxe volume"] {
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes.extend(&u32::try_from(content.len() + 4).unwrap().to_le_bytes()[..3]);
            bytes.push(VOLUME_IMAGE);
            bytes.extend(content);
        }
        bytes
    }

    /// `unpacked()`, by `xz --format=lzma`.
    const PACKED: &str = "5d00000400ffffffffffffffff00037ffc032989d0a36a7332917a16d2e05f1a94f09b1ed36e7a80ffe6278000";

    fn firmware() -> Vec<u8> {
        let packed = hex::decode(PACKED).unwrap();
        let mut section = vec![];
        section.extend(&u32::try_from(packed.len() + 24).unwrap().to_le_bytes()[..3]);
        section.push(GUID_DEFINED);
        section.extend(LZMA.0);
        section.extend([24, 0, 1, 0]);
        section.extend(packed);
        let mut file = vec![0xaa; 18];
        file.extend([VOLUME_IMAGE_FILE, 0]);
        file.extend(&u32::try_from(section.len() + 24).unwrap().to_le_bytes()[..3]);
        file.push(0xf8);
        file.extend(section);
        let mut volume = vec![0; 16];
        volume.extend(FFS2.0);
        volume.extend(u64::try_from(72 + file.len()).unwrap().to_le_bytes());
        volume.extend(b"_FVH");
        volume.extend([0; 4]);
        volume.extend([72, 0, 0, 0, 0, 0, 0, 2]);
        volume.resize(72, 0);
        volume.extend(file);
        volume
    }

    #[test]
    fn both_volumes_come_out() {
        let volumes = Volumes::unpack(&firmware()).unwrap();
        assert_eq!(volumes.pei, b"pei");
        assert_eq!(volumes.dxe, b"dxe volume");
    }

    #[test]
    fn decompression_gives_the_sections() {
        assert_eq!(decompress(&hex::decode(PACKED).unwrap()), Ok(unpacked()));
    }

    /// The second value is the one in the event log of a real boot.
    #[test]
    fn debian_firmware_unpacks_to_what_a_boot_measured() {
        let Some(file) = vectors::firmware("debian-2025.02-8+deb13u1") else {
            return;
        };
        let volumes = Volumes::unpack(&file).unwrap();
        assert_eq!(
            (volumes.pei.len(), volumes.dxe.len()),
            (0xe_0000, 0xe8_0000)
        );
        assert_eq!(
            Digest256::of(&volumes.dxe).to_string(),
            "450136d3f01290a89f67a4ecc0e3f8a9d16f49e9eb4e17c4cacdffdeea32f806",
        );
    }

    #[test]
    fn each_corruption_has_its_error() {
        let good = firmware();
        let len = good.len();
        let rows: &[(usize, u8, &str)] = &[
            (40, 0, "firmware is not a row of firmware volumes"),
            (32, 0, "firmware is not a row of firmware volumes"),
            (16, 0, "firmware has no volume image file"),
            (72 + 18, 7, "firmware has no volume image file"),
            (
                72 + 20,
                1,
                "a file or section of 1 bytes is shorter than its header",
            ),
            (
                72 + 22,
                1,
                "file content at offset 24 needs 65605 bytes, 69 left",
            ),
            (96 + 3, 7, "firmware has no GUID-defined section"),
            (96 + 4, 7, "firmware has no LZMA section"),
            (
                96 + 20,
                3,
                "a file or section of 3 bytes is shorter than its header",
            ),
            (
                96 + 24,
                255,
                "the compressed volumes are not a whole LZMA stream",
            ),
            (
                96 + 28,
                255,
                "the compressed volumes are not a whole LZMA stream",
            ),
        ];
        for (at, byte, expected) in rows {
            let mut bad = good.clone();
            bad[*at] = *byte;
            let error = Volumes::unpack(&bad).unwrap_err();
            assert_eq!(error.to_string(), *expected, "byte {at} of {len}");
        }
    }

    #[test]
    fn a_stream_that_unpacks_to_too_much_is_refused() {
        let mut packed = vec![0; 64 << 10];
        let mut rest = &mut packed[..];
        let options = LzmaOptions::with_preset(0);
        let mut writer = LzmaWriter::new_use_header(&mut rest, &options, None).unwrap();
        for _ in 0..=MAX_UNPACKED / CHUNK {
            writer.write_all(&vec![0; CHUNK]).unwrap();
        }
        writer.finish().unwrap();
        assert_eq!(decompress(&packed), Err(VolumeError::TooLarge));
    }

    #[test]
    fn every_proper_prefix_is_an_error() {
        let good = firmware();
        for cut in 0..good.len() {
            Volumes::unpack(&good[..cut]).unwrap_err();
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            noise in proptest::collection::vec(any::<u8>(), 0..200),
            at in 0_usize..200,
        ) {
            let mut file = firmware();
            for (byte, new) in file.iter_mut().skip(at).zip(&noise) {
                *byte = *new;
            }
            drop(Volumes::unpack(&file));
            drop(Volumes::unpack(&noise));
        }
    }
}
