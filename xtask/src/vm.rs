//! Runs a VM of a published shape: QEMU, and a TPM where there is no TDX.
//!
//! The command is the one that `cocoon host run` has. Both programs run in the
//! sandbox of the tools tree, see only the files of this VM, and end with the
//! [`Vm`] that owns them.

pub mod acpi;
pub mod console;

use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use ::tests::pci::Gpu;
use anyhow::{Context as _, Result, bail};
use client::host::QGS_PORT;
use client::host::accelerator::Accelerator;
use client::host::programs::{Needs, Programs, QEMU, end};
use client::host::qmp::{self, Qmp};
use client::host::server::Endpoint;
use client::host::tpm::{Authority, Tpm};
use client::host::vm::{self, ModelDisk};
use measurements::shape::{Platform, Shape};
use serde_json::json;
use tempfile::TempDir;

use self::console::Console;
use crate::image::Artefacts;
use crate::tools::Tools;

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
    /// Disks with models.
    pub models: Vec<ModelDisk>,
    /// The configuration that is part of the identity.
    pub measured: String,
    /// The configuration that is not.
    pub unmeasured: String,
    /// Port of the guest that [`Vm::address`] leads to.
    pub port: u16,
    /// One ACPI table more, as a hostile host serves it.
    pub table: Option<PathBuf>,
    /// A device more that says it is a GPU.
    pub gpu: Option<Gpu>,
    /// Copy of everything said on the console.
    pub log: PathBuf,
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
        if let Some(gpu) = boot.gpu {
            gpu.listen(&state.path().join(GPU))
                .context("cannot serve the device")?;
        }
        let address = free_address()?;
        let mut command = command(tools, boot, state.path(), address)?;
        let started = Instant::now();
        let mut qemu = command
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

    /// Shows a piece of the guest's memory, as whoever owns the machine sees it. Under TDX
    /// that is nothing.
    pub fn memory(&self, start: u64, size: u64) -> Result<Vec<u8>> {
        let file = self.state.path().join("memory");
        let arguments = json!({ "val": start, "size": size, "filename": file });
        let mut qmp = Qmp::connect(&self.state.path().join(qmp::SOCKET))?;
        qmp.execute_with("pmemsave", &arguments)?;
        let bytes = fs::read(&file).context("cannot read the guest's memory")?;
        fs::remove_file(&file).context("cannot remove the guest's memory")?;
        Ok(bytes)
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

fn command(tools: &Tools, boot: &Boot, state: &Path, address: SocketAddr) -> Result<Command> {
    let artefacts = &boot.artefacts;
    let vm = vm::Vm {
        shape: boot.shape,
        platform: boot.platform,
        accelerator: boot.accelerator,
        image: vm::Image {
            firmware: artefacts.firmware.clone(),
            kernel: artefacts.kernel.clone(),
            initrd: artefacts.initrd.clone(),
            root: artefacts.root.clone(),
            command_line: artefacts.command_line()?,
        },
        models: boot.models.clone(),
        devices: Vec::new(),
        measured: boot.measured.clone(),
        unmeasured: boot.unmeasured.clone(),
        state: state.into(),
        listen: address,
        port: boot.port,
        qgs: Endpoint::Vsock(QGS_PORT),
    };
    let table = boot.table.as_deref();
    let needs = Needs {
        reads: &[vm.files(), table.into_iter().collect()].concat(),
        writes: &[state],
        network: true,
    };
    let mut command = tools.command(QEMU, needs);
    command.args(vm.arguments()?);
    if let Some(table) = table {
        command.args(["-acpitable", &format!("file={}", table.display())]);
    }
    if boot.gpu.is_some() {
        let path = state.join(GPU);
        let socket = json!({ "type": "unix", "path": path });
        let device = json!({ "driver": "vfio-user-pci", "addr": "10", "socket": socket });
        command.args(["-device", &device.to_string()]);
    }
    Ok(command)
}

impl Programs for Tools {
    fn command(&self, program: &str, needs: Needs<'_>) -> Command {
        let mut sandbox = self.sandbox();
        sandbox.device("/dev/kvm");
        for path in needs.reads {
            sandbox.read_only(path, path);
        }
        for path in needs.writes {
            sandbox.writable(path, path);
        }
        if needs.network {
            sandbox.network();
        }
        sandbox.command(program)
    }
}

/// On this machine only; nobody listens there yet.
pub(crate) fn free_address() -> Result<SocketAddr> {
    let listener =
        TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("cannot find a free port")?;
    listener.local_addr().context("cannot find a free port")
}

const POLL: Duration = Duration::from_millis(20);
/// Socket of [`Boot::gpu`], among those of the VM.
const GPU: &str = "gpu";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Builder;
    use crate::progress::Progress;

    #[test]
    fn a_guest_that_runs_gets_through_the_program() {
        let tools = Builder::here(&Progress::new(true)).unwrap().tools();
        assert!(Accelerator::Tcg.works(&tools.unwrap()).unwrap());
    }

    #[test]
    fn an_address_is_free_and_on_this_machine_only() {
        let address = free_address().unwrap();
        assert!(address.ip().is_loopback());
        TcpListener::bind(address).unwrap();
    }
}
