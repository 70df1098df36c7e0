//! dm-verity: one digest that stands for every block of a disk.
//!
//! ```text
//! block  0 .. n      data, n blocks
//! block  n           superblock (512 bytes, then zeros)
//! block  n + 1 ..    hash tree, the level under the root first
//! ```
//!
//! A block is 4096 bytes. A digest is `SHA-256(salt || block)`; a tree block is
//! 128 digests, the last one of a level padded with zeros; the root hash is the
//! digest of the one block at the top. With a single data block there is no tree.
//!
//! The superblock is for `veritysetup` and for people. We never read it: it is
//! on the disk and not under the root hash, so whatever it says could be a lie.
//! A [`Verity`] comes from a measured place, and this module does not say which.
//!
//! Sources: Linux, `Documentation/admin-guide/device-mapper/verity.rst`;
//! cryptsetup wiki, "DM-Verity", on-disk format 1.

use alloc::borrow::Cow;
use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;
use core::num::NonZeroU32;
use core::str::FromStr;

use sha2::{Digest, Sha256};

use crate::register::Digest256;

/// What the kernel needs to know to refuse every other disk.
///
/// Its text form, in the initrd and in the measured configuration, is
/// `sha256:<root hash>:<salt>:<data blocks>`, lower-case hex and decimal.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct Verity {
    /// Digest of the top of the tree.
    pub root_hash: Digest256,
    /// Hashed before each block, so that trees are not comparable between disks.
    pub salt: [u8; 32],
    /// Length of the data in blocks. 32 bits are 16 TiB.
    pub data_blocks: NonZeroU32,
}

impl Verity {
    /// Parameters of the device-mapper target over `device`, which holds data and tree.
    ///
    /// A block that does not match stops the machine: an error code would reach
    /// a program that might carry on without the file.
    #[must_use]
    pub fn table(&self, device: &str) -> String {
        let Self {
            root_hash,
            salt,
            data_blocks,
        } = self;
        let salt = Digest256::from_bytes(*salt);
        let tree = self.data_len_blocks().saturating_add(SUPERBLOCK_BLOCKS);
        format!(
            "{HASH_TYPE} {device} {device} {BLOCK} {BLOCK} {data_blocks} {tree} \
             {ALGORITHM} {root_hash} {salt} 1 panic_on_corruption"
        )
    }

    /// Length of the mapped device in sectors of 512 bytes.
    #[must_use]
    pub fn sectors(&self) -> u64 {
        self.data_len_blocks().saturating_mul(8)
    }

    /// Where the superblock starts: the `--hash-offset` of `veritysetup`.
    #[must_use]
    pub fn hash_offset(&self) -> u64 {
        self.data_len_blocks().saturating_mul(4096)
    }

    fn data_len_blocks(&self) -> u64 {
        u64::from(self.data_blocks.get())
    }

    fn superblock(&self) -> Vec<u8> {
        let mut block = Vec::with_capacity(BLOCK);
        block.extend_from_slice(b"verity\0\0");
        block.extend_from_slice(&1_u32.to_le_bytes()); // version of the superblock
        block.extend_from_slice(&HASH_TYPE.to_le_bytes());
        block.extend_from_slice(&uuid(&self.salt));
        block.extend_from_slice(ALGORITHM.as_bytes());
        block.resize(64, 0); // the name has 32 bytes
        block.extend_from_slice(&4096_u32.to_le_bytes()); // data block
        block.extend_from_slice(&4096_u32.to_le_bytes()); // hash block
        block.extend_from_slice(&self.data_len_blocks().to_le_bytes());
        block.extend_from_slice(&32_u16.to_le_bytes()); // salt size
        block.resize(88, 0);
        block.extend_from_slice(&self.salt);
        block.resize(BLOCK, 0);
        block
    }
}

/// The salt with the bits of a version 8 UUID (RFC 9562, section 5.8).
fn uuid(salt: &[u8; 32]) -> [u8; 16] {
    let mut uuid = [0; 16];
    uuid.iter_mut().zip(salt).for_each(|(to, from)| *to = *from);
    uuid[6] = uuid[6] & 0x0f | 0x80;
    uuid[8] = uuid[8] & 0x3f | 0x80;
    uuid
}

