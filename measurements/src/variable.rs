//! The EFI variables that firmware measures.
//!
//! Variables of the policy kind are measured whole, as UEFI_VARIABLE_DATA:
//! GUID, name length in characters, data length, name in UTF-16, data. Boot
//! variables are measured by their data alone.
//!
//! With `-bios` the variable store of the file is empty, so the policy
//! variables are absent, and the only boot option is the firmware's own menu.
//!
//! Source: TCG PC Client Platform Firmware Profile 1.06, sections 3.3.4.8,
//! 10.2.6 and 10.4.1; edk2 SecurityPkg/Tcg/Tcg2Dxe/Tcg2Dxe.c,
//! MeasureAllSecureVariables() and MeasureAllBootVariables().

use alloc::borrow::Cow;
use alloc::vec::Vec;

use crate::digests::Digests;
use crate::guid::Guid;

/// The Secure Boot policy, in the order in which it is measured; all absent,
/// which counts as empty (section 3.3.4.8).
pub fn secure_boot() -> impl Iterator<Item = (&'static str, Digests)> {
    [
        ("SecureBoot", GLOBAL),
        ("PK", GLOBAL),
        ("KEK", GLOBAL),
        ("db", IMAGE_SECURITY),
        ("dbx", IMAGE_SECURITY),
    ]
    .into_iter()
    .map(|(name, vendor)| (name, Digests::of(&variable_data(vendor, name, &[]))))
}

/// BootOrder and the one option it lists, in the order in which they are measured.
#[must_use]
pub fn boot() -> [(Cow<'static, str>, Digests); 2] {
    [
        ("BootOrder".into(), Digests::of(&[0, 0])),
        ("Boot0000".into(), Digests::of(&menu_option())),
    ]
}

/// UEFI_VARIABLE_DATA.
fn variable_data(vendor: Guid, name: &str, data: &[u8]) -> Vec<u8> {
    let name: Vec<u8> = name.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let chars = u64::try_from(name.len() / 2).unwrap_or(u64::MAX);
    let len = u64::try_from(data.len()).unwrap_or(u64::MAX);
    [
        &vendor.0[..],
        &chars.to_le_bytes(),
        &len.to_le_bytes(),
        &name,
        data,
    ]
    .concat()
}

/// EFI_LOAD_OPTION (UEFI 2.10, section 3.1.3) for the UiApp in the DXE volume, as
/// edk2 MdeModulePkg/Library/UefiBootManagerLib/BmBoot.c registers it.
fn menu_option() -> Vec<u8> {
    let description: Vec<u8> = "UiApp\0"
        .encode_utf16()
        .flat_map(u16::to_le_bytes)
        .collect();
    [
        &MENU_ATTRIBUTES.to_le_bytes()[..],
        &[44, 0],
        &description,
        // MEDIA_PIWG_FW_VOL_DP, MEDIA_PIWG_FW_FILE_DP, END_DEVICE_PATH.
        &[4, 7, 20, 0],
        &DXE_VOLUME.0,
        &[4, 6, 20, 0],
        &UI_APP.0,
        &[0x7f, 0xff, 4, 0],
    ]
    .concat()
}

/// LOAD_OPTION_ACTIVE | LOAD_OPTION_HIDDEN | LOAD_OPTION_CATEGORY_APP.
const MENU_ATTRIBUTES: u32 = 0x109;
/// EFI_GLOBAL_VARIABLE.
const GLOBAL: Guid = Guid::new(
    0x8be4_df61,
    0x93ca,
    0x11d2,
    [0xaa, 0x0d, 0x00, 0xe0, 0x98, 0x03, 0x2b, 0x8c],
);
/// EFI_IMAGE_SECURITY_DATABASE_GUID.
const IMAGE_SECURITY: Guid = Guid::new(
    0xd719_b2cb,
    0x3d3a,
    0x4596,
    [0xa3, 0xbc, 0xda, 0xd0, 0x0e, 0x67, 0x65, 0x6f],
);
/// The DXE volume's name in OvmfPkg/OvmfPkgX64.fdf.
const DXE_VOLUME: Guid = Guid::new(
    0x7cb8_bdc9,
    0xf8eb,
    0x4f34,
    [0xaa, 0xea, 0x3e, 0xe4, 0xaf, 0x65, 0x16, 0xa1],
);
/// MdeModulePkg/Application/UiApp/UiApp.inf.
const UI_APP: Guid = Guid::new(
    0x462c_aa21,
    0x7614,
    0x4503,
    [0x83, 0x6e, 0x8a, 0xb6, 0xf4, 0x66, 0x23, 0x31],
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vectors;

    #[test]
    fn the_menu_option_is_the_recorded_one() {
        let Some(recorded) = vectors::read("acpi-shapes/Boot0000.bin") else {
            return;
        };
        assert_eq!(menu_option(), recorded);
        assert_eq!(vectors::read("acpi-shapes/BootOrder.bin").unwrap(), [0, 0]);
    }

    #[test]
    fn a_variable_is_guid_lengths_name_and_data() {
        let data = variable_data(GLOBAL, "PK", &[9]);
        assert_eq!(data[..4], [0x61, 0xdf, 0xe4, 0x8b]);
        assert_eq!(
            data[16..32],
            [2, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0]
        );
        assert_eq!(data[32..], [b'P', 0, b'K', 0, 9]);
    }
}
