//! Where a build reads and where it writes.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use attestation::register::Digest256;

/// One checkout and its outputs.
///
/// Two places that hold the same sources give the same image, whatever their paths.
#[derive(Clone, Debug)]
pub struct Place {
    /// Root of the repository.
    pub source: PathBuf,
    /// Everything made goes under it.
    pub out: PathBuf,
    /// Debian packages by file name; shared between builds, since each is known by its hash.
    pub debs: PathBuf,
}

impl Place {
    /// The checkout that this program was compiled from.
    pub fn here() -> Result<Self> {
        Self::of(Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/..")))
    }

    /// A checkout with its outputs under `target/image`.
    pub fn of(source: &Path) -> Result<Self> {
        let source = source
            .canonicalize()
            .with_context(|| format!("cannot find the repository at {}", source.display()))?;
        let out = source.join("target/image");
        let debs = out.join("debs");
        Ok(Self { source, out, debs })
    }

    /// Copies the sources, as git knows them, to a place of their own.
    pub fn copy_to(&self, checkout: &Path) -> Result<()> {
        remove(checkout)?;
        let sources = Command::new("git")
            .args([
                "ls-files",
                "-z",
                "--cached",
                "--others",
                "--exclude-standard",
            ])
            .current_dir(&self.source)
            .output()
            .context("cannot start git")?;
        ensure!(sources.status.success(), "git cannot list the sources");
        let sources = String::from_utf8(sources.stdout).context("names of the sources")?;
        for name in sources.split_terminator('\0') {
            let (from, to) = (self.source.join(name), checkout.join(name));
            match fs::read_link(&from) {
                Ok(target) => link(&target, &to)?,
                Err(_) if from.exists() => copy(&from, &to)?,
                // Removed, and git does not know yet.
                Err(_) => {}
            }
        }
        Ok(())
    }

    /// A directory that `make` fills once for these inputs.
    ///
    /// A half-made one is never seen: it gets its name when `make` has succeeded,
    /// and older ones of that name are removed then. Of two processes one waits.
    pub fn cached(
        &self,
        name: &str,
        key: Digest256,
        make: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<PathBuf> {
        let cache = self.out.join("cache");
        let key = key.to_string();
        let short = key.get(..16).unwrap_or(&key);
        let done = cache.join(format!("{name}-{short}"));
        if done.exists() {
            return Ok(done);
        }
        fs::create_dir_all(&cache).with_context(|| format!("cannot make {}", cache.display()))?;
        let lock = cache.join(format!("{name}.lock"));
        let lock = File::create(&lock)
            .and_then(|file| file.lock().map(|()| file))
            .with_context(|| format!("cannot lock {}", lock.display()))?;
        // Whoever had the lock may have made it.
        if done.exists() {
            return Ok(done);
        }
        let part = cache.join(format!("{name}.part"));
        remove(&part)?;
        fs::create_dir_all(&part).with_context(|| format!("cannot make {}", part.display()))?;
        make(&part)?;
        for entry in list(&cache)? {
            let stale = entry
                .file_name()
                .and_then(|entry| entry.to_str()?.strip_prefix(name)?.strip_prefix('-'))
                .is_some_and(|rest| rest.len() == 16);
            if stale {
                remove(&entry)?;
            }
        }
        fs::rename(&part, &done).with_context(|| format!("cannot name {}", done.display()))?;
        drop(lock);
        Ok(done)
    }
}

/// Hashes labelled parts into a cache key; a part's length is hashed before it.
#[derive(Debug, Default)]
pub struct Key(Vec<u8>);

impl Key {
    /// Adds one part.
    #[must_use]
    pub fn with(mut self, part: impl AsRef<[u8]>) -> Self {
        let part = part.as_ref();
        self.0.extend(part.len().to_le_bytes());
        self.0.extend(part);
        self
    }

    /// Adds every file under `path`: name, whether it can be executed, content.
    pub fn with_files(mut self, path: &Path) -> Result<Self> {
        for file in files(path)? {
            let name = file.strip_prefix(path).unwrap_or(&file);
            self = self.with(name.as_os_str().as_encoded_bytes());
            self = match fs::read_link(&file) {
                Ok(target) => self
                    .with("link")
                    .with(target.as_os_str().as_encoded_bytes()),
                Err(_) => self.with(kind(&file)?).with(read(&file)?),
            };
        }
        Ok(self)
    }

    /// The digest of all parts.
    #[must_use]
    pub fn finish(&self) -> Digest256 {
        Digest256::of(&self.0)
    }
}

/// Reads a file; the error names it.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Reads a text file; the error names it.
pub fn read_text(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Writes a file and the directories above it; the error names it.
pub fn write(path: &Path, bytes: impl AsRef<[u8]>) -> Result<()> {
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

/// Copies a file, permissions included; the error names both ends.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    if let Some(parent) = to.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    fs::copy(from, to)
        .with_context(|| format!("cannot copy {} to {}", from.display(), to.display()))?;
    Ok(())
}

/// Makes a symbolic link; the error names it.
pub fn link(target: &Path, at: &Path) -> Result<()> {
    let parent = at.parent().unwrap_or(at);
    fs::create_dir_all(parent)
        .and_then(|()| std::os::unix::fs::symlink(target, at))
        .with_context(|| format!("cannot link {}", at.display()))
}

/// Removes a file or a whole directory, if there is one.
pub fn remove(path: &Path) -> Result<()> {
    let Ok(metadata) = path.symlink_metadata() else {
        return Ok(());
    };
    let removed = if metadata.is_dir() {
        fs::remove_dir_all(path)
    } else {
        fs::remove_file(path)
    };
    removed.with_context(|| format!("cannot remove {}", path.display()))
}

/// Every regular file and link under `path`, in the order of their names.
pub fn files(path: &Path) -> Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    for entry in list(path)? {
        if entry.is_dir() && !entry.is_symlink() {
            found.extend(files(&entry)?);
        } else {
            found.push(entry);
        }
    }
    Ok(found)
}

/// The entries of a directory in the order of their names.
pub fn list(path: &Path) -> Result<Vec<PathBuf>> {
    let context = || format!("cannot list {}", path.display());
    let mut entries = Vec::new();
    for entry in fs::read_dir(path).with_context(context)? {
        entries.push(entry.with_context(context)?.path());
    }
    entries.sort();
    Ok(entries)
}

/// SHA-256 of a file.
pub fn sha256(path: &Path) -> Result<Digest256> {
    Ok(Digest256::of(&read(path)?))
}

fn kind(path: &Path) -> Result<&'static str> {
    use std::os::unix::fs::PermissionsExt as _;
    let metadata = path
        .metadata()
        .with_context(|| format!("cannot read {}", path.display()))?;
    Ok(match metadata.permissions().mode() & 0o111 {
        0 => "file",
        _ => "program",
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    #[test]
    fn a_directory_is_made_once_for_its_inputs() {
        let (_guard, place) = place();
        let (a, b) = (Key::default().with("a"), Key::default().with("b"));
        let mut made = 0_u32;
        for key in [&a, &a, &b] {
            let dir = place.cached("thing", key.finish(), |dir| {
                made = made.saturating_add(1);
                write(&dir.join("file"), "text")
            });
            assert_eq!(read_text(&dir.unwrap().join("file")).unwrap(), "text");
        }
        assert_eq!(made, 2);
        let left = list(&place.out.join("cache")).unwrap();
        assert_eq!(left.iter().filter(|path| path.is_dir()).count(), 1);
    }

    #[test]
    fn a_directory_whose_making_failed_is_made_again() {
        let (_guard, place) = place();
        let key = Key::default().finish();
        place
            .cached("thing", key, |_| bail!("no"))
            .expect_err("must pass the failure on");
        let dir = place.cached("thing", key, |dir| write(&dir.join("file"), ""));
        assert_eq!(list(&dir.unwrap()).unwrap().len(), 1);
    }

    #[test]
    fn parts_of_a_key_do_not_run_together() {
        let ab_c = Key::default().with("ab").with("c").finish();
        let a_bc = Key::default().with("a").with("bc").finish();
        assert_ne!(ab_c, a_bc);
    }

    fn place() -> (tempfile::TempDir, Place) {
        let dir = tempfile::tempdir().unwrap();
        let place = Place::of(dir.path()).unwrap();
        (dir, place)
    }
}
