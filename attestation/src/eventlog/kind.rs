//! Event types, and what each one hashes.
//!
//! Source: TCG PC Client Platform Firmware Profile 1.06, table 27.

use core::fmt;

/// `eventType` of one event.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Kind(pub(crate) u32);

macro_rules! kinds {
    ($($name:ident = $value:literal, $doc:literal;)*) => {
        impl Kind {
            $(#[doc = $doc] pub const $name: Self = Self($value);)*
        }

        impl fmt::Display for Kind {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match *self {
                    $(Self::$name => f.write_str(concat!("EV_", stringify!($name))),)*
                    Self(other) => write!(f, "event type {other:#010x}"),
                }
            }
        }
    };
}

kinds! {
    POST_CODE = 0x1, "Firmware or tables, by digest.";
    NO_ACTION = 0x3, "A remark: extends nothing.";
    SEPARATOR = 0x4, "End of the firmware's own measurements.";
    ACTION = 0x5, "A string that names what was done.";
    EVENT_TAG = 0x6, "Tagged by whoever measured.";
    S_CRTM_CONTENTS = 0x7, "Root of measurement, by digest.";
    S_CRTM_VERSION = 0x8, "Version of the root of measurement.";
    CPU_MICROCODE = 0x9, "Microcode, by digest.";
    PLATFORM_CONFIG_FLAGS = 0xa, "Platform settings, by digest.";
    TABLE_OF_DEVICES = 0xb, "Devices, by digest.";
    COMPACT_HASH = 0xc, "Vendor's own.";
    IPL = 0xd, "Boot loader's own.";
    OMIT_BOOT_DEVICE_EVENTS = 0x12, "No more boot attempts are logged.";
    EFI_VARIABLE_DRIVER_CONFIG = 0x8000_0001, "UEFI variable of the Secure Boot policy.";
    EFI_VARIABLE_BOOT = 0x8000_0002, "UEFI boot variable: its data alone is hashed.";
    EFI_BOOT_SERVICES_APPLICATION = 0x8000_0003, "PE image that was started.";
    EFI_BOOT_SERVICES_DRIVER = 0x8000_0004, "PE driver that was started.";
    EFI_RUNTIME_SERVICES_DRIVER = 0x8000_0005, "PE run-time driver that was started.";
    EFI_GPT_EVENT = 0x8000_0006, "Partition table of the boot disk.";
    EFI_ACTION = 0x8000_0007, "A string that names what was done.";
    EFI_PLATFORM_FIRMWARE_BLOB = 0x8000_0008, "Firmware volume, by digest.";
    EFI_HANDOFF_TABLES = 0x8000_0009, "Tables handed on, by digest.";
    EFI_PLATFORM_FIRMWARE_BLOB2 = 0x8000_000a, "Firmware volume, by digest, with a name.";
    EFI_HANDOFF_TABLES2 = 0x8000_000b, "Tables handed on, by digest, with a name.";
    EFI_VARIABLE_BOOT2 = 0x8000_000c, "UEFI boot variable, hashed whole.";
    EFI_HCRTM_EVENT = 0x8000_0010, "Hardware root of measurement.";
    EFI_VARIABLE_AUTHORITY = 0x8000_00e0, "Certificate or hash that let an image start.";
}

impl Kind {
    /// Whether the digest is the hash of exactly the event data.
    pub(crate) const fn hashes_its_data(self) -> bool {
        matches!(
            self,
            Self::SEPARATOR
                | Self::ACTION
                | Self::S_CRTM_VERSION
                | Self::OMIT_BOOT_DEVICE_EVENTS
                | Self::EFI_VARIABLE_DRIVER_CONFIG
                | Self::EFI_GPT_EVENT
                | Self::EFI_ACTION
                | Self::EFI_VARIABLE_BOOT2
                | Self::EFI_HCRTM_EVENT
                | Self::EFI_VARIABLE_AUTHORITY
        )
    }
}
