//! Registers of every shape of a release, beside the hashing that no way of predicting
//! them can avoid, on one core.
//!
//! `cargo bench -p measurements --bench shapes`. Needs the recorded vectors.

#![allow(clippy::unwrap_used, reason = "a benchmark of broken input may panic")]

#[path = "../src/vectors.rs"]
mod vectors;

use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::Criterion;
use measurements::digests::Digests;
use measurements::predict::{Artefacts, Files};
use measurements::shape::{Platform, SHAPES};

fn main() {
    let Some(firmware) = vectors::firmware("debian-2025.02-8+deb13u1") else {
        return;
    };
    let (kernel, initrd) = (kernel(), vec![0x5a; 2 << 20]);
    let files = Files {
        firmware: &firmware,
        kernel: &kernel,
        initrd: &initrd,
        command_line: "console=ttyS0",
    };
    let mut criterion = Criterion::default();
    let everything = best(&mut criterion, "every shape, artefacts included", || {
        every_shape(&Artefacts::new(files).unwrap())
    });
    let artefacts = Artefacts::new(files).unwrap();
    best(
        &mut criterion,
        "every shape, artefacts hashed before",
        || every_shape(&artefacts),
    );
    best(&mut criterion, "the ACPI tables of every shape", || {
        for shape in &SHAPES {
            black_box(Platform::ALL.map(|platform| shape.acpi(platform)));
        }
    });
    // As many tables as there are shapes and platforms, 128 KiB each.
    let tables = vec![0; 128 << 10];
    let hashing = best(&mut criterion, "hashing as many tables", || {
        for _ in SHAPES.iter().zip(0_u8..).flat_map(|_| Platform::ALL) {
            black_box(Digests::of(&tables));
        }
    });
    println!(
        "{} shapes on two platforms: {:.0} ms, {:.2} times the hashing of their tables",
        SHAPES.len(),
        everything.as_secs_f64() * 1e3,
        everything.as_secs_f64() / hashing.as_secs_f64(),
    );
}

fn every_shape(artefacts: &Artefacts<'_>) {
    for shape in &SHAPES {
        black_box(artefacts.tdx(shape).unwrap());
        black_box(artefacts.vtpm(shape).unwrap());
    }
}

/// Has criterion measure, and tells the shortest run.
fn best(criterion: &mut Criterion, name: &str, mut work: impl FnMut()) -> Duration {
    let mut best = Duration::MAX;
    criterion.bench_function(name, |bencher| {
        bencher.iter(|| {
            let started = Instant::now();
            work();
            best = best.min(started.elapsed());
        });
    });
    best
}

/// A program of the size of ours: headers, and 4 MiB behind them.
fn kernel() -> Vec<u8> {
    let mut file = vec![0; 4 << 20];
    for (at, value) in [
        (0, u32::from_le_bytes(*b"MZ\0\0")),
        (60, 64),
        (64, u32::from_le_bytes(*b"PE\0\0")),
        (84, 240),
        (88, 0x20b),
        (148, 512),
    ] {
        let field: &mut [u8; 4] = file.get_mut(at..).unwrap().first_chunk_mut().unwrap();
        *field = u32::to_le_bytes(value);
    }
    file
}
