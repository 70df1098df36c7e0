//! FADT: the fixed hardware.
//!
//! Source: ACPI specification 6.5, section 5.2.9; QEMU hw/acpi/aml-build.c,
//! build_fadt(), and hw/i386/acpi-build.c, init_common_fadt_data().

use alloc::vec::Vec;

/// Offset and width of the fields that point to FACS and DSDT.
pub(super) const POINTERS: [(u32, u8); 3] = [(36, 4), (40, 4), (140, 8)];

/// What follows the header.
pub(super) fn body(vcpus: u8, facs: u32, dsdt: u32) -> Vec<u8> {
    let mut body = Vec::new();
    let mut put = |bytes: &[u8]| body.extend(bytes);
    put(&facs.to_le_bytes());
    put(&dsdt.to_le_bytes());
    // Model, no profile, SCI on interrupt 9.
    put(&[1, 0, 9, 0]);
    // No command port: without management mode ACPI is always on.
    put(&[0; 8]);
    for block in [PM1_EVENT, 0, PM1_CONTROL, 0, 0, PM_TIMER, GPE0, 0] {
        put(&u32::from(block).to_le_bytes());
    }
    // Their lengths; no base of GPE1, no _CST.
    put(&[4, 2, 0, 4, 16, 0, 0, 0]);
    // No C2, no C3.
    put(&0xfff_u16.to_le_bytes());
    put(&0xfff_u16.to_le_bytes());
    // Nothing about caches, duty cycle and alarms; the century is in CMOS byte 0x32.
    put(&[0; 8]);
    put(&[0x32]);
    // Boot architecture: no 8042.
    put(&[0; 3]);
    // QEMU asks for clusters of interrupts where flat ones cannot reach all processors.
    let clusters = if vcpus > 8 { CLUSTER_MODEL } else { 0 };
    put(&(FLAGS | clusters).to_le_bytes());
    // Reset register and value.
    put(&register(0xcf9, 8));
    put(&[0x0f, 0, 0, 0]);
    put(&[0; 8]);
    put(&u64::from(dsdt).to_le_bytes());
    for (block, bits) in [
        (PM1_EVENT, 32),
        (0, 0),
        (PM1_CONTROL, 16),
        (0, 0),
        (0, 0),
        (PM_TIMER, 32),
        (GPE0, 128),
        (0, 0),
    ] {
        put(&register(block, bits));
    }
    body
}

/// Generic Address Structure of a port, or of nothing.
fn register(port: u16, bits: u8) -> [u8; 12] {
    let [low, high] = port.to_le_bytes();
    let space = u8::from(bits != 0);
    [space, bits, 0, 0, low, high, 0, 0, 0, 0, 0, 0]
}

const PM1_EVENT: u16 = 0x600;
const PM1_CONTROL: u16 = 0x604;
const PM_TIMER: u16 = 0x608;
const GPE0: u16 = 0x620;
/// WBINVD, PROC_C1, SLP_BUTTON, RTC_S4, RESET_REG_SUP, USE_PLATFORM_CLOCK.
const FLAGS: u32 = 1 | 1 << 2 | 1 << 5 | 1 << 7 | 1 << 10 | 1 << 15;
/// FORCE_APIC_CLUSTER_MODEL.
const CLUSTER_MODEL: u32 = 1 << 18;
