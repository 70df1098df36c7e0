//! GPUs together with what NVIDIA released for them: what a worker shows of both.

use std::sync::{Mutex, PoisonError};

use attestation::batch::TreeHead;
use attestation::evidence::GpuCollateral;
use attestation::time::UnixTime;
use session::provider::{Gpus, ProviderError};

use crate::admission::{Shown, devices, documents};
use crate::gpu::Machine;
use crate::manifests::Manifests;

/// The GPUs of this machine, and where their manifests come from.
pub struct Fleet {
    machine: Machine,
    manifests: Box<dyn Manifests>,
    kept: Mutex<Option<Kept>>,
}

struct Kept {
    collateral: GpuCollateral,
    fresh_until: UnixTime,
}

impl Fleet {
    /// With nothing fetched yet.
    #[must_use]
    pub fn new(machine: Machine, manifests: Box<dyn Manifests>) -> Self {
        Self {
            machine,
            manifests,
            kept: Mutex::default(),
        }
    }

    /// A report of each GPU for this round, with manifests that are half a day old at most,
    /// or the last that could be had.
    pub fn show(&self, head: &TreeHead, now: UnixTime) -> Result<Gpus, ProviderError> {
        let shown = self.machine.evidence(head)?;
        let collateral = self.collateral(&shown, now)?;
        let reports = shown.into_iter().map(|(evidence, _)| evidence);
        Ok((reports.collect(), collateral))
    }

    /// What NVIDIA released for these devices.
    pub fn collateral(
        &self,
        shown: &[Shown],
        now: UnixTime,
    ) -> Result<GpuCollateral, ProviderError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(kept) = kept.as_ref().filter(|kept| now < kept.fresh_until) {
            return Ok(kept.collateral.clone());
        }
        let documents = documents(&devices(shown, now)?, &*self.manifests);
        let rims = match (documents, kept.as_ref()) {
            (Ok(documents), _) => documents,
            (Err(error), Some(kept)) => {
                tracing::warn!(%error, "manifests were not renewed");
                return Ok(kept.collateral.clone());
            }
            (Err(error), None) => return Err(error.into()),
        };
        let collateral = GpuCollateral {
            rims: rims.into_iter().map(Into::into).collect(),
            ..GpuCollateral::default()
        };
        *kept = Some(Kept {
            collateral: collateral.clone(),
            fresh_until: UnixTime(now.0.saturating_add(KEEP_S)),
        });
        Ok(collateral)
    }
}

/// How long manifests are used before newer ones are looked for.
const KEEP_S: u64 = 12 * 60 * 60;
