//! Which interrupt each PCI pin raises, with and without I/O APIC.

use alloc::format;
use alloc::string::String;
use alloc::vec::Vec;

use crate::aml::resource::{interrupts, template};
use crate::aml::{
    Term, arg, bits, call, device, dword_field, eisa_id, equal, give, method, name, or, otherwise,
    package, scope, serialized, store, when,
};

/// The mode, the two routing tables, and the links that they name.
pub(super) fn terms() -> [Term; 3] {
    let choose = method(
        "_PRT",
        0,
        [
            when(equal("PICF", 0), [give("PRTP")]),
            otherwise([give("PRTA")]),
        ],
    );
    let routing = scope(
        "PCI0",
        [
            name("PRTP", routing_table("LNK")),
            name("PRTA", routing_table("GSI")),
            choose,
        ],
    );
    let body = [routing, link_status(), link_setting()]
        .into_iter()
        .chain(
            LETTERS
                .into_iter()
                .zip(0..)
                .map(|(letter, uid)| link(letter, uid)),
        )
        .chain(
            LETTERS
                .into_iter()
                .zip(0x10..)
                .map(|(letter, number)| fixed_link(letter, number)),
        );
    [
        name("PICF", 0),
        method("_PIC", 1, [store(arg(0), "PICF")]),
        scope("_SB", body),
    ]
}

const LETTERS: [char; 8] = ['A', 'B', 'C', 'D', 'E', 'F', 'G', 'H'];

/// Four pins of 32 slots, as the chipset is wired at reset (QEMU
/// hw/i386/acpi-build.c, build_q35_routing_table()).
fn routing_table(prefix: &str) -> Term {
    let entry = |slot: u64, pin: u64| {
        let link = wired(slot, pin).map_or_else(String::new, |letter| format!("{prefix}{letter}"));
        package([
            (slot << 16 | 0xffff).into(),
            pin.into(),
            Term::from(link.as_str()),
            0.into(),
        ])
    };
    let entries: Vec<Term> = (0..32)
        .flat_map(|slot| (0..4).map(move |pin| (slot, pin)))
        .map(|(slot, pin)| entry(slot, pin))
        .collect();
    package(entries)
}

/// Slots take turns on the links E to H; those of the chipset's own devices begin with A.
fn wired(slot: u64, pin: u64) -> Option<char> {
    let (group, first) = match slot {
        0x1e => (4, 0),
        0x19..=0x1f => (0, 0),
        _ => (4, slot),
    };
    let turn = usize::try_from(first.wrapping_add(pin) % 4).ok()?;
    LETTERS.get(group..)?.get(turn).copied()
}

/// IQST: whether the link with this register is enabled.
fn link_status() -> Term {
    method(
        "IQST",
        1,
        [when(bits(0x80, arg(0)), [give(0x09)]), give(0x0b)],
    )
}

/// IQCR: the interrupt that a link's register names.
fn link_setting() -> Term {
    serialized(
        "IQCR",
        1,
        [
            name("PRR0", template([interrupts([0])])),
            dword_field("PRR0", 5, "PRRI"),
            store(bits(arg(0), 0x0f), "PRRI"),
            give("PRR0"),
        ],
    )
}

/// A link whose interrupt the guest may choose.
fn link(letter: char, uid: u64) -> Term {
    let register = format!("PRQ{letter}");
    let register = register.as_str();
    device(
        &format!("LNK{letter}"),
        [
            name("_HID", eisa_id("PNP0C0F")),
            name("_UID", uid),
            name("_PRS", template([interrupts([5, 10, 11])])),
            method("_STA", 0, [give(call("IQST", [register.into()]))]),
            method("_DIS", 0, [or(register, 0x80, register)]),
            method("_CRS", 0, [give(call("IQCR", [register.into()]))]),
            method(
                "_SRS",
                1,
                [dword_field(arg(0), 5, "PRRI"), store("PRRI", register)],
            ),
        ],
    )
}

/// A link to one input of the I/O APIC.
fn fixed_link(letter: char, number: u32) -> Term {
    let only = template([interrupts([number])]);
    device(
        &format!("GSI{letter}"),
        [
            name("_HID", eisa_id("PNP0C0F")),
            name("_UID", u64::from(number)),
            name("_PRS", only.clone()),
            name("_CRS", only),
            method("_DIS", 0, []),
            method("_SRS", 1, []),
        ],
    )
}
