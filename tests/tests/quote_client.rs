//! Clients of the report directory, ours and a published one, against the
//! emulated kernel and its host.

#![cfg(test)]

use std::fs::{self, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use agent::tsm::{Configfs, Tsm, TsmError};
use attestation::register::{Digest384, TdRegisters};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use tempfile::TempDir;
use tests::kernel::{Answer, Host, Kernel, Linux};
use tests::pki::{Intel, Platform};
use tests::quote::{QuotingEnclave, TdState};
use tests::tsm_fuse::{TsmMount, skip_without_fuse};

#[test]
fn our_client_gets_the_quote_it_asked_for() {
    let Some(td) = Td::under(quoting()) else {
        return;
    };
    let tsm = td.tsm("own").unwrap();
    for asked in [[1; 64], [2; 64]] {
        assert_eq!(tsm.quote(&asked).unwrap(), quote(&asked));
    }
}

#[test]
fn our_client_makes_a_missing_entry_and_removes_it() {
    let Some(td) = Td::under(quoting()) else {
        return;
    };
    let entry = td.entry("own");
    let tsm = td.tsm("own").unwrap();
    assert!(entry.exists());
    drop(tsm);
    assert!(!entry.exists());

    fs::create_dir(&entry).unwrap();
    drop(td.tsm("own").unwrap());
    assert!(entry.exists(), "made by another, so left to it");
}

#[test]
fn our_client_asks_again_when_another_writer_came_between() {
    let Some(td) = Td::under(quoting()) else {
        return;
    };
    let tsm = td.tsm("own").unwrap();
    td.mount.kernel().intrude(&[9; 64]);
    assert_eq!(tsm.quote(&[1; 64]).unwrap(), quote(&[1; 64]));
}

#[test]
fn a_racing_writer_never_gets_its_quote_into_our_hands() {
    let Some(td) = Td::under(quoting()) else {
        return;
    };
    let tsm = td.tsm("own").unwrap();
    let inblob = td.entry("own").join("inblob");
    let stop = AtomicBool::new(false);
    let (mut ours, mut refused) = (0, 0);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !stop.load(Ordering::Relaxed) {
                let mut file = OpenOptions::new().write(true).open(&inblob).unwrap();
                file.write_all(&[9; 64]).unwrap();
            }
        });
        for round in 0..100_u8 {
            let asked = [round % 8; 64];
            match tsm.quote(&asked) {
                Ok(found) => {
                    assert_eq!(found, quote(&asked));
                    ours += 1;
                }
                Err(TsmError::Interference { .. }) => refused += 1,
                Err(error) => panic!("{error}"),
            }
        }
        stop.store(true, Ordering::Relaxed);
    });
    println!("{ours} quotes, {refused} refused");
    assert_eq!(ours + refused, 100);
}

#[test]
fn our_client_gives_each_failure_of_the_host_its_name() {
    let cases = [
        (
            Linux::V6_12,
            Answer::Failed,
            "outblob is empty: the host gave no quote",
        ),
        (
            Linux::V7_0,
            Answer::Failed,
            "the host failed to make a quote",
        ),
        (
            Linux::V6_12,
            Answer::Refused,
            "the host failed to make a quote",
        ),
        (
            Linux::V6_12,
            Answer::Late,
            "the host took too long to make a quote",
        ),
        (
            Linux::V6_12,
            Answer::Interrupted(99),
            "the host still holds an earlier quote request",
        ),
        (
            Linux::V6_12,
            Answer::Interrupted(0),
            "signals interrupted every quote request",
        ),
        (
            Linux::V6_12,
            Answer::Quote(vec![0xd9; 8100]),
            "outblob is a CBOR token, expected a TDX quote",
        ),
        (
            Linux::V6_12,
            Answer::Quote(vec![4; 600]),
            "outblob is not a TDX quote",
        ),
        (
            Linux::V6_12,
            Answer::Quote(vec![4; 9000]),
            "cannot read outblob",
        ),
    ];
    for (version, answer, expected) in cases {
        let told = answer.clone();
        let Some(td) = Td::new(version, move |_: &_| told.clone()) else {
            return;
        };
        let error = td.tsm("own").unwrap().quote(&[1; 64]).unwrap_err();
        assert_eq!(error.to_string(), expected, "{answer:?}");
    }
}

