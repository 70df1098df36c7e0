//! PCR 1: the virtual hardware and the boot options.

use crate::acpi::{AcpiError, Blobs};
use crate::bank::{Bank, Register, Source};
use crate::pcr::separator;
use crate::variable;

/// Extends the ACPI blobs and the boot variables.
pub fn extend(bank: &mut Bank, acpi: &Blobs) -> Result<(), AcpiError> {
    // OvmfPkg/Library/AcpiPlatformLib/QemuFwCfgAcpi.c, InstallQemuFwCfgTables().
    for (name, digests) in acpi.measured()? {
        bank.extend(PCR1, digests, name, Source::Shape);
    }
    // Tcg2Dxe.c, OnReadyToBoot(), MeasureAllBootVariables().
    for (name, digests) in variable::boot() {
        bank.extend(PCR1, digests, name, Source::Firmware);
    }
    separator(bank, 1);
    Ok(())
}

const PCR1: Register = Register::Pcr(1);
