//! What an artefact holds, as files in a folder.
//!
//! The root is unpacked by erofs' own tool, the initrd by cpio; of the kernel there
//! is a file for each section of the program that it unpacks at boot, and one for
//! everything around it. The tools are the locked ones.

use std::fs::{self, File};
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use attestation::reader::Reader;
use measurements::release::Artefact;

use crate::place::{read, write};
use crate::tools::Tools;

/// Unpacks `artefact` into the new folder `to`; one that holds no files leaves it empty.
pub fn unpack(tools: &Tools, artefact: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to).with_context(|| format!("cannot make {}", to.display()))?;
    let name = artefact.file_name().unwrap_or_default();
    match &*name.to_string_lossy() {
        Artefact::ROOT => erofs(tools, artefact, to),
        Artefact::INITRD => cpio(tools, artefact, to),
        Artefact::KERNEL => kernel(tools, artefact, to),
        _ => Ok(()),
    }
    .with_context(|| format!("cannot look into {}", artefact.display()))
}

fn erofs(tools: &Tools, image: &Path, to: &Path) -> Result<()> {
    let mut sandbox = tools.sandbox();
    sandbox.read_only(image, "/root.img").writable(to, "/to");
    let options = ["--extract=/to", "--force", "--preserve-perms", "/root.img"];
    run(sandbox.command("fsck.erofs").args(options)).map(drop)
}

fn cpio(tools: &Tools, archive: &Path, to: &Path) -> Result<()> {
    let mut sandbox = tools.sandbox();
    sandbox.writable(to, "/to").directory("/to");
    let options = ["--extract", "--quiet", "--preserve-modification-time"];
    let input =
        File::open(archive).with_context(|| format!("cannot read {}", archive.display()))?;
    run(sandbox.command("cpio").args(options).stdin(input)).map(drop)
}

fn kernel(tools: &Tools, kernel: &Path, to: &Path) -> Result<()> {
    let bytes = read(kernel)?;
    let payload = payload(&bytes).context("the header names no payload")?;
    let around = [
        bytes.get(..payload.start).unwrap_or_default(),
        bytes.get(payload.end..).unwrap_or_default(),
    ];
    write(&to.join("around the payload"), around.concat())?;

    let packed = to.join("payload.zst");
    // The last four bytes are the unpacked size.
    let end = payload.end.saturating_sub(4);
    write(&packed, bytes.get(payload.start..end).unwrap_or_default())?;
    let mut sandbox = tools.sandbox();
    sandbox.writable(to, "/to").directory("/to");
    run(sandbox
        .command("zstd")
        .args(["--decompress", "--quiet", "--rm", "payload.zst"]))?;
    let program = read(&to.join("payload"))?;
    let sections =
        run(sandbox
            .command("readelf")
            .args(["--section-headers", "--wide", "payload"]))?;
    for (name, from, len) in sections.lines().filter_map(section) {
        let content = program.get(from..from.saturating_add(len));
        write(&to.join("sections").join(name), content.unwrap_or_default())?;
    }
    crate::place::remove(&to.join("payload"))
}

/// Where the compressed program lies.
///
/// Source: Linux, `Documentation/arch/x86/boot.rst`, "The Real-Mode Kernel Header".
fn payload(kernel: &[u8]) -> Option<Range<usize>> {
    let mut reader = Reader::new(kernel);
    reader.slice("boot sector", 0x1f1).ok()?;
    let setup_sects = reader.u8("setup_sects").ok()?;
    let to_offset = 0x248_usize.checked_sub(reader.offset())?;
    reader.slice("setup header", to_offset).ok()?;
    let offset = usize::try_from(reader.u32_le("payload_offset").ok()?).ok()?;
    let length = usize::try_from(reader.u32_le("payload_length").ok()?).ok()?;
    // The boot sector and the setup come before what the offset counts from.
    let setup = usize::from(setup_sects).checked_add(1)?.checked_mul(512)?;
    let from = setup.checked_add(offset)?;
    let until = from.checked_add(length)?;
    (until <= kernel.len()).then_some(from..until)
}

/// Name, offset and size in a line of `readelf`; nothing where a section has no bytes.
fn section(line: &str) -> Option<(&str, usize, usize)> {
    let (_, line) = line.split_once("] ")?;
    let fields: Vec<&str> = line.split_whitespace().collect();
    let [name, kind, _, offset, size, ..] = fields[..] else {
        return None;
    };
    let number = |text| usize::from_str_radix(text, 16).ok();
    (kind != "NOBITS" && !name.contains('/')).then_some((name, number(offset)?, number(size)?))
}

fn run(command: &mut Command) -> Result<String> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_read_from_its_line() {
        let line = "  [ 1] .text  PROGBITS  ffffffff81000000 200000 6f9a52 00  AX  0   0 4096";
        assert_eq!(section(line), Some((".text", 0x20_0000, 0x6f_9a52)));
        let line = "  [28] .bss   NOBITS    ffffffff81e00000 e00000 2dd000 00  WA  0   0 4096";
        assert_eq!(section(line), None);
        assert_eq!(section("  [Nr] Name Type Address Off Size"), None);
        assert_eq!(section("Key to Flags:"), None);
    }
}
