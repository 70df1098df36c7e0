//! The seam to the hardware: what can speak for this machine.

use attestation::binding::ReportData;
use attestation::evidence::PlatformEvidence;
use attestation::vtpm;

/// A root of trust. Calls block, on real hardware for a second and more; they
/// come one at a time.
pub trait Provider: Send + Sync + 'static {
    /// What a verifier must know before it can challenge; none for a TD, whose
    /// quotes stand alone.
    fn endorsement(&self) -> Option<vtpm::Endorsement>;

    /// Signs `report_data`. A TPM first opens `credential`.
    fn attest(
        &self,
        report_data: &ReportData,
        credential: Option<&vtpm::Credential>,
    ) -> Result<PlatformEvidence, ProviderError>;

    /// The log of what went into the registers.
    fn event_log(&self) -> &[u8];
}

/// Whatever the platform says; for the worker's own console.
pub type ProviderError = Box<dyn std::error::Error + Send + Sync>;
