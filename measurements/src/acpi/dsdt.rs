//! DSDT: the machine's devices, and the programs that come with them.

use alloc::vec::Vec;

use crate::aml::{
    Access, Space, Term, Update, arg, deref, device, field, increment, index, less, local, method,
    name, package, region, repeat, resource, scope, size_of, store, subtract, text, to_buffer,
    to_hex_string,
};
use crate::machine::Machine;

mod bus;
mod host_bridge;
mod interrupts;
mod processors;
mod tpm;

/// The definition block's terms (QEMU hw/i386/acpi-build.c, build_dsdt()).
pub(super) fn terms(machine: &Machine) -> Vec<Term> {
    let mut terms = Vec::from([debug_port(), host_bridge::device()]);
    terms.extend(interrupts::terms());
    terms.push(scope("_GPE", [name("_HID", text("ACPI0006"))]));
    terms.extend(processors::terms(machine.vcpus, machine.edition));
    terms.push(host_bridge::resources(machine));
    terms.push(sleep_states());
    terms.push(firmware_configuration());
    terms.push(bus::devices(machine));
    terms
}

/// A method that writes to QEMU's debug port.
fn debug_port() -> Term {
    let print = repeat(
        less(local(2), local(1)),
        [
            store(deref(index(local(0), local(2))), "DBGB"),
            increment(local(2)),
        ],
    );
    scope(
        "\\",
        [
            region("DBG", Space::Io, 0x402, 1),
            field("DBG", Access::Byte, Update::Preserve, &[("DBGB", 8)]),
            method(
                "DBUG",
                1,
                [
                    to_hex_string(arg(0), local(0)),
                    to_buffer(local(0), local(0)),
                    subtract(size_of(local(0)), 1, local(1)),
                    store(0, local(2)),
                    print,
                    store(0x0a, "DBGB"),
                ],
            ),
        ],
    )
}

/// \_S3, \_S4 and \_S5: what to write into the two power-management blocks.
fn sleep_states() -> Term {
    let state = |path: &str, kind: u64| {
        let values = [kind, kind, 0, 0].map(Term::from);
        name(path, package(values))
    };
    scope("\\", [state("_S3", 1), state("_S4", 2), state("_S5", 0)])
}

/// The device that hands over configuration files.
fn firmware_configuration() -> Term {
    let ports = resource::template([resource::io(0x510, 1, 12)]);
    let device = device(
        "FWCF",
        [
            name("_HID", text("QEMU0002")),
            name("_STA", 0x0b),
            name("_CRS", ports),
        ],
    );
    scope("\\_SB.PCI0", [device])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors;

    /// Two TDs of others with eight processors, on older releases of QEMU and with
    /// other devices: what does not depend on those is byte for byte in their tables.
    #[test]
    fn what_live_tds_share_with_us_is_in_their_tables() {
        for shape in ["hw1", "small_0d_new"] {
            let path = alloc::format!("acpi-shapes/{shape}/acpi_tables.bin");
            let Some(recorded) = vectors::read(&path) else {
                return;
            };
            let mut shared = Vec::from([debug_port(), sleep_states(), firmware_configuration()]);
            shared.extend(interrupts::terms());
            shared.extend((0..8).map(processors::one));
            for term in shared {
                let found = recorded.windows(term.0.len()).any(|part| part == term.0);
                assert!(found, "{shape} has no {:x?}", term.0);
            }
        }
    }
}