#[test]
fn our_client_waits_for_a_host_that_comes_back() {
    let mut first = true;
    let mut quoting = quoting();
    let host = move |asked: &[u8; 64]| match std::mem::take(&mut first) {
        true => Answer::Interrupted(3),
        false => quoting(asked),
    };
    let Some(td) = Td::under(host) else { return };
    assert_eq!(
        td.tsm("own").unwrap().quote(&[1; 64]).unwrap(),
        quote(&[1; 64])
    );
}

#[test]
fn our_client_refuses_a_machine_without_the_driver() {
    let Some(td) = Td::under(quoting()) else {
        return;
    };
    td.mount.kernel().unregister();
    let error = td.tsm("own").err().unwrap();
    assert_eq!(
        error.to_string(),
        "no confidential-computing driver is registered with configfs-tsm"
    );
}

#[test]
fn a_published_client_is_served_as_well() {
    let reports = Path::new("/sys/kernel/config/tsm/report");
    let mounted = in_namespace(reports).and_then(|()| TsmMount::new(kernel(), reports));
    let Some(_mount) = skip_without_fuse(mounted) else {
        return;
    };

    let found = configfs_tsm::create_tdx_quote([3; 64]).unwrap();
    assert_eq!(found, quote(&[3; 64]));
    assert_eq!(
        fs::read_dir(reports).unwrap().count(),
        1,
        "its entry stays behind"
    );
}

/// That client knows one place only, so this thread gets a `/sys/kernel` of its own.
fn in_namespace(reports: &Path) -> io::Result<()> {
    let none = None::<&str>;
    unshare(CloneFlags::CLONE_NEWNS)?;
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_PRIVATE, none)?;
    mount(none, "/sys/kernel", Some("tmpfs"), MsFlags::empty(), none)?;
    fs::create_dir_all(reports)
}

fn kernel() -> Kernel {
    Kernel::new(Linux::V6_12, Box::new(quoting()), Duration::ZERO)
}

struct Td {
    mount: TsmMount,
    directory: TempDir,
}

impl Td {
    fn under(host: impl Host + 'static) -> Option<Self> {
        Self::new(Linux::V6_12, host)
    }

    fn new(version: Linux, host: impl Host + 'static) -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let kernel = Kernel::new(version, Box::new(host), Duration::ZERO);
        let mount = skip_without_fuse(TsmMount::new(kernel, directory.path()))?;
        Some(Self { mount, directory })
    }

    fn entry(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Our client, with no time lost in waiting.
    fn tsm(&self, entry: &str) -> Result<Tsm, TsmError> {
        Tsm::over(Box::new(Configfs(self.entry(entry))), |_| ())
    }
}

fn quoting() -> impl FnMut(&[u8; 64]) -> Answer + Send {
    |asked| Answer::Quote(quote(asked))
}

/// Signatures repeat, so that one question has one quote.
fn quote(asked: &[u8; 64]) -> Vec<u8> {
    static ENCLAVE: LazyLock<QuotingEnclave> = LazyLock::new(|| {
        let seed = [1; 32];
        QuotingEnclave::new(&seed, &Intel::new(&seed, &Platform::SAMPLE))
    });
    let registers = TdRegisters {
        mrtd: Digest384::of(b"firmware"),
        rtmr0: Digest384::of(b"settings"),
        rtmr1: Digest384::of(b"kernel"),
        rtmr2: Digest384::of(b"initrd"),
        rtmr3: Digest384::ZERO,
    };
    ENCLAVE.quote(&TdState::new(registers, Digest384::of(b"config")), asked)
}
