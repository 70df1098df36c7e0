//! Registers that follow from one file or a few.

use std::fs::File;
use std::io::Read as _;
use std::path::PathBuf;

use anyhow::Context;
use attestation::appraisal::Verdict;
use clap::Args;
use measurements::acpi::Blobs;
use measurements::bank::Bank;
use measurements::digests::Digests;
use measurements::disk::DiskBoot;
use measurements::edk2::Edk2;
use measurements::firmware::Firmware;
use measurements::hob::Memory;
use measurements::kernel::served;
use measurements::load_options::load_options;
use measurements::mrtd::{Pass, mrtd};
use measurements::pcr::{pcr4, pcr9};
use measurements::pe::authenticode;
use measurements::qemu::version::Version;
use measurements::rtmr::{rtmr0, rtmr1, rtmr2};
use measurements::shape::Platform;
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

/// A boot of a kernel and an initrd.
#[derive(Args, Debug)]
pub struct KernelArgs {
    /// As given to QEMU's -kernel.
    kernel: PathBuf,
    /// As given to -initrd.
    #[arg(long, value_name = "FILE")]
    initrd: PathBuf,
    /// As given to -append.
    #[arg(long, value_name = "TEXT", default_value = "")]
    command_line: String,
    /// Of the guest: QEMU may write into the kernel where the initrd is.
    #[arg(long, value_name = "MIB")]
    memory: u32,
    /// Release of QEMU.
    #[arg(long, value_name = "MAJOR.MINOR", default_value_t = Version::CURRENT)]
    qemu: Version,
    /// Stable release of edk2 that the firmware is made of.
    #[arg(long, value_name = "YYYYMM", default_value_t = Edk2::CURRENT)]
    edk2: Edk2,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl KernelArgs {
    pub(super) fn run(&self) -> anyhow::Result<Verdict> {
        let (kernel, initrd) = (read(&self.kernel)?, read(&self.initrd)?);
        let memory = Memory { mib: self.memory };
        let initrd_size = u32::try_from(initrd.len()).context("initrd is too large")?;
        let image = |platform| {
            let handover = self.qemu.handover(self.edk2, platform, memory, initrd_size);
            let served = served(&kernel, handover)?;
            authenticode(&served)
                .with_context(|| format!("{} has no Authenticode digest", self.kernel.display()))
        };
        let options = load_options(&self.command_line, self.edk2.spelling())?;
        let (options, initrd) = (Digests::of(&options), Digests::of(&initrd));
        let mut bank = Bank::default();
        rtmr1::extend(&mut bank, image(Platform::Tdx)?);
        rtmr2::extend(&mut bank, options, initrd);
        pcr4::extend(&mut bank, image(Platform::Vtpm)?);
        pcr9::extend(&mut bank, options, initrd);
        print(&registers(&bank, &[4, 9]), self.json)?;
        Ok(Verdict::Trusted)
    }
}

/// A boot of a unified kernel image.
#[derive(Args, Debug)]
pub struct DiskArgs {
    /// The disk, with a GUID partition table.
    #[arg(long, value_name = "FILE")]
    disk: PathBuf,
    /// The image on its EFI system partition.
    #[arg(long, value_name = "FILE")]
    uki: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl DiskArgs {
    pub(super) fn run(&self) -> anyhow::Result<Verdict> {
        let mut table = Vec::new();
        File::open(&self.disk)
            .and_then(|disk| disk.take(PARTITION_TABLE).read_to_end(&mut table))
            .with_context(|| format!("cannot read {}", self.disk.display()))?;
        let boot = DiskBoot::new(&table, &read(&self.uki)?)?;
        print(&registers(&boot.bank(), &[4, 5, 9, 11]), self.json)?;
        Ok(Verdict::Trusted)
    }
}

/// More than the largest partition table that is read.
const PARTITION_TABLE: u64 = 1 << 20;

fn registers(bank: &Bank, pcrs: &[u8]) -> Vec<(String, String)> {
    let rtmrs = [1, 2].map(|index| (format!("rtmr{index}"), bank.rtmr(index).to_string()));
    let pcrs = pcrs
        .iter()
        .map(|index| (format!("pcr{index}"), bank.pcr(*index).to_string()));
    rtmrs.into_iter().chain(pcrs).collect()
}
