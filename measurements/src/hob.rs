//! The hand-off blocks that QEMU writes for TDVF, byte for byte.
//!
//! A TD_HOB is a list: hand-off information, then one resource descriptor per
//! memory range in address order, then an end marker. It depends on the amount
//! of memory and on the firmware's sections only.
//!
//! Source: UEFI Platform Initialization 1.8, volume 3, sections 5.2 and 5.5;
//! QEMU hw/i386/tdvf-hob.c for what is filled in.

use alloc::vec::Vec;

use crate::tdvf::{Kind, Tdvf, TdvfError};

/// The bytes that firmware measures: up to, not including, the end marker.
pub fn td_hob(tdvf: &Tdvf<'_>, memory: Memory) -> Result<Vec<u8>, TdvfError> {
    let base = tdvf.section(Kind::TdHob)?.address;
    let ranges = ranges(tdvf, memory);
    let mut resources = Vec::new();
    for range in &ranges {
        // EFI_HOB_TYPE_RESOURCE_DESCRIPTOR, 48 bytes, no owner.
        put_header(&mut resources, 3, 48);
        resources.extend([0; 16]);
        resources.extend(
            if range.accepted {
                SYSTEM_MEMORY
            } else {
                UNACCEPTED
            }
            .to_le_bytes(),
        );
        resources.extend(PRESENT_INITIALIZED_TESTED.to_le_bytes());
        resources.extend(range.start.to_le_bytes());
        resources.extend(range.end.saturating_sub(range.start).to_le_bytes());
    }
    // EFI_HOB_TYPE_HANDOFF, 56 bytes; EfiEndOfHobList points behind the 8-byte end marker.
    let length = u64::try_from(resources.len()).unwrap_or(u64::MAX);
    let end = base.saturating_add(56 + 8).saturating_add(length);
    let mut hob = Vec::new();
    put_header(&mut hob, 1, 56);
    hob.extend(HANDOFF_VERSION.to_le_bytes());
    hob.extend([0; 4 + 4 * 8]);
    hob.extend(end.to_le_bytes());
    hob.extend(resources);
    Ok(hob)
}

/// Size of guest memory.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Memory {
    /// In MiB, as given to QEMU's -m.
    pub mib: u32,
}

impl Memory {
    /// What q35 puts below 4 GiB (QEMU hw/i386/pc_q35.c, pc_q35_init()).
    #[must_use]
    pub fn below_4_gib(self) -> u64 {
        match self.bytes() {
            large if large >= 0xb000_0000 => 0x8000_0000,
            small => small,
        }
    }

    fn bytes(self) -> u64 {
        u64::from(self.mib).saturating_mul(1 << 20)
    }

    /// Start and end of what is below and above 4 GiB.
    fn ranges(self) -> impl Iterator<Item = (u64, u64)> {
        let low = self.below_4_gib();
        let high = self.bytes().saturating_sub(low);
        [(0, low), (FOUR_GIB, FOUR_GIB.saturating_add(high))]
            .into_iter()
            .filter(|(start, end)| start < end)
    }
}

const FOUR_GIB: u64 = 1 << 32;
/// EFI_HOB_HANDOFF_TABLE_VERSION.
const HANDOFF_VERSION: u32 = 9;
/// EFI_RESOURCE_SYSTEM_MEMORY.
const SYSTEM_MEMORY: u32 = 0;
/// EFI_RESOURCE_MEMORY_UNACCEPTED.
const UNACCEPTED: u32 = 7;
const PRESENT_INITIALIZED_TESTED: u32 = 7;

/// EFI_HOB_GENERIC_HEADER: type, length, reserved.
fn put_header(to: &mut Vec<u8>, kind: u16, length: u16) {
    to.extend(kind.to_le_bytes());
    to.extend(length.to_le_bytes());
    to.extend([0; 4]);
}

struct Range {
    start: u64,
    end: u64,
    accepted: bool,
}

/// Memory in address order, with what QEMU adds before the start cut out as accepted
/// (QEMU target/i386/kvm/tdx.c, tdx_accept_ram_range()).
fn ranges(tdvf: &Tdvf<'_>, memory: Memory) -> Vec<Range> {
    let mut accepted: Vec<(u64, u64)> = tdvf
        .sections()
        .iter()
        .filter(|section| matches!(section.kind, Kind::TdHob | Kind::TempMem))
        .map(|section| {
            let end = section.address.saturating_add(section.memory_size);
            (section.address, end)
        })
        .collect();
    accepted.sort_unstable();
    let mut ranges = Vec::new();
    for (mut start, end) in memory.ranges() {
        for &(from, to) in &accepted {
            if from >= start && to <= end {
                push(&mut ranges, start, from, false);
                push(&mut ranges, from, to, true);
                start = to;
            }
        }
        push(&mut ranges, start, end, false);
    }
    ranges
}

fn push(ranges: &mut Vec<Range>, start: u64, end: u64, accepted: bool) {
    if start < end {
        ranges.push(Range {
            start,
            end,
            accepted,
        });
    }
}

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    reason = "test inputs are small constants"
)]
mod tests {
    use super::*;
    use crate::tdvf::tests::firmware;

    fn resources(mib: u32) -> Vec<(u32, u64, u64)> {
        let file = firmware();
        let hob = td_hob(&Tdvf::parse(&file).unwrap(), Memory { mib }).unwrap();
        assert_eq!(hob[..8], [1, 0, 56, 0, 0, 0, 0, 0]);
        let end = u64::from_le_bytes(hob[48..56].try_into().unwrap());
        assert_eq!(end, 0x80_9000 + u64::try_from(hob.len()).unwrap() + 8);
        hob[56..]
            .chunks(48)
            .map(|hob| {
                let word = |at: usize| u64::from_le_bytes(hob[at..at + 8].try_into().unwrap());
                (
                    u32::from_le_bytes(hob[24..28].try_into().unwrap()),
                    word(32),
                    word(40),
                )
            })
            .collect()
    }

    #[test]
    fn small_memory_is_one_piece_with_the_hob_cut_out() {
        let expected = [
            (7, 0, 0x80_9000),
            (0, 0x80_9000, 0x1000),
            (7, 0x80_a000, 0x8000_0000 - 0x80_a000),
        ];
        assert_eq!(resources(2048), expected);
    }

    #[test]
    fn large_memory_splits_at_two_gib() {
        assert_eq!(resources(2815).len(), 3, "just below 0xb0000000");
        let large = resources(2816);
        assert_eq!(large[2], (7, 0x80_a000, 0x8000_0000 - 0x80_a000));
        assert_eq!(large[3], (7, 1 << 32, 0x3000_0000));
    }
}
