//! From artefacts and a shape to registers.
//!
//! Each artefact is hashed once, whatever the number of shapes.

use attestation::register::{Digest256, Digest384, TdRegisters};

use crate::acpi::{AcpiError, Blobs};
use crate::bank::Bank;
use crate::digests::Digests;
use crate::edk2::Edk2;
use crate::firmware::{Crtm, CrtmError, Firmware};
use crate::load_options::{LoadOptionsError, load_options};
use crate::machine::{Edition, Machine};
use crate::pe::{PeError, authenticode};
use crate::qemu::version::{UnknownTables, Version};
use crate::rtmr::{rtmr0, rtmr1, rtmr2};
use crate::shape::{Platform, Shape};
use crate::tdvf::TdvfError;
use crate::{pcr, variable};

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
    edition: Edition,
}

impl<'a> Artefacts<'a> {
    /// Hashes what any shape measures.
    pub fn new(files: Files<'a>) -> Result<Self, PredictError> {
        let options = load_options(files.command_line, Edk2::CURRENT.spelling())?;
        Ok(Self {
            firmware: Firmware::parse(files.firmware)?,
            crtm: Crtm::of(files.firmware)?,
            // Every QEMU whose tables are known offers this firmware an untouched copy.
            kernel: authenticode(files.kernel)?,
            load_options: Digests::of(&options),
            initrd: Digests::of(files.initrd),
            edition: Edition::V11_1,
        })
    }

    /// On another release of QEMU.
    pub fn with_qemu(self, version: Version) -> Result<Self, UnknownTables> {
        let edition = version.edition()?;
        Ok(Self { edition, ..self })
    }

    /// What a TD of this shape reports.
    pub fn tdx(&self, shape: &Shape) -> Result<Tdx, PredictError> {
        let hob = self.firmware.td_hob(shape.memory)?;
        let mut bank = Bank::default();
        rtmr0::extend(
            &mut bank,
            &self.firmware,
            &hob,
            &self.acpi(shape, Platform::Tdx),
            variable::boot(),
        )?;
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
        pcr::pcr1::extend(&mut bank, &self.acpi(shape, Platform::Vtpm))?;
        pcr::pcr4::extend(&mut bank, self.kernel);
        for index in [2, 3, 6] {
            pcr::separator(&mut bank, index);
        }
        pcr::pcr9::extend(&mut bank, self.load_options, self.initrd);
        pcr::pcr5::extend(&mut bank, None);
        Ok(Vtpm { bank })
    }

