//! The ACPI blobs that QEMU serves to the firmware of a shape.
//!
//! QEMU makes them anew once firmware has programmed the PCI bridges, so
//! firmware runs until it says its first word, the VM is stopped, and the
//! blobs are read from fw_cfg through QEMU's test protocol: what is read is what
//! firmware has measured.
//!
//! Sources: QEMU docs/specs/fw_cfg.rst, system/qtest.c.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use attestation::reader::Reader;
use client::host::programs::{QEMU, end};
use client::host::qmp::{self, Qmp};
use client::host::tpm::{self, Authority, Tpm};
use measurements::acpi::Blobs;
use measurements::qemu;
use measurements::shape::{Platform, Shape};

use super::console::Console;
use crate::progress::Progress;
use crate::tools::Tools;

/// The shapes whose tables `measurements` makes otherwise than QEMU does.
pub fn differing(
    tools: &Tools,
    shapes: &[&'static Shape],
    progress: &Progress,
) -> Result<Vec<String>> {
    let mut differing = Vec::new();
    for shape in shapes {
        for platform in Platform::ALL {
            let name = format!("{} {platform}", shape.name);
            let step = progress.step(format!("ACPI tables of {name}"));
            let same = blobs(tools, shape, platform)? == shape.acpi(platform);
            step.done(if same { "the same" } else { "different" });
            if !same {
                differing.push(name);
            }
        }
    }
    Ok(differing)
}

/// Runs the firmware of `shape` and reads what QEMU serves it.
///
/// Without TDX a TD's machine is run as an ordinary one with as many address
/// bits: the tables know no difference. Nor do they know what a GPU is, only
/// that something with a large window is there.
pub fn blobs(tools: &Tools, shape: &Shape, platform: Platform) -> Result<Blobs> {
    let state = tempfile::tempdir().context("cannot make a folder for the VM")?;
    let authority = Authority::at(&state.path().join("authority"))?;
    let tpm = match platform {
        Platform::Tdx => None,
        Platform::Vtpm => Some(Tpm::start(tools, &authority, state.path())?),
    };
    // The firmware touches little of it, so a small machine can stand in for a large one.
    let memory = format!(
        "memory-backend-ram,id=ram,size={}M,reserve=off",
        shape.memory.mib
    );
    let properties = match platform {
        Platform::Tdx => ",phys-bits=46,guest-phys-bits=46",
        Platform::Vtpm => qemu::cpu_properties(shape, platform),
    };
    let mut sandbox = tools.sandbox();
    sandbox.writable(state.path(), "/state");
    let arguments = qemu::arguments(shape, platform, &[])?;
    let arguments = arguments
        .iter()
        .map(|argument| argument.replace(TD_ONLY, ""));
    let mut child = sandbox
        .command(QEMU)
        .args(arguments)
        .args(["-accel", "tcg", "-cpu", &format!("max{properties}")])
        .args(["-object", &memory, "-machine", "memory-backend=ram"])
        .args(["-bios", &format!("/{}", crate::image::FIRMWARE)])
        .args(["-netdev", "user,id=net0", "-blockdev", ROOT])
        .args([
            "-chardev",
            "stdio,id=console,signal=off",
            "-serial",
            "chardev:console",
        ])
        .args([
            "-qmp",
            &format!("unix:/state/{},server=on,wait=off", qmp::SOCKET),
        ])
        .args(["-qtest", "unix:/state/qtest,server=on,wait=off"])
        .args(tpm.iter().flat_map(|_| tpm::arguments(Path::new("/state"))))
        .args(qemu::ports(shape).flat_map(|port| ["-device".into(), format!("{GPU},bus={port}")]))
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start QEMU")?;
    let output = child.stdout.take().context("QEMU has no output")?;
    let errors = child.stderr.take().context("QEMU has no error output")?;
    let console = Console::start(&state.path().join("log"), Instant::now(), output, errors)?;
    let blobs = console
        .wait_for("BdsDxe", LIMIT)
        .and_then(|_| read(state.path()));
    end(&mut child);
    blobs
}

fn read(state: &Path) -> Result<Blobs> {
    Qmp::connect(&state.join(qmp::SOCKET))?.execute("stop")?;
    let mut fw_cfg = FwCfg::connect(&state.join("qtest"))?;
    let directory = fw_cfg.directory()?;
    let mut file = |name: &str| -> Result<Vec<u8>> {
        let (_, selector, size) = directory
            .iter()
            .find(|(found, _, _)| found == name)
            .with_context(|| format!("fw_cfg has no {name}"))?;
        fw_cfg.item(*selector, *size)
    };
    Ok(Blobs::new(
        &file("etc/table-loader")?,
        &file("etc/acpi/rsdp")?,
        &file("etc/acpi/tables")?,
    ))
}

/// The firmware configuration device, driven from outside.
struct FwCfg(BufReader<UnixStream>);

impl FwCfg {
    fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("cannot reach QEMU's test socket")?;
        stream
            .set_read_timeout(Some(LIMIT))
            .context("cannot limit the wait for QEMU")?;
        Ok(Self(BufReader::new(stream)))
    }

    /// Name, selector and size of each file.
    fn directory(&mut self) -> Result<Vec<(String, u16, u32)>> {
        let bytes = self.item(FILE_DIR, 4)?;
        let count = Reader::new(&bytes).u32_be("number of files")?;
        let size = count.checked_mul(64).and_then(|size| size.checked_add(4));
        let bytes = self.item(FILE_DIR, size.context("too many files in fw_cfg")?)?;
        let mut reader = Reader::new(&bytes);
        reader.u32_be("number of files")?;
        (0..count)
            .map(|_| {
                let size = reader.u32_be("size")?;
                let selector = reader.u16_be("selector")?;
                reader.u16_be("reserved")?;
                let name = reader.array::<56>("name")?;
                let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
                let name = String::from_utf8_lossy(name).into_owned();
                Ok((name, selector, size))
            })
            .collect()
    }

    /// Has the device copy an item into guest memory, and reads it from there.
    fn item(&mut self, selector: u16, size: u32) -> Result<Vec<u8>> {
        let control = u32::from(selector) << 16 | DMA_SELECT | DMA_READ;
        let request = [
            control.to_be_bytes().as_slice(),
            &size.to_be_bytes(),
            &BUFFER.to_be_bytes(),
        ]
        .concat();
        let request = hex::encode(request);
        self.command(&format!("write {REQUEST:#x} 0x10 0x{request}"))?;
        self.command(&format!("outl {DMA_PORT:#x} {:#x}", REQUEST.to_be()))?;
        let answer = self.command(&format!("read {BUFFER:#x} {size:#x}"))?;
        let digits = answer.strip_prefix("0x").context("QEMU gave no memory")?;
        hex::decode(digits).context("QEMU gave no memory")
    }

    fn command(&mut self, command: &str) -> Result<String> {
        writeln!(self.0.get_mut(), "{command}").context("cannot send to QEMU's test socket")?;
        let mut answer = String::new();
        self.0
            .read_line(&mut answer)
            .context("QEMU's test socket does not answer")?;
        let value = answer.trim_end().strip_prefix("OK");
        ensure!(value.is_some(), "QEMU says {answer:?} to {command:?}");
        Ok(value.unwrap_or_default().trim().to_owned())
    }
}

