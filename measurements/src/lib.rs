//! What a VM booted from given files must report.
//!
//! Files and settings in, register values out, each with the list of events
//! that make it. No device, file or clock is touched: the same inputs give an
//! auditor the same answer anywhere. Nothing here says that a machine *did*
//! report these values; that is a quote's part.

#![no_std]
#![forbid(unsafe_code)]

extern crate alloc;

#[cfg(test)]
extern crate std;

pub mod acpi;
pub mod bank;
pub mod corim;
pub mod diff;
pub mod digests;
pub mod disk;
pub mod edk2;
pub mod explain;
pub mod firmware;
pub mod gpt;
pub mod hob;
pub mod initrd;
pub mod kernel;
pub mod load_options;
pub mod materials;
pub mod mrconfigid;
pub mod mrtd;
pub mod pcr;
pub mod pe;
pub mod predict;
pub mod qemu;
pub mod release;
pub mod root;
pub mod rtmr;
pub mod shape;
pub mod tdvf;
pub mod uki;
pub mod variable;
pub mod volume;

mod aml;
mod guid;
mod machine;
#[cfg(test)]
mod vectors;
