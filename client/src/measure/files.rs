//! Registers that follow from one file or a few.

use std::path::PathBuf;

use anyhow::Context;
use attestation::appraisal::Verdict;
use clap::Args;
use measurements::acpi::Blobs;
use measurements::bank::Bank;
use measurements::digests::Digests;
use measurements::firmware::Firmware;
use measurements::hob::Memory;
use measurements::kernel::{Handover, served};
use measurements::mrtd::{Pass, mrtd};
use measurements::pe::authenticode;
use measurements::rtmr::rtmr0;
use measurements::tdvf::Tdvf;
use measurements::variable;

use super::print;
use crate::artefacts::read;

/// A firmware file.
#[derive(Args, Debug)]
pub struct MrtdArgs {
    /// TDVF image, as given to QEMU's -bios.
    firmware: PathBuf,
    /// For older kernels, which add all pages before they measure the first.
    #[arg(long)]
    two_pass: bool,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl MrtdArgs {
    pub(super) fn run(&self) -> anyhow::Result<Verdict> {
        let file = read(&self.firmware)?;
        let tdvf = Tdvf::parse(&file)
            .with_context(|| format!("{} is not for TDX", self.firmware.display()))?;
        let pass = if self.two_pass {
            Pass::Two
        } else {
            Pass::Single
        };
        print(&[("mrtd", mrtd(&tdvf, pass).to_string())], self.json)?;
        Ok(Verdict::Trusted)
    }
}

/// What RTMR0 depends on.
#[derive(Args, Debug)]
pub struct Rtmr0Args {
    /// TDVF image, as given to QEMU's -bios.
    #[arg(long, value_name = "FILE")]
    firmware: PathBuf,
    /// Of the guest.
    #[arg(long, value_name = "MIB")]
    memory: u32,
    /// fw_cfg file etc/table-loader.
    #[arg(long, value_name = "FILE")]
    table_loader: PathBuf,
    /// fw_cfg file etc/acpi/rsdp.
    #[arg(long, value_name = "FILE")]
    rsdp: PathBuf,
    /// fw_cfg file etc/acpi/tables.
    #[arg(long, value_name = "FILE")]
    acpi_tables: PathBuf,
    /// Data of BootOrder, if it is not the firmware's own.
    #[arg(long, value_name = "FILE", requires = "boot_option")]
    boot_order: Option<PathBuf>,
    /// Data of each option that BootOrder lists, in its order.
    #[arg(long, value_name = "FILE", requires = "boot_order")]
    boot_option: Vec<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Rtmr0Args {
    pub(super) fn run(&self) -> anyhow::Result<Verdict> {
        let file = read(&self.firmware)?;
        let firmware = Firmware::parse(&file)
            .with_context(|| format!("{} is not for TDX", self.firmware.display()))?;
        let hob = firmware.td_hob(Memory { mib: self.memory })?;
        let acpi = Blobs::new(
            &read(&self.table_loader)?,
            &read(&self.rsdp)?,
            &read(&self.acpi_tables)?,
        );
        let mut boot = Vec::new();
        for path in self.boot_order.iter().chain(&self.boot_option) {
            let name = path.display().to_string();
            boot.push((name.into(), Digests::of(&read(path)?)));
        }
        if boot.is_empty() {
            boot.extend(variable::boot());
        }
        let mut bank = Bank::default();
        rtmr0::extend(&mut bank, &firmware, &hob, &acpi, boot)?;
        print(&[("rtmr0", bank.rtmr(0).to_string())], self.json)?;
        Ok(Verdict::Trusted)
    }
}

/// A kernel, and how QEMU hands it over.
#[derive(Args, Debug)]
pub struct KernelArgs {
    /// As given to QEMU's -kernel.
    kernel: PathBuf,
    /// For QEMU before 10.0, which fills in the setup header: the initrd.
    #[arg(long, value_name = "FILE", requires = "memory")]
    filled_in_for: Option<PathBuf>,
    /// Of the guest, for QEMU before 10.0.
    #[arg(long, value_name = "MIB", requires = "filled_in_for")]
    memory: Option<u32>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl KernelArgs {
    pub(super) fn run(&self) -> anyhow::Result<Verdict> {
        let handover = match (&self.filled_in_for, self.memory) {
            (Some(initrd), Some(mib)) => Handover::FilledIn {
                memory: Memory { mib },
                initrd_size: u32::try_from(read(initrd)?.len()).context("initrd is too large")?,
            },
            _ => Handover::Untouched,
        };
        let kernel = read(&self.kernel)?;
        let digests = authenticode(&served(&kernel, handover)?)
            .with_context(|| format!("{} has no Authenticode digest", self.kernel.display()))?;
        let lines = [
            ("sha256", digests.sha256.to_string()),
            ("sha384", digests.sha384.to_string()),
        ];
        print(&lines, self.json)?;
        Ok(Verdict::Trusted)
    }
}
