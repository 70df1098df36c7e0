//! A stored report, judged: what `cocoon verify gpu` prints.
//!
//! Says whether one device is NVIDIA's, answers the nonce, and runs what NVIDIA released.
//! Of other devices it says nothing, nor of how they are connected.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::String;
use alloc::vec::Vec;

use crate::appraisal::{Check, Reason, Verdict, chain};
use crate::register::Digest384;
use crate::tdx::{self, Hex};
use crate::time::UnixTime;

use super::compare::NAMES;
use super::policy::DevicePolicy;
use super::report::Report;
use super::revocation::Revocation;
use super::rim::Rim;
use super::verify::{Verified, verify};

/// Evidence as it lies in files.
#[derive(Clone, Copy, Debug)]
pub struct GpuFiles<'a> {
    /// Request and response.
    pub report: &'a [u8],
    /// PEM, the device's own certificate first.
    pub chain: &'a [u8],
    /// Reference manifests.
    pub rims: &'a [Vec<u8>],
    /// Revocation lists, DER.
    pub crls: &'a [Vec<u8>],
    /// OCSP responses, DER.
    pub ocsp: &'a [Vec<u8>],
}

/// Judges a device under NVIDIA's roots.
#[must_use]
pub fn judge(
    files: GpuFiles<'_>,
    nonce: &Hex<32>,
    policy: &DevicePolicy,
    at: UnixTime,
) -> tdx::Report {
    match open(files, nonce, at) {
        Ok((verified, rims)) => compare(&verified, &rims, policy),
        Err(reason) => tdx::Report {
            verdict: Verdict::Rejected,
            ..tdx::Report::undecided(reason)
        },
    }
}

fn open(
    files: GpuFiles<'_>,
    Hex(nonce): &Hex<32>,
    at: UnixTime,
) -> Result<(Verified, Vec<Rim>), Reason> {
    let lists = files.crls.iter().map(Vec::as_slice);
    let responses = files.ocsp.iter().map(Vec::as_slice);
    let revocation = Revocation::parse(lists, responses).map_err(|error| {
        let expected = "revocation lists and OCSP responses";
        refused(error.code().into(), expected, chain(&error))
    })?;
    let report = Report::parse(files.report).map_err(|error| {
        let expected = "an SPDM 1.1 report and nothing after it";
        refused(error.code().into(), expected, chain(&error))
    })?;
    let verified = verify(report, files.chain, &revocation, nonce, at).map_err(|error| {
        let expected = "a report that a device of NVIDIA's signed for this nonce";
        refused(error.code(), expected, chain(&error))
    })?;
    let rim = |document: &Vec<u8>| {
        Rim::verify(document, &revocation, at).map_err(|error| {
            let expected = "a manifest that NVIDIA signed and that is valid at that time";
            refused(error.code(), expected, chain(&error))
        })
    };
    let rims = files.rims.iter().map(rim).collect::<Result<_, _>>()?;
    Ok((verified, rims))
}

fn compare(verified: &Verified, rims: &[Rim], policy: &DevicePolicy) -> tdx::Report {
    let checks = verified.check(policy, rims);
    let reasons: Vec<_> = checks.iter().filter_map(Check::reason).collect();
    let given = |vbios| rims.iter().any(|rim| rim.is_vbios() == vbios);
    // Without a manifest of that kind nobody can tell.
    let open = |reason: &Reason| match &*reason.code {
        "driver-rim" => !given(false),
        "vbios-rim" => !given(true),
        _ => false,
    };
    tdx::Report {
        verdict: match reasons.is_empty() {
            true => Verdict::Trusted,
            false if reasons.iter().all(open) => Verdict::Undecided,
            false => Verdict::Rejected,
        },
        tcb_status: None,
        advisories: BTreeSet::new(),
        reasons,
        registers: registers(verified.measurements()),
        checks,
    }
}

fn registers(measurements: &[Digest384]) -> BTreeMap<&'static str, Digest384> {
    NAMES
        .into_iter()
        .zip(measurements.iter().copied())
        .collect()
}

fn refused(code: String, expected: &str, found: String) -> Reason {
    Reason {
        code,
        expected: expected.into(),
        found,
    }
}
