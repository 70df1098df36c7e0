//! The closed list of VM shapes that a release runs in.
//!
//! Firmware measures QEMU's ACPI tables, which describe the virtual hardware.
//! So processors, devices and, in a TD, memory are part of the identity, and
//! each shape has its own registers. A virtual TPM is not told how much memory
//! there is: shapes that differ in nothing else have the same PCRs.

use core::fmt;

use serde::{Serialize, Serializer};

use crate::acpi::Blobs;
use crate::hob::Memory;
use crate::machine::{Edition, Machine};

/// One kind of VM.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub struct Shape {
    /// What users call it.
    pub name: &'static str,
    /// Virtual processors, all cores of one socket.
    pub vcpus: u16,
    /// Of the guest.
    pub memory: Memory,
    /// Each behind its own root port.
    pub gpus: u8,
    /// NVSwitches, the same way: eight Hopper GPUs in protected PCIe mode need theirs.
    pub switches: u8,
}

impl Shape {
    /// The shape of that name, or of that short name.
    pub fn named(name: &str) -> Result<&'static Self, UnknownShape> {
        let short = SHORT_NAMES.iter().find(|(short, _)| *short == name);
        let name = short.map_or(name, |(_, name)| name);
        let mut shapes = SHAPES.iter();
        shapes.find(|shape| shape.name == name).ok_or(UnknownShape)
    }

    /// ACPI blobs of the QEMU that shapes are run with.
    #[must_use]
    pub fn acpi(&self, platform: Platform) -> Blobs {
        Blobs::of(&Machine::of(self, platform, Edition::V11_1))
    }
}

/// `"prefix" GPUs switches: vCPUs [GiB ..] ..;` to an array of shapes, after the given ones.
macro_rules! shapes {
    ($first:expr; $($prefix:literal $gpus:literal $switches:literal: $($vcpus:literal [$($gib:literal)+])+;)+) => {
        [$first, $($($(Shape {
            name: concat!($prefix, "-v", $vcpus, "-m", $gib, "g"),
            vcpus: $vcpus,
            memory: Memory { mib: $gib << 10 },
            gpus: $gpus,
            switches: $switches,
        },)+)+)+]
    };
}

/// Every shape, small ones first.
pub static SHAPES: [Shape; 83] = shapes! {
    SMALL;
    "cpu" 0 0: 4 [16 32 64] 8 [32 64 128] 16 [64 128 256] 32 [128 256 512] 64 [256 512 1024] 128 [512 1024 2048];
    "gpu1" 1 0: 4 [16 32 64] 8 [32 64 128] 16 [64 128 256] 32 [128 256 512];
    "gpu2" 2 0: 8 [64 128] 16 [128 256] 32 [256 512] 64 [512 1024];
    "gpu3" 3 0: 16 [128 256] 32 [256 512] 64 [512 1024];
    "gpu4" 4 0: 16 [128 256] 32 [256 512] 64 [512 1024] 128 [1024 2048];
    "gpu5" 5 0: 32 [256 512] 64 [512 1024] 128 [1024 2048];
    "gpu6" 6 0: 32 [256 512] 64 [512 1024] 128 [1024 2048];
    "gpu7" 7 0: 32 [256 512] 64 [512 1024] 128 [1024 2048];
    "gpu8" 8 0: 32 [256 512] 64 [512 1024] 128 [1024 2048];
    "gpu8sw4" 8 4: 32 [256 512] 64 [512 1024] 128 [1024 2048];
};

/// For a demonstration on any computer.
const SMALL: Shape = Shape {
    name: "small",
    vcpus: 2,
    memory: Memory { mib: 2048 },
    gpus: 0,
    switches: 0,
};

const SHORT_NAMES: [(&str, &str); 3] = [
    ("cpu-4x16", "cpu-v4-m16g"),
    ("gpu1", "gpu1-v16-m128g"),
    ("gpu8", "gpu8-v64-m512g"),
];

