//! The kernel's load options: the command line, as firmware passes it on.
//!
//! Firmware adds the name of the initrd and hands over UTF-16 with its NUL; the
//! kernel's EFI stub measures exactly those bytes, whatever it makes of them.
//!
//! Source: edk2 OvmfPkg/Library/X86QemuLoadImageLib/X86QemuLoadImageLib.c,
//! QemuLoadKernelImage(); Linux drivers/firmware/efi/libstub/efi-stub-helper.c,
//! efi_measure_tagged_event().

use alloc::vec::Vec;

/// Where firmware writes `initrd=initrd`.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Spelling {
    /// In front, from edk2-stable202508 (commit a2ac0fea49).
    Before,
    /// At the end, up to edk2-stable202505.
    After,
}

/// The bytes that the kernel measures, for a boot with an initrd.
pub fn load_options(command_line: &str, spelling: Spelling) -> Result<Vec<u8>, LoadOptionsError> {
    match spelling {
        Spelling::After => unchanged(&[command_line, " initrd=initrd"]),
        Spelling::Before => unchanged(&["initrd=initrd ", command_line]),
    }
}

/// The same for a boot loader that adds nothing, of a text in parts.
pub(crate) fn unchanged(parts: &[&str]) -> Result<Vec<u8>, LoadOptionsError> {
    let mut chars = parts.iter().flat_map(|part| part.chars());
    if let Some(found) = chars.find(|c| !matches!(c, ' '..='~')) {
        return Err(LoadOptionsError { found });
    }
    Ok(parts
        .iter()
        .chain([&"\0"])
        .flat_map(|part| part.encode_utf16())
        .flat_map(u16::to_le_bytes)
        .collect())
}

/// A character that a command line cannot carry unchanged.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
#[error("command line holds {found:?}, expected printable ASCII")]
pub struct LoadOptionsError {
    /// The first such character.
    pub found: char,
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::{String, ToString};

    fn text(spelling: Spelling) -> String {
        let bytes = load_options("quiet", spelling).unwrap();
        let units: Vec<u16> = bytes
            .chunks(2)
            .map(|unit| u16::from_le_bytes(unit.try_into().unwrap()))
            .collect();
        String::from_utf16(&units).unwrap()
    }

    #[test]
    fn the_initrd_stands_where_the_firmware_puts_it() {
        assert_eq!(text(Spelling::After), "quiet initrd=initrd\0");
        assert_eq!(text(Spelling::Before), "initrd=initrd quiet\0");
    }

    #[test]
    fn only_printable_ascii_is_accepted() {
        for text in ["a\nb", "a\0b", "é"] {
            load_options(text, Spelling::After).unwrap_err();
        }
        let error = load_options("a\nb", Spelling::After).unwrap_err();
        assert_eq!(
            error.to_string(),
            "command line holds '\\n', expected printable ASCII"
        );
    }
}
