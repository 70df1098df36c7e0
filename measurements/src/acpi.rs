//! QEMU's ACPI blobs, as firmware measures them.
//!
//! Firmware downloads `etc/table-loader`, a script of 128-byte commands, and
//! then each file that an ALLOCATE command names. It measures every blob as
//! downloaded, before the script patches addresses and checksums into it, so
//! the digests are of the raw bytes that QEMU serves *after* firmware has set
//! up the PCI windows.
//!
//! Source: QEMU hw/acpi/bios-linker-loader.c; edk2
//! OvmfPkg/Library/AcpiPlatformLib/QemuFwCfgAcpi.c.

use alloc::string::{String, ToString};
use alloc::vec::Vec;

use attestation::reader::{Reader, Truncated};

use self::loader::{ALLOCATE, COMMAND, File, NAME};
use crate::digests::Digests;
use crate::machine::Machine;

mod dsdt;
mod fadt;
mod loader;
mod madt;
mod tables;

/// The three blobs of one VM shape.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Blobs {
    loader: Vec<u8>,
    rsdp: Vec<u8>,
    tables: Vec<u8>,
}

impl Blobs {
    /// From the blobs, of which zeros at the end may be missing: QEMU pads the
    /// script and the tables (hw/i386/acpi-build.c, acpi_align_size()).
    #[must_use]
    pub fn new(loader: &[u8], rsdp: &[u8], tables: &[u8]) -> Self {
        Self {
            loader: padded(loader, LOADER_ALIGN),
            rsdp: rsdp.to_vec(),
            tables: padded(tables, TABLES_ALIGN),
        }
    }

    /// Those that QEMU makes for a machine.
    pub(crate) fn of(machine: &Machine) -> Self {
        tables::blobs(machine)
    }

    /// What firmware measures, in its order: the script, then each allocated file.
    pub fn measured(&self) -> Result<Vec<(String, Digests)>, AcpiError> {
        let mut measured = Vec::new();
        measured.push(("etc/table-loader".to_string(), Digests::of(&self.loader)));
        for command in self.loader.chunks(COMMAND) {
            let mut reader = Reader::new(command);
            if reader.u32_le("command")? != ALLOCATE {
                continue;
            }
            let name = reader.array::<NAME>("file name")?;
            let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
            let digests = match File::named(name) {
                Some(File::Rsdp) => Digests::of(&self.rsdp),
                Some(File::Tables) => Digests::of(&self.tables),
                // Where firmware of the BIOS kind would log; QEMU serves it zeroed
                // (hw/i386/acpi-build.c, acpi_setup()).
                Some(File::TpmLog) => Digests::of(&[0; TPM_LOG]),
                None => {
                    let name = String::from_utf8_lossy(name).into_owned();
                    return Err(AcpiError::UnknownFile { name });
                }
            };
            if measured.len() > MAX_FILES {
                return Err(AcpiError::TooManyFiles);
            }
            measured.push((String::from_utf8_lossy(name).into_owned(), digests));
        }
        match measured.iter().any(|(name, _)| name == "etc/acpi/tables") {
            true => Ok(measured),
            false => Err(AcpiError::NoTables),
        }
    }
}

fn padded(bytes: &[u8], align: usize) -> Vec<u8> {
    let mut padded = bytes.to_vec();
    padded.resize(bytes.len().next_multiple_of(align), 0);
    padded
}

/// ACPI_BUILD_ALIGN_SIZE.
const LOADER_ALIGN: usize = 0x1000;
/// ACPI_BUILD_TABLE_SIZE.
const TABLES_ALIGN: usize = 0x2_0000;
/// TPM_LOG_AREA_MINIMUM_SIZE.
const TPM_LOG: usize = 64 << 10;
/// Each file is allocated once; QEMU has three.
const MAX_FILES: usize = 8;

/// Why blobs cannot be what QEMU serves.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum AcpiError {
    /// The script never loads the tables.
    #[error("table-loader does not allocate etc/acpi/tables")]
    NoTables,
    /// A script that no QEMU writes.
    #[error("table-loader allocates more than {MAX_FILES} files")]
    TooManyFiles,
    /// The script ended inside a command.
    #[error(transparent)]
    Truncated(#[from] Truncated),
    /// A blob that is not among the inputs.
    #[error(
        "table-loader allocates {name:?}, expected etc/acpi/rsdp, etc/acpi/tables or etc/tpm/log"
    )]
    UnknownFile {
        /// As read.
        name: String,
    },
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use alloc::vec;
    use proptest::prelude::*;

    /// A script that allocates these files.
    pub(crate) fn loader(files: &[&str]) -> Vec<u8> {
        let mut script = Vec::new();
        for file in files {
            let mut command = vec![1, 0, 0, 0];
            command.extend(file.as_bytes());
            command.resize(COMMAND, 0);
            script.extend(command);
        }
        script
    }

    #[test]
    fn files_are_measured_in_the_order_of_the_script() {
        let files = ["etc/acpi/rsdp", "etc/tpm/log", "etc/acpi/tables"];
        let blobs = Blobs::new(&loader(&files), b"rsdp", b"tables");
        let measured = blobs.measured().unwrap();
        let names: Vec<&str> = measured.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, [&["etc/table-loader"][..], &files].concat());
        assert_eq!(measured[1].1, Digests::of(b"rsdp"));
        assert_eq!(measured[2].1, Digests::of(&[0; 65536]));
        let mut tables = b"tables".to_vec();
        tables.resize(128 << 10, 0);
        assert_eq!(measured[3].1, Digests::of(&tables));
    }

    #[test]
    fn zeros_at_the_end_may_be_missing() {
        let script = loader(&["etc/acpi/tables"]);
        let mut whole = script.clone();
        whole.resize(4096, 0);
        let mut tables = vec![7];
        tables.resize(128 << 10, 0);
        assert_eq!(
            Blobs::new(&script, b"", &[7]),
            Blobs::new(&whole, b"", &tables)
        );
    }

    #[test]
    fn each_wrong_script_has_its_error() {
        let error = |files: &[&str]| {
            let blobs = Blobs::new(&loader(files), b"", b"");
            blobs.measured().unwrap_err().to_string()
        };
        assert_eq!(
            error(&["etc/acpi/rsdp"]),
            "table-loader does not allocate etc/acpi/tables"
        );
        assert_eq!(
            error(&["etc/vmgenid_guid"]),
            "table-loader allocates \"etc/vmgenid_guid\", expected etc/acpi/rsdp, etc/acpi/tables or etc/tpm/log"
        );
        assert_eq!(
            error(&["etc/acpi/rsdp"; 9]),
            "table-loader allocates more than 8 files"
        );
    }

    proptest! {
        #[test]
        fn arbitrary_scripts_never_panic(noise in proptest::collection::vec(any::<u8>(), 0..600)) {
            drop(Blobs::new(&noise, &noise, &noise).measured());
        }
    }
}
