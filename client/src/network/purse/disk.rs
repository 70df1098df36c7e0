//! A value in a file that many change at once: each change is on disk before whoever made
//! it goes on, and all that wait share one write.
//!
//! ```text
//! FILE         JSON, replaced whole
//! FILE.lock    locked by the one process that changes it
//! ```

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, OnceLock, PoisonError};

use anyhow::{Context as _, anyhow};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// One that is ours until the process ends.
#[derive(Debug)]
pub(super) struct Disk<T> {
    path: PathBuf,
    shared: Mutex<Shared<T>>,
    /// A write is over.
    written: Condvar,
    _lock: File,
}

#[derive(Debug)]
struct Shared<T> {
    /// With every change.
    newest: T,
    /// As on disk.
    safe: T,
    /// Of the changes that the next write takes.
    round: Arc<Round>,
    is_writing: bool,
}

/// How the write of some changes ended, once it has.
type Round = OnceLock<Result<(), Arc<io::Error>>>;

impl<T: Clone + Default + DeserializeOwned + Serialize> Disk<T> {
    /// Reads it; where there is no file, it is what it is by default.
    pub(super) fn open(path: PathBuf, locked: &Path) -> anyhow::Result<Self> {
        let lock = lock(locked)?;
        let kept: T = match std::fs::read(&path) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| {
                let path = path.display();
                format!("{path} is no state of a channel: move it away and pay from another one")
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => T::default(),
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read {}", path.display()));
            }
        };
        Ok(Self {
            path,
            shared: Mutex::new(Shared {
                newest: kept.clone(),
                safe: kept,
                round: Arc::default(),
                is_writing: false,
            }),
            written: Condvar::new(),
            _lock: lock,
        })
    }

    /// Changes it, and waits for the disk. An error of `change` leaves it as it was. Where
    /// the disk fails, nothing of what was not on it has happened.
    pub(super) fn change<R, E: From<Arc<io::Error>>>(
        &self,
        change: impl FnOnce(&mut T) -> Result<R, E>,
    ) -> Result<R, E> {
        let mut shared = self.lock();
        let done = change(&mut shared.newest)?;
        let round = Arc::clone(&shared.round);
        loop {
            match round.get() {
                Some(Ok(())) => return Ok(done),
                Some(Err(error)) => return Err(Arc::clone(error).into()),
                None if shared.is_writing => {
                    let waited = self.written.wait(shared);
                    shared = waited.unwrap_or_else(PoisonError::into_inner);
                }
                None => shared = self.write(shared),
            }
        }
    }

    /// As it is, with what waits for the disk.
    pub(super) fn look<R>(&self, look: impl FnOnce(&T) -> R) -> R {
        look(&self.lock().newest)
    }

    /// Writes for all that have changed something by now; others may do so meanwhile.
    fn write<'a>(&'a self, mut shared: MutexGuard<'a, Shared<T>>) -> MutexGuard<'a, Shared<T>> {
        let next = shared.newest.clone();
        let round = std::mem::take(&mut shared.round);
        shared.is_writing = true;
        drop(shared);
        let saved = save(&self.path, &next);
        let mut shared = self.lock();
        shared.is_writing = false;
        match saved {
            Ok(()) => {
                shared.safe = next;
                round.get_or_init(|| Ok(()));
            }
            Err(error) => {
                let error = Arc::new(error);
                // Whoever came meanwhile has changed what is not there.
                shared.newest = shared.safe.clone();
                for lost in [round, std::mem::take(&mut shared.round)] {
                    lost.get_or_init(|| Err(Arc::clone(&error)));
                }
            }
        }
        self.written.notify_all();
        shared
    }

    fn lock(&self) -> MutexGuard<'_, Shared<T>> {
        // Each change is whole or none.
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// On disk, whole, before it returns.
fn save(path: &Path, value: &impl Serialize) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    let mut file = tempfile::NamedTempFile::new_in(folder)?;
    file.write_all(&serde_json::to_vec(value)?)?;
    file.as_file().sync_all()?;
    file.persist(path)?;
    File::open(folder)?.sync_all()
}

/// Two would sign two vouchers beside each other.
fn lock(path: &Path) -> anyhow::Result<File> {
    let file = OpenOptions::new().create(true).append(true).open(path);
    let file = file.with_context(|| format!("cannot write {}", path.display()))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(anyhow!(
            "{} is locked: another gateway or prober pays from this channel",
            path.display()
        )),
        Err(TryLockError::Error(error)) => {
            Err(error).with_context(|| format!("cannot lock {}", path.display()))
        }
    }
}
