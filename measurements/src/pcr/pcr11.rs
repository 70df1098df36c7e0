//! PCR 11: the sections of a unified kernel image; zero in any other boot.

use crate::bank::{Bank, Register, Source};
use crate::uki::Uki;

/// Extends name and content of each section, as systemd's stub does.
pub fn extend(bank: &mut Bank, uki: &Uki) {
    for (what, digests) in uki.events() {
        bank.extend(Register::Pcr(11), digests, what, Source::Uki);
    }
}
