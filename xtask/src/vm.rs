//! Runs a VM of a published shape: QEMU, and a TPM where there is no TDX.
//!
//! What firmware measures comes from [`measurements::qemu`]; this module adds
//! what no register sees. Both programs run in the sandbox of the tools tree,
//! see only the files of this VM, and end with the [`Vm`] that owns them.

pub mod accelerator;
pub mod acpi;
pub mod console;
pub mod qmp;
pub mod tpm;

use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use attestation::register::Digest384;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use measurements::qemu;
use measurements::shape::{Platform, Shape};
use tempfile::TempDir;

use self::accelerator::Accelerator;
use self::console::Console;
use self::qmp::Qmp;
use self::tpm::{Authority, Tpm};
use crate::image::Artefacts;
use crate::place::write;
use crate::tools::{Sandbox, Tools};

/// What to run.
#[derive(Clone, Debug)]
pub struct Boot {
    /// Virtual hardware.
    pub shape: &'static Shape,
    /// Who vouches for it.
    pub platform: Platform,
    /// Emulated, or not.
    pub accelerator: Accelerator,
    /// Firmware, kernel, initrd, command line and root disk.
    pub artefacts: Artefacts,
    /// Disks with models, at most [`qemu::MODEL_SLOTS`].
    pub models: Vec<Model>,
    /// The configuration that is part of the identity.
    pub measured: String,
    /// The configuration that is not.
    pub unmeasured: String,
    /// Port of the guest that [`Vm::address`] leads to.
    pub port: u16,
    /// Copy of everything said on the console.
    pub log: PathBuf,
}

/// A disk that holds a model.
#[derive(Clone, Debug)]
pub struct Model {
    /// Its serial is `model-<name>`.
    pub name: String,
    /// The disk image.
    pub path: PathBuf,
}

/// A VM that runs until it ends, or until this is dropped.
#[derive(Debug)]
pub struct Vm {
    qemu: Child,
    input: ChildStdin,
    console: Console,
    address: SocketAddr,
    state: TempDir,
    started: Instant,
    // Dropped last: QEMU must not lose its TPM while it runs.
    _tpm: Option<Tpm>,
}

impl Vm {
    /// Starts it; `authority` makes the TPM of a VM that needs one.
    pub fn start(tools: &Tools, authority: &Authority, boot: &Boot) -> Result<Self> {
        let state = tempfile::tempdir().context("cannot make a folder for the VM")?;
        let tpm = match boot.platform {
            Platform::Tdx => None,
            Platform::Vtpm => Some(Tpm::start(tools, authority, state.path())?),
        };
        let address = free_address()?;
        let (sandbox, arguments) = command(tools, boot, state.path(), address)?;
        let started = Instant::now();
        let mut qemu = sandbox
            .command(QEMU)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot start QEMU")?;
        let input = qemu.stdin.take().context("QEMU has no input")?;
        let output = qemu.stdout.take().context("QEMU has no output")?;
        let errors = qemu.stderr.take().context("QEMU has no error output")?;
        let console = Console::start(&boot.log, started, output, errors)?;
        Ok(Self {
            qemu,
            input,
            console,
            address,
            state,
            started,
            _tpm: tpm,
        })
    }

    /// Where the guest's port is reached from this machine.
    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it says.
    #[must_use]
    pub const fn console(&self) -> &Console {
        &self.console
    }

    /// When QEMU was started.
    #[must_use]
    pub const fn started(&self) -> Instant {
        self.started
    }

    /// Writes to its console.
    pub fn keyboard(&self) -> Result<File> {
        let input = self.input.as_fd().try_clone_to_owned();
        input.map(File::from).context("cannot share the console")
    }

    /// Presses the power button.
    pub fn press_power_button(&self) -> Result<()> {
        let mut qmp = Qmp::connect(&self.state.path().join(qmp::SOCKET))?;
        qmp.execute("system_powerdown")
    }

    /// Waits until QEMU has ended by itself.
    pub fn wait(&mut self, limit: Duration) -> Result<ExitStatus> {
        let deadline = Instant::now().checked_add(limit);
        loop {
            if let Some(status) = self.qemu.try_wait().context("cannot wait for QEMU")? {
                return Ok(status);
            }
            if deadline.is_none_or(|deadline| Instant::now() >= deadline) {
                bail!(
                    "the VM still runs after {} s; its console ends with:\n  {}",
                    limit.as_secs(),
                    self.console.tail(20).join("\n  "),
                );
            }
            thread::sleep(POLL);
        }
    }
}

impl Drop for Vm {
    fn drop(&mut self) {
        end(&mut self.qemu);
    }
}

