//! RTMR1: the kernel, and that the firmware let go of the machine.

use crate::bank::{Bank, Register, Source};
use crate::digests::Digests;
use crate::pcr::{pcr4, pcr5};

/// Extends a direct boot of the kernel whose Authenticode digests are given.
pub fn extend(bank: &mut Bank, kernel: Digests) {
    let mut event = |digests, what, source| bank.extend(RTMR1, digests, what, source);
    // SecurityPkg/Library/DxeTpm2MeasureBootLib, Tcg2MeasurePeImage(): firmware loads
    // the kernel before it declares the boot begun.
    event(kernel, "kernel image", Source::Kernel);
    // TdTcg2Dxe.c, OnReadyToBoot(), steps 1 and 2.
    event(
        Digests::of(pcr4::CALLING_APPLICATION.as_bytes()),
        pcr4::CALLING_APPLICATION,
        Source::Constant,
    );
    event(Digests::of(&[0; 4]), "separator", Source::Constant);
    // TdTcg2Dxe.c, OnExitBootServices().
    for action in pcr5::EXIT_BOOT_SERVICES {
        event(Digests::of(action.as_bytes()), action, Source::Constant);
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
