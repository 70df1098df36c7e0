//! One VM on a server that may have several: its name, its folder, its locks.
//!
//! ```text
//! STATE/authority/        keys that certify software TPMs
//! STATE/locks/NAME        held while the instance runs
//! STATE/locks/ADDRESS     held while an instance has that device
//! STATE/NAME/             configurations, sockets, record.json, release.json
//! ```
//!
//! Locks end with their process, however it ends. What is in the folder is this
//! host's word: whoever wants to know what runs asks the machine for evidence.

use std::fmt;
use std::fs::{self, File, TryLockError};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use super::gpu::Address;
use super::qmp;
use crate::artefacts::read;
use crate::platform::Platform;

/// An instance that this process runs. Its folder goes with it.
#[derive(Debug)]
pub struct Instance {
    folder: PathBuf,
    _locks: Vec<File>,
}

impl Instance {
    /// Takes the name and the devices, if nobody has them.
    pub fn claim(state: &Path, name: &Name, devices: &[Address]) -> Result<Self> {
        let folder = state.join(&name.0);
        // sun_path of sockaddr_un, unix(7), with the longest name in the folder.
        ensure!(
            folder.as_os_str().len() < 100,
            "{} is too long for a socket: choose a shorter --state",
            folder.display()
        );
        let locks = state.join(LOCKS);
        make(&locks)?;
        let mut held =
            Vec::from([lock(&locks.join(&name.0))
                .with_context(|| format!("instance {name} runs already"))?]);
        for device in devices {
            let path = locks.join(device.to_string());
            let context = || format!("another instance has {device}");
            held.push(lock(&path).with_context(context)?);
        }
        // Left alone by a process that was killed.
        let monitor = folder.join(qmp::SOCKET);
        if UnixStream::connect(&monitor).is_ok() {
            bail!(
                "the QEMU of an earlier instance {name} still runs: it answers at {}",
                monitor.display()
            );
        }
        remove(&folder)?;
        make(&folder)?;
        Ok(Self {
            folder,
            _locks: held,
        })
    }

    /// Where its files are.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Writes one of them.
    pub fn write(&self, name: &str, content: impl AsRef<[u8]>) -> Result<()> {
        let path = self.folder.join(name);
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Err(error) = remove(&self.folder) {
            tracing::warn!("{error:#}");
        }
    }
}

/// What an instance was started as, for `cocoon host status`.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Of the shape.
    pub shape: String,
    /// Who speaks for it.
    pub platform: Platform,
    /// Measured configuration, by its name in the release.
    pub config: String,
    /// Where the guest is reached from this server.
    pub address: SocketAddr,
    /// By name.
    pub models: Vec<String>,
    /// By PCI address.
    pub devices: Vec<String>,
}

impl Record {
    /// All instances that were started and not stopped, in the order of their names.
    pub fn all(state: &Path) -> Result<Vec<(Name, Self)>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(state).into_iter().flatten() {
            let entry = entry.with_context(|| format!("cannot list {}", state.display()))?;
            let name = entry.file_name();
            let Some(name) = name.to_str().and_then(|name| name.parse::<Name>().ok()) else {
                continue;
            };
            let path = entry.path().join(RECORD);
            if path.exists() {
                let record = serde_json::from_slice(&read(&path)?)
                    .with_context(|| format!("{} is damaged", path.display()))?;
                records.push((name, record));
            }
        }
        records.sort_by(|one, other| one.0.cmp(&other.0));
        Ok(records)
    }

    /// Whether the process that wrote it is there.
    #[must_use]
    pub fn is_running(state: &Path, name: &Name) -> bool {
        let held = lock(&state.join(LOCKS).join(&name.0));
        held.is_err()
    }
}

/// `[a-z0-9][a-z0-9-]{0,31}`: one harmless path component, and a systemd instance.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Name(String);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let inner = |byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-');
        let fits = (1..=32).contains(&text.len()) && text.bytes().all(inner);
        let reserved = [LOCKS, AUTHORITY].contains(&text);
        match fits && !text.starts_with('-') && !reserved {
            true => Ok(Self(text.into())),
            false => Err(NameError(text.into())),
        }
    }
}

