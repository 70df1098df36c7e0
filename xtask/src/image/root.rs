//! The root file system: locked packages and what is ours, through mkosi, as erofs under dm-verity.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};
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

/// What the root holds that no package does.
#[derive(Clone, Copy, Debug)]
pub struct Own<'a> {
    /// Go where init looks for programs.
    pub programs: &'a [PathBuf],
    /// Kernel modules.
    pub modules: &'a [PathBuf],
}

impl<'a> Own<'a> {
    /// Each file with the folder it goes to.
    fn files(self) -> impl Iterator<Item = (&'a Path, &'static str)> {
        let to = |folder| move |file: &'a PathBuf| (&**file, folder);
        let programs = self.programs.iter().map(to("usr/bin"));
        programs.chain(self.modules.iter().map(to("usr/lib/modules")))
    }
}

/// Packages whose files a profile's root is made of.
pub fn packages(lock: &Lock, profile: Profile) -> impl Iterator<Item = &Package> {
    let added = match profile {
        Profile::Base => None,
        Profile::Debug => Some(Use::Debug),
        Profile::Nvidia => Some(Use::Nvidia),
    };
    let added = added.into_iter().flat_map(|usage| lock.of(usage));
    lock.of(Use::Root).chain(added)
}

/// Makes the root around what is ours.
pub fn build(
    builder: &Builder,
    profile: Profile,
    lock: &Lock,
    tools: &Tools,
    own: Own<'_>,
) -> Result<Root> {
    let source = &builder.place.source;
    let key = packages(lock, profile)
        .fold(Key::default(), |key, package| key.with(&package.sha256))
        .with(profile.name());
    let key = own
        .files()
        .try_fold(key, |key, (file, _)| anyhow::Ok(key.with(read(file)?)))?
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
        for (file, to) in own.files() {
            let name = file.file_name().unwrap_or_default();
            install(file, &base.join(to).join(name))?;
        }

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
    let mut sandbox = tools.sandbox();
    sandbox.read_only(root, "/root");
    for file in files(root)? {
        if file.is_symlink() || !read(&file)?.starts_with(b"\x7fELF") {
            continue;
        }
        let name = file.strip_prefix(root).unwrap_or(&file);
        let output = sandbox
            .command("readelf")
            .args(["--dynamic", "--wide"])
            .arg(Path::new("/root").join(name))
            .output()
            .context("cannot start readelf")?;
        ensure!(
            output.status.success(),
            "readelf cannot read /{}",
            name.display()
        );
        for library in needed(&String::from_utf8_lossy(&output.stdout)) {
            ensure!(
                root.join(LIBRARIES).join(library).is_file(),
                "/{} needs {library}, which is not in the root",
                name.display(),
            );
        }
    }
    Ok(())
}

/// The libraries that `readelf --dynamic` names.
fn needed(dynamic: &str) -> impl Iterator<Item = &str> {
    dynamic
        .lines()
        .filter(|line| line.contains("(NEEDED)"))
        .filter_map(|line| line.split_once('[')?.1.strip_suffix(']'))
}

const LIBRARIES: &str = "usr/lib/x86_64-linux-gnu";
/// Large clusters, no times, no owners, no attributes, and an identity that never changes.
const OPTIONS: [&str; 7] = [
    "--all-root",
    "--quiet",
    "-zzstd,level=9",
    "-C65536",
    "-T0",
    "-x-1",
    "-U6d0d1f5c-2b1f-4c61-9d6b-0f4f6f0b7c11",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_libraries_that_a_program_names_are_read() {
        let dynamic = "\nDynamic section at offset 0x2dc0 contains 27 entries:\n\
             0x0000000000000001 (NEEDED)             Shared library: [libm.so.6]\n\
             0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]\n\
             0x000000000000000e (SONAME)             Library soname: [libx.so.1]\n";
        let needed: Vec<_> = needed(dynamic).collect();
        assert_eq!(needed, ["libm.so.6", "libc.so.6"]);
    }

    #[test]
    fn a_sealed_disk_has_whole_blocks_and_an_own_salt() {
        let (disk, verity) = seal(vec![7; BLOCK + 1]).unwrap();
        assert_eq!(verity.data_blocks.get(), 2);
        // Two blocks of data, the superblock, one block of tree.
        assert_eq!(disk.len(), 4 * BLOCK);
        let (_, other) = seal(vec![8; BLOCK + 1]).unwrap();
        assert_ne!(verity.salt, other.salt);
    }
}
