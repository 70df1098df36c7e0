//! The initrd: init and the root hash, as an archive in the kernel's "newc" form of cpio.
//!
//! A member is a header of 110 ASCII characters, the name with a NUL, and the
//! content, the last two padded to 4 bytes. Times, owners and inode numbers are
//! constants. Source: Linux, `Documentation/driver-api/early-userspace/buffer-format.rst`.

use anyhow::{Context as _, Result};

/// A file of the archive.
#[derive(Clone, Copy, Debug)]
pub struct Member<'a> {
    /// Path without a leading slash.
    pub name: &'a str,
    /// Permission bits.
    pub mode: u32,
    /// What it holds.
    pub content: &'a [u8],
}

/// Writes the members in the given order.
pub fn archive(members: &[Member<'_>]) -> Result<Vec<u8>> {
    let mut archive = Vec::new();
    for (inode, member) in (1..).zip(members) {
        append(&mut archive, inode, REGULAR | member.mode, member)?;
    }
    let trailer = Member {
        name: "TRAILER!!!",
        mode: 0,
        content: &[],
    };
    append(&mut archive, 0, 0, &trailer)?;
    Ok(archive)
}

fn append(archive: &mut Vec<u8>, inode: u32, mode: u32, member: &Member<'_>) -> Result<()> {
    let too_large = || format!("{} is too large for an initrd", member.name);
    let size = u32::try_from(member.content.len()).with_context(too_large)?;
    let name = [member.name.as_bytes(), b"\0"].concat();
    let name_size = u32::try_from(name.len()).with_context(too_large)?;
    archive.extend(b"070701");
    // inode, mode, uid, gid, links, mtime, size, device, device of a node, name, checksum
    for field in [inode, mode, 0, 0, 1, 0, size, 0, 0, 0, 0, name_size, 0] {
        archive.extend(format!("{field:08X}").bytes());
    }
    for part in [&name, member.content] {
        archive.extend(part);
        archive.resize(archive.len().next_multiple_of(4), 0);
    }
    Ok(())
}

/// Type bits of a regular file.
const REGULAR: u32 = 0o100_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn members_are_laid_out_as_newc() {
        let archive = archive(&[Member {
            name: "init",
            mode: 0o755,
            content: b"hello",
        }])
        .unwrap();
        let expected = "070701\
             00000001000081ED0000000000000000\
             000000010000000000000005\
             00000000000000000000000000000000\
             0000000500000000init\0\0hello\0\0\0\
             070701\
             00000000000000000000000000000000\
             000000010000000000000000\
             00000000000000000000000000000000\
             0000000B00000000TRAILER!!!\0\0\0\0";
        assert_eq!(String::from_utf8(archive).unwrap(), expected);
    }

    #[test]
    fn an_archive_is_a_whole_number_of_words() {
        for length in 0..9 {
            let content = vec![1; length];
            let archive = archive(&[Member {
                name: "a",
                mode: 0o644,
                content: &content,
            }]);
            assert_eq!(archive.unwrap().len() % 4, 0, "{length}");
        }
    }
}
