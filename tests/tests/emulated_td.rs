//! The emulated TD as a process: what it shows, and what it leaves behind.

#![cfg(test)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::SystemTime;

use agent::collateral::Service;
use agent::platform::Tdx;
use agent::tsm::Tsm;
use attestation::batch;
use attestation::evidence::{Evidence, GpuCollateral, State, report_data};
use attestation::policy::{GpuPolicy, Policy, TdxPolicy};
use attestation::register::{Digest384, TdRegisters};
use attestation::tdx::{self, IdentityPolicy, PlatformPolicy, TrustAnchor};
use attestation::time::UnixTime;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;
use serde_json::{Value, json};
use session::provider::Provider;
use tempfile::TempDir;
use tests::td::Td;
use tests::tsm_fuse::skip_without_fuse;

#[test]
fn what_it_shows_is_trusted_by_who_knows_its_root_and_registers() {
    let place = Place::new();
    let Some(td) = place.start(&[]) else { return };
    assert_eq!(td.shown.registers, Td::REGISTERS);
    assert_eq!(td.shown.mrconfigid, Digest384::of(MEASURED));
    assert_eq!(td.refusals(), [""; 0]);
}

#[test]
fn a_release_predicts_the_registers_of_each_of_its_shapes() {
    let place = Place::new();
    let file = place.path("release.json");
    fs::write(&file, release().to_string()).unwrap();
    for (shape, kernel) in [("large", b"large"), ("small", b"small")] {
        let mut command = place.command(&["--shape", shape]);
        let Some(td) = Process::start(command.arg("--release").arg(&file)) else {
            return;
        };
        assert_eq!(td.shown.registers.rtmr1, Digest384::of(kernel));
    }
    let mut command = place.command(&["--shape", "medium"]);
    let output = command.arg("--release").arg(&file).output().unwrap();
    assert_eq!(
        String::from_utf8(output.stderr).unwrap(),
        "emulated-td: release has no shape \"medium\"\n",
    );
}

#[test]
fn each_fault_is_refused_by_the_one_check_for_it() {
    let place = Place::new();
    for (fault, check) in [
        ("debug", "td-debug"),
        ("expired", "collateral"),
        ("other-build", "rtmr1"),
        ("other-config", "mrconfigid"),
        ("out-of-date", "tcb-status"),
        ("revoked", "quote"),
    ] {
        let Some(td) = place.start(&["--fault", fault]) else {
            return;
        };
        assert_eq!(td.refusals(), [check], "{fault}");
    }
}

#[test]
fn it_cleans_up_when_it_is_told_to_or_its_starter_is_gone() {
    let place = Place::new();
    let endings: [fn(&mut Child); 3] = [
        |child| signal(child, Signal::SIGTERM),
        |child| signal(child, Signal::SIGINT),
        |child| drop(child.stdin.take()),
    ];
    for end in endings {
        let Some(mut td) = place.start(&[]) else {
            return;
        };
        fs::create_dir(place.mount().join("entry")).unwrap();
        let held = fs::File::open(place.mount().join("entry/generation")).unwrap();
        end(&mut td.process);
        assert!(td.process.wait().unwrap().success());
        assert_eq!(fs::read_dir(place.mount()).unwrap().count(), 0);
        drop(held);
    }
}

#[test]
fn it_takes_over_from_one_that_was_killed_and_keeps_its_root() {
    let place = Place::new();
    let Some(mut first) = place.start(&[]) else {
        return;
    };
    let root = fs::read(&first.shown.root).unwrap();
    first.process.kill().unwrap();
    first.process.wait().unwrap();
    assert!(fs::read_dir(place.mount()).is_err(), "the mount is dead");

    let second = place.start(&[]).unwrap();
    assert_eq!(fs::read(&second.shown.root).unwrap(), root);
    assert_eq!(second.refusals(), [""; 0]);
}

#[test]
fn a_wrong_input_is_named() {
    let place = Place::new();
    fs::write(place.path("registers.json"), "{}").unwrap();
    let output = place.command(&[]).args(place.registers()).output().unwrap();
    let expected = format!(
        "emulated-td: {} is refused: missing field `mrtd` at line 1 column 2\n",
        place.path("registers.json").display()
    );
    assert_eq!(String::from_utf8(output.stderr).unwrap(), expected);
    assert_eq!(output.status.code(), Some(1));
}

const MEASURED: &[u8] = b"version = 1\n";

