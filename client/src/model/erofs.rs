//! The file system of a pack: erofs without compression, one layout for one list of files.
//!
//! ```text
//! offset 1024   superblock (128 bytes)
//!        1152   inodes, 64 bytes each: the root, the files as listed, the folders by path
//!   next block  entries of the root, then of each folder, each from a block of its own
//!   next block  content of each file as listed, each from a block of its own
//! ```
//!
//! A block is 4096 bytes. Everything that could differ between two machines is zero:
//! times, owners, the UUID. Modes are 0555 and 0444. Integers are little-endian.
//!
//! Since the layout follows from the list, a reader needs no parser for it: it makes
//! the same bytes again and compares.
//!
//! Source: Linux, `fs/erofs/erofs_fs.h` and `Documentation/filesystems/erofs.rst`.

use std::collections::BTreeMap;

use attestation::verity::BLOCK;

/// Where everything goes.
#[derive(Clone, Debug)]
pub struct Layout {
    /// From the start of the disk, in whole blocks.
    pub metadata: Vec<u8>,
    /// Where each file is, in the order of the list.
    pub extents: Vec<Extent>,
    /// Length of the disk in blocks.
    pub blocks: u32,
}

/// The place of one file, from the start of a block.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Extent {
    /// In bytes.
    pub start: u64,
    /// In bytes.
    pub len: u64,
}

impl Layout {
    /// For files of these paths and sizes, in this order.
    pub fn of(files: &[(&str, u64)]) -> Result<Self, LayoutError> {
        let mut folders = Folders::of(files)?;
        let inodes = files.len().saturating_add(folders.0.len());
        let table = SUPERBLOCK_END.saturating_add(inodes.saturating_mul(INODE));
        let mut next = blocks_of(table)?;

        let mut entries = Vec::new();
        let mut inode_of_folder = Vec::new();
        folders.number(files.len());
        for (path, folder) in &folders.0 {
            let bytes = folder.entries(folders.nid(parent(path)));
            let start = next;
            let len = bytes.len();
            next = next.checked_add(blocks_of(len)?).ok_or(LayoutError::Size)?;
            entries.extend_from_slice(&bytes);
            entries.resize(entries.len().next_multiple_of(BLOCK), 0);
            inode_of_folder.push(Inode {
                mode: 0o040_555,
                len: wide(len),
                start,
                links: folder.links(),
            });
        }

        let mut extents = Vec::new();
        let mut inodes = Vec::new();
        for (_, len) in files {
            extents.push(Extent {
                start: u64::from(next).saturating_mul(wide(BLOCK)),
                len: *len,
            });
            inodes.push(Inode {
                mode: 0o100_444,
                len: *len,
                start: next,
                links: 1,
            });
            let blocks = u32::try_from(len.div_ceil(wide(BLOCK)));
            let blocks = blocks.map_err(|_| LayoutError::Size)?;
            next = next.checked_add(blocks).ok_or(LayoutError::Size)?;
        }
        // The root is the first folder and the first inode.
        let rest = inode_of_folder.split_off(1);
        let all: Vec<_> = [inode_of_folder, inodes, rest].concat();

        let mut metadata = vec![0; SUPERBLOCK];
        metadata.extend(superblock(wide(all.len()), next));
        for (index, inode) in all.iter().enumerate() {
            metadata.extend(inode.bytes(index)?);
        }
        metadata.resize(metadata.len().next_multiple_of(BLOCK), 0);
        metadata.extend(entries);
        Ok(Self {
            metadata,
            extents,
            blocks: next,
        })
    }

    /// Where the first file of a list is, read from the first block of a disk that may
    /// have any other layout.
    #[must_use]
    pub fn first_file(block: &[u8; BLOCK]) -> Option<Extent> {
        if block.get(SUPERBLOCK..)?.first_chunk() != Some(&MAGIC.to_le_bytes()) {
            return None;
        }
        let inode = block.get(SUPERBLOCK_END.saturating_add(INODE)..)?;
        let len = u64::from_le_bytes(*inode.get(8..)?.first_chunk()?);
        let start = u32::from_le_bytes(*inode.get(16..)?.first_chunk()?);
        Some(Extent {
            start: u64::from(start).saturating_mul(wide(BLOCK)),
            len,
        })
    }
}

/// Every folder by its path; the root's is empty, so that it is the first.
struct Folders<'a>(BTreeMap<&'a str, Folder<'a>>);

