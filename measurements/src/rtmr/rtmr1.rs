//! RTMR1: the kernel, and that the firmware let go of the machine.

use crate::bank::{Bank, Register, Source};
use crate::digests::Digests;
use crate::pcr::{pcr4, pcr5};
use crate::uki::Uki;

/// Extends a direct boot of the kernel whose Authenticode digests are given.
pub fn extend(bank: &mut Bank, kernel: Digests) {
    // SecurityPkg/Library/DxeTpm2MeasureBootLib, Tcg2MeasurePeImage(): firmware loads
    // the kernel before it declares the boot begun.
    bank.extend(RTMR1, kernel, "kernel image", Source::Kernel);
    ready_to_boot(bank);
    exit_boot_services(bank);
}

/// Extends a boot of an image from a disk, whose partition table has these digests.
pub fn extend_disk(bank: &mut Bank, gpt: Digests, uki: &Uki) {
    ready_to_boot(bank);
    // DxeTpm2MeasureBootLib, DxeTpm2MeasureBootHandler(): the table of the disk that
    // the first image comes from, then each image.
    bank.extend(RTMR1, gpt, "partition table", Source::Disk);
    bank.extend(RTMR1, uki.image, "unified kernel image", Source::Uki);
    bank.extend(RTMR1, uki.kernel, "kernel image", Source::Uki);
    exit_boot_services(bank);
}

/// TdTcg2Dxe.c, OnReadyToBoot(), steps 1 and 2.
fn ready_to_boot(bank: &mut Bank) {
    let calling = Digests::of(pcr4::CALLING_APPLICATION.as_bytes());
    let what = pcr4::CALLING_APPLICATION;
    bank.extend(RTMR1, calling, what, Source::Constant);
    bank.extend(RTMR1, Digests::of(&[0; 4]), "separator", Source::Constant);
}

/// TdTcg2Dxe.c, OnExitBootServices().
fn exit_boot_services(bank: &mut Bank) {
    for action in pcr5::EXIT_BOOT_SERVICES {
        let digests = Digests::of(action.as_bytes());
        bank.extend(RTMR1, digests, action, Source::Constant);
    }
}

const RTMR1: Register = Register::Rtmr(1);

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::vec::Vec;

    #[test]
    fn the_kernel_comes_first() {
        let mut bank = Bank::default();
        extend(&mut bank, Digests::of(b"kernel"));
        let seen: Vec<_> = bank.events().iter().map(|event| &*event.what).collect();
        assert_eq!(
            seen,
            [
                "kernel image",
                "Calling EFI Application from Boot Option",
                "separator",
                "Exit Boot Services Invocation",
                "Exit Boot Services Returned with Success",
            ]
        );
    }
}
