//! The PCI host bridge: what the guest may control, and which addresses it forwards.

use alloc::vec::Vec;

use crate::aml::resource::{Cache, buses, fixed_memory, high_memory, io, memory, ports, template};
use crate::aml::{
    Term, and, arg, buffer, deref, device as define, dword_field, eisa_id, equal, give, index,
    less, local, method, name, not, or, otherwise, package, scope, serialized, store, text, uuid,
    when,
};
use crate::machine::Machine;

use super::tpm;

/// The bridge and its configuration space.
pub(super) fn device() -> Term {
    let bridge = define(
        "PCI0",
        [
            name("_HID", eisa_id("PNP0A08")),
            name("_CID", eisa_id("PNP0A03")),
            name("_UID", 0),
            operating_system_capabilities(),
            endpoint_label(),
        ],
    );
    let window = memory(0xe000_0000, 0xefff_ffff, Cache::NonCacheable);
    let configuration = define(
        "DRAC",
        [
            name("_HID", text("PNP0C01")),
            name("_CRS", template([window])),
        ],
    );
    scope("_SB", [bridge, configuration])
}

/// _OSC: all that PCI Express has, since hotplug is not done by ACPI here.
fn operating_system_capabilities() -> Term {
    let host_bridge = uuid(
        0x33db_4d5b,
        0x1ff7,
        0x401c,
        [0x96, 0x57, 0x74, 0x41, 0xc0, 0x3d, 0xd7, 0x66],
    );
    let known = when(
        equal(arg(0), host_bridge),
        [
            dword_field(arg(3), 4, "CDW2"),
            dword_field(arg(3), 8, "CDW3"),
            store("CDW3", local(0)),
            and(local(0), 0x1f, local(0)),
            // Another revision of the interface.
            when(not(equal(arg(1), 1)), [or("CDW1", 0x08, "CDW1")]),
            // Capabilities were masked.
            when(not(equal("CDW3", local(0))), [or("CDW1", 0x10, "CDW1")]),
            store(local(0), "CDW3"),
        ],
    );
    method(
        "_OSC",
        4,
        [
            dword_field(arg(3), 0, "CDW1"),
            known,
            otherwise([or("CDW1", 4, "CDW1")]),
            give(arg(3)),
        ],
    )
}

/// EDSM: the label of a device that cannot be unplugged.
fn endpoint_label() -> Term {
    let labels = uuid(
        0xe5c9_37d0,
        0x3553,
        0x4d7a,
        [0x91, 0x17, 0xea, 0x4d, 0x19, 0xc3, 0x43, 0x4d],
    );
    let functions = when(
        equal(arg(2), 0),
        [
            store(buffer(&[0]), local(0)),
            when(not(equal(arg(0), labels)), [give(local(0))]),
            when(less(arg(1), 2), [give(local(0))]),
            store(0x81, index(local(0), 0)),
            give(local(0)),
        ],
    );
    let label = when(
        equal(arg(2), 7),
        [
            store(package([0.into(), text("")]), local(0)),
            store(deref(index(arg(4), 0)), local(1)),
            store(local(1), index(local(0), 0)),
            give(local(0)),
        ],
    );
    serialized("EDSM", 5, [functions, label])
}

/// What the bridge forwards, and the block of general-purpose events.
pub(super) fn resources(machine: &Machine) -> Term {
    let low = u32::try_from(machine.memory.below_4_gib()).unwrap_or(u32::MAX);
    let mut forwarded = Vec::from([
        buses(0, 0xff),
        io(0xcf8, 1, 8),
        ports(0, 0xcf7),
        ports(0xd00, 0xffff),
        memory(0xa_0000, 0xb_ffff, Cache::Cacheable),
        memory(low, 0xdfff_ffff, Cache::NonCacheable),
        memory(0xf000_0000, 0xfebf_ffff, Cache::NonCacheable),
        high_memory(
            machine.window.start,
            machine.window.end.saturating_sub(1),
            Cache::Cacheable,
        ),
    ]);
    if machine.tpm {
        forwarded.push(fixed_memory(tpm::BASE, tpm::LENGTH));
    }
    let events = define(
        "GPE0",
        [
            name("_HID", text("PNP0A06")),
            name("_UID", text("GPE0 resources")),
            name("_STA", 0x0b),
            name("_CRS", template([io(0x620, 1, 0x10)])),
        ],
    );
    scope("\\_SB.PCI0", [name("_CRS", template(forwarded)), events])
}
