//! MADT: the interrupt controllers.
//!
//! Source: ACPI specification 6.5, section 5.2.12; QEMU hw/i386/acpi-common.c.

use alloc::vec::Vec;

/// What follows the header.
pub(super) fn body(vcpus: u8) -> Vec<u8> {
    let mut body = Vec::new();
    // Local APICs; no 8259 beside them.
    body.extend(0xfee0_0000_u32.to_le_bytes());
    body.extend([0; 4]);
    body.extend((0..vcpus).flat_map(processor));
    // I/O APIC 0.
    body.extend([1, 12, 0, 0]);
    body.extend(0xfec0_0000_u32.to_le_bytes());
    body.extend([0; 4]);
    // The timer is wired to another input; the PCI links are level-triggered.
    body.extend(overridden(0, 2, 0));
    for interrupt in [5, 9, 10, 11] {
        body.extend(overridden(interrupt, interrupt.into(), 0b1101));
    }
    // NMI of every processor at LINT1.
    body.extend([4, 6, 0xff, 0, 0, 1]);
    body
}

/// Processor Local APIC, enabled.
pub(super) const fn processor(id: u8) -> [u8; 8] {
    [0, 8, id, id, 1, 0, 0, 0]
}

/// Interrupt Source Override of the ISA bus.
fn overridden(source: u8, input: u32, flags: u16) -> Vec<u8> {
    [
        &[2, 10, 0, source][..],
        &input.to_le_bytes(),
        &flags.to_le_bytes(),
    ]
    .concat()
}
