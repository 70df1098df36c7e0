//! KVM where a guest really runs under it, else emulation.
//!
//! That /dev/kvm can be opened says little: para-virtual KVM opens, interprets
//! a few instructions, and fails at the first one that it does not know. So a
//! program is run that only a processor can execute.

use std::fs::{self, File};
use std::process::Stdio;
use std::time::{Duration, Instant};
use std::{fmt, thread};

use anyhow::{Context as _, Result};
use measurements::shape::Platform;

use super::programs::{Needs, Programs, QEMU, end};
use super::server::Server;

/// What executes the guest's instructions.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Accelerator {
    /// The processor.
    Kvm,
    /// QEMU, an order of magnitude slower.
    Tcg,
}

impl Accelerator {
    /// The fastest that works.
    pub fn probe(programs: &dyn Programs) -> Result<Self> {
        let opens = File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_ok();
        Ok(match opens && Self::Kvm.works(programs)? {
            true => Self::Kvm,
            false => Self::Tcg,
        })
    }

    /// Whether a guest gets through the program.
    pub fn works(self, programs: &dyn Programs) -> Result<bool> {
        let state = tempfile::tempdir().context("cannot make a folder for the probe")?;
        let file = state.path().join("rom");
        fs::write(&file, rom()).context("cannot write the probe")?;
        let (name, processor) = self.arguments();
        let needs = Needs {
            reads: &[state.path()],
            ..Needs::default()
        };
        let mut qemu = programs
            .command(QEMU, needs)
            .args(["-accel", name, "-cpu", processor])
            .args(["-machine", "pc", "-m", "16M", "-bios"])
            .arg(&file)
            .args(["-nodefaults", "-display", "none", "-no-reboot"])
            .args(["-device", "isa-debug-exit,iobase=0xf4,iosize=1"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start QEMU")?;
        let started = Instant::now();
        while started.elapsed() < LIMIT {
            if let Some(status) = qemu.try_wait().context("cannot wait for QEMU")? {
                return Ok(status.code() == Some(EXIT));
            }
            thread::sleep(POLL);
        }
        end(&mut qemu);
        Ok(false)
    }

    /// Values of QEMU's `-accel` and `-cpu`.
    #[must_use]
    pub const fn arguments(self) -> (&'static str, &'static str) {
        match self {
            Self::Kvm => ("kvm", "host"),
            Self::Tcg => ("tcg,thread=multi", "max"),
        }
    }

    /// The strongest platform of this machine.
    #[must_use]
    pub fn platform(self) -> Platform {
        match self == Self::Kvm && Server::this().has_tdx() {
            true => Platform::Tdx,
            false => Platform::Vtpm,
        }
    }
}

impl fmt::Display for Accelerator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Kvm => "KVM",
            Self::Tcg => "software emulation",
        })
    }
}

/// A ROM whose reset vector leaves through the debug port.
fn rom() -> Vec<u8> {
    let mut rom = vec![0xf4; ROM];
    let vector = [
        0xdb, 0xe3, // fninit
        0x9b, // fwait: KVM has no interpreter for the floating-point unit
        0xb0, 0x15, // mov al, 0x15
        0xe6, 0xf4, // out 0xf4, al
    ];
    let start = ROM.saturating_sub(16);
    if let Some(end) = rom.get_mut(start..start.saturating_add(vector.len())) {
        end.copy_from_slice(&vector);
    }
    rom
}

/// The last 16 bytes are where a processor starts.
const ROM: usize = 64 << 10;
/// The device ends QEMU with twice the value written, plus one.
const EXIT: i32 = 0x15 << 1 | 1;
const LIMIT: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(20);
