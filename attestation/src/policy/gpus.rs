//! The GPUs of a TD: as many as its shape has, each asked in this very round.

use alloc::collections::BTreeMap;
use alloc::vec::Vec;

use crate::appraisal::{Check, chain};
use crate::batch::TreeHead;
use crate::evidence::{Evidence, GpuCollateral, GpuEvidence};
use crate::nvidia::{self, DevicePolicy, Mode, Report, Revocation, Rim};
use crate::register::TdRegisters;
use crate::time::UnixTime;

/// Which GPUs a TD has to show.
#[derive(Clone, Debug)]
pub struct GpuPolicy {
    /// By the TD's registers, which say what shape it has. Others have none.
    pub machines: BTreeMap<TdRegisters, Devices>,
    /// Each of them.
    pub device: DevicePolicy,
    #[cfg(feature = "test-root")]
    anchors: Option<Anchors>,
}

/// What a shape has.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Devices {
    /// GPUs.
    pub gpus: usize,
    /// NVSwitches; where there are any, GPUs are in protected PCIe mode.
    pub switches: usize,
}

/// The roots of devices and of manifests.
#[cfg(feature = "test-root")]
#[derive(Clone, Debug)]
pub struct Anchors {
    /// Of what a device is.
    pub devices: nvidia::TrustAnchor,
    /// Of what a device runs.
    pub manifests: nvidia::TrustAnchor,
}

impl GpuPolicy {
    /// Under NVIDIA's roots.
    #[must_use]
    pub const fn new(machines: BTreeMap<TdRegisters, Devices>, device: DevicePolicy) -> Self {
        Self {
            machines,
            device,
            #[cfg(feature = "test-root")]
            anchors: None,
        }
    }

    /// For releases without GPUs.
    #[must_use]
    pub fn none() -> Self {
        Self::new(BTreeMap::new(), DevicePolicy::strict())
    }

    /// Under made-up roots, for emulated GPUs.
    #[cfg(feature = "test-root")]
    #[must_use]
    pub fn under(self, anchors: Anchors) -> Self {
        Self {
            anchors: Some(anchors),
            ..self
        }
    }

    /// Every comparison for the TD with these registers.
    pub(super) fn judge(
        &self,
        registers: &TdRegisters,
        evidence: &Evidence,
        head: &TreeHead,
        at: UnixTime,
    ) -> Vec<Check> {
        let Devices { gpus, switches } = self.machines.get(registers).copied().unwrap_or_default();
        let policy = nvidia::Policy {
            gpus,
            switches,
            mode: match switches {
                0 => Mode::Passthrough,
                _ => Mode::ProtectedPcie,
            },
            device: self.device.clone(),
        };
        match self.verify(&evidence.gpus, &evidence.gpu_collateral, head, at) {
            Ok((devices, rims)) => match nvidia::appraise(devices, &rims, &policy) {
                Ok(trusted) => trusted.checks().to_vec(),
                Err(rejection) => rejection.checks,
            },
            Err(broken) => [broken].into(),
        }
    }

    fn verify(
        &self,
        gpus: &[GpuEvidence],
        collateral: &GpuCollateral,
        head: &TreeHead,
        at: UnixTime,
    ) -> Result<(Vec<nvidia::Verified>, Vec<Rim>), Check> {
        let revocation = collateral.revocation().map_err(|error| {
            let expected = "revocation lists and OCSP responses";
            Check::new("gpu-revocation", expected, chain(&error), false)
        })?;
        let rims = collateral.rims.iter().map(|document| {
            self.verify_rim(document, &revocation, at).map_err(|error| {
                let expected = "signed by NVIDIA, and in date";
                Check::new("gpu-manifest", expected, chain(&error), false)
            })
        });
        let count = u32::try_from(gpus.len()).unwrap_or(u32::MAX);
        let devices = (0..).zip(gpus).map(|(index, gpu)| {
            let refused = |found| {
                let expected = "signed by a device of NVIDIA's, for this session";
                Check::new("gpu-report", expected, found, false)
            };
            let report = Report::parse(&gpu.report).map_err(|error| refused(chain(&error)))?;
            let nonce = head.gpu_nonce(index, count);
            self.verify_device(report, &gpu.chain, &revocation, &nonce, at)
                .map_err(|error| refused(chain(&error)))
        });
        Ok((
            devices.collect::<Result<_, _>>()?,
            rims.collect::<Result<_, _>>()?,
        ))
    }

    fn verify_device(
        &self,
        report: Report<'_>,
        chain: &[u8],
        revocation: &Revocation<'_>,
        nonce: &[u8; 32],
        at: UnixTime,
    ) -> Result<nvidia::Verified, nvidia::VerifyError> {
        #[cfg(feature = "test-root")]
        if let Some(Anchors { devices, .. }) = &self.anchors {
            return nvidia::verify_under(devices, report, chain, revocation, nonce, at);
        }
        nvidia::verify(report, chain, revocation, nonce, at)
    }

    fn verify_rim(
        &self,
        document: &[u8],
        revocation: &Revocation<'_>,
        at: UnixTime,
    ) -> Result<Rim, nvidia::RimError> {
        #[cfg(feature = "test-root")]
        if let Some(Anchors { manifests, .. }) = &self.anchors {
            return Rim::verify_under(manifests, document, revocation, at);
        }
        Rim::verify(document, revocation, at)
    }
}
