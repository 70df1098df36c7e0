//! A TD in this process: a platform provider whose quotes a test root vouches for.

use std::collections::BTreeSet;
use std::time::SystemTime;

use attestation::binding::ReportData;
use attestation::evidence::{Collateral, PlatformEvidence};
use attestation::policy::{GpuPolicy, Policy, TdxPolicy};
use attestation::register::{Digest384, TdRegisters};
use attestation::tdx::{self, IdentityPolicy, PlatformPolicy, TrustAnchor};
use attestation::vtpm::{Credential, Endorsement};
use session::provider::{Provider, ProviderError};

use crate::collateral::Statements;
use crate::pki::{Intel, Platform};
use crate::quote::{QuotingEnclave, TdState};

/// A TD with its platform, and the Intel that vouches for it.
#[derive(Debug)]
pub struct Td {
    intel: Intel,
    enclave: QuotingEnclave,
    state: TdState,
}

impl Td {
    /// What [`Td::new`] reports, each register another value.
    pub const REGISTERS: TdRegisters = TdRegisters {
        mrtd: Digest384::from_bytes([1; 48]),
        rtmr0: Digest384::from_bytes([2; 48]),
        rtmr1: Digest384::from_bytes([3; 48]),
        rtmr2: Digest384::from_bytes([4; 48]),
        rtmr3: Digest384::ZERO,
    };

    /// What [`Td::new`] reports as digest of its configuration.
    pub const MRCONFIGID: Digest384 = Digest384::from_bytes([5; 48]);

    /// As published.
    #[must_use]
    pub fn new() -> Self {
        Self::in_state(TdState::new(Self::REGISTERS, Self::MRCONFIGID))
    }

    /// In another state than was published.
    #[must_use]
    pub fn in_state(state: TdState) -> Self {
        Self::on(Platform::SAMPLE, state)
    }

    /// As published, on the machine of that name.
    #[must_use]
    pub fn on_machine(ppid: [u8; 16]) -> Self {
        let platform = Platform {
            ppid,
            ..Platform::SAMPLE
        };
        Self::on(platform, TdState::new(Self::REGISTERS, Self::MRCONFIGID))
    }

    fn on(platform: Platform, state: TdState) -> Self {
        let intel = Intel::new(&[1; 32], &platform);
        let enclave = QuotingEnclave::new(&[2; 32], &intel);
        Self {
            intel,
            enclave,
            state,
        }
    }

    /// The root that vouches for it, DER.
    #[must_use]
    pub fn root(&self) -> &[u8] {
        self.intel.root()
    }

    /// A quote over these bytes.
    #[must_use]
    pub fn quote(&self, report_data: &[u8; 64]) -> Vec<u8> {
        self.enclave.quote(&self.state, report_data)
    }

    /// What Intel says of its platform at `now`, in Unix seconds.
    #[must_use]
    pub fn collateral(&self, now: i64) -> Collateral {
        Statements::good(&Platform::SAMPLE, now).sign(&self.intel)
    }

    /// Takes exactly [`Td::new`], under the root that vouches for it.
    #[must_use]
    pub fn policy(&self) -> Policy {
        self.policy_with(GpuPolicy::none())
    }

    /// The same with GPUs.
    #[must_use]
    pub fn policy_with(&self, gpus: GpuPolicy) -> Policy {
        let anchor = TrustAnchor::from_certificate(self.intel.root());
        let anchor = anchor.expect("the double's root is a certificate");
        Policy::Tdx(Box::new(Self::accepted_with(gpus).under(anchor)))
    }

    /// Takes [`Td::new`], were it Intel that vouched for it.
    #[must_use]
    pub fn accepted() -> TdxPolicy {
        Self::accepted_with(GpuPolicy::none())
    }

    fn accepted_with(gpus: GpuPolicy) -> TdxPolicy {
        let unset = BTreeSet::from([Digest384::ZERO]);
        let accepted = tdx::Policy {
            platform: PlatformPolicy::strict(),
            identity: IdentityPolicy {
                builds: BTreeSet::from([Self::REGISTERS]),
                mrconfigid: BTreeSet::from([Self::MRCONFIGID]),
                mrowner: unset.clone(),
                mrownerconfig: unset,
            },
        };
        TdxPolicy::new(accepted, gpus)
    }
}

impl Default for Td {
    fn default() -> Self {
        Self::new()
    }
}

impl Provider for Td {
    fn endorsement(&self) -> Option<Endorsement> {
        None
    }

    fn attest(
        &self,
        report_data: &ReportData,
        _credential: Option<&Credential>,
    ) -> Result<PlatformEvidence, ProviderError> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let now = i64::try_from(now.as_secs())?;
        Ok(PlatformEvidence::Tdx {
            quote: self.quote(&report_data.0),
            collateral: self.collateral(now),
        })
    }

    fn event_log(&self) -> &[u8] {
        b"not a log that anybody reads"
    }
}
