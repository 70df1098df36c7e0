//! What a client accepts, and the verdict on what it was shown.
//!
//! A policy is for one kind of platform: a TPM is never taken where a TD was
//! asked for. Nothing in it can be left unset.

use alloc::boxed::Box;
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::error::Error;
use core::fmt;

use crate::appraisal::{Check, Rejection, all_passed, chain};
use crate::batch::TreeHead;
use crate::binding::ReportData;
use crate::evidence::{self, Evidence, GpuMode, PlatformEvidence};
use crate::register::{Digest256, Digest384, TdRegisters};
use crate::tdx;
use crate::time::UnixTime;
use crate::vtpm;

mod gpus;

#[cfg(feature = "test-root")]
pub use gpus::Anchors;
pub use gpus::{Devices, GpuPolicy};

/// The platform that has to answer, and what it may be.
#[derive(Clone, Debug)]
pub enum Policy {
    /// A TD on Intel hardware.
    Tdx(Box<TdxPolicy>),
    /// A measured boot vouched for by a TPM: its host can read its memory.
    Vtpm(VtpmPolicy),
}

/// Which TDs to accept.
#[derive(Clone, Debug)]
pub struct TdxPolicy {
    /// Everything but REPORTDATA, which follows from the session.
    accepted: tdx::Policy,
    gpus: GpuPolicy,
    #[cfg(feature = "test-root")]
    anchor: Option<tdx::TrustAnchor>,
}

impl TdxPolicy {
    /// Under Intel's root.
    #[must_use]
    pub const fn new(accepted: tdx::Policy, gpus: GpuPolicy) -> Self {
        Self {
            accepted,
            gpus,
            #[cfg(feature = "test-root")]
            anchor: None,
        }
    }

    /// Under a made-up root, for emulated TDs.
    #[cfg(feature = "test-root")]
    #[must_use]
    pub fn under(self, anchor: tdx::TrustAnchor) -> Self {
        Self {
            anchor: Some(anchor),
            ..self
        }
    }
}

/// Which TPMs to accept.
#[derive(Clone, Debug)]
pub struct VtpmPolicy {
    /// DER certificates under which endorsement keys are genuine.
    pub anchors: Vec<Vec<u8>>,
    /// Boots to accept; an empty list accepts nothing.
    pub builds: Vec<VtpmBuild>,
}

/// What a TPM reports after one boot that is accepted.
#[derive(Clone, Debug)]
pub struct VtpmBuild {
    /// For people.
    pub name: String,
    /// PCR 0 to 15, SHA-256 bank.
    pub pcrs: vtpm::Pcrs,
}

impl Policy {
    /// First half of a TPM's conversation: is this an endorsement key that counts?
    pub fn endorsed(
        &self,
        endorsement: &vtpm::Endorsement,
        at: UnixTime,
    ) -> Result<vtpm::Endorsed, Rejection> {
        let Self::Vtpm(policy) = self else {
            return Err(Rejection {
                checks: [self.platform("vtpm")].into(),
            });
        };
        let anchors: Vec<&[u8]> = policy.anchors.iter().map(Vec::as_slice).collect();
        endorsement
            .verify(&anchors, at)
            .map_err(|error| broken("ek-certificate", "a chain to an accepted root", &error))
    }

    /// Judges `evidence` for the round of sessions that `head` names.
    pub fn judge(
        &self,
        evidence: &Evidence,
        head: &TreeHead,
        tpm: Option<vtpm::Challenge>,
        at: UnixTime,
    ) -> Result<Trusted, Rejection> {
        let platform = self.platform(evidence.platform.name());
        let log = equal(
            "event-log",
            &Digest384::from_bytes(evidence.state.event_log),
            &Digest384::of(&evidence.event_log),
        );
        let mut checks: Vec<Check> = [platform, log, gpu_mode(evidence)].into();
        checks.extend(match (self, &evidence.platform, tpm) {
            (Self::Tdx(policy), PlatformEvidence::Tdx { quote, collateral }, None) => {
                let (registers, mut checks) =
                    policy.judge(quote, collateral, &evidence.report_data(head), at)?;
                checks.extend(policy.gpus.judge(&registers, evidence, head, at));
                checks
            }
            (Self::Vtpm(policy), PlatformEvidence::Vtpm(quote), Some(challenge)) => {
                let mut checks = policy.judge(quote, challenge, &evidence.report_data(head))?;
                // Nothing here says which GPUs to accept.
                checks.push(equal("gpus", &0, &evidence.gpus.len()));
                checks
            }
            // Another platform, or a TPM that was not challenged.
            _ => [Check::new(
                "conversation",
                "as its platform has it",
                "another",
                false,
            )]
            .into(),
        });
        let checks = all_passed(checks)?;
        Ok(Trusted {
            checks,
            keyset: Digest256::from_bytes(evidence.state.keyset),
        })
    }