/// What only a host with TDX accepts.
const TD_ONLY: &str = ",kernel-irqchip=split,confidential-guest-support=tdx0";
const GPU: &str = "pci-testdev,membar=128G";
const ROOT: &str = "driver=null-co,size=4096,read-zeroes=on,read-only=on,node-name=root";
/// Low half of the address of a request; writing it starts the request.
const DMA_PORT: u16 = 0x518;
const DMA_READ: u32 = 1 << 1;
const DMA_SELECT: u32 = 1 << 3;
const FILE_DIR: u16 = 0x19;
/// Guest memory that is free to be overwritten in a VM that will not go on.
const REQUEST: u32 = 0x10_0000;
const BUFFER: u64 = 0x20_0000;
const LIMIT: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::image::Builder;

    #[test]
    fn the_tables_that_are_predicted_are_those_of_the_locked_qemu() {
        let progress = Progress::new(true);
        let tools = Builder::here(&progress).unwrap().tools().unwrap();
        // Every row of the list, the ends of every column.
        let sample = [
            "small",
            "cpu-v4-m16g",
            "cpu-v128-m2048g",
            "gpu1-v16-m128g",
            "gpu3-v64-m512g",
            "gpu8sw4-v128-m2048g",
        ]
        .map(|name| Shape::named(name).unwrap());
        let differing = differing(&tools, &sample, &progress).unwrap();
        assert_eq!(differing, Vec::<String>::new());
    }
}