/// Who vouches for the registers.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub enum Platform {
    /// The TDX module: memory is confidential.
    Tdx,
    /// A virtual TPM: the boot is measured, memory is not confidential.
    Vtpm,
}

impl Platform {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Tdx, Self::Vtpm];
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tdx => "tdx",
            Self::Vtpm => "vtpm",
        })
    }
}

impl Serialize for Platform {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.collect_str(self)
    }
}

/// No shape has that name.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no such shape, expected one of {}", Names)]
pub struct UnknownShape;

struct Names;

impl fmt::Display for Names {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, shape) in SHAPES.iter().enumerate() {
            let comma = if index == 0 { "" } else { ", " };
            write!(f, "{comma}{}", shape.name)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::format;
    use alloc::string::{String, ToString};
    use alloc::vec::Vec;

    #[test]
    fn every_shape_is_found_by_its_name() {
        for shape in &SHAPES {
            assert_eq!(Shape::named(shape.name), Ok(shape));
        }
        for (short, name) in SHORT_NAMES {
            assert_eq!(Shape::named(short).unwrap().name, name);
        }
        let error = Shape::named("huge").unwrap_err().to_string();
        assert!(error.starts_with("no such shape, expected one of small, cpu-v4-m16g, "));
    }

    #[test]
    fn a_name_says_what_the_shape_is() {
        for shape in SHAPES.iter().filter(|shape| shape.name != "small") {
            let prefix = match (shape.gpus, shape.switches) {
                (0, 0) => "cpu".to_string(),
                (gpus, 0) => format!("gpu{gpus}"),
                (gpus, switches) => format!("gpu{gpus}sw{switches}"),
            };
            let gib = shape.memory.mib / 1024;
            assert_eq!(shape.name, format!("{prefix}-v{}-m{gib}g", shape.vcpus));
        }
    }

    #[test]
    fn what_was_promised_is_in_the_list() {
        for gpus in 0..=8 {
            assert!(SHAPES.iter().any(|shape| shape.gpus == gpus));
        }
        let vcpus = SHAPES.iter().map(|shape| shape.vcpus);
        let gib = SHAPES.iter().map(|shape| shape.memory.mib / 1024);
        assert_eq!((vcpus.clone().min(), vcpus.max()), (Some(2), Some(128)));
        assert_eq!((gib.clone().min(), gib.max()), (Some(2), Some(2048)));
    }

    #[test]
    fn no_two_shapes_are_the_same() {
        for (index, shape) in SHAPES.iter().enumerate() {
            let parts = |shape: &Shape| (shape.vcpus, shape.memory.mib, shape.gpus, shape.switches);
            let before = &SHAPES[..index];
            assert!(!before.iter().any(|other| parts(other) == parts(shape)));
        }
    }

    #[test]
    fn other_processors_or_gpus_have_other_tables() {
        for platform in Platform::ALL {
            let mut seen: Vec<((u16, u8, u8), _)> = Vec::new();
            for shape in &SHAPES {
                let parts = (shape.vcpus, shape.gpus, shape.switches);
                let tables = shape.acpi(platform).measured().unwrap();
                let differ = |(other, seen): &(_, _)| *other == parts || *seen != tables;
                assert!(seen.iter().all(differ), "{} {platform}", shape.name);
                seen.push((parts, tables));
            }
        }
    }

    #[test]
    fn only_a_vtpm_has_a_tpm_log() {
        for shape in &SHAPES {
            for platform in Platform::ALL {
                let measured = shape.acpi(platform).measured().unwrap();
                let names: Vec<String> = measured.into_iter().map(|(name, _)| name).collect();
                let expected: &[&str] = match platform {
                    Platform::Tdx => &["etc/table-loader", "etc/acpi/rsdp", "etc/acpi/tables"],
                    Platform::Vtpm => &[
                        "etc/table-loader",
                        "etc/acpi/rsdp",
                        "etc/tpm/log",
                        "etc/acpi/tables",
                    ],
                };
                assert_eq!(names, expected, "{} on {platform}", shape.name);
            }
        }
    }
}
