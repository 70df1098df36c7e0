//! GPUs together with what NVIDIA says of them: what a worker shows of both.

use std::collections::BTreeSet;
use std::sync::{Mutex, PoisonError};

use attestation::appraisal::chain;
use attestation::batch::TreeHead;
use attestation::evidence::GpuCollateral;
use attestation::nvidia::{Revocation, Rim, Unasked, Verified};
use attestation::ocsp::Response;
use attestation::time::UnixTime;
use session::provider::{Gpus, ProviderError};

use crate::admission::{Shown, devices, documents};
use crate::gpu::Machine;
use crate::manifests::Manifests;
use crate::ocsp::Responder;

/// The GPUs of this machine, and where their manifests and the answers of OCSP come from.
pub struct Fleet {
    machine: Machine,
    manifests: Box<dyn Manifests>,
    responder: Box<dyn Responder>,
    kept: Mutex<Kept>,
}

impl Fleet {
    /// With nothing fetched yet.
    #[must_use]
    pub fn new(
        machine: Machine,
        manifests: Box<dyn Manifests>,
        responder: Box<dyn Responder>,
    ) -> Self {
        Self {
            machine,
            manifests,
            responder,
            kept: Mutex::new(Kept {
                rims: Vec::new(),
                answers: Vec::new(),
                fresh_until: UnixTime(0),
            }),
        }
    }

    /// A report of each GPU for this round, with collateral.
    pub fn show(&self, head: &TreeHead, now: UnixTime) -> Result<Gpus, ProviderError> {
        let (shown, mode) = self.machine.evidence(head)?;
        let collateral = self.collateral(&shown, now)?;
        let reports = shown.into_iter().map(|(evidence, _)| evidence);
        Ok(Gpus {
            reports: reports.collect(),
            collateral,
            mode: Some(mode),
        })
    }

    /// What NVIDIA says of these devices: half a day old at most, or the last that could
    /// be had. Without manifests there is nothing to show; without answers, which then
    /// everybody misses, a client decides.
    pub fn collateral(
        &self,
        shown: &[Shown],
        now: UnixTime,
    ) -> Result<GpuCollateral, ProviderError> {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if now < kept.fresh_until {
            return Ok(kept.collateral(now));
        }
        let devices = devices(shown, now)?;
        let mut next_end = UnixTime(u64::MAX);
        match documents(&devices, &*self.manifests) {
            Ok(documents) => kept.rims = documents,
            Err(error) if kept.rims.is_empty() => return Err(error.into()),
            Err(error) => {
                tracing::warn!("manifests were not renewed: {}", chain(&error));
                next_end = now;
            }
        }
        match self.answers(&devices, &kept.rims, now) {
            Ok(answers) => {
                let ends = answers.iter().map(|answer| answer.until);
                next_end = ends.fold(next_end, UnixTime::min);
                kept.answers = answers;
            }
            Err(error) => {
                tracing::warn!("OCSP responses were not renewed: {}", chain(&*error));
                next_end = now;
            }
        }
        let [soon, late] = [RETRY_S, KEEP_S].map(|wait| UnixTime(now.0.saturating_add(wait)));
        kept.fresh_until = next_end.clamp(soon, late);
        Ok(kept.collateral(now))
    }

    /// One for each certificate of devices and manifests that NVIDIA answers for.
    fn answers(
        &self,
        devices: &[Verified],
        rims: &[Vec<u8>],
        now: UnixTime,
    ) -> Result<Vec<Answer>, ProviderError> {
        let requests = |unasked: &[Unasked]| -> Vec<Vec<u8>> {
            unasked.iter().map(|one| one.request.clone()).collect()
        };
        // Devices share most of their certificates.
        let mut all: BTreeSet<Vec<u8>> = devices
            .iter()
            .flat_map(|device| requests(device.unasked()))
            .collect();
        for rim in rims {
            all.extend(requests(
                Rim::verify(rim, &Revocation::default(), now)?.unasked(),
            ));
        }
        all.iter()
            .map(|request| {
                let der = self.responder.ask(request)?;
                let until = Response::parse(&der)?.unverified_end();
                let until = until.ok_or("an OCSP response about no certificate")?;
                Ok(Answer { der, until })
            })
            .collect()
    }
}

/// What was fetched last.
struct Kept {
    rims: Vec<Vec<u8>>,
    answers: Vec<Answer>,
    fresh_until: UnixTime,
}

impl Kept {
    /// An answer that has ended would have everything refused, so it is left out.
    fn collateral(&self, now: UnixTime) -> GpuCollateral {
        let answers = self.answers.iter().filter(|answer| now < answer.until);
        GpuCollateral {
            rims: self.rims.iter().cloned().map(Into::into).collect(),
            ocsp: answers.map(|answer| answer.der.clone().into()).collect(),
            ..GpuCollateral::default()
        }
    }
}

struct Answer {
    der: Vec<u8>,
    until: UnixTime,
}

/// How long all is used before something newer is looked for.
const KEEP_S: u64 = 12 * 60 * 60;

/// How long a service that failed is left alone.
const RETRY_S: u64 = 60;