impl fmt::Display for Verity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let salt = Digest256::from_bytes(self.salt);
        let (root, blocks) = (self.root_hash, self.data_blocks);
        write!(f, "{ALGORITHM}:{root}:{salt}:{blocks}")
    }
}

impl FromStr for Verity {
    type Err = VerityError;

    /// Exactly the form that `Display` writes.
    fn from_str(text: &str) -> Result<Self, VerityError> {
        let mut fields = text.split(':');
        let mut field = |name| fields.next().ok_or(VerityError::Missing { field: name });
        let algorithm = field("hash algorithm")?;
        if algorithm != ALGORITHM {
            return Err(VerityError::Algorithm);
        }
        let root_hash = hex32("root hash", field("root hash")?)?;
        let salt = *hex32("salt", field("salt")?)?.as_bytes();
        let data_blocks = blocks(field("data blocks")?)?;
        if fields.next().is_some() {
            return Err(VerityError::Trailing);
        }
        Ok(Self {
            root_hash,
            salt,
            data_blocks,
        })
    }
}

fn hex32(field: &'static str, text: &str) -> Result<Digest256, VerityError> {
    text.parse().map_err(|_| VerityError::Hex { field })
}

fn blocks(text: &str) -> Result<NonZeroU32, VerityError> {
    let canonical = text.starts_with(|first: char| matches!(first, '1'..='9'));
    let number = canonical.then(|| text.parse().ok()).flatten();
    number.ok_or(VerityError::Blocks)
}

impl serde::Serialize for Verity {
    fn serialize<S: serde::Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

impl<'de> serde::Deserialize<'de> for Verity {
    fn deserialize<D: serde::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = <Cow<'de, str>>::deserialize(from)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// Hashes a disk block by block.
///
/// It keeps 32 bytes for each block pushed: 1/128 of the disk.
#[derive(Clone, Debug)]
pub struct TreeBuilder {
    salt: [u8; 32],
    leaves: Vec<u8>,
}

impl TreeBuilder {
    /// No block yet.
    #[must_use]
    pub const fn new(salt: [u8; 32]) -> Self {
        let leaves = Vec::new();
        Self { salt, leaves }
    }

    /// Takes the next block of data. The last one is padded with zeros by the caller.
    pub fn push(&mut self, block: &[u8; BLOCK]) {
        self.leaves.extend(digest(&self.salt, block));
    }

    /// Takes the blocks that were pushed to another one with the same salt.
    pub fn append(&mut self, next: Self) {
        self.leaves.extend(next.leaves);
    }

