//! The emulated report directory does what the kernel's does, file by file.

#![cfg(test)]

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use nix::errno::Errno;
use nix::unistd::{setfsgid, setfsuid};
use tempfile::TempDir;
use tests::kernel::{Answer, Host, Kernel, Linux};
use tests::tsm_fuse::{TsmMount, skip_without_fuse};

#[test]
fn an_entry_holds_the_four_files_of_the_tdx_driver() {
    let Some(td) = Td::with(echo) else { return };
    let entry = td.entry("a");
    let mut files: Vec<_> = fs::read_dir(&entry)
        .unwrap()
        .map(|file| {
            let file = file.unwrap();
            let mode = file.metadata().unwrap().permissions().mode() & 0o777;
            (file.file_name().into_string().unwrap(), mode)
        })
        .collect();
    files.sort();
    let expected = [
        ("generation", 0o444),
        ("inblob", 0o200),
        ("outblob", 0o400),
        ("provider", 0o444),
    ];
    assert_eq!(files, expected.map(|(name, mode)| (name.into(), mode)));
    assert_eq!(
        fs::read_to_string(entry.join("provider")).unwrap(),
        "tdx_guest\n"
    );
    assert_eq!(fs::read_to_string(entry.join("generation")).unwrap(), "0\n");
}

#[test]
fn only_entries_are_made_and_removed() {
    let Some(td) = Td::with(echo) else { return };
    let entry = td.entry("a");
    let cases = [
        (fs::create_dir(&entry), Errno::EEXIST),
        (fs::create_dir(entry.join("b")), Errno::EPERM),
        (fs::remove_file(entry.join("inblob")), Errno::EPERM),
        (File::create(entry.join("b")).map(drop), Errno::EACCES),
        (fs::remove_dir(td.path("b")), Errno::ENOENT),
    ];
    for (result, expected) in cases {
        assert_eq!(errno(result), expected);
    }
    fs::remove_dir(&entry).unwrap();
    assert!(!entry.exists());
}

#[test]
fn a_file_opens_only_for_what_it_can_do_even_for_root() {
    let Some(td) = Td::with(echo) else { return };
    let entry = td.entry("a");
    for (name, read, write, opens) in [
        ("generation", true, false, true),
        ("generation", false, true, false),
        ("provider", true, true, false),
        ("inblob", false, true, true),
        ("inblob", true, false, false),
        ("inblob", true, true, false),
        ("outblob", true, false, true),
        ("outblob", false, true, false),
        ("outblob", true, true, false),
    ] {
        let file = OpenOptions::new()
            .read(read)
            .write(write)
            .open(entry.join(name));
        match opens {
            true => drop(file.unwrap()),
            false => assert_eq!(errno(file), Errno::EACCES, "{name} {read} {write}"),
        }
    }
}

#[test]
fn inblob_is_committed_at_the_last_close_and_not_before() {
    let Some(td) = Td::with(echo) else { return };
    let entry = td.entry("a");
    td.write("a", &[1; 64]).unwrap();
    let mut inblob = td.open_inblob("a");
    inblob.write_all(&[2; 64]).unwrap();
    assert_eq!(
        (td.generation("a"), td.outblob("a").unwrap()),
        (1, vec![1; 64])
    );

    let duplicate = inblob.try_clone().unwrap();
    drop(inblob);
    assert_eq!(td.generation("a"), 1, "a descriptor is still open");
    drop(duplicate);
    assert_eq!(
        (td.generation("a"), td.outblob("a").unwrap()),
        (2, vec![2; 64])
    );
    assert!(entry.exists());
}

#[test]
fn a_file_that_was_opened_and_not_written_commits_nothing() {
    let Some(td) = Td::with(echo) else { return };
    td.entry("a");
    drop(td.open_inblob("a"));
    drop(File::create(td.path("a").join("inblob")).unwrap());
    assert_eq!(td.generation("a"), 0);
}

#[test]
fn writes_append_up_to_64_bytes_and_count_once() {
    let Some(td) = Td::with(echo) else { return };
    td.entry("a");
    let mut inblob = td.open_inblob("a");
    inblob.write_all(&[1; 40]).unwrap();
    inblob.write_all(&[2; 24]).unwrap();
    assert_eq!(errno(inblob.write_all(&[3])), Errno::EFBIG);
    drop(inblob);
    assert_eq!(td.generation("a"), 1);
    assert_eq!(td.outblob("a").unwrap(), [&[1; 40][..], &[2; 24]].concat());
}