    fn acpi(&self, shape: &Shape, platform: Platform) -> Blobs {
        Blobs::of(&Machine::of(shape, platform, self.edition))
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
    /// Of the command line.
    #[error("command line cannot be passed on")]
    LoadOptions(#[from] LoadOptionsError),
    /// Of the firmware.
    #[error("firmware is not for TDX")]
    Tdvf(#[from] TdvfError),
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::bank::Register;
    use crate::explain::explain;
    use crate::{rtmr, vectors};
    use alloc::string::ToString;
    use alloc::vec::Vec;
    use attestation::eventlog::Log;

    const LOG: &[u8] = include_bytes!("../tests/vectors/small-vtpm.eventlog");

    /// The boot that was recorded: firmware from the vectors, the digests of the rest.
    fn recorded(firmware: &[u8]) -> Artefacts<'_> {
        let options = load_options("console=ttyS0 quiet", Edk2::CURRENT.spelling()).unwrap();
        Artefacts {
            firmware: Firmware::parse(firmware).unwrap(),
            crtm: Crtm::of(firmware).unwrap(),
            kernel: digests(
                "782467f032ce2d6a96d9131eac2bcf910ba46099c99e6cfd20555da97a7f1390",
                "b87b2bfd7eb3fcc0c5e3f28a8bd807420d85d8d2ccd0d2727a5b7025aa2d16a6\
                 c3369b80556175dad1e1749843ee8f93",
            ),
            load_options: Digests::of(&options),
            initrd: digests(
                "1015a3233752116ba9e4313fa8533e24d00f9b7291de7fb15e95fabf73ac2622",
                "e473db858fcdde800d36e1f0d65166d44d16bc01bd7b7732cabca5cd134b2c1b\
                 3263861bea47f37ac1d25bfd05c52e3a",
            ),
            edition: Edition::V11_1,
        }
    }

    fn digests(sha256: &str, sha384: &str) -> Digests {
        Digests {
            sha256: sha256.parse().unwrap(),
            sha384: sha384.parse().unwrap(),
        }
    }

    fn firmware() -> Option<Vec<u8>> {
        vectors::firmware("debian-2025.02-8+deb13u1")
    }

    #[test]
    fn every_event_of_a_real_boot_is_predicted() {
        let Some(file) = firmware() else { return };
        let shape = Shape::named("small").unwrap();
        let bank = recorded(&file).vtpm(shape).unwrap().bank;
        let log = Log::parse_tpm(LOG).unwrap();
        let registers: Vec<Register> = (0..pcr::COUNT).map(Register::Pcr).collect();
        let lines = explain(&bank, &log, &registers);
        let wrong: Vec<_> = lines.iter().filter(|line| !line.agrees()).collect();
        assert!(wrong.is_empty(), "{wrong:#?}");
        let logged = log.unverified_events().iter().filter(|e| e.extends());
        assert_eq!(lines.len(), logged.count());
    }

    /// As the guest read them from its TPM.
    #[test]
    fn every_register_of_a_real_boot_is_predicted() {
        let Some(file) = firmware() else { return };
        let separator = "3d458cfe55cc03ea1f443f1562beec8df51c75e14a9fcf9a7234a13f198e7969";
        let zero = "0000000000000000000000000000000000000000000000000000000000000000";
        let expected = [
            "0101271704ccc2360ddbb08438d591c23fb8a0a9cb0cebc60cefea7868833f8e",
            "87c26bd6a0bf377a86b448a71fbacbbc1d7f671705340d228d69ea9b6802e614",
            separator,
            separator,
            "b647ed3ea6befbcd01a611fb66a94f9df9d3f211aeb14d6da0d5ea968a940cba",
            "a5ceb755d043f32431d63e39f5161464620a3437280494b5850dc1b47cc074e0",
            separator,
            "b5710bf57d25623e4019027da116821fa99f5c81e9e38b87671cc574f9281439",
            zero,
            "668f8ef46fa2ecc97367dbd62ffbc7f012e23cc05ab27f58e88b57763565cf50",
        ];
        let shape = Shape::named("small").unwrap();
        let bank = recorded(&file).vtpm(shape).unwrap().bank;
        for (index, expected) in (0..pcr::COUNT).zip(expected.into_iter().chain([zero; 6])) {
            assert_eq!(bank.pcr(index).to_string(), expected, "PCR {index}");
        }
    }

    #[test]
    fn a_real_boot_mapped_to_rtmrs_agrees_with_the_td_prediction() {
        let Some(file) = firmware() else { return };
        let log = Log::parse_tpm(LOG).unwrap();
        let found = rtmr::from_tpm_log(&log).unwrap();
        let tdx = recorded(&file).tdx(Shape::named("small").unwrap()).unwrap();
        assert_eq!(found, [tdx.registers.rtmr1, tdx.registers.rtmr2]);
    }

    #[test]
    fn another_shape_changes_rtmr0_and_pcr_1_alone() {
        let Some(file) = firmware() else { return };
        let artefacts = recorded(&file);
        let [small, large] = ["small", "gpu8"].map(|name| Shape::named(name).unwrap());
        let [a, b] = [small, large].map(|shape| artefacts.tdx(shape).unwrap().registers);
        assert_ne!(a.rtmr0, b.rtmr0);
        assert_eq!(
            TdRegisters {
                rtmr0: b.rtmr0,
                ..a
            },
            b,
            "everything but RTMR0"
        );
        let config = Digest384::of(b"");
        let [a, b] = [small, large].map(|shape| artefacts.vtpm(shape).unwrap().pcrs(config));
        let changed: Vec<usize> = (0..16).filter(|index| a[*index] != b[*index]).collect();
        assert_eq!(changed, [1]);
    }
}
