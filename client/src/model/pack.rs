//! From a folder to a pack: the same bytes on every machine.
//!
//! Every file is read twice: once for its own hash, which the manifest needs, and once
//! for the disk. What changes in between is found by `cocoon model verify`.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::Read as _;
use std::num::NonZero;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use attestation::register::Digest256;
use attestation::verity::{BLOCK, Built, Verity};
use aws_lc_rs::digest::{Context, SHA256};
use inference::Claims;

use super::erofs::Layout;
use super::key::ModelKey;
use super::manifest::{self, MANIFEST, Manifest, Version};
use super::tree;

/// A folder that was looked through.
#[derive(Debug)]
pub struct Folder {
    /// In the order of the manifest.
    files: Vec<File>,
    version: Version,
    manifest: Manifest,
    layout: Layout,
    threads: NonZero<usize>,
}

impl Folder {
    /// Hashes every file in `path`. Names that begin with a dot are passed over, and so is
    /// the manifest of a pack that this folder was unpacked from.
    pub fn read(path: &Path, version: Version, threads: NonZero<usize>) -> Result<Self> {
        let mut found = BTreeMap::new();
        walk(path, "", 0, &mut found)?;
        let own = found.remove(MANIFEST);
        if let Some(own) = own.filter(|own| !is_ours(own)) {
            bail!("{} would be replaced by the pack's own", own.display());
        }
        ensure!(!found.is_empty(), "{} holds no files", path.display());

        let listed = hash(&found, threads)?;
        let text = |name: &str| found.get(name).map(|path| small(path)).transpose();
        let gguf = found.iter().find(|(name, _)| is_gguf(name));
        let gguf = gguf.map(|(name, path)| {
            Claims::of_gguf(path).with_context(|| format!("{name} is no GGUF file"))
        });
        let manifest = Manifest::describe(version.clone(), listed, text, gguf.transpose()?)?;
        let layout = manifest.layout()?;
        let open = |path: &PathBuf| {
            File::open(path).with_context(|| format!("cannot open {}", path.display()))
        };
        Ok(Self {
            files: found.values().map(open).collect::<Result<_>>()?,
            version,
            manifest,
            layout,
            threads,
        })
    }

    /// What the pack says about itself.
    #[must_use]
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// What measures the pack, without making it.
    pub fn verity(&self) -> Result<Verity> {
        Ok(self.build(|_, _| Ok(()))?.verity)
    }

    /// Writes the pack to a new file, encrypted if there is a key.
    pub fn write(&self, out: &Path, key: Option<&ModelKey>) -> Result<Verity> {
        let named = || format!("cannot write {}", out.display());
        let file = File::create_new(out).with_context(named)?;
        let built = self.build(|first, blocks| {
            if let Some(key) = key {
                key.encrypt(blocks, first.into());
            }
            file.write_all_at(blocks, offset(first)).with_context(named)
        })?;
        file.write_all_at(&built.hash_area, built.verity.hash_offset())
            .and_then(|()| file.sync_all())
            .with_context(named)?;
        Ok(built.verity)
    }

    fn build(&self, finish: impl Fn(u32, &mut [u8]) -> Result<()> + Sync) -> Result<Built> {
        let manifest = self.manifest.to_json();
        tree::build(
            self.version.salt(),
            self.layout.blocks,
            self.threads,
            |first, blocks| {
                self.fill(&manifest, offset(first), blocks)?;
                finish(first, blocks)
            },
        )
    }

    /// The bytes of the disk from `start` on.
    fn fill(&self, manifest: &[u8], start: u64, blocks: &mut [u8]) -> Result<()> {
        blocks.fill(0);
        put(blocks, start, 0, &self.layout.metadata);
        let mut extents = self.layout.extents.iter();
        if let Some(extent) = extents.next() {
            put(blocks, start, extent.start, manifest);
        }
        for ((extent, file), listed) in extents.zip(&self.files).zip(&self.manifest.files) {
            let Some((to, from)) = overlap(blocks, start, extent.start, extent.len) else {
                continue;
            };
            file.read_exact_at(to, from)
                .with_context(|| format!("cannot read {}", listed.path))?;
        }
        Ok(())
    }
}

