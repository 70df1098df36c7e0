//! QEMU's tables for one machine, made here.
//!
//! Pointers hold offsets and checksums are zero: the script has firmware put in
//! addresses and sums.
//!
//! Source: ACPI specification 6.5, section 5.2; QEMU hw/i386/acpi-build.c,
//! acpi_build(), and hw/acpi/aml-build.c, release 11.1.

use alloc::vec::Vec;

use super::loader::{File, Script, Zone};
use super::{Blobs, dsdt, fadt, madt};
use crate::machine::Machine;

/// All blobs of a machine.
pub(super) fn blobs(machine: &Machine) -> Blobs {
    let mut tables = Tables::new(machine.tpm);
    let facs = tables.facs();
    let dsdt = dsdt::terms(machine);
    let dsdt: Vec<u8> = dsdt.into_iter().flat_map(|term| term.0).collect();
    let dsdt = tables.table(*b"DSDT", 1, &dsdt, &[]);
    let mut listed = Vec::from([
        tables.table(
            *b"FACP",
            3,
            &fadt::body(machine.vcpus, facs, dsdt),
            &fadt::POINTERS,
        ),
        tables.table(*b"APIC", 3, &madt::body(machine.vcpus), &[]),
    ]);
    if machine.tpm {
        listed.push(tables.tpm2());
    }
    listed.push(tables.table(*b"MCFG", 1, &mcfg(), &[]));
    listed.push(tables.table(*b"WAET", 1, &PM_TIMER_GOOD.to_le_bytes(), &[]));
    let rsdt = tables.rsdt(&listed);
    tables.finish(rsdt)
}

/// The tables so far, and what the script does with them.
struct Tables {
    bytes: Vec<u8>,
    script: Script,
}

impl Tables {
    fn new(tpm: bool) -> Self {
        let mut script = Script::default();
        script.allocate(File::Rsdp, 16, Zone::FSegment);
        if tpm {
            script.allocate(File::TpmLog, 1, Zone::High);
        }
        script.allocate(File::Tables, 64, Zone::High);
        Self {
            bytes: Vec::new(),
            script,
        }
    }

    /// Where the next table will be.
    fn end(&self) -> u32 {
        u32::try_from(self.bytes.len()).unwrap_or(u32::MAX)
    }

    /// Appends the one table without the common header.
    fn facs(&mut self) -> u32 {
        let at = self.end();
        self.bytes.extend(b"FACS\x40\0\0\0");
        self.bytes.resize(self.bytes.len().saturating_add(56), 0);
        at
    }

    /// Appends a table; `pointers` are the offset and width of each field in it
    /// that points to a table.
    fn table(
        &mut self,
        signature: [u8; 4],
        revision: u8,
        body: &[u8],
        pointers: &[(u32, u8)],
    ) -> u32 {
        let at = self.end();
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX);
        let length = length.saturating_add(HEADER);
        self.bytes.extend(signature);
        self.bytes.extend(length.to_le_bytes());
        self.bytes.extend([revision, 0]);
        self.bytes.extend(b"BOCHS BXPC    \x01\0\0\0BXPC\x01\0\0\0");
        self.bytes.extend(body);
        for (offset, width) in pointers {
            let field = at.saturating_add(*offset);
            self.script
                .add_pointer(File::Tables, field, *width, File::Tables);
        }
        let checksum = at.saturating_add(CHECKSUM);
        self.script.add_checksum(File::Tables, checksum, at, length);
        at
    }

    /// The TPM's table points to the log that BIOS firmware would write.
    fn tpm2(&mut self) -> u32 {
        let field = self.end().saturating_add(68);
        self.script
            .add_pointer(File::Tables, field, 8, File::TpmLog);
        self.table(*b"TPM2", 4, &tpm2(), &[])
    }

    fn rsdt(&mut self, listed: &[u32]) -> u32 {
        let body: Vec<u8> = listed.iter().flat_map(|at| at.to_le_bytes()).collect();
        let fields = (HEADER..).step_by(4).map(|offset| (offset, 4));
        let pointers: Vec<_> = fields.take(listed.len()).collect();
        self.table(*b"RSDT", 1, &body, &pointers)
    }

    /// The root pointer, and the end of the script.
    fn finish(mut self, rsdt: u32) -> Blobs {
        let rsdp = [&b"RSD PTR \0BOCHS \0"[..], &rsdt.to_le_bytes()].concat();
        self.script.add_pointer(File::Rsdp, 16, 4, File::Tables);
        self.script.add_checksum(File::Rsdp, 8, 0, 20);
        Blobs::new(&self.script.into_bytes(), &rsdp, &self.bytes)
    }
}

