//! What one firmware file contributes to the registers.
//!
//! Everything a TD measures follows from the file. A TPM build also measures
//! two things that the file holds only inside compiled code: its version, and
//! one variable of the PEI core, which runs in place and has already stored the
//! port of the ACPI timer when its volume is measured. Both are known for the
//! builds listed here, by the digest of the volume as unpacked; of any other
//! build PCR 0 is not predicted.

use alloc::vec::Vec;

use attestation::register::{Digest256, Digest384};

use crate::digests::Digests;
use crate::hob::{Memory, td_hob};
use crate::mrtd::{Pass, mrtd};
use crate::tdvf::{Kind, Tdvf, TdvfError};
use crate::volume::{VolumeError, Volumes};

/// A firmware file, hashed once.
#[derive(Clone, Debug)]
pub struct Firmware<'a> {
    tdvf: Tdvf<'a>,
    /// Launch measurement, one pass.
    pub mrtd: Digest384,
    /// The configuration volume: empty variable store.
    pub cfv: Digests,
}

impl<'a> Firmware<'a> {
    /// Reads and hashes what a TD measures.
    pub fn parse(file: &'a [u8]) -> Result<Self, TdvfError> {
        let tdvf = Tdvf::parse(file)?;
        Ok(Self {
            mrtd: mrtd(&tdvf, Pass::Single),
            cfv: Digests::of(tdvf.section(Kind::Cfv)?.data),
            tdvf,
        })
    }

    /// The hand-off blocks that this firmware gets in a TD with this memory.
    pub fn td_hob(&self, memory: Memory) -> Result<Vec<u8>, TdvfError> {
        td_hob(&self.tdvf, memory)
    }
}

/// What a TPM build measures about itself into PCR 0.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Crtm {
    /// PcdFirmwareVersionString.
    pub version: &'static str,
    /// The PEI volume, as it is when it is measured.
    pub pei: Digests,
    /// The DXE volume.
    pub dxe: Digests,
}

impl Crtm {
    /// Unpacks the volumes of a known build.
    pub fn of(file: &[u8]) -> Result<Self, CrtmError> {
        let mut volumes = Volumes::unpack(file)?;
        let pei = Digest256::of(&volumes.pei);
        let build = BUILDS
            .iter()
            .find(|build| build.pei == *pei.as_bytes())
            .ok_or(CrtmError::UnknownBuild { pei })?;
        // edk2 OvmfPkg/Library/AcpiTimerLib/BaseAcpiTimerLib.c, AcpiTimerLibConstructor().
        let timer = volumes
            .pei
            .get_mut(build.timer..)
            .and_then(<[u8]>::first_chunk_mut)
            .ok_or(CrtmError::UnknownBuild { pei })?;
        *timer = ACPI_TIMER_PORT.to_le_bytes();
        Ok(Self {
            version: build.version,
            pei: Digests::of(&volumes.pei),
            dxe: Digests::of(&volumes.dxe),
        })
    }
}

/// A build whose first measurements are known.
struct Build {
    /// SHA-256 of the PEI volume as unpacked.
    pei: [u8; 32],
    version: &'static str,
    /// Offset in the PEI volume of the PEI core's `mAcpiTimerIoAddr`, 32 bits.
    timer: usize,
}

/// Read off an event log and a memory dump of a boot.
const BUILDS: [Build; 1] = [Build {
    pei: [
        0xac, 0xc7, 0xcc, 0x32, 0xf3, 0xe0, 0x51, 0x61, 0xd1, 0x62, 0x00, 0x22, 0x56, 0x29, 0x09,
        0xc2, 0x84, 0xf7, 0x00, 0xd7, 0x30, 0x82, 0xcf, 0x7a, 0xc1, 0x59, 0x45, 0x1a, 0x3f, 0x7c,
        0x72, 0x12,
    ],
    version: "2025.02-8+deb13u1",
    timer: 0x6e50,
}];

/// ICH9_PMBASE_VALUE + ACPI_TIMER_OFFSET on q35.
const ACPI_TIMER_PORT: u32 = 0x608;

/// Why PCR 0 cannot be predicted.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum CrtmError {
    /// Neither version nor layout are known.
    #[error("PEI volume has SHA-256 {pei}, which is of no build whose PCR 0 is known")]
    UnknownBuild {
        /// Digest of the volume as unpacked.
        pei: Digest256,
    },
    /// The file is not OVMF.
    #[error(transparent)]
    Volume(#[from] VolumeError),
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors;
    use alloc::string::ToString;

    #[test]
    fn the_configuration_volume_is_the_common_one() {
        let Some(file) = vectors::firmware("debian-2025.02-8+deb13u1") else {
            return;
        };
        assert_eq!(
            Firmware::parse(&file).unwrap().cfv.sha384.to_string(),
            "344bc51c980ba621aaa00da3ed7436f7d6e549197dfe699515dfa2c6583d95e6\
             412af21c097d473155875ffd561d6790",
        );
    }

    /// From the event log of a boot of this file.
    #[test]
    fn the_pei_volume_is_what_a_boot_measured() {
        let Some(file) = vectors::firmware("debian-2025.02-8+deb13u1") else {
            return;
        };
        let crtm = Crtm::of(&file).unwrap();
        assert_eq!(crtm.version, "2025.02-8+deb13u1");
        assert_eq!(
            crtm.pei.sha256.to_string(),
            "a386f05738e11e7b8c253dc47b96bfc66d3d9ce62ee7b30ee3d4a6c5215e7e4e",
        );
    }

    #[test]
    fn another_build_is_refused_by_name() {
        let Some(file) = vectors::firmware("ubuntu-2025.02-3ubuntu2") else {
            return;
        };
        let error = Crtm::of(&file).unwrap_err();
        assert!(matches!(error, CrtmError::UnknownBuild { .. }), "{error}");
        assert!(error.to_string().starts_with("PEI volume has SHA-256 "));
    }
}
