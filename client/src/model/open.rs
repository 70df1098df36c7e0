//! A pack from anybody: what it is, and whether it is what a root hash names.
//!
//! Nothing in it is believed. Its length says how long the data is; the file system has
//! to be, byte for byte, the one that its manifest gives; the tree is hashed again.

use std::fs::File;
use std::num::NonZero;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use attestation::register::Digest256;
use attestation::verity::{BLOCK, TreeBuilder, Verity};
use aws_lc_rs::digest::{Context, SHA256};

use super::erofs::{Extent, Layout};
use super::key::ModelKey;
use super::manifest::{Manifest, Version};
use super::tree;

/// A pack whose file system is canonical, if it could be looked at.
#[derive(Debug)]
pub struct Pack<'a> {
    disk: Disk<'a>,
    /// Nothing for an encrypted one without its key.
    pub content: Option<Content>,
    /// What the top of the tree says; [`Pack::verify`] looks at the rest.
    pub claimed: Verity,
}

/// What is in a pack that can be read.
#[derive(Debug)]
pub struct Content {
    /// As it is in the pack.
    pub manifest: Manifest,
    /// SHA-256 of it.
    pub digest: Digest256,
    layout: Layout,
}

#[derive(Debug)]
struct Disk<'a> {
    file: File,
    blocks: NonZero<u32>,
    key: Option<&'a ModelKey>,
}

impl<'a> Pack<'a> {
    /// Reads its description, by `key` if it is encrypted.
    pub fn open(path: &Path, key: Option<&'a ModelKey>) -> Result<Self> {
        let file = File::open(path).context("cannot open it")?;
        let len = file.metadata().context("cannot look at it")?.len();
        let disk = Disk {
            blocks: data_blocks(len).with_context(|| {
                format!("{len} bytes are no whole blocks of data and their hash tree")
            })?,
            file,
            key,
        };
        let claimed = disk.claimed()?;
        let content = disk.content()?;
        ensure!(
            content.is_some() || key.is_none(),
            "the key does not open it, or it is no pack"
        );
        Ok(Self {
            disk,
            content,
            claimed,
        })
    }

    /// Hashes all of it; every file of a pack that can be read as well.
    pub fn verify(&self, threads: NonZero<usize>) -> Result<Verity> {
        let disk = &self.disk;
        let built = tree::build(
            self.claimed.salt,
            disk.blocks.get(),
            threads,
            |first, to| disk.raw(u64::from(first), to),
        )?;
        let mut area = vec![0; built.hash_area.len()];
        disk.file
            .read_exact_at(&mut area, built.verity.hash_offset())
            .context("cannot read the hash tree")?;
        ensure!(
            area == built.hash_area,
            "the hash tree is not that of the data"
        );
        let Some(content) = &self.content else {
            return Ok(built.verity);
        };
        let expected = content.manifest.version()?;
        ensure!(
            built.verity.salt == expected.salt(),
            "the salt is not that of {expected}"
        );
        let extents = content.layout.extents.iter().skip(1);
        let files = content.manifest.files.iter().zip(extents);
        tree::each(threads, files, |_, (file, extent)| {
            let found = disk.sha256(*extent)?;
            ensure!(
                found == file.sha256,
                "{} has the sha256 {found}, its manifest says {}",
                file.path,
                file.sha256
            );
            Ok(())
        })?;
        Ok(built.verity)
    }
}

/// What `--root` of `cocoon model verify` takes.
#[derive(Clone, Debug)]
pub enum Expected {
    /// All of it, as in a measured configuration.
    Verity(Verity),
    /// A root hash, and perhaps the name in front of it.
    Root(Option<Version>, Digest256),
}

impl std::str::FromStr for Expected {
    type Err = anyhow::Error;

    /// `sha256:ROOT:SALT:BLOCKS`, `NAME@REVISION:ROOT` or `ROOT`.
    fn from_str(text: &str) -> Result<Self> {
        if text.starts_with("sha256:") {
            return Ok(Self::Verity(text.parse()?));
        }
        Ok(match text.rsplit_once(':') {
            Some((version, root)) => Self::Root(Some(version.parse()?), root.parse()?),
            None => Self::Root(None, text.parse()?),
        })
    }
}

impl Expected {
    /// Compares with what was hashed; `version` is what the pack says of itself.
    pub fn check(&self, found: &Verity, version: Option<&Version>) -> Result<()> {
        match (self, version) {
            (Self::Verity(expected), _) => ensure!(
                found == expected,
                "the pack is {found}, expected {expected}"
            ),
            // The level under the root of one tree is the data of another with the same
            // root: only what else is known of the data tells them apart.
            (Self::Root(..), None) => {
                bail!("an encrypted pack needs its key, or the root as sha256:ROOT:SALT:BLOCKS")
            }
            (Self::Root(named, root), Some(version)) => {
                if let Some(named) = named {
                    ensure!(named == version, "the pack is {version}, expected {named}");
                }
                ensure!(
                    found.root_hash == *root,
                    "the root hash is {}, expected {root}",
                    found.root_hash
                );
            }
        }
        Ok(())
    }
}

