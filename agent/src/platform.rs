//! What speaks for this machine: a TD's quotes, or a TPM's.

use std::sync::Arc;
use std::time::{SystemTime, SystemTimeError};

use attestation::batch::TreeHead;
use attestation::binding::ReportData;
use attestation::evidence::PlatformEvidence;
use attestation::tdx::Quote;
use attestation::time::UnixTime;
use attestation::vtpm::{Credential, Endorsement};
use session::provider::{Gpus, Provider, ProviderError};

use crate::collateral::{PckCa, Service, Subject};
use crate::fleet::Fleet;
use crate::tsm::Tsm;
use crate::vtpm::Tpm;

/// A TD, through the kernel's configfs-tsm.
pub struct Tdx {
    /// Where quotes come from.
    pub tsm: Tsm,
    /// Where Intel's word about the platform comes from.
    pub collateral: Service,
    /// CCEL.
    pub event_log: Vec<u8>,
    /// Where it computes on any.
    pub gpus: Option<Fleet>,
}

impl Provider for Tdx {
    fn endorsement(&self) -> Option<Endorsement> {
        None
    }

    fn gpus(&self, head: &TreeHead) -> Result<Gpus, ProviderError> {
        match &self.gpus {
            None => Ok(Gpus::default()),
            Some(gpus) => gpus.show(head, now()?),
        }
    }

    fn attest(
        &self,
        report_data: &ReportData,
        _credential: Option<&Credential>,
    ) -> Result<PlatformEvidence, ProviderError> {
        let quote = self.tsm.quote(&report_data.0)?;
        let platform = Quote::parse(&quote)?
            .unverified_platform()
            .ok_or("the quote names no platform")?;
        let subject = Subject {
            fmspc: platform.fmspc.0,
            // Only platforms that were registered as a whole have an instance.
            ca: match platform.instance {
                Some(_) => PckCa::Platform,
                None => PckCa::Processor,
            },
        };
        let collateral = self.collateral.collateral(subject, now()?)?;
        let collateral = Arc::unwrap_or_clone(collateral);
        Ok(PlatformEvidence::Tdx { quote, collateral })
    }

    fn event_log(&self) -> &[u8] {
        &self.event_log
    }
}

/// A TPM that the host or a paravisor provides.
pub struct Vtpm {
    /// The device.
    pub tpm: Tpm,
    /// `binary_bios_measurements`.
    pub event_log: Vec<u8>,
}

impl Provider for Vtpm {
    fn endorsement(&self) -> Option<Endorsement> {
        Some(self.tpm.endorsement().clone())
    }

    fn attest(
        &self,
        report_data: &ReportData,
        credential: Option<&Credential>,
    ) -> Result<PlatformEvidence, ProviderError> {
        let credential = credential.ok_or("a TPM is attested only after a challenge")?;
        let evidence = self.tpm.attest(&report_data.0, credential)?;
        Ok(PlatformEvidence::Vtpm(Box::new(evidence)))
    }

    fn event_log(&self) -> &[u8] {
        &self.event_log
    }
}

fn now() -> Result<UnixTime, SystemTimeError> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    Ok(UnixTime(now.as_secs()))
}
