//! What our initrd holds: init, the root's verity parameters, and nothing else.
//!
//! A cpio archive in the "newc" form, uncompressed:
//!
//! ```text
//! "070701" | 13 fields of 8 hex digits | name, NUL, to 4 bytes | content, to 4 bytes
//! ```
//!
//! Source: Linux Documentation/driver-api/early-userspace/buffer-format.rst.

use alloc::string::String;

use attestation::reader::{Reader, Truncated};

/// The two members.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Initrd<'a> {
    /// The program that runs as PID 1.
    pub init: &'a [u8],
    /// Text form of the root's parameters.
    pub verity: &'a [u8],
}

impl<'a> Initrd<'a> {
    /// Reads the whole archive: the kernel would unpack whatever else it held.
    pub fn parse(archive: &'a [u8]) -> Result<Self, InitrdError> {
        let mut reader = Reader::new(archive);
        let (mut init, mut verity) = (None, None);
        loop {
            let (name, content) = read(&mut reader)?;
            let before = match name {
                b"init" => init.replace(content),
                b"verity" => verity.replace(content),
                TRAILER => break,
                _ => Some(content),
            };
            if before.is_some() {
                let name = String::from_utf8_lossy(name).into_owned();
                return Err(InitrdError::Unexpected { name });
            }
        }
        if reader.rest().iter().any(|byte| *byte != 0) {
            let offset = reader.offset();
            return Err(InitrdError::Trailing { offset });
        }
        Ok(Self {
            init: init.ok_or(InitrdError::Missing { name: "init" })?,
            verity: verity.ok_or(InitrdError::Missing { name: "verity" })?,
        })
    }
}

fn read<'a>(reader: &mut Reader<'a>) -> Result<(&'a [u8], &'a [u8]), InitrdError> {
    let offset = reader.offset();
    if reader.array::<6>("cpio magic")? != b"070701" {
        return Err(InitrdError::Magic { offset });
    }
    reader.array::<48>("cpio header")?;
    let size = hex(reader, "c_filesize")?;
    reader.array::<32>("cpio header")?;
    let name_size = hex(reader, "c_namesize")?;
    reader.array::<8>("c_check")?;
    let name = reader.slice("file name", name_size)?;
    align(reader)?;
    let content = reader.slice("file content", size)?;
    align(reader)?;
    Ok((name.strip_suffix(&[0]).unwrap_or(name), content))
}

fn hex(reader: &mut Reader<'_>, field: &'static str) -> Result<usize, InitrdError> {
    let offset = reader.offset();
    let digits = reader.array::<8>(field)?;
    core::str::from_utf8(digits)
        .ok()
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .and_then(|value| usize::try_from(value).ok())
        .ok_or(InitrdError::Number { field, offset })
}

fn align(reader: &mut Reader<'_>) -> Result<(), Truncated> {
    let offset = reader.offset();
    let padding = offset.next_multiple_of(4).saturating_sub(offset);
    reader.slice("padding", padding).map(drop)
}

const TRAILER: &[u8] = b"TRAILER!!!";

/// Why an archive does not give its member.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum InitrdError {
    /// Compressed, or not an archive.
    #[error("no cpio header \"070701\" at offset {offset} of the initrd")]
    Magic {
        /// Where it was expected.
        offset: usize,
    },
    /// Not in the archive.
    #[error("initrd has no {name:?}")]
    Missing {
        /// Which.
        name: &'static str,
    },
    /// A header field that is not hexadecimal.
    #[error("{field} at offset {offset} is not 8 hex digits")]
    Number {
        /// Name in the format.
        field: &'static str,
        /// Where.
        offset: usize,
    },
    /// A second archive, or something else that the kernel would read.
    #[error("initrd goes on at offset {offset}, after its end")]
    Trailing {
        /// Behind the last member.
        offset: usize,
    },
    /// The archive ended inside a field.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// Another file, or one of ours for the second time.
    #[error("initrd has {name:?}, expected init and verity once each")]
    Unexpected {
        /// Which.
        name: String,
    },
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::ToString;
    use alloc::vec::Vec;
    use proptest::prelude::*;

    /// An archive of these files.
    pub(crate) fn archive(files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, content) in files.iter().chain([&("TRAILER!!!", &b""[..])]) {
            let fields = [1, 0o100_644, 0, 0, 1, 0, content.len(), 0, 0, 0, 0];
            let fields: String = fields.iter().map(|field| format!("{field:08X}")).collect();
            let name_size = name.len().saturating_add(1);
            bytes.extend(format!("070701{fields}{name_size:08X}00000000{name}\0").bytes());
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes.extend(*content);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
        }
        bytes
    }

    #[test]
    fn both_members_are_found() {
        let archive = archive(&[("init", b"program"), ("verity", b"sha256:\n")]);
        let initrd = Initrd::parse(&archive).unwrap();
        assert_eq!(initrd.verity, b"sha256:\n");
        assert_eq!(initrd.init, b"program");
    }

    #[test]
    fn each_wrong_archive_has_its_error() {
        let error = |archive: &[u8]| Initrd::parse(archive).unwrap_err().to_string();
        assert_eq!(
            error(&archive(&[("init", b"")])),
            "initrd has no \"verity\""
        );
        assert_eq!(
            error(&archive(&[("verity", b"a"), ("verity", b"b")])),
            "initrd has \"verity\", expected init and verity once each"
        );
        assert_eq!(
            error(&archive(&[("./init", b"")])),
            "initrd has \"./init\", expected init and verity once each"
        );
        assert_eq!(
            error(b"\x28\xb5\x2f\xfd compressed"),
            "no cpio header \"070701\" at offset 0 of the initrd"
        );
        let mut bad = archive(&[("init", b"")]);
        bad[54] = b'x';
        assert_eq!(error(&bad), "c_filesize at offset 54 is not 8 hex digits");
        let good = archive(&[("init", b""), ("verity", b"")]);
        let padded = [&good[..], &[0; 8]].concat();
        assert_eq!(Initrd::parse(&padded), Initrd::parse(&good));
        assert_eq!(
            error(&[&padded[..], &good].concat()),
            "initrd goes on at offset 360, after its end"
        );
    }

    #[test]
    fn every_proper_prefix_is_truncated() {
        let archive = archive(&[("init", b""), ("verity", b"text")]);
        for cut in 0..archive.len() {
            assert!(matches!(
                Initrd::parse(&archive[..cut]),
                Err(InitrdError::Truncated(_))
            ));
        }
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(
            noise in proptest::collection::vec(any::<u8>(), 0..200),
            at in 0_usize..200,
        ) {
            let mut bytes = archive(&[("init", b""), ("verity", b"text")]);
            for (byte, new) in bytes.iter_mut().skip(at).zip(&noise) {
                *byte = *new;
            }
            drop(Initrd::parse(&bytes));
            drop(Initrd::parse(&noise));
        }
    }
}
