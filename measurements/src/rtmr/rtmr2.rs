//! RTMR2: what the kernel was given.

use crate::bank::{Bank, Register, Source};
use crate::digests::Digests;
use crate::uki::Uki;

/// Extends the load options and the initrd, as the kernel's EFI stub does.
///
/// Linux drivers/firmware/efi/libstub/efi-stub-helper.c, efi_convert_cmdline()
/// and efi_load_initrd().
pub fn extend(bank: &mut Bank, load_options: Digests, initrd: Digests) {
    let mut event = |digests, what, source| bank.extend(RTMR2, digests, what, source);
    event(load_options, "load options", Source::CommandLine);
    event(initrd, "initrd", Source::Initrd);
}

/// Extends what the stub of an image measures, then the kernel inside.
pub fn extend_uki(bank: &mut Bank, uki: &Uki) {
    let sections = uki.events().filter(|_| uki.sections_in_td);
    for (what, digests) in sections {
        bank.extend(RTMR2, digests, what, Source::Uki);
    }
    extend(bank, uki.load_options, uki.initrd);
}

const RTMR2: Register = Register::Rtmr(2);

#[cfg(test)]
mod tests {
    use super::*;
    use attestation::register::Digest384;

    #[test]
    fn load_options_come_before_the_initrd() {
        let mut bank = Bank::default();
        extend(&mut bank, Digests::of(b"options"), Digests::of(b"initrd"));
        let expected = Digest384::ZERO
            .extend(Digest384::of(b"options"))
            .extend(Digest384::of(b"initrd"));
        assert_eq!(bank.rtmr(2), expected);
    }
}