    /// Hashes the levels above and lays the hash area out.
    pub fn finish(self) -> Result<Built, VerityError> {
        let count = self.leaves.len().checked_div(Digest256::LEN);
        let data_blocks = count
            .and_then(|count| u32::try_from(count).ok())
            .and_then(NonZeroU32::new)
            .ok_or(VerityError::Blocks)?;

        let mut levels = Vec::new();
        let mut digests = self.leaves;
        let root_hash = loop {
            if let Ok(root) = <[u8; Digest256::LEN]>::try_from(digests.as_slice()) {
                break Digest256::from_bytes(root);
            }
            digests.resize(digests.len().next_multiple_of(BLOCK), 0);
            let (blocks, _) = digests.as_chunks::<BLOCK>();
            let above = blocks.iter().flat_map(|block| digest(&self.salt, block));
            let above = above.collect();
            levels.push(core::mem::replace(&mut digests, above));
        };

        let verity = Verity {
            root_hash,
            salt: self.salt,
            data_blocks,
        };
        let mut hash_area = verity.superblock();
        levels.iter().rev().for_each(|l| hash_area.extend(l));
        Ok(Built { verity, hash_area })
    }
}

fn digest(salt: &[u8; 32], block: &[u8; BLOCK]) -> [u8; Digest256::LEN] {
    let hash = Sha256::new().chain_update(salt).chain_update(block);
    hash.finalize().into()
}

/// A finished tree.
#[derive(Clone, Debug)]
pub struct Built {
    /// What to measure.
    pub verity: Verity,
    /// Superblock and tree, to be written right after the data.
    pub hash_area: Vec<u8>,
}

/// Why there is no [`Verity`].
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum VerityError {
    /// Trees of another hash are not made and not accepted.
    #[error("verity hash algorithm is not {ALGORITHM}")]
    Algorithm,
    /// No data, too much of it, or another spelling of the number.
    #[error("verity data blocks are not a decimal number from 1 to {}", u32::MAX)]
    Blocks,
    /// Not a digest's text form.
    #[error("verity {field} is not 64 lower-case hex digits")]
    Hex {
        /// Which of the two.
        field: &'static str,
    },
    /// The text ended early.
    #[error("verity text has no {field}, expected sha256:<root hash>:<salt>:<data blocks>")]
    Missing {
        /// The first one that is not there.
        field: &'static str,
    },
    /// The text did not end.
    #[error("verity text goes on after the data blocks")]
    Trailing,
}

/// Size of a data block and of a tree block, in bytes.
pub const BLOCK: usize = 4096;

const ALGORITHM: &str = "sha256";
/// The salt goes before the block.
const HASH_TYPE: u32 = 1;
const SUPERBLOCK_BLOCKS: u64 = 1;

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;
    use proptest::collection::vec;
    use proptest::prelude::*;

    /// Root hash and SHA-256 of the hash area as `veritysetup format` of cryptsetup
    /// 2.6.1 writes them for [`disk`] with [`SALT`] and the UUID of our superblock.
    const VERITYSETUP: [(u32, &str, &str); 5] = [
        (
            1,
            "a9a03b28564e4724d7ffc0b83acdb9e9f726e3edb9ceec32e5d47b798ee15389",
            "9593b3b9ce4105e3a363fe21ee2b66d3642c07a750409c3f2f921e72fb009205",
        ),
        (
            2,
            "af4f607b5aebf247bac3c9ed03e28da073479d19d6da953db2d7e1a7166ed8c2",
            "e0acd557dc13cc01ab227faf7d025e43a7c5fcc171a67508d1d6e9ba306cf935",
        ),
        (
            128,
            "f2bbb02fd9673d5bc275cf3890ea05a3fd23833be4bc4c28fa522392b644cb37",
            "8f2c964b52f1a99fc553cd3ccb6537b7fbb1247231b1a28c0a0bf3843e56bab4",
        ),
        (
            129,
            "980e168c6a96c22d71ed1512d02ec4e069a1c49c8c92bb100cfd724f70abcd15",
            "7f97e4e3e52392cdddd87bdae51f9fb89e1f361ba83694a9a36b05809bbc3658",
        ),
        (
            16500,
            "f002f646f0a32a304cefd0a827a37ca51622f881f17116a9a8d3ce548c559a67",
            "65ff7867a403ac83f29d654df15a8af110d985c27accc5bcee79a036dbe1f2b0",
        ),
    ];

    #[test]
    fn trees_of_every_height_are_those_of_veritysetup() {
        for (blocks, root_hash, hash_area) in VERITYSETUP {
            let built = disk(blocks);
            assert_eq!(built.verity.root_hash.to_string(), root_hash, "{blocks}");
            assert_eq!(built.verity.data_blocks.get(), blocks);
            let found = Digest256::of(&built.hash_area).to_string();
            assert_eq!(found, hash_area, "{blocks}");
        }
    }

    #[test]
    fn a_disk_without_data_has_no_root_hash() {
        let error = TreeBuilder::new(SALT).finish().unwrap_err();
        assert_eq!(
            error.to_string(),
            "verity data blocks are not a decimal number from 1 to 4294967295"
        );
    }