/// The smallest manifest with two shapes.
fn release() -> Value {
    let zero = "00".repeat(32);
    let used = (0..16).filter(|index| *index != 8);
    let pcrs: BTreeMap<_, _> = used.map(|index| (format!("pcr{index}"), &zero)).collect();
    let shape = |name: &str| {
        json!({
            "name": name,
            "vcpus": 1,
            "memory_mib": 1024,
            "gpus": 0,
            "switches": 0,
            "tdx": TdRegisters { rtmr1: Digest384::of(name.as_bytes()), ..Td::REGISTERS },
            "vtpm": pcrs,
        })
    };
    json!({
        "format": 1,
        "version": "0.0.0",
        "artefacts": [],
        "command_line": "",
        "root": format!("sha256:{zero}:{zero}:1"),
        "qemu": { "machine": "q35", "version": "11.1" },
        "packages": [],
        "shapes": [shape("small"), shape("large")],
        "configs": [],
    })
}

/// A directory for the process to work in.
struct Place(TempDir);

impl Place {
    fn new() -> Self {
        let place = Self(tempfile::tempdir().unwrap());
        let registers = serde_json::to_vec(&Td::REGISTERS).unwrap();
        fs::write(place.path("registers.json"), registers).unwrap();
        fs::write(place.path("measured.toml"), MEASURED).unwrap();
        place
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn mount(&self) -> PathBuf {
        self.path("report")
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_emulated-td"));
        command
            .arg("--state-dir")
            .arg(self.path("state"))
            .arg("--mount")
            .arg(self.mount())
            .arg("--measured")
            .arg(self.path("measured.toml"))
            .args(["--quote-ms", "0"])
            .args(arguments)
            .stdin(Stdio::piped());
        command
    }

    fn registers(&self) -> [String; 2] {
        let path = self.path("registers.json");
        ["--registers".into(), path.to_str().unwrap().into()]
    }

    /// None where this machine has no FUSE.
    fn start(&self, arguments: &[&str]) -> Option<Process> {
        let mut command = self.command(arguments);
        command.args(self.registers());
        Process::start(&mut command)
    }
}

fn fuse() -> io::Result<()> {
    fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse")
        .map(drop)
}

fn signal(child: &Child, signal: Signal) {
    kill(Pid::from_raw(child.id().try_into().unwrap()), signal).unwrap();
}

/// A running process; asked to end when this goes.
struct Process {
    process: Child,
    shown: Shown,
}

/// The line that it prints.
#[derive(Deserialize)]
struct Shown {
    mount: PathBuf,
    pcs: String,
    root: PathBuf,
    registers: TdRegisters,
    mrconfigid: Digest384,
}

impl Process {
    fn start(command: &mut Command) -> Option<Self> {
        skip_without_fuse(fuse())?;
        let mut process = command.stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        let mut stdout = BufReader::new(process.stdout.take().unwrap());
        stdout.read_line(&mut line).unwrap();
        let shown = serde_json::from_str(&line).unwrap();
        Some(Self { process, shown })
    }

    /// The checks that a client with the strict policy refuses it by.
    fn refusals(&self) -> Vec<&'static str> {
        let provider = Tdx {
            tsm: Tsm::open(self.shown.mount.join("cocoon")).unwrap(),
            collateral: Service::new(&self.shown.pcs),
            gpus: None,
            event_log: Vec::new(),
        };
        let (head, _) = batch::tree(&[]);
        let state = State {
            boot_seed: [0; 32],
            gpu_mode: None,
            keyset: [0; 32],
            event_log: *Digest384::of(&[]).as_bytes(),
        };
        let asked = report_data(&head, &[], &state);
        let evidence = Evidence {
            platform: provider.attest(&asked, None).unwrap(),
            gpus: Vec::new(),
            gpu_collateral: GpuCollateral::default(),
            state,
            event_log: Vec::new(),
        };
        let now = SystemTime::UNIX_EPOCH.elapsed().unwrap();
        let verdict =
            policy(&self.shown.root).judge(&evidence, &head, None, UnixTime(now.as_secs()));
        let Err(rejection) = verdict else {
            return Vec::new();
        };
        let failed = rejection.checks.iter().filter(|check| !check.passed);
        failed.map(|check| check.name).collect()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.process.stdin.take());
        self.process.wait().unwrap();
    }
}

fn policy(root: &Path) -> Policy {
    let anchor = TrustAnchor::from_certificate(&fs::read(root).unwrap());
    let unset = BTreeSet::from([Digest384::ZERO]);
    let accepted = tdx::Policy {
        platform: PlatformPolicy::strict(),
        identity: IdentityPolicy {
            builds: BTreeSet::from([Td::REGISTERS]),
            mrconfigid: BTreeSet::from([Digest384::of(MEASURED)]),
            mrowner: unset.clone(),
            mrownerconfig: unset,
        },
    };
    Policy::Tdx(Box::new(
        TdxPolicy::new(accepted, GpuPolicy::none()).under(anchor.unwrap()),
    ))
}
