//! A device's measurements beside those of its manifests.
//!
//! Block `i` of a report, counted from one, is measurement `i - 1` of a manifest. Driver
//! and firmware each know their own; one that both claim is an error. Measurement 35 is of
//! the first video decoder, and means nothing while that is off. There is no other
//! exception: where a measurement is known to differ, the remedy is a firmware of the same
//! release as its manifest.
//!
//! Source: NVIDIA Attestation SDK, comparison of runtime with golden measurements.

use alloc::string::ToString;
use alloc::vec::Vec;

use crate::appraisal::Check;
use crate::register::Digest384;

use super::rim::Rim;

/// One check for each measurement that a manifest knows.
pub(super) fn compare(found: &[Digest384], nvdec0: Option<bool>, rims: &[&Rim]) -> Vec<Check> {
    let mut checks = Vec::new();
    for (index, name) in (0_u8..).zip(NAMES) {
        let mut known = rims.iter().filter_map(|rim| rim.measurements().get(&index));
        let (Some(accepted), second) = (known.next(), known.next()) else {
            continue;
        };
        if second.is_some() {
            checks.push(Check::new(
                name,
                "known to one manifest",
                "known to two",
                false,
            ));
        } else if index != NVDEC0 || nvdec0 != Some(false) {
            checks.push(compare_one(name, accepted, found.get(usize::from(index))));
        }
    }
    checks
}

fn compare_one(name: &'static str, accepted: &[Digest384], found: Option<&Digest384>) -> Check {
    let texts: Vec<_> = accepted.iter().map(ToString::to_string).collect();
    let text = found.map_or("none".into(), ToString::to_string);
    let passed = found.is_some_and(|found| accepted.contains(found));
    Check::new(name, texts.join(" or "), text, passed)
}

/// Which measurement is of the first video decoder.
const NVDEC0: u8 = 35;

/// By index.
#[rustfmt::skip]
pub(super) const NAMES: [&str; 64] = [
    "measurement-00", "measurement-01", "measurement-02", "measurement-03",
    "measurement-04", "measurement-05", "measurement-06", "measurement-07",
    "measurement-08", "measurement-09", "measurement-10", "measurement-11",
    "measurement-12", "measurement-13", "measurement-14", "measurement-15",
    "measurement-16", "measurement-17", "measurement-18", "measurement-19",
    "measurement-20", "measurement-21", "measurement-22", "measurement-23",
    "measurement-24", "measurement-25", "measurement-26", "measurement-27",
    "measurement-28", "measurement-29", "measurement-30", "measurement-31",
    "measurement-32", "measurement-33", "measurement-34", "measurement-35",
    "measurement-36", "measurement-37", "measurement-38", "measurement-39",
    "measurement-40", "measurement-41", "measurement-42", "measurement-43",
    "measurement-44", "measurement-45", "measurement-46", "measurement-47",
    "measurement-48", "measurement-49", "measurement-50", "measurement-51",
    "measurement-52", "measurement-53", "measurement-54", "measurement-55",
    "measurement-56", "measurement-57", "measurement-58", "measurement-59",
    "measurement-60", "measurement-61", "measurement-62", "measurement-63",
];