/// Where `len` bytes that belong at `at` lie in a piece from `start`, and which is the
/// first of them.
fn overlap(piece: &mut [u8], start: u64, at: u64, len: u64) -> Option<(&mut [u8], u64)> {
    let end = start.checked_add(u64::try_from(piece.len()).ok()?)?;
    let (from, to) = (start.max(at), end.min(at.checked_add(len)?));
    let place = |at: u64| usize::try_from(at.checked_sub(start)?).ok();
    let place = place(from)?..place(to)?;
    let found = piece.get_mut(place).filter(|found| !found.is_empty())?;
    Some((found, from.checked_sub(at)?))
}

fn put(piece: &mut [u8], start: u64, at: u64, bytes: &[u8]) {
    let len = u64::try_from(bytes.len()).unwrap_or(u64::MAX);
    if let Some((to, from)) = overlap(piece, start, at, len) {
        let from = usize::try_from(from).unwrap_or(usize::MAX);
        to.iter_mut()
            .zip(bytes.iter().skip(from))
            .for_each(|(to, from)| *to = *from);
    }
}

/// Every file by its path below the folder. Links are followed: the Hugging Face hub's
/// cache is made of them.
fn walk(
    folder: &Path,
    prefix: &str,
    depth: usize,
    found: &mut BTreeMap<String, PathBuf>,
) -> Result<()> {
    ensure!(
        depth < DEPTH,
        "{} is {DEPTH} folders deep",
        folder.display()
    );
    let named = || format!("cannot read {}", folder.display());
    for entry in fs::read_dir(folder).with_context(named)? {
        let entry = entry.with_context(named)?;
        let path = entry.path();
        let name = entry.file_name().into_string();
        let name = name.map_err(|_| anyhow!("{} is not named in UTF-8", path.display()))?;
        if name.starts_with('.') {
            continue;
        }
        let metadata =
            fs::metadata(&path).with_context(|| format!("cannot look at {}", path.display()))?;
        let below = format!("{prefix}{name}");
        if metadata.is_dir() {
            walk(&path, &format!("{below}/"), depth.saturating_add(1), found)?;
        } else {
            ensure!(metadata.is_file(), "{} is no file", path.display());
            found.insert(below, path);
        }
        ensure!(found.len() <= FILES, "more than {FILES} files");
    }
    Ok(())
}

/// Lists the files, several at a time.
fn hash(files: &BTreeMap<String, PathBuf>, threads: NonZero<usize>) -> Result<Vec<manifest::File>> {
    let mut listed = tree::each(threads, files.iter(), |buffer, (path, file)| {
        let (size, sha256) = sha256(file, buffer)?;
        let path = path.clone();
        Ok(manifest::File { path, sha256, size })
    })?;
    listed.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(listed)
}

fn sha256(path: &Path, buffer: &mut Vec<u8>) -> Result<(u64, Digest256)> {
    let named = || format!("cannot read {}", path.display());
    let mut file = File::open(path).with_context(named)?;
    let (mut hash, mut size) = (Context::new(&SHA256), 0_u64);
    buffer.resize(1 << 20, 0);
    loop {
        let len = file.read(buffer).with_context(named)?;
        if len == 0 {
            break;
        }
        hash.update(buffer.get(..len).unwrap_or_default());
        size = size.saturating_add(u64::try_from(len)?);
    }
    let digest = hash.finish();
    let digest = digest
        .as_ref()
        .first_chunk()
        .context("a digest of 32 bytes")?;
    Ok((size, Digest256::from_bytes(*digest)))
}

/// Of the model itself: a pack's files are found in the order of their names, and the
/// engine takes the first.
fn is_gguf(name: &str) -> bool {
    !name.contains('/') && Path::new(name).extension() == Some("gguf".as_ref())
}

fn is_ours(manifest: &Path) -> bool {
    small(manifest).is_ok_and(|bytes| Manifest::parse(&bytes).is_ok())
}

