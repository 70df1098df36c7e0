//! The seam to the hardware: what can speak for this machine.

use attestation::batch::TreeHead;
use attestation::binding::ReportData;
use attestation::evidence::{GpuCollateral, GpuEvidence, GpuMode, PlatformEvidence};
use attestation::vtpm;

/// A root of trust. Calls block, on real hardware for a second and more; they
/// come one at a time.
pub trait Provider: Send + Sync + 'static {
    /// What a verifier must know before it can challenge; none for a TD, whose
    /// quotes stand alone.
    fn endorsement(&self) -> Option<vtpm::Endorsement>;

    /// What each GPU signs for this round, and what NVIDIA says of them; nothing where
    /// none computes.
    fn gpus(&self, _head: &TreeHead) -> Result<Gpus, ProviderError> {
        Ok(Gpus::default())
    }

    /// Signs `report_data`. A TPM first opens `credential`.
    fn attest(
        &self,
        report_data: &ReportData,
        credential: Option<&vtpm::Credential>,
    ) -> Result<PlatformEvidence, ProviderError>;

    /// The log of what went into the registers.
    fn event_log(&self) -> &[u8];
}

/// What a machine shows of its GPUs in one round.
#[derive(Clone, Debug, Default)]
pub struct Gpus {
    /// In the order of their nonces.
    pub reports: Vec<GpuEvidence>,
    /// For all of them.
    pub collateral: GpuCollateral,
    /// Nothing where there are none.
    pub mode: Option<GpuMode>,
}

/// Whatever the platform says; for the worker's own console.
pub type ProviderError = Box<dyn std::error::Error + Send + Sync>;
