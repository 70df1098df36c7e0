//! PCR 0: the firmware.

use alloc::format;
use alloc::vec::Vec;

use crate::bank::{Bank, Register, Source};
use crate::digests::Digests;
use crate::firmware::Crtm;
use crate::pcr::separator;

/// Extends what firmware measures of its own code.
pub fn extend(bank: &mut Bank, crtm: &Crtm) {
    // Tcg2Pei.c, MeasureCRTMVersion(): the string with its NUL.
    let version: Vec<u8> = crtm
        .version
        .encode_utf16()
        .chain([0])
        .flat_map(u16::to_le_bytes)
        .collect();
    let what = format!("firmware version {}", crtm.version);
    bank.extend(PCR0, Digests::of(&version), what, Source::Firmware);
    // Tcg2Pei.c, MeasureMainBios(): each volume that PEI was told of.
    bank.extend(PCR0, crtm.pei, "PEI volume", Source::Firmware);
    bank.extend(PCR0, crtm.dxe, "DXE volume", Source::Firmware);
    separator(bank, 0);
}

const PCR0: Register = Register::Pcr(0);