#[test]
fn a_refused_write_still_commits_what_there_was() {
    let Some(td) = Td::with(echo) else { return };
    td.entry("a");
    td.write("a", &[1; 64]).unwrap();
    assert_eq!(errno(td.write("a", &[2; 65])), Errno::EFBIG);
    assert_eq!(td.generation("a"), 2);
    assert_eq!(errno(td.outblob("a")), Errno::EINVAL, "inblob is empty now");
}

#[test]
fn a_wrong_length_shows_only_when_the_quote_is_read() {
    let Some(td) = Td::with(echo) else { return };
    td.entry("a");
    assert_eq!(errno(td.outblob("a")), Errno::EINVAL);
    td.write("a", &[1; 63]).unwrap();
    assert_eq!(errno(td.outblob("a")), Errno::EINVAL);
}

#[test]
fn blobs_cannot_be_sought() {
    let Some(td) = Td::with(echo) else { return };
    let entry = td.entry("a");
    assert_eq!(errno(td.open_inblob("a").rewind()), Errno::ESPIPE);
    assert_eq!(
        errno(File::open(entry.join("outblob")).unwrap().rewind()),
        Errno::ESPIPE
    );
    File::open(entry.join("generation"))
        .unwrap()
        .rewind()
        .unwrap();
}

#[test]
fn a_quote_is_made_once_for_each_commit() {
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let host = move |asked: &[u8; 64]| {
        counted.fetch_add(1, Ordering::Relaxed);
        echo(asked)
    };
    let Some(td) = Td::with(host) else { return };
    td.entry("a");
    td.write("a", &[1; 64]).unwrap();
    let mut held = File::open(td.path("a").join("outblob")).unwrap();
    assert_eq!(held.read(&mut [0; 16]).unwrap(), 16);
    td.outblob("a").unwrap();
    assert_eq!(calls.load(Ordering::Relaxed), 1);

    td.write("a", &[2; 64]).unwrap();
    assert_eq!(td.outblob("a").unwrap(), [2; 64]);
    assert_eq!(calls.load(Ordering::Relaxed), 2);
    let mut rest = Vec::new();
    held.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, [1; 48], "an open file keeps its copy");
}

#[test]
fn each_answer_of_the_host_reads_as_the_driver_of_its_day_has_it() {
    use Linux::{V6_12, V7_0};
    let cases = [
        (V6_12, Answer::Failed, Ok(vec![])),
        (V6_12, Answer::Silent(0), Ok(vec![])),
        (V7_0, Answer::Failed, Err(Errno::EIO)),
        (V7_0, Answer::Silent(0), Err(Errno::EIO)),
        (V6_12, Answer::Refused, Err(Errno::EIO)),
        (V6_12, Answer::Late, Err(Errno::ETIMEDOUT)),
        (V6_12, Answer::Interrupted(0), Err(Errno::EINTR)),
        (V6_12, Answer::Quote(vec![4; 8169]), Err(Errno::EFBIG)),
        (V6_12, Answer::Quote(vec![4; 8168]), Ok(vec![4; 8168])),
    ];
    for (version, answer, expected) in cases {
        let told = answer.clone();
        let Some(td) = Td::new(version, move |_: &_| told.clone()) else {
            return;
        };
        td.entry("a");
        td.write("a", &[1; 64]).unwrap();
        let found = td.read_once("a");
        assert_eq!(
            found.map_err(|error| errno::<()>(Err(error))),
            expected,
            "{answer:?}"
        );
    }
}

#[test]
fn a_host_that_holds_the_buffer_keeps_all_entries_busy() {
    let mut answers = vec![Answer::Quote(vec![4; 9]), Answer::Silent(2)];
    let Some(td) = Td::with(move |_: &_| answers.pop().unwrap()) else {
        return;
    };
    for name in ["a", "b"] {
        td.entry(name);
        td.write(name, &[1; 64]).unwrap();
    }
    assert_eq!(td.outblob("a").unwrap(), [0; 0]);
    assert_eq!(
        td.outblob("a").unwrap(),
        [0; 0],
        "an empty quote is cached like any"
    );
    assert_eq!(errno(td.outblob("b")), Errno::EBUSY);
    td.write("a", &[2; 64]).unwrap();
    assert_eq!(errno(td.outblob("a")), Errno::EBUSY);
    assert_eq!(td.outblob("b").unwrap(), [4; 9]);
}

#[test]
fn a_writer_between_the_two_reads_cuts_or_mixes_the_quote() {
    for (first, second, expected) in [
        (4, 6, [2; 4].to_vec()),
        (6, 4, [2, 2, 2, 2, 0x5a, 0x5a].to_vec()),
    ] {
        let host = move |asked: &[u8; 64]| {
            let len = if asked[0] == 1 { first } else { second };
            Answer::Quote(vec![asked[0]; len])
        };
        let Some(td) = Td::with(host) else { return };
        td.entry("a");
        td.write("a", &[1; 64]).unwrap();
        td.mount.kernel().intrude(&[2; 64]);
        assert_eq!(td.outblob("a").unwrap(), expected);
        assert_eq!(td.generation("a"), 2);
    }
}

