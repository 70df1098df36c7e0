//! Which file holds which model of a measured configuration.
//!
//! A file is known by the top block of its hash tree, which hashes to the root
//! that the configuration names. The blocks below are not read here: the kernel
//! of the guest checks each when it reads it, and stops at the first wrong one.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use attestation::config::Model;
use attestation::verity::{BLOCK, TreeBuilder, Verity};

use super::vm::ModelDisk;

/// The disk of each model, in the order of the configuration.
pub fn assign(models: &[Model], files: &[PathBuf]) -> Result<Vec<ModelDisk>> {
    let mut disks = Vec::new();
    for model in models {
        let name = model.name.as_str();
        let Some(path) = holder(&model.verity, files)? else {
            let root_hash = model.verity.root_hash;
            bail!("no --model file holds {name}, whose root hash is {root_hash}");
        };
        let context = || format!("cannot find {}", path.display());
        disks.push(ModelDisk {
            name: name.into(),
            path: fs::canonicalize(path).with_context(context)?,
        });
    }
    for file in files {
        let path =
            fs::canonicalize(file).with_context(|| format!("cannot find {}", file.display()))?;
        if !disks.iter().any(|disk| disk.path == path) {
            bail!("{} holds no model of the configuration", file.display());
        }
    }
    Ok(disks)
}

fn holder<'a>(verity: &Verity, files: &'a [PathBuf]) -> Result<Option<&'a Path>> {
    for file in files {
        if holds(file, verity)? {
            return Ok(Some(file));
        }
    }
    Ok(None)
}

fn holds(path: &Path, verity: &Verity) -> Result<bool> {
    let read = || -> io::Result<Option<[u8; BLOCK]>> {
        let mut block = [0; BLOCK];
        match File::open(path)?.read_exact_at(&mut block, top(verity)) {
            Ok(()) => Ok(Some(block)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    };
    let Some(block) = read().with_context(|| format!("cannot read {}", path.display()))? else {
        return Ok(false);
    };
    // The tree of a single block is its digest under the salt.
    let mut tree = TreeBuilder::new(verity.salt);
    tree.push(&block);
    let root = tree.finish().context("a tree of one block")?;
    Ok(root.verity.root_hash == verity.root_hash)
}

/// Behind data and superblock; a disk with one block has no tree, and it is that block.
fn top(verity: &Verity) -> u64 {
    let block = u64::try_from(BLOCK).unwrap_or(u64::MAX);
    match verity.data_blocks.get() {
        1 => 0,
        _ => verity.hash_offset().saturating_add(block),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use attestation::config::Measured;
    use tempfile::TempDir;

    /// A disk of as many blocks, and the entry of a configuration for it.
    fn disk(folder: &TempDir, name: &str, blocks: u8) -> (PathBuf, String) {
        let mut tree = TreeBuilder::new([blocks; 32]);
        let mut data = Vec::new();
        for index in 0..blocks {
            let block = [blocks ^ index; BLOCK];
            tree.push(&block);
            data.extend(block);
        }
        let built = tree.finish().unwrap();
        let path = folder.path().join(name);
        fs::write(&path, [data, built.hash_area].concat()).unwrap();
        let verity = built.verity;
        (
            path,
            format!("[[model]]\nname = \"{name}\"\nverity = \"{verity}\"\n"),
        )
    }

    fn models(entries: &[&str]) -> Vec<Model> {
        let text = format!("version = 1\nrole = \"worker\"\n{}", entries.concat());
        Measured::parse(text.as_bytes()).unwrap().models
    }

    #[test]
    fn files_find_their_models_in_any_order_and_of_any_height() {
        let folder = tempfile::tempdir().unwrap();
        let (one, first) = disk(&folder, "one", 1);
        let (two, second) = disk(&folder, "two", 2);
        let (many, third) = disk(&folder, "many", 200);
        let models = models(&[&first, &second, &third]);
        let found = assign(&models, &[many.clone(), one.clone(), two.clone()]).unwrap();
        let paths: Vec<_> = found.into_iter().map(|disk| disk.path).collect();
        assert_eq!(paths, [one, two, many]);
    }

    #[test]
    fn a_model_without_a_file_is_named_with_its_root() {
        let folder = tempfile::tempdir().unwrap();
        let (other, _) = disk(&folder, "other", 3);
        let (_, entry) = disk(&folder, "two", 2);
        let models = models(&[&entry]);
        let error = assign(&models, &[other]).unwrap_err();
        let expected = format!(
            "no --model file holds two, whose root hash is {}",
            models[0].verity.root_hash
        );
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_file_too_many_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (path, _) = disk(&folder, "two", 2);
        let error = assign(&[], std::slice::from_ref(&path)).unwrap_err();
        let expected = format!("{} holds no model of the configuration", path.display());
        assert_eq!(error.to_string(), expected);
    }

    #[test]
    fn a_changed_tree_and_a_cut_file_hold_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let (path, entry) = disk(&folder, "two", 2);
        let models = models(&[&entry]);
        let mut bytes = fs::read(&path).unwrap();
        let last = bytes.len() - 1;
        fs::write(&path, &bytes[..last]).unwrap();
        assert!(assign(&models, std::slice::from_ref(&path)).is_err());
        bytes[last] ^= 1;
        fs::write(&path, &bytes).unwrap();
        assert!(assign(&models, std::slice::from_ref(&path)).is_err());
        let missing = folder.path().join("missing");
        let error = assign(&models, &[missing]).unwrap_err();
        assert!(error.to_string().starts_with("cannot read "));
    }
}
