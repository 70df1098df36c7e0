//! The way from each file to the register that it ends in, laid out for a picture.
//!
//! Three columns: what is given, the events that it causes, the registers that they
//! make. Events are those of the rebuild; one is marked when what decides it is not
//! what the release states, and a register when its value is not.

use anyhow::Context;
use attestation::register::{Digest384, TdRegisters};
use measurements::bank::{Register as Index, Source};
use measurements::predict;
use measurements::release::Artefact;
use measurements::shape::Shape;
use serde::Serialize;

use super::{Audit, file};
use crate::artefacts::Artefacts;

/// The picture for one shape.
#[derive(Debug, Serialize)]
pub struct Chain {
    /// Name of the shape.
    pub shape: &'static str,
    /// Left column.
    pub inputs: Vec<Input>,
    /// Right column, each with its events in the middle one.
    pub registers: Vec<Register>,
    /// Lines between the columns; those to look at come last, on top.
    pub edges: Vec<Edge>,
    /// Of the picture.
    pub height: f32,
}

/// What is given.
#[derive(Debug, Serialize)]
pub struct Input {
    /// What it is.
    pub title: String,
    /// What it does, where that is not plain.
    pub note: &'static str,
    /// Which, as the release states it.
    pub stated: String,
    /// Which, as it was built.
    pub rebuilt: String,
    /// Whether the two are not the same.
    pub differs: bool,
    /// Upper edge.
    pub y: f32,
    /// Of the events that it decides; the root disk decides none, the initrd names it.
    #[serde(skip)]
    source: Option<Source>,
}

/// A register with its value.
#[derive(Debug, Serialize)]
pub struct Register {
    /// Name of it.
    pub name: String,
    /// What it stands for.
    pub note: String,
    /// As the release states it.
    pub stated: Digest384,
    /// As it follows from the rebuild.
    pub rebuilt: Digest384,
    /// Whether the two are not the same.
    pub differs: bool,
    /// What makes it, in order.
    pub events: Vec<Event>,
    /// Upper edge.
    pub y: f32,
}

/// Something that is measured.
#[derive(Debug, Serialize)]
pub struct Event {
    /// What was hashed.
    pub what: String,
    /// Which input decides it.
    pub source: String,
    /// As the rebuild gives it.
    pub digest: Digest384,
    /// Whether what decides it differs.
    pub differs: bool,
    /// Nothing of the release decides it.
    pub constant: bool,
    /// Upper edge.
    pub y: f32,
    #[serde(skip)]
    decided_by: Source,
}

/// A line from one column to the next.
#[derive(Debug, Serialize)]
pub struct Edge {
    /// Path data.
    pub path: String,
    /// Whether it leads from something that differs.
    pub differs: bool,
    /// Whether it comes from something that never changes.
    pub constant: bool,
    /// Whether it needs a head to be understood.
    pub arrow: bool,
}

impl Chain {
    /// Draws `shape`, or the first that the release states.
    pub fn of(audit: &Audit, artefacts: &Artefacts, shape: Option<&str>) -> anyhow::Result<Self> {
        let first = audit.stated.release.shapes.first();
        let first = first.context("the release states no shape")?;
        let shape = Shape::named(shape.unwrap_or(&first.name))?;
        let stated = audit.stated.release.shape(shape.name)?.tdx;
        let predicted = predict::Artefacts::new(artefacts.files())?.tdx(shape)?;
        let mut inputs = inputs(audit, shape, &stated, &predicted.registers);
        let mut registers = registers(audit, &inputs, &stated, &predicted);
        let height = place_registers(&mut registers).max(place_inputs(&mut inputs, &registers));
        Ok(Self {
            shape: shape.name,
            edges: edges(&inputs, &registers),
            inputs,
            registers,
            height,
        })
    }
}

/// In the order of the picture.
fn inputs(audit: &Audit, shape: &Shape, stated: &TdRegisters, rebuilt: &TdRegisters) -> Vec<Input> {
    let (a, b) = (&audit.stated.release, &audit.rebuilt.release);
    let input = |source: Option<Source>, title: &str, [stated, rebuilt]: [String; 2]| Input {
        title: title.into(),
        note: if source.is_none() {
            "its hash is in the initrd"
        } else {
            ""
        },
        differs: stated != rebuilt,
        stated,
        rebuilt,
        y: 0.0,
        source,
    };
    let artefact = |source, name| {
        let digest = |release| file(release, name).map(|file| file.sha256.to_string());
        let digests = [a, b].map(|release| digest(release).unwrap_or_else(|| "absent".into()));
        input(source, name, digests)
    };
    let firmware = artefact(Some(Source::Firmware), Artefact::FIRMWARE);
    let gib = shape.memory.mib / 1024;
    let hardware = format!("{} vCPU, {gib} GiB, {} GPU", shape.vcpus, shape.gpus);
    let title = format!("shape {}", shape.name);
    let mut hardware = input(
        Some(Source::Shape),
        &title,
        [0; 2].map(|_| hardware.clone()),
    );
    // Its tables are no file: with the same firmware, only they move RTMR0.
    hardware.differs = stated.rtmr0 != rebuilt.rtmr0 && !firmware.differs;
    let lines = [a, b].map(|release| release.command_line.clone());
    let configs = [a, b].map(|release| {
        let names = release.configs.iter().map(|config| config.name.clone());
        names.collect::<Vec<_>>().join(", ")
    });
    vec![
        firmware,
        hardware,
        artefact(Some(Source::Kernel), Artefact::KERNEL),
        input(Some(Source::CommandLine), "command line", lines),
        artefact(Some(Source::Initrd), Artefact::INITRD),
        artefact(None, Artefact::ROOT),
        input(Some(Source::Config), "configuration", configs),
    ]
}

