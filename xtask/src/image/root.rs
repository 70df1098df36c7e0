//! The root file system: locked packages and the agent, through mkosi, as erofs under dm-verity.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use attestation::register::Digest256;
use attestation::verity::{BLOCK, TreeBuilder, Verity};

use super::debs::Debs;
use super::lock::{Lock, Package, Use};
use super::{Builder, Profile, install};
use crate::place::{Key, files, read, write};
use crate::tools::Tools;

/// A disk image and what measures it.
#[derive(Clone, Debug)]
pub struct Root {
    /// Data, superblock and hash tree.
    pub image: PathBuf,
    /// The same files as a tree, for whoever wants to look.
    pub tree: PathBuf,
    /// Goes into the initrd.
    pub verity: Verity,
}

/// Packages whose files a profile's root is made of.
pub fn packages(lock: &Lock, profile: Profile) -> impl Iterator<Item = &Package> {
    let debug = lock
        .of(Use::Debug)
        .filter(move |_| profile == Profile::Debug);
    lock.of(Use::Root).chain(debug)
}

/// Makes the root around `agent`.
pub fn build(
    builder: &Builder,
    profile: Profile,
    lock: &Lock,
    tools: &Tools,
    agent: &Path,
) -> Result<Root> {
    let source = &builder.place.source;
    let key = packages(lock, profile)
        .fold(Key::default(), |key, package| key.with(&package.sha256))
        .with(profile.name())
        .with(read(agent)?)
        .with(read(&source.join("mkosi.conf"))?)
        .with_files(&source.join("image"))?
        .with(OPTIONS.concat());
    let name = format!("root-{profile}");
    let folder = builder.place.cached(&name, key.finish(), |folder| {
        let debs = Debs::obtain(
            &builder.place,
            packages(lock, profile),
            &builder.source,
            &builder.progress,
        )?;
        let step = builder.progress.step(format!("make the root ({profile})"));
        let log = folder.join("log");

        let base = folder.join("base");
        debs.unpack(&base)?;
        install(agent, &base.join("usr/bin/agent"))?;

        let mut sandbox = tools.sandbox();
        sandbox
            .read_only(source, "/source")
            .writable(folder, "/folder")
            .directory("/source");
        let options = [
            "--force",
            "--base-tree=/folder/base",
            "--output-directory=/folder",
        ];
        let mkosi = options.iter().chain(profile.mkosi()).chain(&["build"]);
        sandbox.run("mkosi", mkosi, &log, &step)?;
        closed(tools, &folder.join("root"))?;

        let output = ["/folder/root.erofs", "/folder/root"];
        sandbox.run("mkfs.erofs", OPTIONS.iter().chain(&output), &log, &step)?;
        let (disk, verity) = seal(read(&folder.join("root.erofs"))?)?;
        write(&folder.join("root.img"), &disk)?;
        write(&folder.join("verity"), format!("{verity}\n"))?;
        crate::place::remove(&base)?;
        step.done(format!("{} bytes", disk.len()));
        Ok(())
    })?;
    let verity = fs::read_to_string(folder.join("verity")).context("cannot read the root hash")?;
    Ok(Root {
        image: folder.join("root.img"),
        tree: folder.join("root"),
        verity: verity.trim_end().parse().context("root hash")?,
    })
}

/// Appends superblock and hash tree to the data of a disk.
///
/// The salt is the digest of the data: nothing to choose, and another one for each disk.
pub fn seal(mut disk: Vec<u8>) -> Result<(Vec<u8>, Verity)> {
    disk.resize(disk.len().next_multiple_of(BLOCK), 0);
    let mut tree = TreeBuilder::new(*Digest256::of(&disk).as_bytes());
    let (blocks, _) = disk.as_chunks::<BLOCK>();
    blocks.iter().for_each(|block| tree.push(block));
    let built = tree.finish().context("cannot hash the disk")?;
    disk.extend(built.hash_area);
    Ok((disk, built.verity))
}

/// Makes sure that every program and library in the root finds the libraries it names there.
fn closed(tools: &Tools, root: &Path) -> Result<()> {
    for file in files(root)? {
        let bytes = match file.is_symlink() {
            true => continue,
            false => read(&file)?,
        };
        if !is_dynamic(&bytes) {
            continue;
        }
        let path = Path::new("/").join(file.strip_prefix(root).unwrap_or(&file));
        let output = tools
            .inside(root)
            .command("/lib64/ld-linux-x86-64.so.2")
            .arg("--list")
            .arg(&path)
            .output()
            .context("cannot start the loader of the root")?;
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said);
        let is_static = said.contains("statically linked") || said.contains("not a dynamic");
        if is_static {
            continue;
        }
        ensure!(
            output.status.success() && !said.contains("not found"),
            "{} cannot be loaded in the root: {}",
            path.display(),
            said.trim(),
        );
    }
    if !root.join("usr/bin/agent").is_file() {
        bail!("the root holds no agent");
    }
    Ok(())
}

/// Whether the bytes are ELF that a loader has to complete.
///
/// Source: System V ABI, "ELF Header" and "Program Header" (64 bit, little-endian).
fn is_dynamic(bytes: &[u8]) -> bool {
    let number = |offset: usize, len| {
        let bytes = bytes.get(offset..)?.get(..len)?.iter().rev();
        bytes.copied().try_fold(0_usize, |number, byte| {
            number.checked_mul(256)?.checked_add(byte.into())
        })
    };
    let (Some(start), Some(size), Some(count)) = (number(32, 8), number(54, 2), number(56, 2))
    else {
        return false;
    };
    let kinds = (0..count).filter_map(|index| {
        let offset = index.checked_mul(size)?.checked_add(start)?;
        number(offset, 4)
    });
    bytes.starts_with(b"\x7fELF") && { kinds }.any(|kind| kind == PT_DYNAMIC)
}

/// A segment that tells a loader what to do.
const PT_DYNAMIC: usize = 2;

/// Large clusters, no times, no owners, no attributes, and an identity that never changes.
pub(crate) const OPTIONS: [&str; 7] = [
    "--all-root",
    "--quiet",
    "-zzstd,level=9",
    "-C65536",
    "-T0",
    "-x-1",
    "-U6d0d1f5c-2b1f-4c61-9d6b-0f4f6f0b7c11",
];
