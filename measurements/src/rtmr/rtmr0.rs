//! RTMR0: the virtual hardware and the firmware's settings.

use alloc::borrow::Cow;

use crate::acpi::{AcpiError, Blobs};
use crate::bank::{Bank, Register, Source};
use crate::digests::Digests;
use crate::firmware::Firmware;
use crate::variable;

/// Extends what firmware measures of itself and of the VM.
///
/// `td_hob` is the list of hand-off blocks for the VM's memory; `boot` are
/// BootOrder and the options that it lists.
pub fn extend(
    bank: &mut Bank,
    firmware: &Firmware<'_>,
    td_hob: &[u8],
    acpi: &Blobs,
    boot: impl IntoIterator<Item = (Cow<'static, str>, Digests)>,
) -> Result<(), AcpiError> {
    // OvmfPkg/IntelTdx/TdxHelperLib/SecTdxHelper.c, TdxHelperMeasureTdHob().
    bank.extend(RTMR0, Digests::of(td_hob), "TD HOB", Source::Shape);
    // The same file, TdxHelperMeasureCfvImage().
    bank.extend(
        RTMR0,
        firmware.cfv,
        "configuration volume",
        Source::Firmware,
    );
    // TdTcg2Dxe.c, MeasureSecureBootPolicy(): the variables, then a separator.
    for (name, digests) in variable::secure_boot() {
        bank.extend(RTMR0, digests, name, Source::Constant);
    }
    bank.extend(RTMR0, Digests::of(&[0; 4]), "separator", Source::Constant);
    // OvmfPkg/Library/AcpiPlatformLib/QemuFwCfgAcpi.c, InstallQemuFwCfgTables().
    for (name, digests) in acpi.measured()? {
        bank.extend(RTMR0, digests, name, Source::Shape);
    }
    // TdTcg2Dxe.c, OnReadyToBoot(), MeasureAllBootVariables().
    for (name, digests) in boot {
        bank.extend(RTMR0, digests, name, Source::Firmware);
    }
    Ok(())
}

const RTMR0: Register = Register::Rtmr(0);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hob::Memory;
    use crate::vectors;
    use alloc::format;
    use alloc::string::ToString;

    /// RTMR0 of a shape that others recorded, on the firmware that they used.
    fn recorded(shape: &str, mib: u32) -> Option<alloc::string::String> {
        let file = vectors::firmware("ubuntu-2025.02-3ubuntu2")?;
        let read = |name| vectors::read(&format!("acpi-shapes/{shape}/{name}"));
        let acpi = Blobs::new(
            &read("table_loader.bin")?,
            &read("rsdp.bin")?,
            &read("acpi_tables.bin")?,
        );
        let firmware = Firmware::parse(&file).unwrap();
        let hob = firmware.td_hob(Memory { mib }).unwrap();
        let mut bank = Bank::default();
        extend(&mut bank, &firmware, &hob, &acpi, variable::boot()).unwrap();
        Some(bank.rtmr(0).to_string())
    }

    /// Captured from a live TD with 8 processors and 16 GiB.
    #[test]
    fn a_small_shape_gives_the_value_of_a_live_td() {
        let Some(value) = recorded("small_0d_new", 16384) else {
            return;
        };
        assert_eq!(
            value,
            "a2749c840579faca6adf0c9c3ab69f277556cda67f8a6b3553c2c7fbf00e9706\
             ec77a6f6960d802433b339ff8b72eefb",
        );
    }

    /// Eight GPUs, 512 GiB; only the beginning was published with the vector.
    #[test]
    fn a_large_shape_gives_the_published_value() {
        let Some(value) = recorded("hw1", 524_288) else {
            return;
        };
        assert!(value.starts_with("5c70e5e5"), "{value}");
    }
}