/// Bytes of the common header.
const HEADER: u32 = 36;
/// Offset of the checksum in it.
const CHECKSUM: u32 = 9;

/// Where the configuration space of 256 buses is.
fn mcfg() -> Vec<u8> {
    let base = 0xe000_0000_u64.to_le_bytes();
    // Segment 0, from bus 0 to bus 255.
    [&[0; 8][..], &base, &[0, 0, 0, 0xff], &[0; 4]].concat()
}

/// A client platform whose TPM has the FIFO interface, and the log's size (TCG ACPI
/// Specification 1.3, section 8).
fn tpm2() -> Vec<u8> {
    let log = u32::try_from(super::TPM_LOG).unwrap_or(u32::MAX);
    [&[0; 12][..], &[6], &[0; 15], &log.to_le_bytes(), &[0; 8]].concat()
}

/// WAET: the power-management timer is read once.
const PM_TIMER_GOOD: u32 = 1 << 1;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::machine::Edition;
    use crate::shape::{Platform, SHAPES, Shape};
    use crate::vectors;
    use alloc::format;
    use alloc::string::{String, ToString};
    use attestation::register::Digest256;

    /// What a change here changes, a register of every release shows. The second were
    /// compared with Debian's QEMU 11.1.3 in all shapes, the first with 10.0.13 in some.
    #[test]
    fn the_tables_are_those_that_were_compared_with_qemu() {
        assert_eq!(
            digest_of_all(Edition::V10_0),
            "c65e6e8a97108cf068c074b5de1e602222522df6b1333df36a66372a5e13aed8"
        );
        assert_eq!(
            digest_of_all(Edition::V11_1),
            "3fc68a456dff9036172bcb28731d6515622d7c7091b6fda57f532954ab2a131c"
        );
    }

    fn digest_of_all(edition: Edition) -> String {
        let mut all = String::new();
        for shape in &SHAPES {
            for platform in Platform::ALL {
                let Blobs {
                    loader,
                    rsdp,
                    tables,
                } = Blobs::of(&Machine::of(shape, platform, edition));
                let digest = Digest256::of(&[loader, rsdp, tables].concat());
                all.push_str(&format!("{} {platform} {digest}\n", shape.name));
            }
        }
        Digest256::of(all.as_bytes()).to_string()
    }

    /// As recorded in two live TDs with eight processors.
    #[test]
    fn tables_without_programs_are_those_of_live_tds() {
        let blobs = Shape::named("cpu-v8-m32g").unwrap().acpi(Platform::Tdx);
        let ours = split(&blobs.tables);
        for shape in ["hw1", "small_0d_new"] {
            let path = format!("acpi-shapes/{shape}/acpi_tables.bin");
            let Some(recorded) = vectors::read(&path) else {
                return;
            };
            let theirs = split(&recorded);
            for signature in [b"FACS", b"APIC", b"MCFG", b"WAET"] {
                let find = |tables: &[&[u8]]| {
                    let mut tables = tables.iter();
                    let found = tables.find(|table| table.starts_with(signature));
                    found.unwrap().to_vec()
                };
                assert_eq!(find(&ours), find(&theirs), "{signature:?} of {shape}");
            }
        }
    }

    #[test]
    fn every_checksum_covers_one_table() {
        let blobs = Shape::named("gpu8sw4-v128-m2048g")
            .unwrap()
            .acpi(Platform::Vtpm);
        let tables: Vec<usize> = split(&blobs.tables)[1..].iter().map(|t| t.len()).collect();
        let sums = blobs.loader.chunks(128).filter(|command| command[0] == 3);
        let lengths: Vec<usize> = sums
            .map(|command| u32::from_le_bytes(command[68..72].try_into().unwrap()))
            .map(|length| usize::try_from(length).unwrap())
            .collect();
        assert_eq!(lengths, [tables, [20].into()].concat());
    }

    /// The tables, by the length that each states.
    fn split(mut bytes: &[u8]) -> Vec<&[u8]> {
        let mut tables = Vec::new();
        while bytes.first().is_some_and(|byte| *byte != 0) {
            let length = u32::from_le_bytes(bytes[4..8].try_into().unwrap());
            let (table, rest) = bytes.split_at(usize::try_from(length).unwrap());
            tables.push(table);
            bytes = rest;
        }
        tables
    }
}
