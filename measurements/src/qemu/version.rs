//! Releases of QEMU, as far as what is measured differs between them.

use core::fmt;
use core::str::FromStr;

use crate::edk2::Edk2;
use crate::hob::Memory;
use crate::kernel::Handover;
use crate::machine::Edition;
use crate::shape::Platform;

/// A release, without its patch level.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Version {
    major: u16,
    minor: u16,
}

impl Version {
    /// The one that shapes are run with.
    pub const CURRENT: Self = Self::new(11, 1);

    const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }

    /// Which tables it makes. The version of the machine type changes nothing in them.
    pub(crate) const fn edition(self) -> Result<Edition, UnknownTables> {
        match (self.major, self.minor) {
            (10, 0) => Ok(Edition::V10_0),
            (11, 1) => Ok(Edition::V11_1),
            _ => Err(UnknownTables { found: self }),
        }
    }

    /// How this firmware gets a kernel from it.
    #[must_use]
    pub fn handover(
        self,
        firmware: Edk2,
        platform: Platform,
        memory: Memory,
        initrd_size: u32,
    ) -> Handover {
        // The file etc/boot/kernel is always as it was given.
        let file = self >= Self::new(10, 0) && firmware.takes_kernel_file();
        // The header is left alone in a confidential VM (commit a7542a38f399).
        let header = self >= Self::new(10, 2) && platform == Platform::Tdx;
        match file || header {
            true => Handover::Untouched,
            false => Handover::FilledIn {
                memory,
                initrd_size,
            },
        }
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (major, minor) = text.split_once('.').ok_or(VersionError)?;
        match (major.parse(), minor.parse()) {
            (Ok(major), Ok(minor)) => Ok(Self { major, minor }),
            _ => Err(VersionError),
        }
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

/// Not a release.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("not a release of QEMU, expected two numbers such as 11.1")]
pub struct VersionError;

/// Nobody compared its tables with ours.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("tables of QEMU {found} are not known, expected 10.0 or 11.1")]
pub struct UnknownTables {
    /// As asked for.
    pub found: Version,
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_version_reads_back_as_it_is_written() {
        assert_eq!(Version::CURRENT.to_string(), crate::qemu::VERSION);
        assert_eq!("11.1".parse(), Ok(Version::CURRENT));
        for text in ["", "11", "11.1.3", "11.x", "-1.0"] {
            assert_eq!(text.parse::<Version>(), Err(VersionError), "{text}");
        }
    }

    #[test]
    fn tables_of_other_releases_are_not_guessed() {
        let error = Version::new(10, 2).edition().unwrap_err();
        assert_eq!(
            error.to_string(),
            "tables of QEMU 10.2 are not known, expected 10.0 or 11.1"
        );
    }

    #[test]
    fn the_header_is_left_alone_where_firmware_or_platform_asks_for_it() {
        let (old, new): (Edk2, Edk2) = ("202411".parse().unwrap(), Edk2::CURRENT);
        let rows = [
            (9, 2, new, Platform::Tdx, false),
            (10, 0, new, Platform::Tdx, true),
            (10, 0, new, Platform::Vtpm, true),
            (10, 0, old, Platform::Tdx, false),
            (10, 1, old, Platform::Tdx, false),
            (10, 2, old, Platform::Tdx, true),
            (10, 2, old, Platform::Vtpm, false),
            (11, 1, old, Platform::Vtpm, false),
        ];
        for (major, minor, firmware, platform, untouched) in rows {
            let memory = Memory { mib: 2048 };
            let found = Version::new(major, minor).handover(firmware, platform, memory, 1);
            let found = found == Handover::Untouched;
            assert_eq!(found, untouched, "{major}.{minor} {firmware:?} {platform}");
        }
    }
}
