//! Resource descriptors: what a device decodes, and which interrupts it has.
//!
//! Source: ACPI specification 6.5, section 6.4.

use alloc::vec::Vec;

use super::{Term, buffer};

/// ResourceTemplate.
pub(crate) fn template(descriptors: impl IntoIterator<Item = Vec<u8>>) -> Term {
    let mut bytes: Vec<u8> = descriptors.into_iter().flatten().collect();
    // End tag; a checksum of zero stands for none.
    bytes.extend([0x79, 0]);
    buffer(&bytes)
}

/// IO with 16 decoded bits.
pub(crate) fn io(base: u16, alignment: u8, length: u8) -> Vec<u8> {
    let [low, high] = base.to_le_bytes();
    [0x47, 1, low, high, low, high, alignment, length].into()
}

/// IRQNoFlags.
pub(crate) fn irq(number: u8) -> Vec<u8> {
    let [low, high] = (1_u16 << (number & 15)).to_le_bytes();
    [0x22, low, high].into()
}

/// IRQ: level-triggered, active-low, shared.
pub(crate) fn shared_irq(number: u8) -> Vec<u8> {
    let [low, high] = (1_u16 << (number & 15)).to_le_bytes();
    [0x23, low, high, 0b1_1000].into()
}

/// Interrupt: consumer, level-triggered, active-high, shared.
pub(crate) fn interrupts<const N: usize>(numbers: [u32; N]) -> Vec<u8> {
    let count = u8::try_from(N).unwrap_or(u8::MAX);
    let length = u16::from(count).saturating_mul(4).saturating_add(2);
    let mut bytes = [&[0x89][..], &length.to_le_bytes(), &[0b1001, count]].concat();
    bytes.extend(numbers.into_iter().flat_map(u32::to_le_bytes));
    bytes
}

/// Memory32Fixed, read and written.
pub(crate) fn fixed_memory(base: u32, length: u32) -> Vec<u8> {
    [
        &[0x86, 9, 0, 1][..],
        &base.to_le_bytes(),
        &length.to_le_bytes(),
    ]
    .concat()
}

/// WordBusNumber of a producer.
pub(crate) fn buses(first: u16, last: u16) -> Vec<u8> {
    let length = last.saturating_sub(first).saturating_add(1);
    range(
        0x88,
        [2, FIXED, 0],
        [0, first, last, 0, length].map(u16::to_le_bytes),
    )
}

/// WordIO of a producer, the entire range.
pub(crate) fn ports(first: u16, last: u16) -> Vec<u8> {
    let length = last.saturating_sub(first).saturating_add(1);
    range(
        0x88,
        [1, FIXED, 3],
        [0, first, last, 0, length].map(u16::to_le_bytes),
    )
}

/// DWordMemory of a producer, read and written.
pub(crate) fn memory(first: u32, last: u32, cache: Cache) -> Vec<u8> {
    let length = last.saturating_sub(first).saturating_add(1);
    range(
        0x87,
        [0, FIXED, cache.flags()],
        [0, first, last, 0, length].map(u32::to_le_bytes),
    )
}

/// QWordMemory of a producer, read and written.
pub(crate) fn high_memory(first: u64, last: u64, cache: Cache) -> Vec<u8> {
    let length = last.saturating_sub(first).saturating_add(1);
    range(
        0x8a,
        [0, FIXED, cache.flags()],
        [0, first, last, 0, length].map(u64::to_le_bytes),
    )
}

/// Whether a range of memory may be cached.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Cache {
    Cacheable,
    NonCacheable,
}

impl Cache {
    const fn flags(self) -> u8 {
        match self {
            Self::Cacheable => 0b011,
            Self::NonCacheable => 0b001,
        }
    }
}

/// MinFixed, MaxFixed, PosDecode.
const FIXED: u8 = 0b1100;

/// Granularity, minimum, maximum, translation and length of an address space.
fn range<const W: usize>(tag: u8, kind: [u8; 3], fields: [[u8; W]; 5]) -> Vec<u8> {
    let fields = fields.as_flattened();
    let length = u16::try_from(fields.len()).unwrap_or(u16::MAX);
    let length = length.saturating_add(3).to_le_bytes();
    [&[tag][..], &length, &kind, fields].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_states_its_length() {
        let window = high_memory(0x70_0000_0000, 0x7f_ffff_ffff, Cache::Cacheable);
        let (head, fields) = window.split_at(6);
        assert_eq!(head, [0x8a, 43, 0, 0, 0b1100, 0b011]);
        let fields: Vec<u64> = fields
            .chunks(8)
            .map(|field| u64::from_le_bytes(field.try_into().unwrap()))
            .collect();
        assert_eq!(
            fields,
            [0, 0x70_0000_0000, 0x7f_ffff_ffff, 0, 0x10_0000_0000]
        );
    }

    #[test]
    fn a_template_ends_in_its_tag() {
        let template = template([io(0x70, 1, 8), irq(8)]);
        assert_eq!(
            template.0,
            [
                0x11, 0x10, 0x0a, 0x0d, 0x47, 1, 0x70, 0, 0x70, 0, 1, 8, 0x22, 0, 1, 0x79, 0
            ]
        );
    }
}
