//! What the PCRs of a virtual TPM hold when PID 1 has measured its config.
//!
//! | PCR | of | events |
//! |---|---|---|
//! | 0 | firmware | version, PEI volume, DXE volume, separator |
//! | 1 | VM shape | ACPI blobs, boot variables, separator |
//! | 2, 3, 6 | nothing | separator |
//! | 4 | kernel | image, "Calling EFI Application", separator |
//! | 5 | nothing | separator, "Exit Boot Services" twice |
//! | 7 | Secure Boot | five empty variables, separator |
//! | 8 | config | one event of ours |
//! | 9 | boot | load options, initrd |
//! | 10 to 15 | nothing | none |
//!
//! A boot of a unified kernel image from a disk differs in three: PCR 4 has that image
//! before the kernel, PCR 5 the partition table, PCR 11 the image's sections.
//!
//! Source: TCG PC Client Platform Firmware Profile 1.06, section 3.3.4; edk2
//! SecurityPkg/Tcg/Tcg2Pei and Tcg2Dxe, release edk2-stable202502.

use crate::bank::{Bank, Register, Source};
use crate::digests::Digests;

pub mod pcr0;
pub mod pcr1;
pub mod pcr11;
pub mod pcr4;
pub mod pcr5;
pub mod pcr7;
pub mod pcr8;
pub mod pcr9;

/// PCRs that a verifier compares: all that firmware, kernel and init may extend.
/// Those above are for debugging, late launch and applications.
pub const COUNT: u8 = 16;

/// The line between firmware and boot: four zero bytes into each of PCR 0 to 6
/// (profile, section 3.3.2.2).
pub fn separator(bank: &mut Bank, index: u8) {
    let digests = Digests::of(&[0; 4]);
    bank.extend(Register::Pcr(index), digests, "separator", Source::Constant);
}