/// Ends a child that may have ended already.
fn end(child: &mut Child) {
    if child.kill().is_ok() {
        // Nothing is left to do with the status of what was killed.
        drop(child.wait());
    }
}

fn command(
    tools: &Tools,
    boot: &Boot,
    state: &Path,
    address: SocketAddr,
) -> Result<(Sandbox, Vec<String>)> {
    let mut sandbox = tools.sandbox();
    sandbox
        .network()
        .device("/dev/kvm")
        .writable(state, "/state");
    let artefacts = &boot.artefacts;
    for (file, name) in [
        (&artefacts.firmware, "firmware"),
        (&artefacts.kernel, "kernel"),
        (&artefacts.initrd, "initrd"),
        (&artefacts.root, "root"),
    ] {
        sandbox.read_only(file, format!("/vm/{name}"));
    }
    write(&state.join("measured.toml"), &boot.measured)?;
    write(&state.join("unmeasured.toml"), &boot.unmeasured)?;

    let names: Vec<&str> = boot.models.iter().map(|m| m.name.as_str()).collect();
    let mut arguments = qemu::arguments(boot.shape, boot.platform, &names)?;
    let properties = qemu::cpu_properties(boot.shape, boot.platform);
    let (accelerator, processor) = boot.accelerator.arguments();
    let forward = format!("hostfwd=tcp:{address}-:{}", boot.port);
    let append = artefacts.command_line()?;
    for (option, value) in [
        ("-accel", accelerator),
        ("-cpu", &format!("{processor}{properties}")),
        ("-bios", "/vm/firmware"),
        ("-kernel", "/vm/kernel"),
        ("-initrd", "/vm/initrd"),
        ("-append", &append),
        ("-netdev", &format!("user,id=net0,{forward}")),
        ("-blockdev", &disk("root")),
        (
            "-fw_cfg",
            "name=opt/cocoon/measured.toml,file=/state/measured.toml",
        ),
        (
            "-fw_cfg",
            "name=opt/cocoon/unmeasured.toml,file=/state/unmeasured.toml",
        ),
        ("-chardev", "stdio,id=console,signal=off"),
        ("-serial", "chardev:console"),
        (
            "-qmp",
            &format!("unix:/state/{},server=on,wait=off", qmp::SOCKET),
        ),
    ] {
        arguments.extend([option.to_owned(), value.to_owned()]);
    }
    arguments.extend(["-no-reboot", "-no-user-config"].map(String::from));
    for (index, model) in boot.models.iter().enumerate() {
        let node = format!("model{index}");
        sandbox.read_only(&model.path, format!("/vm/{node}"));
        arguments.extend(["-blockdev".into(), disk(&node)]);
    }
    match boot.platform {
        Platform::Tdx => {
            let identity = Digest384::of(boot.measured.as_bytes());
            arguments.extend(["-object".into(), trust_domain(identity)]);
        }
        Platform::Vtpm => arguments.extend(tpm::arguments()),
    }
    Ok((sandbox, arguments))
}

fn disk(node: &str) -> String {
    format!("driver=raw,node-name={node},read-only=on,file.driver=file,file.filename=/vm/{node}")
}

/// MRCONFIGID is the digest of the measured configuration; quotes come over vsock.
///
/// Source: QEMU docs/system/i386/tdx.rst.
fn trust_domain(identity: Digest384) -> String {
    let identity = BASE64_STANDARD.encode(identity.as_bytes());
    serde_json::json!({
        "qom-type": "tdx-guest",
        "id": "tdx0",
        "mrconfigid": identity,
        "quote-generation-socket": {"type": "vsock", "cid": "2", "port": "4050"},
    })
    .to_string()
}

fn free_address() -> Result<SocketAddr> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot find a free port")?;
    listener.local_addr().context("cannot find a free port")
}

const QEMU: &str = "qemu-system-x86_64";
const POLL: Duration = Duration::from_millis(20);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trust_domain_is_bound_to_the_measured_configuration() {
        let object: serde_json::Value =
            serde_json::from_str(&trust_domain(Digest384::of(b"version = 1"))).unwrap();
        let identity = BASE64_STANDARD
            .decode(object["mrconfigid"].as_str().unwrap())
            .unwrap();
        assert_eq!(identity, Digest384::of(b"version = 1").as_bytes());
        assert_eq!(object["id"], "tdx0");
    }

    #[test]
    fn an_address_is_free_and_on_this_machine_only() {
        let address = free_address().unwrap();
        assert!(address.ip().is_loopback());
        TcpListener::bind(address).unwrap();
    }
}
