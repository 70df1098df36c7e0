//! The devices of the root bus, by slot.

use alloc::format;
use alloc::vec::Vec;

use super::tpm;
use crate::aml::resource::{io, irq, shared_irq, template};
use crate::aml::{Access, Space, Term, Update, device, eisa_id, field, name, region, scope};
use crate::machine::{Edition, Machine};

/// Each device that is there, with what QEMU says about it.
pub(super) fn devices(machine: &Machine) -> Term {
    let endpoints = machine.endpoints.clone().map(endpoint);
    let ports = machine.root_ports.clone().map(root_port);
    let devices: Vec<Term> = [endpoint(0)]
        .into_iter()
        .chain(endpoints)
        .chain(ports)
        .chain([chipset(machine)])
        .collect();
    scope("\\_SB", [scope("PCI0", devices)])
}

fn endpoint(slot: u8) -> Term {
    device(&object(slot), [address(slot)])
}

/// A port with one device behind it.
fn root_port(slot: u8) -> Term {
    device(&object(slot), [address(slot), endpoint(0)])
}

/// The bridge to the old devices: interrupt registers, TPM, serial port, clock.
fn chipset(machine: &Machine) -> Term {
    let links = [
        ("PRQA", 8),
        ("PRQB", 8),
        ("PRQC", 8),
        ("PRQD", 8),
        ("", 32),
        ("PRQE", 8),
        ("PRQF", 8),
        ("PRQG", 8),
        ("PRQH", 8),
    ];
    let registers = field("PCI0.SF8.PIRQ", Access::Byte, Update::Preserve, &links);
    let interrupt = match machine.edition {
        Edition::V10_0 => irq(4),
        Edition::V11_1 => shared_irq(4),
    };
    let serial = device(
        "COM1",
        [
            name("_HID", eisa_id("PNP0501")),
            name("_UID", 1),
            name("_STA", 0x0f),
            name("_CRS", template([io(0x3f8, 0, 8), interrupt])),
        ],
    );
    let clock = device(
        "RTC",
        [
            name("_HID", eisa_id("PNP0B00")),
            name("_CRS", template([io(0x70, 1, 8), irq(8)])),
        ],
    );
    let body = [
        address(CHIPSET),
        region("PIRQ", Space::PciConfig, 0x60, 12),
        scope("\\_SB", [registers]),
    ];
    let tpm = machine.tpm.then(tpm::device);
    device(
        &object(CHIPSET),
        body.into_iter().chain(tpm).chain([serial, clock]),
    )
}

/// Device 31, function 0.
const CHIPSET: u8 = 0x1f;

fn address(slot: u8) -> Term {
    name("_ADR", u64::from(slot) << 16)
}

/// QEMU names a device after its device and function number.
fn object(slot: u8) -> alloc::string::String {
    format!("S{:02X}", slot << 3)
}
