//! The processors, and how more of them would be announced.
//!
//! QEMU has no switch that leaves the announcements out.
//!
//! Source: QEMU hw/acpi/cpu.c, build_cpus_aml().

use alloc::format;
use alloc::vec::Vec;

use crate::acpi::madt;
use crate::aml::resource::{io, template};
use crate::aml::{
    Access, Space, Term, Update, acquire, arg, both, call, debug, deref, device, eisa_id, either,
    empty_package, equal, field, give, increment, index, leave, less, local, method, mutex, name,
    notify, processor, region, release, repeat, scope, serialized, store, text, when,
};
use crate::machine::Edition;

/// The registers, the processors, and the event.
pub(super) fn terms(vcpus: u8, edition: Edition) -> [Term; 2] {
    let each = 0..vcpus;
    let body = [
        name("_HID", text("ACPI0010")),
        name("_CID", eisa_id("PNP0A05")),
        tell(vcpus),
        status(),
        eject(),
        scan(vcpus),
        report(),
    ];
    let processors = device("\\_SB.CPUS", body.into_iter().chain(each.map(one)));
    [
        scope("_SB", [registers(edition), processors]),
        method("\\_GPE._E02", 0, [call("\\_SB.CPUS.CSCN", [])]),
    ]
}

/// PRES: the registers through which QEMU and guest talk.
///
/// Up to 10.0, QEMU had an older interface too, which a first write turns off.
fn registers(edition: Edition) -> Term {
    let flags = [
        ("", 32),
        ("CPEN", 1),
        ("CINS", 1),
        ("CRMV", 1),
        ("CEJ0", 1),
        ("CEJF", 1),
        ("", 3),
        ("CCMD", 8),
    ];
    let body = [
        name("_HID", eisa_id("PNP0A06")),
        name("_UID", text("CPU Hotplug resources")),
        mutex("CPLK"),
        name("_CRS", template([io(PORTS, 1, LENGTH)])),
        region("PRST", Space::Io, u64::from(PORTS), u64::from(LENGTH)),
        field("PRST", Access::Byte, Update::WriteAsZeros, &flags),
        field(
            "PRST",
            Access::DWord,
            Update::Preserve,
            &[("CSEL", 32), ("", 32), ("CDAT", 32)],
        ),
    ];
    let turn_off = serialized("_INI", 0, [store(0, "CSEL")]);
    let turn_off = (edition == Edition::V10_0).then_some(turn_off);
    device("\\_SB.PCI0.PRES", body.into_iter().chain(turn_off))
}

const PORTS: u16 = 0xcd8;
const LENGTH: u8 = 12;

/// CTFY: an event for one processor.
fn tell(vcpus: u8) -> Term {
    let one = |id: u8| when(equal(arg(0), u64::from(id)), [notify(&object(id), arg(1))]);
    method("CTFY", 2, (0..vcpus).map(one))
}

/// CSTA: whether a processor is there.
fn status() -> Term {
    serialized(
        "CSTA",
        1,
        [
            acquire(LOCK),
            store(arg(0), SELECT),
            store(0, local(0)),
            when(equal(ENABLED, 1), [store(0x0f, local(0))]),
            release(LOCK),
            give(local(0)),
        ],
    )
}

/// CEJ0: takes a processor out.
fn eject() -> Term {
    serialized(
        "CEJ0",
        1,
        [
            acquire(LOCK),
            store(arg(0), SELECT),
            store(1, EJECT),
            release(LOCK),
        ],
    )
}

/// CSCN: collects up to 255 changes at a time, then announces them.
fn scan(vcpus: u8) -> Term {
    let note = |list: &str, count: u8| {
        [
            store(local(3), index(list, local(count))),
            increment(local(count)),
            store(1, local(0)),
        ]
    };
    let collect = [
        store(0, local(0)),
        store(local(3), SELECT),
        store(0, COMMAND),
        // The next one is before this one: QEMU has no more to tell.
        when(less(DATA, local(3)), [leave()]),
        when(
            either(equal(local(1), 0xff), equal(local(5), 0xff)),
            [store(1, local(4)), leave()],
        ),
        store(DATA, local(3)),
        when(equal(INSERTED, 1), note("CNEW", 1)),
        when(equal(REMOVED, 1), note("CEJL", 5)),
        increment(local(3)),
    ];
    let announce = |list: &str, count: u8, event: u64, print: Option<Term>, done: &str| {
        let told = [
            store(deref(index(list, local(2))), local(3)),
            call("CTFY", [local(3), event.into()]),
        ];
        let cleared = [store(local(3), SELECT), store(1, done), increment(local(2))];
        let body = told.into_iter().chain(print).chain(cleared);
        [
            store(0, local(2)),
            repeat(less(local(2), local(count)), body),
        ]
    };
    let round = [
        store(0, local(4)),
        store(1, local(0)),
        store(0, local(1)),
        store(0, local(5)),
        repeat(
            both(equal(local(0), 1), less(local(3), u64::from(vcpus))),
            collect,
        ),
    ];
    let round = round
        .into_iter()
        .chain(announce(
            "CNEW",
            1,
            1,
            Some(store(local(3), debug())),
            INSERTED,
        ))
        .chain(announce("CEJL", 5, 3, None, REMOVED));
    serialized(
        "CSCN",
        0,
        [
            acquire(LOCK),
            name("CNEW", empty_package(0xff)),
            name("CEJL", empty_package(0xff)),
            store(0, local(3)),
            store(1, local(4)),
            repeat(equal(local(4), 1), round),
            release(LOCK),
        ],
    )
}

/// COST: tells QEMU what became of an event.
fn report() -> Term {
    serialized(
        "COST",
        4,
        [
            acquire(LOCK),
            store(arg(0), SELECT),
            store(1, COMMAND),
            store(arg(1), DATA),
            store(2, COMMAND),
            store(arg(2), DATA),
            release(LOCK),
        ],
    )
}

/// One processor; the first cannot be taken out.
pub(super) fn one(id: u8) -> Term {
    let number = || Term::from(u64::from(id));
    let mut body = Vec::from([
        serialized("_STA", 0, [give(call("CSTA", [number()]))]),
        name("_MAT", crate::aml::buffer(&madt::processor(id))),
    ]);
    if id > 0 {
        body.push(method("_EJ0", 1, [call("CEJ0", [number()])]));
    }
    let outcome = call("COST", [number(), arg(0), arg(1), arg(2)]);
    body.push(serialized("_OST", 3, [outcome]));
    processor(&object(id), id, body)
}

fn object(id: u8) -> alloc::string::String {
    format!("C{id:03X}")
}

const LOCK: &str = "\\_SB.PCI0.PRES.CPLK";
const SELECT: &str = "\\_SB.PCI0.PRES.CSEL";
const ENABLED: &str = "\\_SB.PCI0.PRES.CPEN";
const EJECT: &str = "\\_SB.PCI0.PRES.CEJ0";
const COMMAND: &str = "\\_SB.PCI0.PRES.CCMD";
const DATA: &str = "\\_SB.PCI0.PRES.CDAT";
const INSERTED: &str = "\\_SB.PCI0.PRES.CINS";
const REMOVED: &str = "\\_SB.PCI0.PRES.CRMV";
