//! What a TD's run-time registers hold when PID 1 starts.
//!
//! RTMR3 is free for the guest, and ours leaves it zero: it has no event.
//!
//! Source: UEFI 2.10, section 38.4.1 (which PCR's events go where); edk2
//! OvmfPkg/Tcg/TdTcg2Dxe/TdTcg2Dxe.c, release edk2-stable202502. Later releases
//! measure more.

use alloc::string::ToString;

use attestation::eventlog::{Kind, Log};
use attestation::register::Digest384;

use crate::bank::Register;

pub mod rtmr0;
pub mod rtmr1;
pub mod rtmr2;

/// RTMR1 and RTMR2 of a TD that does what this TPM's log says, or `None` if the
/// log has no SHA-384 bank.
///
/// PCR 2 to 6 become RTMR1, PCR 8 to 15 RTMR2 (UEFI 2.10, section 38.4.1), with
/// one difference: a TPM gets a separator in each PCR, a TD one in RTMR1 (edk2
/// TdTcg2Dxe.c, OnReadyToBoot()). RTMR0 cannot be had this way: a TD measures
/// its hand-off blocks and has other ACPI tables. Nor is the config in it, which
/// init extends into PCR 8 after the log has ended; a TD has it in MRCONFIGID.
#[must_use]
pub fn from_tpm_log(log: &Log<'_>) -> Option<[Digest384; 2]> {
    let [mut rtmr1, mut rtmr2] = [Digest384::ZERO; 2];
    for event in log.unverified_events() {
        let found = event.register.to_string();
        let is_any = |mut pcrs: core::ops::RangeInclusive<u8>| {
            pcrs.any(|index| Register::Pcr(index).to_string() == found)
        };
        let separator = event.kind == Kind::SEPARATOR && !is_any(4..=4);
        if !event.extends() || separator {
            continue;
        }
        if is_any(2..=6) {
            rtmr1 = rtmr1.extend(event.sha384?);
        } else if is_any(8..=15) {
            rtmr2 = rtmr2.extend(event.sha384?);
        }
    }
    Some([rtmr1, rtmr2])
}
