//! Whether the GPUs of this machine may work: NVIDIA's, and running what NVIDIA released.
//!
//! Asked once, before they accept work. It keeps a worker from taking requests
//! on GPUs that every client would refuse, and memory of this machine from a
//! device that only says that it is a GPU. Clients ask again, for themselves.
//!
//! What it does not establish: that NVIDIA has not taken a certificate back (no
//! lists are read here), nor that a manifest is still valid for others: the
//! clock is the host's.

use std::collections::BTreeSet;

use attestation::appraisal::Rejection;
use attestation::evidence::GpuEvidence;
use attestation::nvidia::{
    DevicePolicy, Mode, Policy, Report, ReportError, Revocation, Rim, RimError, Trusted, Verified,
    VerifyError, appraise, verify,
};
use attestation::time::UnixTime;

use crate::collateral::FetchError;
use crate::manifests::Manifests;

/// Verifies each report for its nonce, then all against what NVIDIA released.
pub fn admit(shown: &[Shown], manifests: &dyn Manifests, at: UnixTime) -> Result<Trusted, Refused> {
    let devices = devices(shown, at)?;
    let rim = |document: &Vec<u8>| {
        Rim::verify(document, &Revocation::default(), at)
            .map_err(|source| Refused::Manifest { source })
    };
    let documents = documents(&devices, manifests)?;
    let rims: Vec<Rim> = documents.iter().map(rim).collect::<Result<_, _>>()?;
    let policy = Policy {
        gpus: shown.len(),
        switches: 0,
        mode: Mode::Passthrough,
        device: DevicePolicy::any(),
    };
    appraise(devices, &rims, &policy).map_err(Refused::Measurements)
}

/// A report with its certificates, and the nonce that was asked.
pub type Shown = (GpuEvidence, [u8; 32]);

/// The devices that show these reports.
pub fn devices(shown: &[Shown], at: UnixTime) -> Result<Vec<Verified>, Refused> {
    let device = |(index, (evidence, nonce)): (usize, &Shown)| {
        let report =
            Report::parse(&evidence.report).map_err(|source| Refused::Report { index, source })?;
        verify(report, &evidence.chain, &Revocation::default(), nonce, at)
            .map_err(|source| Refused::Device { index, source })
    };
    shown.iter().enumerate().map(device).collect()
}

/// The manifest of each driver and firmware among the devices, as it was served.
pub fn documents(devices: &[Verified], manifests: &dyn Manifests) -> Result<Vec<Vec<u8>>, Refused> {
    let ids: BTreeSet<String> = devices
        .iter()
        .flat_map(|device| {
            let (opaque, family) = (device.opaque(), device.device().architecture);
            [opaque.driver_rim_id(family), opaque.vbios_rim_id(family)]
        })
        .flatten()
        .collect();
    ids.iter()
        .map(|id| manifests.fetch(id).map_err(Refused::Unavailable))
        .collect()
}

/// Why GPUs may not work.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Refused {
    /// Not NVIDIA's, or not what it was asked.
    #[error("GPU {index} is not NVIDIA's, or answers another question")]
    Device {
        /// From zero.
        index: usize,
        /// What is wrong.
        source: VerifyError,
    },
    /// Not signed by NVIDIA, or out of date.
    #[error("a manifest is refused")]
    Manifest {
        /// What is wrong.
        source: RimError,
    },
    /// Something else runs on them than NVIDIA released.
    #[error("the GPUs do not run what NVIDIA released")]
    Measurements(#[source] Rejection),
    /// Not a report.
    #[error("GPU {index} shows no report")]
    Report {
        /// From zero.
        index: usize,
        /// What is wrong.
        source: ReportError,
    },
    /// The service has no manifest for what runs.
    #[error("cannot get a manifest")]
    Unavailable(#[source] FetchError),
}