impl Disk<'_> {
    /// Blocks as they are stored.
    fn raw(&self, first: u64, to: &mut [u8]) -> Result<()> {
        self.file
            .read_exact_at(to, first.saturating_mul(WIDE))
            .with_context(|| format!("cannot read block {first}"))
    }

    /// Blocks as the guest sees them.
    fn plain(&self, first: u64, to: &mut [u8]) -> Result<()> {
        self.raw(first, to)?;
        if let Some(key) = self.key {
            key.decrypt(to, first);
        }
        Ok(())
    }

    /// By the superblock's salt and the one block at the top.
    fn claimed(&self) -> Result<Verity> {
        let data = u64::from(self.blocks.get());
        let mut block = [0; BLOCK];
        self.raw(data, &mut block)?;
        let salt = block.get(88..).and_then(|rest| rest.first_chunk());
        let salt = *salt.context("a block has a salt")?;
        self.raw(
            if data == 1 { 0 } else { data.saturating_add(1) },
            &mut block,
        )?;
        // The tree of a single block is its digest under the salt.
        let mut tree = TreeBuilder::new(salt);
        tree.push(&block);
        let root_hash = tree
            .finish()
            .context("a tree of one block")?
            .verity
            .root_hash;
        Ok(Verity {
            root_hash,
            salt,
            data_blocks: self.blocks,
        })
    }

    /// Nothing if there is no file system to be seen.
    fn content(&self) -> Result<Option<Content>> {
        let mut block = [0; BLOCK];
        self.plain(0, &mut block)?;
        let Some(extent) = Layout::first_file(&block) else {
            return Ok(None);
        };
        let len = usize::try_from(extent.len)
            .ok()
            .filter(|len| *len <= MANIFEST_MAX);
        let len = len.with_context(|| format!("a manifest of {} bytes", extent.len))?;
        let manifest = self.read(extent.start / WIDE, len)?;
        let digest = Digest256::of(&manifest);
        let manifest = Manifest::parse(&manifest)?;
        let layout = manifest.layout()?;
        let found = self.read(0, layout.metadata.len())?;
        ensure!(
            found == layout.metadata && layout.blocks == self.blocks.get(),
            "the file system is not the one that its manifest gives"
        );
        Ok(Some(Content {
            manifest,
            digest,
            layout,
        }))
    }

    /// `len` bytes from the start of a block.
    fn read(&self, first: u64, len: usize) -> Result<Vec<u8>> {
        let blocks = u64::try_from(len.div_ceil(BLOCK))?;
        let end = first.checked_add(blocks);
        ensure!(
            end.is_some_and(|end| end <= self.blocks.get().into()),
            "{len} bytes in block {first} are not within the data"
        );
        let mut bytes = vec![0; len.next_multiple_of(BLOCK)];
        self.plain(first, &mut bytes)?;
        bytes.truncate(len);
        Ok(bytes)
    }

    fn sha256(&self, extent: Extent) -> Result<Digest256> {
        let mut hash = Context::new(&SHA256);
        let (mut block, mut rest) = (extent.start / WIDE, extent.len);
        while rest > 0 {
            let len = usize::try_from(rest.min(PIECE))?;
            hash.update(&self.read(block, len)?);
            block = block.saturating_add(PIECE / WIDE);
            rest = rest.saturating_sub(PIECE);
        }
        let digest = hash.finish();
        let digest = digest
            .as_ref()
            .first_chunk()
            .context("a digest of 32 bytes")?;
        Ok(Digest256::from_bytes(*digest))
    }
}

/// How many blocks of data a file of this length has, if it is data, superblock and tree.
fn data_blocks(len: u64) -> Option<NonZero<u32>> {
    let whole = len.is_multiple_of(WIDE).then_some(len / WIDE)?;
    let all = |data: u64| {
        let (mut all, mut level) = (data.saturating_add(1), data);
        while level > 1 {
            level = level.div_ceil(DIGESTS);
            all = all.saturating_add(level);
        }
        all
    };
    // More data never needs less in all.
    let (mut low, mut high) = (1, u64::from(u32::MAX));
    while low < high {
        let middle = low.midpoint(high);
        match all(middle) < whole {
            true => low = middle.saturating_add(1),
            false => high = middle,
        }
    }
    let data = (all(low) == whole)
        .then(|| u32::try_from(low).ok())
        .flatten()?;
    NonZero::new(data)
}