#[test]
fn without_a_driver_only_what_is_cached_remains() {
    let Some(td) = Td::with(echo) else { return };
    td.entry("read");
    td.entry("unread");
    td.write("read", &[1; 64]).unwrap();
    td.write("unread", &[1; 64]).unwrap();
    td.outblob("read").unwrap();
    td.mount.kernel().unregister();
    assert_eq!(td.outblob("read").unwrap(), [1; 64]);
    assert_eq!(errno(td.outblob("unread")), Errno::ENXIO);
    assert_eq!(
        errno(fs::read(td.path("read").join("provider"))),
        Errno::ENXIO
    );
    assert_eq!(errno(fs::create_dir(td.path("new"))), Errno::ENXIO);
}

#[test]
fn a_removed_entry_takes_its_open_files_along() {
    let Some(td) = Td::with(echo) else { return };
    let entry = td.entry("a");
    td.write("a", &[1; 64]).unwrap();
    let mut outblob = File::open(entry.join("outblob")).unwrap();
    let mut inblob = td.open_inblob("a");
    inblob.write_all(&[2; 64]).unwrap();
    fs::remove_dir(&entry).unwrap();
    td.entry("a");
    assert_eq!(errno(outblob.read(&mut [0])), Errno::ENOENT);
    drop(inblob);
    assert_eq!(td.generation("a"), 0, "the new entry is another");
}

#[test]
fn an_entry_that_is_given_away_serves_its_owner() {
    let Some(td) = Td::with(echo) else { return };
    let entry = td.entry("a");
    td.write("a", &[7; 64]).unwrap();
    fs::set_permissions(td.directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let outblob = entry.join("outblob");
    assert_eq!(errno(read_as(1000, &outblob)), Errno::EACCES);
    chown(&outblob, Some(1000), Some(1000)).unwrap();
    assert_eq!(read_as(1000, &outblob).unwrap(), [7; 64]);
}

/// In a thread of its own: a child would hold other tests' files open for a
/// moment, and so delay their last close.
fn read_as(user: u32, path: &Path) -> io::Result<Vec<u8>> {
    let read = || {
        setfsgid(user.into());
        setfsuid(user.into());
        fs::read(path)
    };
    thread::scope(|scope| scope.spawn(read).join().unwrap())
}

#[test]
fn unmounting_leaves_an_empty_directory() {
    let Some(td) = Td::with(echo) else { return };
    td.entry("a");
    let Td { mount, directory } = td;
    drop(mount);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}

/// A host whose quotes are the questions.
fn echo(asked: &[u8; 64]) -> Answer {
    Answer::Quote(asked.to_vec())
}

struct Td {
    mount: TsmMount,
    directory: TempDir,
}

impl Td {
    fn with(host: impl Host + 'static) -> Option<Self> {
        Self::new(Linux::V6_12, host)
    }

    /// None where this machine has no FUSE.
    fn new(version: Linux, host: impl Host + 'static) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let kernel = Kernel::new(version, Box::new(host), Duration::ZERO);
        let mount = skip_without_fuse(TsmMount::new(kernel, directory.path()))?;
        Some(Self { mount, directory })
    }

    fn path(&self, entry: &str) -> PathBuf {
        self.directory.path().join(entry)
    }

    fn entry(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir(&path).unwrap();
        path
    }

    fn open_inblob(&self, entry: &str) -> File {
        let path = self.path(entry).join("inblob");
        OpenOptions::new().write(true).open(path).unwrap()
    }

    fn write(&self, entry: &str, inblob: &[u8]) -> io::Result<()> {
        self.open_inblob(entry).write_all(inblob)
    }

    fn outblob(&self, entry: &str) -> io::Result<Vec<u8>> {
        fs::read(self.path(entry).join("outblob"))
    }

    /// Without a second try after a signal.
    fn read_once(&self, entry: &str) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; 1 << 16];
        let len = File::open(self.path(entry).join("outblob"))?.read(&mut bytes)?;
        bytes.truncate(len);
        Ok(bytes)
    }

    fn generation(&self, entry: &str) -> u64 {
        let text = fs::read_to_string(self.path(entry).join("generation")).unwrap();
        text.strip_suffix('\n').unwrap().parse().unwrap()
    }
}

fn errno<T>(result: io::Result<T>) -> Errno {
    let error = result.err().expect("it should have failed");
    Errno::from_raw(error.raw_os_error().expect("an error of the kernel"))
}