/// Text that names no instance.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is not [a-z0-9][a-z0-9-]{{0,31}}, or is reserved")]
pub struct NameError(String);

fn lock(path: &Path) -> Result<File> {
    let file = File::options()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)
        .with_context(|| format!("cannot open {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => bail!("{} is locked", path.display()),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}

fn make(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

fn remove(folder: &Path) -> Result<()> {
    match folder.exists() {
        true => fs::remove_dir_all(folder)
            .with_context(|| format!("cannot remove {}", folder.display())),
        false => Ok(()),
    }
}

/// Name of a [`Record`] in its folder.
pub const RECORD: &str = "record.json";
/// Name of the release that the instance was checked against.
pub const RELEASE: &str = "release.json";
/// Folder of the keys that certify software TPMs, beside the instances.
pub const AUTHORITY: &str = "authority";
const LOCKS: &str = "locks";

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    #[test]
    fn a_name_is_one_harmless_path_component() {
        for text in ["a", "worker-2", &"x".repeat(32)] {
            assert_eq!(text.parse::<Name>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "-a",
            "A",
            "a/b",
            "..",
            "a.b",
            "locks",
            "authority",
            &"x".repeat(33),
        ] {
            let error = text.parse::<Name>().unwrap_err().to_string();
            assert!(error.starts_with(&format!("{text:?} is not")), "{error}");
        }
    }

    #[test]
    fn neither_a_name_nor_a_gpu_is_taken_twice() {
        let state = tempfile::tempdir().unwrap();
        let claim = |name, gpus| Instance::claim(state.path(), &name, gpus);
        let gpus = ["17:00.0".parse().unwrap()];
        let first = claim(name("a"), &gpus).unwrap();
        let error = claim(name("a"), &[]).unwrap_err();
        assert_eq!(error.to_string(), "instance a runs already");
        let error = claim(name("b"), &gpus).unwrap_err();
        assert_eq!(error.to_string(), "another instance has 0000:17:00.0");
        let second = claim(name("b"), &[]).unwrap();
        assert_ne!(first.folder(), second.folder());
        drop(first);
        claim(name("a"), &gpus).unwrap();
    }

    #[test]
    fn a_qemu_that_outlived_its_process_is_not_run_over() {
        let state = tempfile::tempdir().unwrap();
        fs::create_dir(state.path().join("a")).unwrap();
        let monitor = state.path().join("a/qmp");
        let listener = UnixListener::bind(&monitor).unwrap();
        let error = Instance::claim(state.path(), &name("a"), &[]).unwrap_err();
        let expected = format!(
            "the QEMU of an earlier instance a still runs: it answers at {}",
            monitor.display()
        );
        assert_eq!(error.to_string(), expected);
        drop(listener);
        Instance::claim(state.path(), &name("a"), &[]).unwrap();
    }

    #[test]
    fn a_folder_too_deep_for_sockets_is_refused() {
        let state = Path::new("/tmp").join("x".repeat(100));
        let error = Instance::claim(&state, &name("a"), &[]).unwrap_err();
        assert!(error.to_string().ends_with("choose a shorter --state"));
    }

    #[test]
    fn records_tell_who_runs() {
        let state = tempfile::tempdir().unwrap();
        let record = Record {
            shape: "small".into(),
            platform: Platform::Vtpm,
            config: "worker".into(),
            address: "127.0.0.1:1".parse().unwrap(),
            models: Vec::new(),
            devices: Vec::new(),
        };
        let instance = Instance::claim(state.path(), &name("a"), &[]).unwrap();
        assert!(Record::all(state.path()).unwrap().is_empty());
        instance
            .write(RECORD, serde_json::to_vec(&record).unwrap())
            .unwrap();
        assert_eq!(Record::all(state.path()).unwrap(), [(name("a"), record)]);
        assert!(Record::is_running(state.path(), &name("a")));
        drop(instance);
        assert!(Record::all(state.path()).unwrap().is_empty());
        assert!(!Record::is_running(state.path(), &name("a")));
    }

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }
}
