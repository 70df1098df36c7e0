//! PCR 4: the kernel.

use crate::bank::{Bank, Register, Source};
use crate::digests::Digests;
use crate::pcr::separator;
use crate::uki::Uki;

/// Extends a direct boot of the kernel whose Authenticode digests are given.
pub fn extend(bank: &mut Bank, kernel: Digests) {
    // SecurityPkg/Library/DxeTpm2MeasureBootLib, Tcg2MeasurePeImage().
    bank.extend(PCR4, kernel, "kernel image", Source::Kernel);
    // Tcg2Dxe.c, OnReadyToBoot(): without the NUL.
    let calling = Digests::of(CALLING_APPLICATION.as_bytes());
    bank.extend(PCR4, calling, CALLING_APPLICATION, Source::Constant);
    separator(bank, 4);
}

/// Extends a boot of an image from a disk.
pub fn extend_disk(bank: &mut Bank, uki: &Uki) {
    let calling = Digests::of(CALLING_APPLICATION.as_bytes());
    bank.extend(PCR4, calling, CALLING_APPLICATION, Source::Constant);
    separator(bank, 4);
    bank.extend(PCR4, uki.image, "unified kernel image", Source::Uki);
    bank.extend(PCR4, uki.kernel, "kernel image", Source::Uki);
}

/// EFI_CALLING_EFI_APPLICATION.
pub(crate) const CALLING_APPLICATION: &str = "Calling EFI Application from Boot Option";
const PCR4: Register = Register::Pcr(4);