    #[test]
    fn the_table_names_the_device_twice_and_panics_on_corruption() {
        let verity = disk(129).verity;
        assert_eq!(
            verity.table("/dev/vdb"),
            "1 /dev/vdb /dev/vdb 4096 4096 129 130 sha256 \
             980e168c6a96c22d71ed1512d02ec4e069a1c49c8c92bb100cfd724f70abcd15 \
             5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a \
             1 panic_on_corruption"
        );
        assert_eq!(verity.sectors(), 129 * 8);
        assert_eq!(verity.hash_offset(), 129 * 4096);
    }

    #[test]
    fn other_texts_are_refused_by_name() {
        let good = disk(2).verity.to_string();
        let (root, salt) = (&good[7..71], &good[72..136]);
        let refused = |text: &str| text.parse::<Verity>().unwrap_err();
        let number = VerityError::Blocks;
        let hex = |field| VerityError::Hex { field };
        for (text, error) in [
            (good.replace("sha256", "sha512"), VerityError::Algorithm),
            (good.replace("sha256", "SHA256"), VerityError::Algorithm),
            (String::new(), VerityError::Algorithm),
            (format!("sha256:{}:{salt}:2", &root[1..]), hex("root hash")),
            (format!("sha256:{root}:{}0:2", salt), hex("salt")),
            (
                format!("sha256:{root}:{}:2", salt.to_uppercase()),
                hex("salt"),
            ),
            (format!("sha256:{root}:{salt}:"), number),
            (format!("sha256:{root}:{salt}:0"), number),
            (format!("sha256:{root}:{salt}:02"), number),
            (format!("sha256:{root}:{salt}:+2"), number),
            (format!("sha256:{root}:{salt}:2\n"), number),
            (format!("sha256:{root}:{salt}:4294967296"), number),
            (format!("{good}:"), VerityError::Trailing),
        ] {
            assert_eq!(refused(&text), error, "{text}");
        }
        assert_eq!(
            refused(&good[..good.len() - 2]).to_string(),
            "verity text has no data blocks, expected sha256:<root hash>:<salt>:<data blocks>"
        );
        assert_eq!(
            refused(&good.replace(salt, "")).to_string(),
            "verity salt is not 64 lower-case hex digits"
        );
        assert_eq!(
            refused("md5").to_string(),
            "verity hash algorithm is not sha256"
        );
        assert_eq!(
            refused(&(good + ":1")).to_string(),
            "verity text goes on after the data blocks"
        );
    }

    proptest! {
        #[test]
        fn text_reads_back_and_no_prefix_up_to_the_number_does(
            root: [u8; 32],
            salt: [u8; 32],
            blocks in 1_u32..,
        ) {
            let verity = Verity {
                root_hash: Digest256::from_bytes(root),
                salt,
                data_blocks: NonZeroU32::new(blocks).unwrap(),
            };
            let text = verity.to_string();
            prop_assert_eq!(text.parse(), Ok(verity));
            for cut in 0..=text.rfind(':').unwrap() {
                prop_assert!(text[..cut].parse::<Verity>().is_err());
            }
        }

        #[test]
        fn arbitrary_text_never_panics_and_has_one_spelling(text in "(sha256:)?[0-9a-f:]{0,150}") {
            if let Ok(verity) = text.parse::<Verity>() {
                prop_assert_eq!(verity.to_string(), text);
            }
        }

        #[test]
        fn any_change_to_any_block_changes_the_root_hash(
            mut blocks in vec(any::<u8>(), 1..300),
            at: prop::sample::Index,
        ) {
            let root = |fill: &[u8]| {
                let mut tree = TreeBuilder::new(SALT);
                fill.iter().for_each(|byte| tree.push(&[*byte; BLOCK]));
                tree.finish().unwrap().verity.root_hash
            };
            let before = root(&blocks);
            let at = at.index(blocks.len());
            blocks[at] ^= 1;
            prop_assert_ne!(before, root(&blocks));
        }
    }

    /// Blocks filled with the low byte of their index.
    fn disk(blocks: u32) -> Built {
        let mut tree = TreeBuilder::new(SALT);
        (0..blocks).for_each(|index| tree.push(&[index.to_le_bytes()[0]; BLOCK]));
        tree.finish().unwrap()
    }

    const SALT: [u8; 32] = [0x5a; 32];
}
