//! Which devices to trust, one by one and as a machine's.
//!
//! A policy has no unset field; what need not be known beforehand is "any" in so many
//! words.
//!
//! What it cannot ask, since no report says it: whether confidential computing is on, and
//! whether it is in the mode for developers, in which a device protects nothing. That is
//! for the measured agent to say. Nor is a device bound to the machine that shows its
//! report: only software that asks no other device's driver is.

use alloc::collections::BTreeMap;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::appraisal::Check;
use crate::register::Digest256;
use crate::tdx::{Accept, Hex, pin};

use super::architecture::Architecture;
use super::compare::compare;
use super::rim::Rim;
use super::verify::Verified;
use super::version::Version;

/// Which machines to trust.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// How many GPUs, no more and no less.
    pub gpus: usize,
    /// How many switches, no more and no less.
    pub switches: usize,
    /// How GPUs and switches are connected.
    pub mode: Mode,
    /// Each of them.
    pub device: DevicePolicy,
}

/// How the devices of a machine protect what they say to each other.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Each GPU protects what leaves it.
    Passthrough,
    /// GPUs trust the links between them, which lead to trusted switches and nowhere else.
    ProtectedPcie,
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Passthrough => "passthrough",
            Self::ProtectedPcie => "protected-pcie",
        })
    }
}

/// Which devices to trust.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DevicePolicy {
    /// The oldest driver; `0` for any.
    pub least_driver: Version,
    /// The oldest firmware of each kind of device; others than these are not accepted.
    pub least_vbios: BTreeMap<Architecture, Version>,
    /// Serial numbers of the devices' own certificates.
    pub serials: Accept<Hex<20>>,
    /// SHA-256 of the manifests that count.
    pub rims: Accept<Digest256>,
    /// Whether it has to be known that no certificate was revoked.
    pub revocation: Demand,
}

impl DevicePolicy {
    /// Any device of which it is known that NVIDIA has not taken it back.
    #[must_use]
    pub fn strict() -> Self {
        Self {
            revocation: Demand::Required,
            ..Self::any()
        }
    }

    /// Any device of NVIDIA's that runs any software that NVIDIA still vouches for.
    #[must_use]
    pub fn any() -> Self {
        let kinds = [
            Architecture::Hopper,
            Architecture::Blackwell,
            Architecture::Ls10,
        ];
        Self {
            least_driver: Version::first(),
            least_vbios: kinds.map(|kind| (kind, Version::first())).into(),
            serials: Accept::Any,
            rims: Accept::Any,
            revocation: Demand::IfGiven,
        }
    }
}

/// What has to be known of revocation. What is known to be revoked is refused either way.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Demand {
    /// Every certificate that NVIDIA answers for was asked about, in devices' chains and
    /// in manifests'.
    Required,
    /// What was asked about has to be good.
    IfGiven,
}

impl Verified {
    /// Compares one device with a policy and with its manifests. That is not yet trust:
    /// see [`appraise`](super::appraise).
    #[must_use]
    pub fn check(&self, policy: &DevicePolicy, rims: &[Rim]) -> Vec<Check> {
        let mut checks = Vec::from(self.check_kind(policy));
        let (opaque, architecture) = (self.opaque(), self.device().architecture);
        let mut used = Vec::new();
        if architecture.is_gpu() {
            checks.push(at_least(
                "driver-version",
                &policy.least_driver,
                &opaque.driver,
            ));
            let named =
                |rim: &&Rim| !rim.is_vbios() && opaque.driver.as_deref() == Some(rim.version());
            let id = opaque.driver_rim_id(architecture);
            let rim = self.check_rim("driver-rim", id, rims.iter().filter(named), &mut checks);
            used.extend(rim);
        }
        let vbios = opaque.vbios.as_deref().unwrap_or_default();
        let named = |rim: &&Rim| rim.is_vbios() && rim.version().eq_ignore_ascii_case(vbios);
        let id = opaque.vbios_rim_id(architecture);
        let rim = self.check_rim("vbios-rim", id, rims.iter().filter(named), &mut checks);
        used.extend(rim);
        for rim in &used {
            checks.push(pin("rim-set", &policy.rims, Some(&rim.digest())));
        }
        checks.push(self.check_revocation(policy.revocation, &used));
        checks.extend(compare(self.measurements(), opaque.nvdec0, &used));
        checks
    }

