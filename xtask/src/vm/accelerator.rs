//! KVM where a guest really runs under it, else emulation.
//!
//! That /dev/kvm can be opened says little: para-virtual KVM opens, interprets
//! a few instructions, and fails at the first one that it does not know. So a
//! program is run that only a processor can execute.

use std::fmt;
use std::io::Read as _;
use std::process::Stdio;
use std::time::{Duration, Instant};
use std::{fs::File, path::Path, thread};

use anyhow::{Context as _, Result};
use measurements::shape::Platform;

use super::{POLL, QEMU, end};
use crate::place::write;
use crate::tools::Tools;

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
    pub fn probe(tools: &Tools) -> Result<Self> {
        let opens = File::options()
            .read(true)
            .write(true)
            .open("/dev/kvm")
            .is_ok();
        Ok(match opens && runs(tools, Self::Kvm)? {
            true => Self::Kvm,
            false => Self::Tcg,
        })
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
        let tdx = Path::new("/sys/module/kvm_intel/parameters/tdx");
        let mut text = String::new();
        let read = File::open(tdx).and_then(|mut file| file.read_to_string(&mut text));
        match self == Self::Kvm && read.is_ok() && text.trim() == "Y" {
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

/// Whether a guest gets through the program.
fn runs(tools: &Tools, accelerator: Accelerator) -> Result<bool> {
    let state = tempfile::tempdir().context("cannot make a folder for the probe")?;
    write(&state.path().join("rom"), rom())?;
    let (name, processor) = accelerator.arguments();
    let mut sandbox = tools.sandbox();
    sandbox.device("/dev/kvm").read_only(state.path(), "/state");
    let mut qemu = sandbox
        .command(QEMU)
        .args(["-accel", name, "-cpu", processor])
        .args(["-machine", "pc", "-m", "16M", "-bios", "/state/rom"])
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Builder;
    use crate::progress::Progress;

    #[test]
    fn a_guest_that_runs_gets_through_the_program() {
        let tools = Builder::here(&Progress::new(true)).unwrap().tools();
        assert!(runs(&tools.unwrap(), Accelerator::Tcg).unwrap());
    }
}
