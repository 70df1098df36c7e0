//! PCR 5: the disk, and that the firmware let go of the machine, at the kernel's first request.

use crate::bank::{Bank, Register, Source};
use crate::digests::Digests;
use crate::pcr::separator;

/// Extends the end of boot services, and before it the partition table of the disk that
/// was booted from, if any.
pub fn extend(bank: &mut Bank, gpt: Option<Digests>) {
    separator(bank, 5);
    // SecurityPkg/Library/DxeTpm2MeasureBootLib, Tcg2MeasureGptTable().
    if let Some(gpt) = gpt {
        bank.extend(Register::Pcr(5), gpt, "partition table", Source::Disk);
    }
    // Tcg2Dxe.c, OnExitBootServices(): without the NULs.
    for action in EXIT_BOOT_SERVICES {
        let digests = Digests::of(action.as_bytes());
        bank.extend(Register::Pcr(5), digests, action, Source::Constant);
    }
}

/// EFI_EXIT_BOOT_SERVICES_INVOCATION and EFI_EXIT_BOOT_SERVICES_SUCCEEDED.
pub(crate) const EXIT_BOOT_SERVICES: [&str; 2] = [
    "Exit Boot Services Invocation",
    "Exit Boot Services Returned with Success",
];