#[derive(Default)]
struct Folder<'a> {
    nid: u64,
    /// By name: inode number, and whether it is a folder.
    entries: BTreeMap<&'a str, (u64, bool)>,
}

impl<'a> Folders<'a> {
    fn of(files: &[(&'a str, u64)]) -> Result<Self, LayoutError> {
        let mut folders = Self(BTreeMap::from([("", Folder::default())]));
        for (index, (path, _)) in files.iter().enumerate() {
            check(path)?;
            let mut entry = (nid(index.saturating_add(1)), false);
            let mut path = *path;
            loop {
                let folder = folders.0.entry(parent(path)).or_default();
                match folder.entries.insert(name(path), entry) {
                    None => {}
                    // The folders above are there already.
                    Some((_, true)) if entry.1 => break,
                    Some(_) => return Err(LayoutError::Twice { path: path.into() }),
                }
                path = parent(path);
                entry = (0, true);
                if path.is_empty() {
                    break;
                }
            }
        }
        Ok(folders)
    }

    /// Gives the folders their inodes: the root's is the first, the others are behind
    /// those of the files.
    fn number(&mut self, files: usize) {
        let mut nids = BTreeMap::new();
        for (index, (path, folder)) in self.0.iter_mut().enumerate() {
            folder.nid = match index {
                0 => nid(0),
                _ => nid(files.saturating_add(index)),
            };
            nids.insert(*path, folder.nid);
        }
        for (path, nid) in nids.into_iter().skip(1) {
            if let Some(above) = self.0.get_mut(parent(path)) {
                above.entries.insert(name(path), (nid, true));
            }
        }
    }

    fn nid(&self, path: &str) -> u64 {
        self.0.get(path).map_or(nid(0), |folder| folder.nid)
    }
}

impl Folder<'_> {
    /// A link from above, one from itself, and one from each folder in it.
    fn links(&self) -> u32 {
        let inside = self.entries.values().filter(|(_, folder)| *folder).count();
        u32::try_from(inside).unwrap_or(u32::MAX).saturating_add(2)
    }

    /// Blocks of entries, each followed by their names, all in the order of the names.
    fn entries(&self, above: u64) -> Vec<u8> {
        let mut all = self.entries.clone();
        all.extend([(".", (self.nid, true)), ("..", (above, true))]);
        let mut bytes = Vec::new();
        let mut block = Vec::new();
        let mut used = 0_usize;
        for (name, (nid, folder)) in all {
            let size = name.len().saturating_add(DIRENT);
            if used.saturating_add(size) > BLOCK {
                bytes.extend(dirents(&block));
                bytes.resize(bytes.len().next_multiple_of(BLOCK), 0);
                (block, used) = (Vec::new(), 0);
            }
            used = used.saturating_add(size);
            block.push((name, nid, folder));
        }
        bytes.extend(dirents(&block));
        bytes
    }
}

/// One block's `struct erofs_dirent`s, then the names.
fn dirents(block: &[(&str, u64, bool)]) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut names: Vec<u8> = Vec::new();
    let behind = block.len().saturating_mul(DIRENT);
    for (name, nid, folder) in block {
        // At most a block: the caller sees to it.
        let offset = u16::try_from(behind.saturating_add(names.len())).unwrap_or(u16::MAX);
        bytes.extend(nid.to_le_bytes());
        bytes.extend(offset.to_le_bytes());
        bytes.extend([if *folder { 2 } else { 1 }, 0]);
        names.extend(name.as_bytes());
    }
    bytes.extend(names);
    bytes
}

/// `struct erofs_inode_extended`, its data in one piece.
#[derive(Clone, Copy)]
struct Inode {
    mode: u16,
    len: u64,
    start: u32,
    links: u32,
}

impl Inode {
    fn bytes(&self, index: usize) -> Result<[u8; INODE], LayoutError> {
        let number = index.checked_add(1).and_then(|n| u32::try_from(n).ok());
        let number = number.ok_or(LayoutError::Size)?;
        let mut inode = [0; INODE];
        // i_format: extended, EROFS_INODE_FLAT_PLAIN.
        put(&mut inode, 0, &1_u16.to_le_bytes());
        put(&mut inode, 4, &self.mode.to_le_bytes());
        put(&mut inode, 8, &self.len.to_le_bytes());
        put(&mut inode, 16, &self.start.to_le_bytes());
        put(&mut inode, 20, &number.to_le_bytes());
        put(&mut inode, 44, &self.links.to_le_bytes());
        Ok(inode)
    }
}

