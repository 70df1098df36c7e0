//! All devices of a machine together.
//!
//! In protected PCIe mode GPUs send in the clear to each other over links that only
//! trusted switches may be at the other end of. So every GPU must name exactly the
//! switches that are shown, by the reversed bytes of their identifiers, and every switch
//! exactly the GPUs.
//!
//! Source: NVIDIA PPCIE Verifier, topology check.

use alloc::collections::BTreeSet;
use alloc::format;
use alloc::string::{String, ToString};
use alloc::vec::Vec;

use crate::appraisal::{Check, Rejection, all_passed};
use crate::tdx::Hex;

use super::opaque::{Opaque, PROTECTED_PCIE};
use super::policy::{Mode, Policy};
use super::rim::Rim;
use super::verify::Verified;

/// Compares all devices of a machine with a policy, and reports every comparison.
pub fn appraise(
    devices: Vec<Verified>,
    rims: &[Rim],
    policy: &Policy,
) -> Result<Trusted, Rejection> {
    let (gpus, switches): (Vec<_>, Vec<_>) = devices
        .iter()
        .partition(|device| device.device().architecture.is_gpu());
    let mut checks = Vec::from([
        count("gpus", policy.gpus, gpus.len()),
        count("switches", policy.switches, switches.len()),
        check_distinct(&devices),
    ]);
    for device in &devices {
        let own = device.check(&policy.device, rims);
        checks.extend(own.into_iter().map(|check| label(check, device)));
    }
    for gpu in &gpus {
        checks.push(label(check_mode(gpu.opaque(), policy.mode), gpu));
    }
    if policy.mode == Mode::ProtectedPcie {
        checks.extend(check_links(&gpus, &switches));
    }
    let checks = all_passed(checks)?;
    Ok(Trusted { devices, checks })
}

/// Devices that a policy takes. Holding one is the proof.
#[derive(Clone, Debug)]
pub struct Trusted {
    devices: Vec<Verified>,
    checks: Vec<Check>,
}

impl Trusted {
    /// What was verified, in the order in which it was shown.
    #[must_use]
    pub fn devices(&self) -> &[Verified] {
        &self.devices
    }

    /// Every comparison; all of them passed.
    #[must_use]
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }
}

fn count(name: &'static str, expected: usize, found: usize) -> Check {
    Check::new(name, expected, found, expected == found)
}

/// One device shown twice would be counted as two.
fn check_distinct(devices: &[Verified]) -> Check {
    let serials: BTreeSet<_> = devices
        .iter()
        .map(|device| device.device().serial)
        .collect();
    let pdis: BTreeSet<_> = devices.iter().map(|device| device.device().pdi).collect();
    let found = serials.len().min(pdis.len());
    let expected = devices.len();
    Check::new("distinct-devices", expected, found, found == expected)
}

fn check_mode(opaque: &Opaque, expected: Mode) -> Check {
    let flag = opaque.feature_flag == Some(PROTECTED_PCIE);
    let found = match (flag, opaque.protected_pcie == Some(true)) {
        (true, true) => Some(Mode::ProtectedPcie),
        (false, false) => Some(Mode::Passthrough),
        _ => None,
    };
    let text = found.map_or("neither".into(), |mode| mode.to_string());
    Check::new("gpu-mode", expected, text, found == Some(expected))
}

/// Everybody is linked to everybody, and switches are locked.
fn check_links(gpus: &[&Verified], switches: &[&Verified]) -> Vec<Check> {
    let pdis = |devices: &[&Verified]| -> BTreeSet<Hex<8>> {
        devices.iter().map(|device| device.device().pdi).collect()
    };
    let (all_gpus, all_switches) = (pdis(gpus), pdis(switches));
    let mut checks = Vec::new();
    for gpu in gpus {
        let reversed = |Hex(mut pdi): Hex<8>| {
            pdi.reverse();
            Hex(pdi)
        };
        let found = gpu
            .opaque()
            .switch_pdis
            .iter()
            .copied()
            .map(reversed)
            .collect();
        checks.push(links("gpu-links", &all_switches, &found, gpu));
    }
    for switch in switches {
        let found = switch.opaque().gpu_pdis.iter().copied();
        let found = found.filter(|pdi| *pdi != NOBODY).collect();
        checks.push(links("switch-links", &all_gpus, &found, switch));
        let locked = switch.opaque().locked == Some(true);
        checks.push(label(
            Check::new("switch-lock", true, locked, locked),
            switch,
        ));
    }
    checks
}

fn links(
    name: &'static str,
    expected: &BTreeSet<Hex<8>>,
    found: &BTreeSet<Hex<8>>,
    device: &Verified,
) -> Check {
    let text = |pdis: &BTreeSet<Hex<8>>| -> String {
        let texts: Vec<_> = pdis.iter().map(ToString::to_string).collect();
        texts.join(" ")
    };
    let passed = found == expected && !found.is_empty();
    label(
        Check::new(name, text(expected), text(found), passed),
        device,
    )
}

/// Says which device was compared.
fn label(check: Check, device: &Verified) -> Check {
    let found = format!("{} of device {}", check.found, device.device().pdi);
    Check { found, ..check }
}

/// Where a switch has no GPU.
const NOBODY: Hex<8> = Hex([0xff; 8]);
