//! From artefacts and a shape to registers.
//!
//! Each artefact is hashed once, whatever the number of shapes.

use alloc::string::String;

use attestation::register::{Digest256, Digest384, TdRegisters};

use crate::acpi::AcpiError;
use crate::bank::Bank;
use crate::digests::Digests;
use crate::firmware::{Crtm, CrtmError, Firmware};
use crate::load_options::{LoadOptionsError, Spelling, load_options};
use crate::pe::{PeError, authenticode};
use crate::rtmr::{rtmr0, rtmr1, rtmr2};
use crate::shape::{Platform, Shape};
use crate::tdvf::TdvfError;
use crate::{kernel, pcr};

/// The files that a VM boots from, and its command line.
#[derive(Clone, Copy, Debug)]
pub struct Files<'a> {
    /// As given to QEMU's -bios.
    pub firmware: &'a [u8],
    /// As given to -kernel.
    pub kernel: &'a [u8],
    /// As given to -initrd.
    pub initrd: &'a [u8],
    /// As given to -append.
    pub command_line: &'a str,
}

/// The same, hashed.
#[derive(Clone, Debug)]
pub struct Artefacts<'a> {
    firmware: Firmware<'a>,
    crtm: Crtm,
    kernel: Digests,
    load_options: Digests,
    initrd: Digests,
}

impl<'a> Artefacts<'a> {
    /// Hashes what any shape measures.
    pub fn new(files: Files<'a>) -> Result<Self, PredictError> {
        // Every shape's QEMU is later than 10.2, and OVMF 2025.02 spells it so.
        let served = kernel::served(files.kernel, kernel::Handover::Untouched)?;
        let options = load_options(files.command_line, Spelling::After)?;
        Ok(Self {
            firmware: Firmware::parse(files.firmware)?,
            crtm: Crtm::of(files.firmware)?,
            kernel: authenticode(&served)?,
            load_options: Digests::of(&options),
            initrd: Digests::of(files.initrd),
        })
    }

    /// What a TD of this shape reports.
    pub fn tdx(&self, shape: &Shape) -> Result<Tdx, PredictError> {
        let hob = self.firmware.td_hob(shape.memory)?;
        let mut bank = Bank::default();
        rtmr0::extend(&mut bank, &self.firmware, &hob, &shape.acpi(Platform::Tdx))?;
        rtmr1::extend(&mut bank, self.kernel);
        rtmr2::extend(&mut bank, self.load_options, self.initrd);
        let registers = TdRegisters {
            mrtd: self.firmware.mrtd,
            rtmr0: bank.rtmr(0),
            rtmr1: bank.rtmr(1),
            rtmr2: bank.rtmr(2),
            rtmr3: bank.rtmr(3),
        };
        Ok(Tdx { registers, bank })
    }

    /// What the virtual TPM of a VM of this shape reports, the config apart.
    pub fn vtpm(&self, shape: &Shape) -> Result<Vtpm, PredictError> {
        let mut bank = Bank::default();
        pcr::pcr0::extend(&mut bank, &self.crtm);
        pcr::pcr7::extend(&mut bank);
        pcr::pcr1::extend(&mut bank, &shape.acpi(Platform::Vtpm))?;
        pcr::pcr4::extend(&mut bank, self.kernel);
        for index in [2, 3, 6] {
            pcr::separator(&mut bank, index);
        }
        pcr::pcr9::extend(&mut bank, self.load_options, self.initrd);
        pcr::pcr5::extend(&mut bank);
        Ok(Vtpm { bank })
    }
}

/// Registers of a TD, and the events that make them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Tdx {
    /// What a quote must hold.
    pub registers: TdRegisters,
    /// RTMR0 to RTMR2, event by event. MRTD has none: it is the firmware's own.
    pub bank: Bank,
}

/// PCRs of a virtual TPM, and the events that make them.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Vtpm {
    /// What firmware and kernel extend.
    pub bank: Bank,
}

impl Vtpm {
    /// PCR 0 to 15 of the SHA-256 bank once init has measured this configuration.
    #[must_use]
    pub fn pcrs(&self, config: Digest384) -> [Digest256; 16] {
        let mut bank = self.bank.clone();
        pcr::pcr8::extend(&mut bank, config);
        core::array::from_fn(|index| bank.pcr(u8::try_from(index).unwrap_or(u8::MAX)))
    }
}

/// Why registers cannot be predicted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum PredictError {
    /// Of the shape.
    #[error("ACPI blobs are not QEMU's")]
    Acpi(#[from] AcpiError),
    /// Of the firmware, for PCR 0.
    #[error("firmware volumes are not known")]
    Crtm(#[from] CrtmError),
    /// Of the kernel.
    #[error("kernel has no Authenticode digest")]
    Kernel(#[from] PeError),
    /// Of the kernel, as a Linux kernel.
    #[error("kernel cannot be served")]
    Linux(#[from] kernel::KernelError),
    /// Of the command line.
    #[error("command line cannot be passed on")]
    LoadOptions(#[from] LoadOptionsError),
    /// Of the firmware.
    #[error("firmware is not for TDX")]
    Tdvf(#[from] TdvfError),
    /// Not among [`crate::shape::SHAPES`].
    #[error("{name:?} is not a shape of this release")]
    UnknownShape {
        /// As asked for.
        name: String,
    },
}
