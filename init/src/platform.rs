//! What vouches for this machine, and how the measured configuration gets into it.
//!
//! - **TDX**: whoever made the TD wrote SHA-384 of the file into MRCONFIGID.
//!   We refuse any other file; nothing is extended and RTMR3 stays at reset.
//! - **vTPM**: the same digest becomes the first event in PCR 8, of each bank.
//!   Any file boots, and none can pass for another.
//!
//! A TD cannot be told that it is none: the TDX module answers CPUID, so the
//! TDX device is looked for first and decides. A machine with neither has
//! nothing to prove itself with, and does not boot.

use anyhow::{Context, bail, ensure};
use attestation::config::Measured;
use attestation::register::{Digest256, Digest384};

use crate::system::System;
use crate::tdreport::TdReport;
use crate::{config, tpm};

/// The kind of evidence that this machine can give.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Platform {
    /// An Intel TDX trust domain.
    Tdx,
    /// A virtual TPM: measured boot, memory not confidential.
    Vtpm,
}

/// Ties the measured configuration to what the hardware will report.
pub(crate) fn bind(system: &mut dyn System, measured: &[u8]) -> anyhow::Result<Platform> {
    let digest = Measured::digest(measured);
    if system.exists(TDX_DEVICE) {
        compare_with_td(system, digest)?;
        return Ok(Platform::Tdx);
    }
    if system.exists(TPM_DEVICE) {
        record_in_tpm(system, digest)?;
        return Ok(Platform::Vtpm);
    }
    bail!("neither {TDX_DEVICE} nor {TPM_DEVICE} exists: nothing could vouch for this machine")
}

fn compare_with_td(system: &mut dyn System, digest: Digest384) -> anyhow::Result<()> {
    let report = system.td_report().context("cannot get a TDREPORT")?;
    let report = TdReport::parse(&report).context("TDREPORT is refused")?;
    ensure!(
        report.mrconfigid == digest,
        "MRCONFIGID is {}, measured.toml has {digest}",
        report.mrconfigid
    );
    ensure!(
        report.rtmr3 == Digest384::ZERO,
        "RTMR3 is {}, expected zero: something ran before init",
        report.rtmr3
    );
    Ok(())
}

fn record_in_tpm(system: &mut dyn System, digest: Digest384) -> anyhow::Result<()> {
    let response = system
        .tpm(&tpm::pcr_event(CONFIG_PCR, digest.as_bytes()))
        .with_context(|| format!("cannot send an event to {TPM_DEVICE}"))?;
    tpm::pcr_event_done(&response).context("event in PCR 8 is refused")?;

    // One value says both: it was at reset before, and the event is in it.
    let response = system
        .tpm(&tpm::pcr_read(CONFIG_PCR))
        .with_context(|| format!("cannot ask {TPM_DEVICE} for PCR 8"))?;
    let found = tpm::pcr_value(&response).context("PCR 8 cannot be read")?;
    let expected = Digest256::ZERO.extend(Digest256::of(digest.as_bytes()));
    ensure!(
        found == expected,
        "PCR 8 is {found}, expected {expected}: it was not at reset before the event"
    );
    Ok(())
}

/// Gives the agent, and nobody else, what it needs to make evidence.
pub(crate) fn hand_over(system: &mut dyn System, platform: Platform) -> anyhow::Result<()> {
    let log = match platform {
        Platform::Tdx => {
            // Its maker may be its only user: the agent cannot make another one.
            system
                .create_dir(TSM_REPORT)
                .with_context(|| format!("cannot make {TSM_REPORT}"))?;
            for attribute in ["inblob", "outblob"] {
                give(system, &format!("{TSM_REPORT}/{attribute}"))?;
            }
            "/sys/firmware/acpi/tables/data/CCEL"
        }
        Platform::Vtpm => {
            give(system, TPM_RESOURCE_MANAGER)?;
            "/sys/kernel/security/tpm0/binary_bios_measurements"
        }
    };
    let events = system
        .read(log, EVENT_LOG_LIMIT)
        .with_context(|| format!("cannot read {log}"))?;
    system
        .create(EVENT_LOG, &events)
        .with_context(|| format!("cannot write {EVENT_LOG} in {}", config::FOLDER))
}