/// `struct erofs_super_block`, with no feature that an old kernel would not know.
fn superblock(inodes: u64, blocks: u32) -> [u8; 128] {
    let mut superblock = [0; 128];
    put(&mut superblock, 0, &MAGIC.to_le_bytes());
    put(&mut superblock, 12, &[12]); // 4096 is 2^12
    put(&mut superblock, 14, &ROOT.to_le_bytes());
    put(&mut superblock, 16, &inodes.to_le_bytes());
    put(&mut superblock, 36, &blocks.to_le_bytes());
    superblock
}

fn put(to: &mut [u8], at: usize, from: &[u8]) {
    to.iter_mut()
        .skip(at)
        .zip(from)
        .for_each(|(to, from)| *to = *from);
}

/// An inode's number is its place in units of 32 bytes.
fn nid(index: usize) -> u64 {
    wide(index).saturating_mul(2).saturating_add(ROOT.into())
}

fn blocks_of(len: usize) -> Result<u32, LayoutError> {
    u32::try_from(len.div_ceil(BLOCK)).map_err(|_| LayoutError::Size)
}

/// Everything before the last slash.
fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

/// Everything behind it.
fn name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// Harmless below any folder, and short enough for any file system.
fn check(path: &str) -> Result<(), LayoutError> {
    let good = |name: &str| {
        let dots = matches!(name, "" | "." | "..");
        !dots && name.len() <= 255 && !name.contains(|c: char| c.is_control())
    };
    match path.len() <= 1024 && path.split('/').all(good) {
        true => Ok(()),
        false => Err(LayoutError::Path { path: path.into() }),
    }
}

const fn wide(number: usize) -> u64 {
    // Lossless wherever this runs.
    #[expect(clippy::as_conversions, reason = "no const conversion without it")]
    {
        number as u64
    }
}

const MAGIC: u32 = 0xe0f5_e1e2;
const SUPERBLOCK: usize = 1024;
const SUPERBLOCK_END: usize = 1152;
const INODE: usize = 64;
const DIRENT: usize = 12;
/// The first inode, right behind the superblock.
const ROOT: u16 = 36;

/// Why files make no disk.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum LayoutError {
    /// Not a file's path below a folder.
    #[error("{path:?} is not a path of at most 1024 bytes without . and ..")]
    Path {
        /// As given.
        path: String,
    },
    /// More than 2^32 blocks.
    #[error("the files have more than 16 TiB")]
    Size,
    /// One path for two files, or for a file and a folder.
    #[error("{path:?} is there twice")]
    Twice {
        /// Which.
        path: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_file_is_found_again() {
        let layout = Layout::of(&[("z", 5000), ("a/b/c", 1), ("a/d", 0)]).unwrap();
        let block = layout.metadata.first_chunk().unwrap();
        assert_eq!(Layout::first_file(block), Some(layout.extents[0]));
        assert_eq!(Layout::first_file(&[0; BLOCK]), None);
    }

    #[test]
    fn files_follow_one_another_in_whole_blocks() {
        let layout = Layout::of(&[("z", 5000), ("a/b/c", 1), ("a/d", 0), ("e", 1)]).unwrap();
        // The root, a and a/b have a block each behind the table of inodes.
        assert_eq!(layout.metadata.len(), 4 * BLOCK);
        let starts: Vec<_> = layout.extents.iter().map(|e| e.start / 4096).collect();
        assert_eq!(starts, [4, 6, 7, 7]);
        assert_eq!(layout.blocks, 8);
    }

    #[test]
    fn a_path_that_is_none_or_is_there_twice_is_refused() {
        for path in [
            "",
            "/a",
            "a/",
            "a//b",
            ".",
            "a/../b",
            "a\nb",
            &"x".repeat(256),
        ] {
            let error = Layout::of(&[(path, 1)]).unwrap_err();
            assert_eq!(error, LayoutError::Path { path: path.into() });
        }
        for (first, second, path) in [("a", "a", "a"), ("a", "a/b", "a"), ("a/b", "a", "a")] {
            let error = Layout::of(&[(first, 1), (second, 1)]).unwrap_err();
            assert_eq!(error, LayoutError::Twice { path: path.into() });
        }
    }

    #[test]
    fn more_than_the_blocks_that_can_be_numbered_are_refused() {
        let error = Layout::of(&[("a", 16 << 40)]).unwrap_err();
        assert_eq!(error, LayoutError::Size);
        assert!(Layout::of(&[("a", 15 << 40)]).is_ok());
    }
}
