//! PCR 5: that the firmware let go of the machine, at the kernel's first request.

use crate::bank::{Bank, Register, Source};
use crate::digests::Digests;
use crate::pcr::separator;

/// Extends the end of boot services. No disk is booted from, so no partition table is measured.
pub fn extend(bank: &mut Bank) {
    separator(bank, 5);
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
