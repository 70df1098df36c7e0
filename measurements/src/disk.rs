//! A boot of a unified kernel image from a GPT disk, as clouds do it.
//!
//! Only what follows from the disk is here. A cloud's firmware and virtual hardware
//! are its own, so MRTD and RTMR0, or PCR 0 to 3, are not predicted.

use crate::bank::Bank;
use crate::digests::Digests;
use crate::gpt::{self, GptError};
use crate::pcr::{pcr4, pcr5, pcr9, pcr11};
use crate::rtmr::{rtmr1, rtmr2};
use crate::uki::{Uki, UkiError};

/// What boots.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct DiskBoot {
    /// Of the event of the partition table.
    pub gpt: Digests,
    /// `EFI/BOOT/BOOTX64.EFI` of the EFI system partition.
    pub uki: Uki,
}

impl DiskBoot {
    /// From the beginning of the disk, and the file on it. That the file is on the disk
    /// is not checked.
    pub fn new(disk: &[u8], uki: &[u8]) -> Result<Self, DiskError> {
        Ok(Self {
            gpt: Digests::of(&gpt::event(disk)?),
            uki: Uki::parse(uki)?,
        })
    }

    /// RTMR1 and RTMR2 of a TD; PCR 4, 5, 9 and 11 of a virtual TPM.
    #[must_use]
    pub fn bank(&self) -> Bank {
        let mut bank = Bank::default();
        rtmr1::extend_disk(&mut bank, self.gpt, &self.uki);
        rtmr2::extend_uki(&mut bank, &self.uki);
        pcr4::extend_disk(&mut bank, &self.uki);
        pcr5::extend(&mut bank, Some(self.gpt));
        pcr11::extend(&mut bank, &self.uki);
        pcr9::extend(&mut bank, self.uki.load_options, self.uki.initrd);
        bank
    }
}

/// Why a disk cannot be predicted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DiskError {
    /// Of the disk.
    #[error("partition table is refused")]
    Gpt(#[from] GptError),
    /// Of the file.
    #[error("unified kernel image is refused")]
    Uki(#[from] UkiError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bank::Register;
    use crate::explain::{Line, explain};
    use crate::rtmr;
    use alloc::vec;
    use alloc::vec::Vec;
    use attestation::eventlog::Log;

    const LOG: &[u8] = include_bytes!("../tests/vectors/uki-vtpm.eventlog");

    /// The boot that was recorded, from the hashes of its parts; the partition table
    /// is the only thing in the log that can be had from there.
    fn recorded(gpt: Digests) -> DiskBoot {
        let section = |name: &'static str, content| {
            let title = Digests::of_parts([name.as_bytes(), &[0]]);
            (name, [title, content])
        };
        let initrd = digests(
            "c09e6b5f3c76730bd1db099fbaea5922364b7f67534aadad903d68694b2a1bc1",
            "86bc63f8fe2ab2d15c4138ac0fd7a7a850245245c6d89a7a6798e9c4da180bb5\
             4710414bfe1e7b08db21b1a77ad16284",
        );
        let options = crate::load_options::unchanged(&["console=ttyS0 quiet"]);
        DiskBoot {
            gpt,
            uki: Uki {
                image: digests(
                    "8e8491beefdd5b13dda68bf0e4ab1e69e65d120055ff2c6effef9fe3ad6d0db0",
                    "ce5f8fb4ee0b4b58842272ef4573f85d5f375238d57847780792b3dbb9e0fde4\
                     52d2019a58a56883b192eb386b2aca19",
                ),
                kernel: digests(
                    "40f079d8eb272795496194d468ad568917b7a3d728495ac36f6248195b59bc2c",
                    "3bfa736fd65ef07a0fd41a5a089a01741904c647556196ba491d1c807cfedc47\
                     478594b82e7cac482a205fd65c651dcf",
                ),
                sections: vec![
                    section(
                        ".linux",
                        digests(
                            "04c9a82467bc2a5a8618cb01fbd7b1f4e7ab1e92de2f13ec21bb353a3fb2c703",
                            "e83e7606150516d0593ccc177d70ef65595756b8410cb83725b1c690d4d3d5d7\
                             d5f9b6a13e1f76d06df70cc838af0f58",
                        ),
                    ),
                    section(".cmdline", Digests::of(b"console=ttyS0 quiet")),
                    section(".initrd", initrd),
                    section(".uname", Digests::of(b"6.12")),
                    section(
                        ".sbat",
                        digests(
                            "3e12e299ecf5788c054a005d84e3152bdfb322e9866d3f37fd7951288b39a0bf",
                            "054191c566aee049752ee67c7622bcc835369c18b3a2387a2c4aa043bf189417\
                             d25391a5ac239878b4b1b05ed7d18437",
                        ),
                    ),
                ],
                load_options: Digests::of(&options.unwrap()),
                initrd,
                sections_in_td: true,
            },
        }
    }

    fn digests(sha256: &str, sha384: &str) -> Digests {
        Digests {
            sha256: sha256.parse().unwrap(),
            sha384: sha384.parse().unwrap(),
        }
    }

    /// The beginning of the disk whose table the log repeats.
    fn disk(log: &Log<'_>) -> Vec<u8> {
        let mut events = log.unverified_events().iter();
        let event = events.find(|event| event.data.starts_with(b"EFI PART"));
        let (header, rest) = event.unwrap().data.split_at(92);
        let mut disk = vec![0; 512];
        disk.extend(header);
        disk.resize(1024, 0);
        disk.extend(&rest[8..]);
        disk.resize(1024 + 128 * 128, 0);
        disk
    }

    #[test]
    fn every_event_of_a_real_boot_from_a_disk_is_predicted() {
        let log = Log::parse_tpm(LOG).unwrap();
        let gpt = Digests::of(&gpt::event(&disk(&log)).unwrap());
        let bank = recorded(gpt).bank();
        let registers = [4, 5, 9, 11].map(Register::Pcr);
        let lines = explain(&bank, &log, &registers);
        assert!(lines.iter().all(Line::agrees), "{lines:#?}");
        assert_eq!(lines.len(), 4 + 4 + 2 + 10);
    }

    /// A TD that measures the same things.
    #[test]
    fn what_a_real_boot_measured_makes_the_same_rtmrs() {
        let log = Log::parse_tpm(LOG).unwrap();
        let gpt = Digests::of(&gpt::event(&disk(&log)).unwrap());
        let bank = recorded(gpt).bank();
        let expected = rtmr::from_tpm_log(&log).unwrap();
        assert_eq!([bank.rtmr(1), bank.rtmr(2)], expected);
    }
}
