//! The virtual hardware of a shape, as far as QEMU's tables describe it.
//!
//! Both the arguments that QEMU gets and the tables that it makes of them
//! follow from this.

use core::ops::Range;

use crate::hob::Memory;
use crate::shape::{Platform, Shape};

/// Where everything is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) struct Machine {
    /// All cores of one socket, so that their APIC identifiers are their numbers.
    pub(crate) vcpus: u8,
    pub(crate) memory: Memory,
    /// Of 64-bit addresses for PCI devices.
    pub(crate) window: Range<u64>,
    /// Slots of the devices on the root bus.
    pub(crate) endpoints: Range<u8>,
    /// Slots of the ports behind which one device each is passed through.
    pub(crate) root_ports: Range<u8>,
    pub(crate) tpm: bool,
    pub(crate) edition: Edition,
}

impl Machine {
    /// What QEMU is told to make of a shape.
    pub(crate) fn of(shape: &Shape, platform: Platform, edition: Edition) -> Self {
        let bits = address_bits(shape, platform);
        // OVMF's window is the top eighth of the address space (edk2
        // OvmfPkg/Library/PlatformInitLib/MemDetect.c, PlatformDynamicMmioWindow()).
        // QEMU's begins with the lowest BAR, which firmware puts at the very start, and
        // is told to end with the address space.
        let end = 1_u64 << bits;
        let passed_through = shape.gpus.saturating_add(shape.switches);
        Self {
            vcpus: u8::try_from(shape.vcpus).unwrap_or(u8::MAX),
            memory: shape.memory,
            window: end.saturating_sub(end >> 3)..end,
            endpoints: NETWORK..FIRST_MODEL.saturating_add(MODELS),
            root_ports: FIRST_PORT..FIRST_PORT.saturating_add(passed_through),
            tpm: platform == Platform::Vtpm,
            edition,
        }
    }
}

/// Tables of a release of QEMU.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Edition {
    V10_0,
    V11_1,
}

/// Width of a guest physical address.
pub(crate) const fn address_bits(shape: &Shape, platform: Platform) -> u32 {
    match (platform, shape.gpus, shape.memory.mib) {
        // What any processor of the last ten years has, where all fits into it.
        (Platform::Vtpm, 0, ..=DESKTOP_MIB) => DESKTOP_BITS,
        // However many there are, OVMF uses no more (edk2 PlatformInitLib/MemDetect.c,
        // PlatformAddressWidthFromCpuid()).
        _ => 46,
    }
}

/// Address bits of small processors.
pub(crate) const DESKTOP_BITS: u32 = 39;

/// Leaves room below the window.
const DESKTOP_MIB: u32 = 256 << 10;

/// Slot of the network device.
pub(crate) const NETWORK: u8 = 2;
/// Slot of the root disk.
pub(crate) const ROOT_DISK: u8 = 3;
/// Slot of the first model disk; the others follow.
pub(crate) const FIRST_MODEL: u8 = 4;
/// Model disks.
pub(crate) const MODELS: u8 = 4;
/// Slot of the first root port; the others follow.
const FIRST_PORT: u8 = 0x10;