const WIDE: u64 = 4096;
/// In a tree block.
const DIGESTS: u64 = 128;
const PIECE: u64 = 1 << 22;
/// Of a hundred thousand files.
const MANIFEST_MAX: usize = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::pack::Folder;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{PermissionsExt as _, symlink};
    use std::path::PathBuf;
    use std::time::SystemTime;
    use tempfile::TempDir;

    const ONE: NonZero<usize> = NonZero::<usize>::MIN;

    /// Of [`model`], packed as `me/tiny@1`: what it is on every machine.
    const ROOT: &str = "0eb8226eaf355e0a4b514ba00a08b9e38cae81168231e64dc9f345a7385c1b78";

    /// A folder with the files of a model, in whatever order they are made.
    fn model(reversed: bool) -> TempDir {
        let folder = tempfile::tempdir().unwrap();
        let mut files = [
            ("config.json", b"{\"architectures\": [\"A\"]}".to_vec()),
            ("empty", Vec::new()),
            (
                "sub/model.safetensors",
                (0..10_000_u32).flat_map(u32::to_le_bytes).collect(),
            ),
            ("tokenizer.json", b"{}".to_vec()),
        ];
        if reversed {
            files.reverse();
        }
        for (name, content) in files {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, content).unwrap();
        }
        folder
    }

    fn folder(path: &Path) -> Folder {
        Folder::read(path, "me/tiny@1".parse().unwrap(), NonZero::new(2).unwrap()).unwrap()
    }

    /// The pack of [`model`] in a folder of its own.
    fn packed(key: Option<&ModelKey>) -> (TempDir, PathBuf, Verity) {
        let out = tempfile::tempdir().unwrap();
        let path = out.path().join("pack");
        let verity = folder(model(false).path()).write(&path, key).unwrap();
        (out, path, verity)
    }

    fn verify(path: &Path) -> Result<Verity> {
        Pack::open(path, None)?.verify(ONE)
    }

    #[test]
    fn a_pack_has_the_same_bytes_wherever_it_is_made() {
        let (_first, path, verity) = packed(None);
        assert_eq!(verity.root_hash.to_string(), ROOT);
        assert_eq!(verify(&path).unwrap(), verity);

        let other = model(true);
        let weights = other.path().join("sub/model.safetensors");
        fs::set_permissions(&weights, Permissions::from_mode(0o700)).unwrap();
        File::open(&weights)
            .unwrap()
            .set_modified(SystemTime::UNIX_EPOCH)
            .unwrap();
        fs::write(other.path().join(".hidden"), "not of the model").unwrap();
        fs::rename(
            other.path().join("tokenizer.json"),
            other.path().join(".blob"),
        )
        .unwrap();
        symlink(".blob", other.path().join("tokenizer.json")).unwrap();
        let manifest = folder(other.path()).manifest().to_json();
        fs::write(other.path().join("manifest.json"), manifest).unwrap();
        let out = other.path().join(".pack");
        assert_eq!(folder(other.path()).write(&out, None).unwrap(), verity);
        assert_eq!(fs::read(out).unwrap(), fs::read(path).unwrap());
    }

    #[test]
    fn a_pack_says_what_is_in_it() {
        let (_folder, path, verity) = packed(None);
        let pack = Pack::open(&path, None).unwrap();
        assert_eq!(pack.claimed, verity);
        let content = pack.content.unwrap();
        assert_eq!(content.manifest, *folder(model(false).path()).manifest());
        assert_eq!(content.digest, Digest256::of(&content.manifest.to_json()));
    }

    #[test]
    fn a_change_anywhere_is_found() {
        let (_folder, path, verity) = packed(None);
        let good = fs::read(&path).unwrap();
        for at in (0..good.len()).step_by(509).chain([good.len() - 1]) {
            let mut bytes = good.clone();
            bytes[at] ^= 1;
            fs::write(&path, bytes).unwrap();
            let found = verify(&path);
            assert!(
                found.is_err() || found.is_ok_and(|found| found != verity),
                "{at}"
            );
        }
        for end in (0..good.len()).step_by(1021) {
            fs::write(&path, &good[..end]).unwrap();
            assert!(verify(&path).is_err(), "cut at {end}");
        }
    }

    /// With a tree that fits, so that nothing but its own check stands in the way.
    fn resealed(path: &Path, salt: [u8; 32], change: impl FnOnce(&mut Vec<u8>)) -> String {
        let mut data = fs::read(path).unwrap();
        let blocks = data_blocks(data.len().try_into().unwrap()).unwrap();
        data.truncate(usize::try_from(blocks.get()).unwrap().strict_mul(BLOCK));
        change(&mut data);
        let mut tree = TreeBuilder::new(salt);
        data.as_chunks().0.iter().for_each(|block| tree.push(block));
        let built = tree.finish().unwrap();
        fs::write(path, [data, built.hash_area].concat()).unwrap();
        verify(path).unwrap_err().to_string()
    }

    #[test]
    fn what_is_well_hashed_and_still_no_pack_is_refused_by_name() {
        let salt = "me/tiny@1".parse::<Version>().unwrap().salt();
        let reason = |salt, change: fn(&mut Vec<u8>)| {
            let (_folder, path, _) = packed(None);
            resealed(&path, salt, change)
        };
        let other = "the file system is not the one that its manifest gives";
        // The mode of the root, the bytes before the superblock, one block more.
        assert_eq!(reason(salt, |data| data[1152 + 4] ^= 2), other);
        assert_eq!(reason(salt, |data| data[0] = 1), other);
        assert_eq!(reason(salt, |data| data.extend([0; BLOCK])), other);
        assert_eq!(reason([1; 32], |_| ()), "the salt is not that of me/tiny@1");
        let far = reason(salt, |data| data[1152 + 64 + 16] = 200);
        assert!(
            far.ends_with("in block 200 are not within the data"),
            "{far}"
        );
        let long = reason(salt, |data| data[1152 + 64 + 8 + 5] = 1);
        assert!(long.starts_with("a manifest of 1099511"), "{long}");
        let weights = reason(salt, |data| {
            let at = data.len() - 2 * BLOCK;
            data[at] ^= 1;
        });
        assert!(
            weights.starts_with("sub/model.safetensors has the sha256 "),
            "{weights}"
        );
    }

    #[test]
    fn an_encrypted_pack_shows_nothing_without_its_key() {
        let key = ModelKey::generate().unwrap();
        let (_folder, path, verity) = packed(Some(&key));
        assert_eq!(verify(&path).unwrap(), verity);
        assert!(Pack::open(&path, None).unwrap().content.is_none());
        let bytes = fs::read(&path).unwrap();
        for plain in [&b"architectures"[..], b"cocoon-model", &[0; 64]] {
            let data = &bytes[..usize::try_from(verity.hash_offset()).unwrap()];
            assert!(data.windows(plain.len()).all(|window| window != plain));
        }
        let (_plain, plain, other) = packed(None);
        assert_ne!(verity.root_hash, other.root_hash);
        let pack = Pack::open(&path, Some(&key)).unwrap();
        assert_eq!(pack.verify(ONE).unwrap(), verity);
        let expected = Pack::open(&plain, None).unwrap().content.unwrap();
        assert_eq!(pack.content.unwrap().manifest, expected.manifest);

        let wrong = ModelKey::generate().unwrap();
        let error = Pack::open(&path, Some(&wrong)).unwrap_err().to_string();
        assert_eq!(error, "the key does not open it, or it is no pack");
    }

    #[test]
    fn a_root_is_compared_with_all_that_was_said_of_it() {
        let (_folder, _, verity) = packed(None);
        let version: Version = "me/tiny@1".parse().unwrap();
        let check = |text: &str, version: Option<&Version>| {
            let expected: Expected = text.parse().unwrap();
            expected
                .check(&verity, version)
                .map_err(|error| error.to_string())
        };
        let root = verity.root_hash.to_string();
        let named = format!("me/tiny@1:{root}");
        for text in [&root, &named, &verity.to_string()] {
            assert_eq!(check(text, Some(&version)), Ok(()));
        }
        assert_eq!(check(&verity.to_string(), None), Ok(()));
        assert!(
            check(&root, None)
                .unwrap_err()
                .starts_with("an encrypted pack needs")
        );
        let other = check(&named.replace("@1", "@2"), Some(&version)).unwrap_err();
        assert_eq!(other, "the pack is me/tiny@1, expected me/tiny@2");
        let zero = "0".repeat(64);
        let other = check(&zero, Some(&version)).unwrap_err();
        assert_eq!(other, format!("the root hash is {root}, expected {zero}"));
        let short = format!("sha256:{root}:{zero}:1");
        assert!(
            check(&short, None)
                .unwrap_err()
                .starts_with("the pack is sha256:")
        );
        for text in ["", "x", "a@b:", "a:b", "sha256:"] {
            assert!(text.parse::<Expected>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_length_of_a_file_tells_the_length_of_its_data() {
        for (data, all) in [
            (1, 2),
            (2, 4),
            (128, 130),
            (129, 133),
            (16385, 16385 + 1 + 129 + 2 + 1),
        ] {
            assert_eq!(data_blocks(all * WIDE), NonZero::new(data), "{data}");
            assert_eq!(data_blocks(all * WIDE + 1), None);
        }
        // One block more than 128 takes three more: a second leaf and a new top.
        for all in [0, 1, 3, 131, 132] {
            assert_eq!(data_blocks(all * WIDE), None, "{all}");
        }
        assert_eq!(data_blocks(u64::MAX), None);
    }
}
