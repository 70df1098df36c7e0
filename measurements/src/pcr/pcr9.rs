//! PCR 9: what the kernel was given.

use crate::bank::{Bank, Register, Source};
use crate::digests::Digests;

/// Extends the load options and the initrd, as the kernel's EFI stub does.
///
/// Linux drivers/firmware/efi/libstub/efi-stub-helper.c, `efi_tagged_event`.
pub fn extend(bank: &mut Bank, load_options: Digests, initrd: Digests) {
    bank.extend(PCR9, load_options, "load options", Source::CommandLine);
    bank.extend(PCR9, initrd, "initrd", Source::Initrd);
}

const PCR9: Register = Register::Pcr(9);
