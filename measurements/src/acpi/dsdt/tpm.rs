//! The TPM, and how a guest would ask the firmware to act on it.
//!
//! Our firmware honours no such request.
//!
//! Source: TCG Physical Presence Interface Specification 1.30; QEMU
//! hw/acpi/tpm.c, tpm_build_ppi_acpi().

use crate::aml::resource::{fixed_memory, template};
use crate::aml::{
    Access, Space, Term, Update, arg, bits, buffer, call, deref, device as define, equal, field,
    give, index, less, local, name, not, package, region, serialized, store, sum, text, uuid, when,
};

/// The device and its methods.
pub(super) fn device() -> Term {
    let zeros = |count: usize| package((0..count).map(|_| 0.into()));
    define(
        "TPM",
        [
            name("_HID", text("MSFT0101")),
            name("_STR", text("TPM 2.0 Device")),
            name("_UID", 1),
            name("_STA", 0x0f),
            name("_CRS", template([fixed_memory(BASE, LENGTH)])),
            region("TPP2", Space::Memory, REQUESTS.saturating_add(0x100), 0x5a),
            field(
                "TPP2",
                Access::Any,
                Update::Preserve,
                &[
                    ("PPIN", 8),
                    ("PPIP", 32),
                    ("PPRP", 32),
                    ("PPRQ", 32),
                    ("PPRM", 32),
                    ("LPPR", 32),
                ],
            ),
            region("TPP3", Space::Memory, REQUESTS.saturating_add(0x15a), 1),
            field("TPP3", Access::Byte, Update::Preserve, &[("MOVV", 8)]),
            function(),
            name("TPM2", zeros(2)),
            name("TPM3", zeros(3)),
            serialized("_DSM", 4, [presence(), memory_clear()]),
        ],
    )
}

/// Its registers.
pub(super) const BASE: u32 = 0xfed4_0000;
/// Five localities.
pub(super) const LENGTH: u32 = 0x5000;
/// What firmware and guest share.
const REQUESTS: u64 = 0xfed4_5000;

/// TPFN: what the firmware says about one function.
fn function() -> Term {
    serialized(
        "TPFN",
        1,
        [
            when(not(less(arg(0), 0x100)), [give(0)]),
            region("TPP1", Space::Memory, sum(REQUESTS, arg(0)), 1),
            field("TPP1", Access::Byte, Update::Preserve, &[("TPPF", 8)]),
            give("TPPF"),
        ],
    )
}

/// The physical presence functions (specification, table 1).
fn presence() -> Term {
    let interface = uuid(
        0x3ddd_faa6,
        0x361b,
        0x4eb4,
        [0xa4, 0x24, 0x8d, 0x10, 0x08, 0x9d, 0x16, 0x53],
    );
    let is = |function: u64| equal(arg(2), function);
    let revision = |number: u64| equal(arg(1), number);
    let argument = |at: u64| deref(index(arg(3), at));
    let allowed = || {
        [
            store(argument(0), local(0)),
            store(call("TPFN", [local(0)]), local(1)),
        ]
    };
    let unknown = || when(equal(bits(local(1), 7), 0), [give(1)]);
    let request = |parameter: Term| [store(local(0), "PPRQ"), store(parameter, "PPRM")];
    let triple = |second: &str, third: &str| {
        [
            store(second, index("TPM3", 1)),
            store(third, index("TPM3", 2)),
            give("TPM3"),
        ]
    };
    when(
        equal(arg(0), interface),
        [
            when(is(0), [give(buffer(&[0xff, 0x01]))]),
            when(is(1), [give(text("1.3"))]),
            when(
                is(2),
                allowed()
                    .into_iter()
                    .chain([unknown()])
                    .chain(request(0.into()))
                    .chain([give(0)]),
            ),
            when(
                is(3),
                [
                    when(revision(1), [store("PPRQ", index("TPM2", 1)), give("TPM2")]),
                    when(revision(2), triple("PPRQ", "PPRM")),
                ],
            ),
            when(is(4), [give(2)]),
            when(is(5), triple("LPPR", "PPRP")),
            when(is(6), [give(3)]),
            when(
                is(7),
                allowed().into_iter().chain([
                    unknown(),
                    when(equal(bits(local(1), 7), 2), [give(3)]),
                    when(revision(1), request(0.into())),
                    when(revision(2), request(argument(1))),
                    give(0),
                ]),
            ),
            when(
                is(8),
                allowed().into_iter().chain([give(bits(local(1), 7))]),
            ),
            give(buffer(&[0])),
        ],
    )
}

/// Whether memory is to be cleared at the next start (TCG Platform Reset Attack
/// Mitigation Specification 1.10, section 6).
fn memory_clear() -> Term {
    let interface = uuid(
        0x3760_54ed,
        0xcc13,
        0x4675,
        [0x90, 0x1c, 0x47, 0x56, 0xd7, 0xf2, 0xd4, 0x5d],
    );
    when(
        equal(arg(0), interface),
        [
            when(equal(arg(2), 0), [give(buffer(&[3]))]),
            when(
                equal(arg(2), 1),
                [
                    store(deref(index(arg(3), 0)), local(0)),
                    store(local(0), "MOVV"),
                    give(0),
                ],
            ),
        ],
    )
}
