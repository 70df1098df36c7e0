//! The closed list of VM shapes that a release runs in.
//!
//! Firmware measures QEMU's ACPI tables, which describe the virtual hardware.
//! So processors, memory and devices are part of the identity, and each shape
//! has its own registers. The tables of each are under `shapes/`, whose README
//! says how they were made.

use core::fmt;

use serde::{Serialize, Serializer};

use crate::acpi::Blobs;
use crate::hob::Memory;

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
    tdx: Raw,
    vtpm: Raw,
}

impl Shape {
    /// The shape of that name.
    pub fn named(name: &str) -> Result<&'static Self, UnknownShape> {
        let mut shapes = SHAPES.iter();
        shapes.find(|shape| shape.name == name).ok_or(UnknownShape)
    }

    /// QEMU's ACPI blobs.
    #[must_use]
    pub fn acpi(&self, platform: Platform) -> Blobs {
        let raw = match platform {
            Platform::Tdx => self.tdx,
            Platform::Vtpm => self.vtpm,
        };
        Blobs::new(raw.loader, raw.rsdp, raw.tables)
    }
}

macro_rules! shape {
    ($name:literal, $vcpus:literal, $mib:literal, $gpus:literal) => {
        Shape {
            name: $name,
            vcpus: $vcpus,
            memory: Memory { mib: $mib },
            gpus: $gpus,
            tdx: raw!(concat!("../shapes/", $name, "-tdx")),
            vtpm: raw!(concat!("../shapes/", $name, "-vtpm")),
        }
    };
}

macro_rules! raw {
    ($folder:expr) => {
        Raw {
            loader: include_bytes!(concat!($folder, "/table-loader")),
            rsdp: include_bytes!(concat!($folder, "/rsdp")),
            tables: include_bytes!(concat!($folder, "/tables")),
        }
    };
}

/// Every shape, small ones first.
pub const SHAPES: [Shape; 4] = [
    shape!("small", 2, 2048, 0),
    shape!("cpu-4x16", 4, 16384, 0),
    shape!("gpu1", 16, 131_072, 1),
    shape!("gpu8", 64, 524_288, 8),
];

/// The blobs as stored: without the zeros at their ends.
#[derive(Clone, Copy, Eq, PartialEq)]
struct Raw {
    loader: &'static [u8],
    rsdp: &'static [u8],
    tables: &'static [u8],
}

impl fmt::Debug for Raw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes of tables", self.tables.len())
    }
}

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
    use alloc::string::{String, ToString};
    use alloc::vec::Vec;

    #[test]
    fn every_shape_is_found_by_its_name() {
        for shape in &SHAPES {
            assert_eq!(Shape::named(shape.name), Ok(shape));
        }
        assert_eq!(
            Shape::named("huge").unwrap_err().to_string(),
            "no such shape, expected one of small, cpu-4x16, gpu1, gpu8"
        );
    }

    #[test]
    fn no_two_shapes_measure_alike() {
        let mut seen = Vec::new();
        for (shape, platform) in SHAPES.iter().zip(Platform::ALL) {
            seen.push(shape.acpi(platform).measured().unwrap());
        }
        for (index, tables) in seen.iter().enumerate() {
            assert!(!seen[..index].contains(tables));
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
