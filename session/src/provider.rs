//! The seam to the hardware: what can speak for this machine.

use attestation::batch::TreeHead;
use attestation::binding::ReportData;
use attestation::evidence::{GpuCollateral, GpuEvidence, PlatformEvidence};
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

/// Reports in the order of their nonces, and the collateral for all of them.
pub type Gpus = (Vec<GpuEvidence>, GpuCollateral);

/// Whatever the platform says; for the worker's own console.
pub type ProviderError = Box<dyn std::error::Error + Send + Sync>;