    fn check_kind(&self, policy: &DevicePolicy) -> [Check; 3] {
        let device = self.device();
        let kinds: Vec<_> = policy.least_vbios.keys().map(ToString::to_string).collect();
        let least = policy.least_vbios.get(&device.architecture);
        let vbios = &self.opaque().vbios;
        [
            Check::new(
                "architecture",
                kinds.join(" or "),
                device.architecture,
                least.is_some(),
            ),
            pin("device-serial", &policy.serials, Some(&device.serial)),
            match least {
                Some(least) => at_least("vbios-version", least, vbios),
                None => Check::new(
                    "vbios-version",
                    "none",
                    vbios.as_deref().unwrap_or("none"),
                    false,
                ),
            },
        ]
    }

    /// The one manifest for what this device runs, for this kind of device, at this time.
    fn check_rim<'r>(
        &self,
        name: &'static str,
        id: Option<String>,
        mut rims: impl Iterator<Item = &'r Rim>,
        checks: &mut Vec<Check>,
    ) -> Option<&'r Rim> {
        let (first, second) = (rims.next(), rims.next());
        let (found, rim) = match (first, second) {
            (None, _) => ("none".into(), None),
            (Some(_), Some(_)) => ("two".into(), None),
            (Some(rim), None) => {
                let text = alloc::format!("{} {}", rim.product(), rim.version());
                match (self.fits(name, rim), rim.validity().check(self.at())) {
                    (true, Ok(())) => (text, Some(rim)),
                    (false, _) => (text, None),
                    (_, Err(error)) => (alloc::format!("{text} {error}"), None),
                }
            }
        };
        let expected = id.unwrap_or_else(|| "the one that the report names".into());
        checks.push(Check::new(name, expected, found, rim.is_some()));
        rim
    }

    /// A driver's manifest is for the chip that the report names, where it names it.
    fn fits(&self, name: &str, rim: &Rim) -> bool {
        let chip = self
            .opaque()
            .chip
            .as_deref()
            .filter(|_| name == "driver-rim");
        rim.architecture() == self.device().architecture
            && chip.is_none_or(|chip| chip.eq_ignore_ascii_case(rim.product()))
    }

    fn check_revocation(&self, demand: Demand, rims: &[&Rim]) -> Check {
        let of_rims = rims.iter().flat_map(|rim| rim.unasked());
        let unasked: Vec<_> = self
            .unasked()
            .iter()
            .chain(of_rims)
            .map(|unasked| unasked.role.to_string())
            .collect();
        let (expected, passed) = match demand {
            Demand::Required => ("every certificate asked about", unasked.is_empty()),
            Demand::IfGiven => ("none revoked", true),
        };
        let found = match unasked.is_empty() {
            true => "every certificate asked about".into(),
            false => alloc::format!("nothing of the {}", unasked.join(", the ")),
        };
        Check::new("revocation", expected, found, passed)
    }
}

fn at_least(name: &'static str, least: &Version, found: &Option<String>) -> Check {
    let version = found
        .as_deref()
        .and_then(|found| found.parse::<Version>().ok());
    let passed = version.is_some_and(|version| version >= *least);
    let text = found.as_deref().unwrap_or("none");
    Check::new(name, alloc::format!("at least {least}"), text, passed)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = r#"
gpus = 8
switches = 4
mode = "protected-pcie"

[device]
least_driver = "590.12"
serials = "any"
rims = ["12977b5115acb0381179279fffeb5a8c4d264971ebb32298023a465fa41df5d1"]
revocation = "required"

[device.least_vbios]
hopper = "96.00.A5.00.01"
ls10 = "96.10.73.00.01"
"#;

    #[test]
    fn a_policy_says_everything() {
        let policy: Policy = toml::from_str(TEXT).unwrap();
        assert_eq!((policy.gpus, policy.switches), (8, 4));
        assert_eq!(policy.mode, Mode::ProtectedPcie);
        assert_eq!(policy.device.serials, Accept::Any);
        assert_eq!(policy.device.revocation, Demand::Required);
        assert_eq!(policy.device.least_vbios.len(), 2);
    }

    #[test]
    fn a_policy_that_leaves_something_out_is_none() {
        for line in TEXT.lines().filter(|line| line.contains(" = ")) {
            // A kind of device that is left out is not accepted, which says enough.
            let left_out = toml::from_str::<Policy>(&TEXT.replace(line, ""));
            let kind = line.starts_with("hopper") || line.starts_with("ls10");
            assert_eq!(left_out.is_ok(), kind, "{line}");
        }
        let more = TEXT.replace("gpus = 8", "gpus = 8\ncpus = 1");
        assert!(toml::from_str::<Policy>(&more).is_err());
    }
}
