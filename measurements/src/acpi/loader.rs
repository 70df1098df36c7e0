//! The script that tells firmware how to load the other blobs.
//!
//! ```text
//! ALLOCATE      u32 1 | file[56] | u32 alignment | u8 zone
//! ADD_POINTER   u32 2 | file[56] | file it points into[56] | u32 offset | u8 width
//! ADD_CHECKSUM  u32 3 | file[56] | u32 offset | u32 start | u32 length
//! ```
//!
//! Each command takes 128 bytes. The three parts of a command that name a place
//! are offsets in the file.
//!
//! Source: QEMU hw/acpi/bios-linker-loader.c.

use alloc::vec::Vec;

/// Commands, in order.
#[derive(Clone, Debug, Default)]
pub(super) struct Script(Vec<u8>);

impl Script {
    /// Has `file` loaded.
    pub(super) fn allocate(&mut self, file: File, alignment: u32, zone: Zone) {
        let zone = match zone {
            Zone::High => 1,
            Zone::FSegment => 2,
        };
        self.command(
            ALLOCATE,
            &[&file.name(), &alignment.to_le_bytes()[..], &[zone]].concat(),
        );
    }

    /// Has the address of `target` added to what is at `at`, `width` bytes wide.
    pub(super) fn add_pointer(&mut self, file: File, at: u32, width: u8, target: File) {
        self.command(
            ADD_POINTER,
            &[
                &file.name()[..],
                &target.name(),
                &at.to_le_bytes(),
                &[width],
            ]
            .concat(),
        );
    }

    /// Has the byte at `at` set so that `length` bytes from `start` add up to zero.
    pub(super) fn add_checksum(&mut self, file: File, at: u32, start: u32, length: u32) {
        self.command(
            ADD_CHECKSUM,
            &[
                &file.name()[..],
                &at.to_le_bytes(),
                &start.to_le_bytes(),
                &length.to_le_bytes(),
            ]
            .concat(),
        );
    }

    /// The script as it is served, without padding.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    fn command(&mut self, code: u32, arguments: &[u8]) {
        let end = self.0.len().saturating_add(COMMAND);
        self.0.extend(code.to_le_bytes());
        self.0.extend(arguments);
        self.0.resize(end, 0);
    }
}

/// A blob that QEMU serves.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum File {
    Rsdp,
    Tables,
    TpmLog,
}

impl File {
    /// Of a known name.
    pub(super) fn named(name: &[u8]) -> Option<Self> {
        let files = [Self::Rsdp, Self::Tables, Self::TpmLog];
        files
            .into_iter()
            .find(|file| file.path().as_bytes() == name)
    }

    /// As fw_cfg has it.
    pub(super) const fn path(self) -> &'static str {
        match self {
            Self::Rsdp => "etc/acpi/rsdp",
            Self::Tables => "etc/acpi/tables",
            Self::TpmLog => "etc/tpm/log",
        }
    }

    fn name(self) -> Vec<u8> {
        let mut name = self.path().as_bytes().to_vec();
        name.resize(NAME, 0);
        name
    }
}

/// Where firmware puts a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Zone {
    High,
    /// Below 1 MiB, where the root pointer is looked for.
    FSegment,
}

/// Bytes per command.
pub(super) const COMMAND: usize = 128;
/// Bytes per name.
pub(super) const NAME: usize = 56;
/// BIOS_LINKER_LOADER_COMMAND_ALLOCATE.
pub(super) const ALLOCATE: u32 = 1;
const ADD_POINTER: u32 = 2;
const ADD_CHECKSUM: u32 = 3;