/// A file of text.
fn small(path: &Path) -> Result<Vec<u8>> {
    let named = || format!("cannot read {}", path.display());
    let mut bytes = Vec::new();
    let file = File::open(path).with_context(named)?;
    file.take(TEXT.saturating_add(1))
        .read_to_end(&mut bytes)
        .with_context(named)?;
    let fits = u64::try_from(bytes.len()).is_ok_and(|len| len <= TEXT);
    ensure!(fits, "{} is longer than {TEXT} bytes", path.display());
    Ok(bytes)
}

fn offset(block: u32) -> u64 {
    u64::from(block).saturating_mul(u64::try_from(BLOCK).unwrap_or(u64::MAX))
}

/// More than any model has; a link to a folder above would never end.
const DEPTH: usize = 16;
/// More than any model has.
const FILES: usize = 65536;
/// As the engine takes it.
const TEXT: u64 = 64 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn reason(prepare: impl FnOnce(&Path)) -> String {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path());
        let version = "a@b".parse().unwrap();
        let error = Folder::read(folder.path(), version, NonZero::<usize>::MIN).unwrap_err();
        let path = folder.path().display().to_string();
        format!("{error:#}").replace(&path, "DIR")
    }

    #[test]
    fn a_gguf_file_says_what_it_is() {
        let reference = Path::new(env!("CARGO_MANIFEST_DIR")).join("../inference/reference");
        let folder = tempfile::tempdir().unwrap();
        let model = reference.join("families/qwen2_moe.gguf/model.gguf");
        fs::copy(model, folder.path().join("model.gguf")).unwrap();
        let one = NonZero::<usize>::MIN;
        let packed = Folder::read(folder.path(), "a@b".parse().unwrap(), one).unwrap();
        let manifest = packed.manifest();
        assert_eq!(manifest.architecture.as_deref(), Some("qwen2moe"));
        assert_eq!(manifest.dtype.as_deref(), Some("Q8_0"));

        // Of folders inside it says nothing.
        let inside = folder.path().join("a");
        fs::create_dir(&inside).unwrap();
        fs::rename(folder.path().join("model.gguf"), inside.join("model.gguf")).unwrap();
        let packed = Folder::read(folder.path(), "a@b".parse().unwrap(), one).unwrap();
        assert_eq!(packed.manifest().architecture, None);

        let broken = |dir: &Path| fs::write(dir.join("x.gguf"), "GGUF").unwrap();
        assert_eq!(
            reason(broken),
            "x.gguf is no GGUF file: cannot read DIR/x.gguf: failed to fill whole buffer"
        );
    }

    #[test]
    fn a_folder_that_makes_no_pack_is_refused_by_name() {
        assert_eq!(reason(|_| ()), "DIR holds no files");
        let foreign = |dir: &Path| fs::write(dir.join(MANIFEST), "{}").unwrap();
        assert_eq!(
            reason(foreign),
            "DIR/manifest.json would be replaced by the pack's own"
        );
        let endless = |dir: &Path| symlink(".", dir.join("x")).unwrap();
        assert!(reason(endless).ends_with("is 16 folders deep"));
        let dangling = |dir: &Path| symlink("nowhere", dir.join("x")).unwrap();
        assert!(reason(dangling).starts_with("cannot look at DIR/x: "));
        let device = |dir: &Path| symlink("/dev/null", dir.join("x")).unwrap();
        assert_eq!(reason(device), "DIR/x is no file");
        let odd = |dir: &Path| fs::write(dir.join("a\nb"), "").unwrap();
        assert!(reason(odd).contains("is not a path of at most 1024 bytes"));
    }

    #[test]
    fn a_pack_replaces_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("weights");
        fs::write(&file, "precious").unwrap();
        let version = "a@b".parse().unwrap();
        let read = Folder::read(folder.path(), version, NonZero::<usize>::MIN).unwrap();
        assert!(read.write(&file, None).is_err());
        assert_eq!(fs::read(&file).unwrap(), b"precious");
    }
}