fn registers(
    audit: &Audit,
    inputs: &[Input],
    stated: &TdRegisters,
    predicted: &predict::Tdx,
) -> Vec<Register> {
    let event = |what: &str, source: Source, digest| Event {
        what: what.into(),
        source: source.to_string(),
        digest,
        differs: inputs
            .iter()
            .any(|input| input.differs && input.source == Some(source)),
        constant: source == Source::Constant,
        y: 0.0,
        decided_by: source,
    };
    let register = |name: &str, note: &str, stated, rebuilt, events| Register {
        name: name.into(),
        note: note.into(),
        differs: stated != rebuilt,
        stated,
        rebuilt,
        events,
        y: 0.0,
    };
    let rtmr = |index| {
        let events = predicted.bank.events_of(Index::Rtmr(index));
        let event = |it: &measurements::bank::Event| event(&it.what, it.source, it.digests.sha384);
        events.map(event).collect()
    };
    let found = &predicted.registers;
    let pages = vec![event("pages of the firmware", Source::Firmware, found.mrtd)];
    let mut registers = vec![
        register("MRTD", "firmware at launch", stated.mrtd, found.mrtd, pages),
        register(
            "RTMR0",
            "hardware, settings",
            stated.rtmr0,
            found.rtmr0,
            rtmr(0),
        ),
        register("RTMR1", "kernel", stated.rtmr1, found.rtmr1, rtmr(1)),
        register(
            "RTMR2",
            "command line, initrd",
            stated.rtmr2,
            found.rtmr2,
            rtmr(2),
        ),
    ];
    let configs = audit.stated.release.configs.iter();
    for (a, b) in configs.zip(&audit.rebuilt.release.configs) {
        let text = vec![event("text of the configuration", Source::Config, b.sha384)];
        registers.push(register("MRCONFIGID", &a.name, a.sha384, b.sha384, text));
    }
    registers
}

/// One below the other, each beside the middle of its events; where they end.
fn place_registers(registers: &mut [Register]) -> f32 {
    let mut top = TOP;
    for register in registers {
        let rows = register.events.iter().fold(0.0, |height, _| height + ROW);
        let height = f32::max(rows, CARD);
        let mut y = top + (height - rows) / 2.0;
        for event in &mut register.events {
            event.y = y;
            y += ROW;
        }
        register.y = top + (height - CARD) / 2.0;
        top += height + GROUP;
    }
    top
}

/// Each beside the first of its events, or as near as the one above leaves room; where they end.
fn place_inputs(inputs: &mut [Input], registers: &[Register]) -> f32 {
    let mut free = TOP;
    for input in inputs {
        let mut events = registers.iter().flat_map(|register| &register.events);
        let first = events.find(|event| Some(event.decided_by) == input.source);
        let beside = first.map_or(free, |event| event.y + (EVENT - INPUT) / 2.0);
        input.y = beside.max(free);
        free = input.y + INPUT + GAP;
    }
    free
}

fn edges(inputs: &[Input], registers: &[Register]) -> Vec<Edge> {
    let mut edges = Vec::new();
    for register in registers {
        for event in &register.events {
            let middle = event.y + EVENT / 2.0;
            let giver = inputs
                .iter()
                .find(|input| input.source == Some(event.decided_by));
            if let Some(input) = giver {
                let from = input.y + INPUT / 2.0;
                edges.push(edge((INPUT_RIGHT, from), (EVENT_LEFT, middle), event));
            }
            let to = register.y + CARD / 2.0;
            edges.push(edge((EVENT_RIGHT, middle), (CARD_LEFT, to), event));
        }
    }
    // The disk is in no register but by its hash, which the initrd holds.
    for pair in inputs.windows(2) {
        if let [initrd, root] = pair
            && root.source.is_none()
        {
            let (from, to) = (root.y, initrd.y + INPUT + 3.0);
            edges.push(Edge {
                path: format!("M40 {from} V{to}"),
                differs: root.differs,
                constant: false,
                arrow: true,
            });
        }
    }
    edges.sort_by_key(|edge| (edge.differs, !edge.constant));
    edges
}

fn edge((x1, y1): (f32, f32), (x2, y2): (f32, f32), event: &Event) -> Edge {
    let middle = (x1 + x2) / 2.0;
    Edge {
        path: format!("M{x1} {y1} C{middle} {y1} {middle} {y2} {x2} {y2}"),
        differs: event.differs,
        constant: event.constant,
        arrow: false,
    }
}

/// Where the columns begin and end; the page draws by the same numbers.
const INPUT_RIGHT: f32 = 290.0;
const EVENT_LEFT: f32 = 400.0;
const EVENT_RIGHT: f32 = 730.0;
const CARD_LEFT: f32 = 840.0;
/// Heights.
const INPUT: f32 = 64.0;
const EVENT: f32 = 26.0;
const CARD: f32 = 92.0;
/// From one event to the next.
const ROW: f32 = 32.0;
const GROUP: f32 = 22.0;
const GAP: f32 = 22.0;
const TOP: f32 = 40.0;