    /// Judges a quote over `data` alone, outside any session: no GPU and no state of the
    /// agent's is in it.
    pub fn judge_quote(
        &self,
        quote: &[u8],
        collateral: &evidence::Collateral,
        data: &ReportData,
        at: UnixTime,
    ) -> Result<Vec<Check>, Rejection> {
        match self {
            Self::Tdx(policy) => {
                let (_, checks) = policy.judge(quote, collateral, data, at)?;
                all_passed(checks)
            }
            Self::Vtpm(_) => Err(Rejection {
                checks: [self.platform("tdx")].into(),
            }),
        }
    }

    fn platform(&self, found: &'static str) -> Check {
        let expected = match self {
            Self::Tdx(_) => "tdx",
            Self::Vtpm(_) => "vtpm",
        };
        equal("platform", &expected, &found)
    }
}

impl TdxPolicy {
    fn judge(
        &self,
        quote: &[u8],
        collateral: &evidence::Collateral,
        report_data: &ReportData,
        at: UnixTime,
    ) -> Result<(TdRegisters, Vec<Check>), Rejection> {
        let quote =
            tdx::Quote::parse(quote).map_err(|error| broken("quote", "a TDX quote", &error))?;
        let parts = collateral.parts();
        #[cfg(feature = "test-root")]
        let collateral = match &self.anchor {
            Some(anchor) => tdx::Collateral::verify_under(anchor, parts, at),
            None => tdx::Collateral::verify(parts, at),
        };
        #[cfg(not(feature = "test-root"))]
        let collateral = tdx::Collateral::verify(parts, at);
        let collateral = collateral
            .map_err(|error| broken("collateral", "signed by Intel, and in date", &error))?;
        let verified = tdx::verify(quote, &collateral, at)
            .map_err(|error| broken("quote", "signed by a platform of Intel's", &error))?;
        let registers = verified.body().registers;
        let checks = match verified.appraise(&self.accepted, report_data) {
            Ok(trusted) => trusted.checks().to_vec(),
            Err(rejection) => rejection.checks,
        };
        Ok((registers, checks))
    }
}

impl VtpmPolicy {
    fn judge(
        &self,
        evidence: &vtpm::Evidence,
        challenge: vtpm::Challenge,
        report_data: &ReportData,
    ) -> Result<Vec<Check>, Rejection> {
        let verified = challenge
            .verify(evidence, report_data)
            .map_err(|error| broken("tpm-quote", "signed for this session", &error))?;
        Ok(self.compare(verified.pcrs()))
    }

    /// Every register against the accepted boot that comes nearest.
    fn compare(&self, found: &vtpm::Pcrs) -> Vec<Check> {
        let same = |build: &&VtpmBuild| {
            let pairs = build.pcrs.iter().zip(found);
            pairs.filter(|(expected, found)| expected == found).count()
        };
        let Some(nearest) = self.builds.iter().max_by_key(same) else {
            return [Check::new("build", "one of none", "a boot", false)].into();
        };
        let pairs = PCR_NAMES.iter().zip(nearest.pcrs.iter().zip(found));
        pairs
            .map(|(name, (expected, found))| equal(name, expected, found))
            .collect()
    }
}

/// A peer that satisfied a policy, in one session, at one moment.
#[derive(Clone, Debug)]
pub struct Trusted {
    checks: Vec<Check>,
    keyset: Digest256,
}

impl Trusted {
    /// What was looked at, all of it passed.
    #[must_use]
    pub fn checks(&self) -> &[Check] {
        &self.checks
    }

    /// SHA-256 of the keyset that the peer signs receipts under now.
    #[must_use]
    pub const fn keyset(&self) -> &Digest256 {
        &self.keyset
    }
}

/// Evidence that cannot be compared, since it does not even verify.
fn broken(name: &'static str, expected: &str, error: &dyn Error) -> Rejection {
    Rejection {
        checks: [Check::new(name, expected, chain(error), false)].into(),
    }
}

/// Whoever holds the host reads along unless GPUs run as they should, and no report says
/// whether they do.
fn gpu_mode(evidence: &Evidence) -> Check {
    let expected = (!evidence.gpus.is_empty()).then_some(GpuMode::SERVING);
    let found = evidence.state.gpu_mode;
    let text = |mode: Option<GpuMode>| mode.map_or("no GPU".into(), |mode| mode.to_string());
    Check::new("gpu-mode", text(expected), text(found), expected == found)
}

fn equal<T: PartialEq + fmt::Display>(name: &'static str, expected: &T, found: &T) -> Check {
    Check::new(name, expected, found, expected == found)
}

const PCR_NAMES: [&str; vtpm::PCR_COUNT] = [
    "pcr0", "pcr1", "pcr2", "pcr3", "pcr4", "pcr5", "pcr6", "pcr7", "pcr8", "pcr9", "pcr10",
    "pcr11", "pcr12", "pcr13", "pcr14", "pcr15",
];