fn give(system: &mut dyn System, path: &str) -> anyhow::Result<()> {
    system
        .give_to_agent(path)
        .with_context(|| format!("cannot give {path} to the agent"))
}

/// What firmware, boot loader and kernel recorded.
pub(crate) const EVENT_LOG: &str = "/run/cocoon/eventlog";
/// The agent's own entry in configfs.
pub(crate) const TSM_REPORT: &str = "/sys/kernel/config/tsm/report/cocoon";
/// The TPM as programs share it.
pub(crate) const TPM_RESOURCE_MANAGER: &str = "/dev/tpmrm0";

/// Free for the operating system (TCG PC Client Platform Firmware Profile,
/// "PCR usage"); with our boot form nobody else extends it.
const CONFIG_PCR: u8 = 8;
const EVENT_LOG_LIMIT: usize = 1024 * 1024;
const TDX_DEVICE: &str = "/dev/tdx_guest";
const TPM_DEVICE: &str = "/dev/tpm0";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::double::{Double, MEASURED};
    use crate::tdreport::tests::report;

    fn reason(mut double: Double, measured: &str) -> String {
        let error = bind(&mut double, measured.as_bytes()).unwrap_err();
        format!("{error:#}")
    }

    #[test]
    fn a_td_refuses_a_file_that_it_was_not_made_for() {
        let other = MEASURED.replace("tiny", "huge");
        assert_eq!(
            reason(Double::with_tdx(), &other),
            format!(
                "MRCONFIGID is {}, measured.toml has {}",
                Digest384::of(MEASURED.as_bytes()),
                Digest384::of(other.as_bytes())
            )
        );
    }

    #[test]
    fn a_td_in_which_something_extended_rtmr3_is_refused() {
        let mut double = Double::with_tdx();
        let rtmr3 = Digest384::of(b"early");
        double.report = report(Digest384::of(MEASURED.as_bytes()), rtmr3);
        assert_eq!(
            reason(double, MEASURED),
            format!("RTMR3 is {rtmr3}, expected zero: something ran before init")
        );
    }

    #[test]
    fn a_report_of_another_kind_is_refused() {
        let mut double = Double::with_tdx();
        double.report[0] = 0;
        assert_eq!(
            reason(double, MEASURED),
            "TDREPORT is refused: TEE type is 0x0, expected 0x81 (TDX)"
        );
    }

    #[test]
    fn a_tpm_records_the_digest_as_the_first_event_of_pcr_8() {
        let mut double = Double::with_tpm();
        let platform = bind(&mut double, MEASURED.as_bytes()).unwrap();
        assert_eq!(platform, Platform::Vtpm);
        let digest = Digest384::of(MEASURED.as_bytes());
        let event = Digest256::of(digest.as_bytes());
        assert_eq!(double.pcr8, Digest256::ZERO.extend(event));
    }

    #[test]
    fn a_tpm_whose_pcr_8_was_in_use_is_refused() {
        let mut double = Double::with_tpm();
        double.pcr8 = Digest256::of(b"early");
        let error = reason(double, MEASURED);
        assert!(error.starts_with("PCR 8 is "), "{error}");
        assert!(
            error.ends_with("it was not at reset before the event"),
            "{error}"
        );
    }

    #[test]
    fn a_machine_with_neither_is_refused() {
        let mut double = Double::with_tpm();
        double.files.remove("/dev/tpm0");
        assert_eq!(
            reason(double, MEASURED),
            "neither /dev/tdx_guest nor /dev/tpm0 exists: \
             nothing could vouch for this machine"
        );
    }
}
