//! A stored quote, judged: what `cocoon verify tdx` prints.
//!
//! A stored quote is no session, so nobody knows which REPORTDATA it should have;
//! a policy may name one. What comes out is for people and scripts, and nothing
//! that takes a [`Trusted`](super::Trusted) takes it.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::string::{String, ToString};
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};

use crate::appraisal::{Check, Reason, Verdict};
use crate::binding::ReportData;
use crate::register::Digest384;
use crate::time::UnixTime;

use super::collateral::{Collateral, CollateralError, CollateralParts};
use super::files::CollateralFiles;
use super::hex::Hex;
use super::policy::{IdentityPolicy, PlatformPolicy};
use super::quote::{Quote, QuoteError};
use super::status::TcbStatus;
use super::verify::{VerifyError, verify};

/// What to hold a stored quote against.
#[derive(Clone, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct QuotePolicy {
    /// The hardware; strict where it is left out.
    #[serde(default)]
    pub platform: PlatformPolicy,
    /// The software, where it is known.
    pub identity: Option<IdentityPolicy>,
    /// What the guest put into it, where that is known.
    pub report_data: Option<Hex<64>>,
}

/// How a stored quote was judged.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Report {
    /// How it ended.
    pub verdict: Verdict,
    /// Of the platform, once the signatures hold.
    pub tcb_status: Option<TcbStatus>,
    /// That the platform is subject to.
    pub advisories: BTreeSet<String>,
    /// Why it is not trusted; empty if it is.
    pub reasons: Vec<Reason>,
    /// As measured, once the signatures hold.
    pub registers: BTreeMap<&'static str, Digest384>,
    /// Every comparison with the policy.
    #[serde(skip)]
    pub checks: Vec<Check>,
}

impl Report {
    /// Judges a quote under Intel's root.
    #[must_use]
    pub fn new(quote: &[u8], files: &CollateralFiles, policy: &QuotePolicy, at: UnixTime) -> Self {
        let verify = |parts: CollateralParts<'_>| Collateral::verify(parts, at);
        judge(quote, files, policy, at, verify).unwrap_or_else(Self::from)
    }

    /// Judges a quote under a made-up root.
    #[cfg(feature = "test-root")]
    #[must_use]
    pub fn under(
        anchor: &super::TrustAnchor,
        quote: &[u8],
        files: &CollateralFiles,
        policy: &QuotePolicy,
        at: UnixTime,
    ) -> Self {
        let verify = |parts: CollateralParts<'_>| Collateral::verify_under(anchor, parts, at);
        judge(quote, files, policy, at, verify).unwrap_or_else(Self::from)
    }

    /// For inputs that do not suffice to tell.
    #[must_use]
    pub fn undecided(reason: Reason) -> Self {
        Self {
            verdict: Verdict::Undecided,
            ..Self::stopped(reason)
        }
    }

    fn stopped(reason: Reason) -> Self {
        Self {
            verdict: Verdict::Rejected,
            tcb_status: None,
            advisories: BTreeSet::new(),
            reasons: [reason].into(),
            registers: BTreeMap::new(),
            checks: Vec::new(),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "verdict {}", self.verdict)?;
        if let Some(status) = self.tcb_status {
            writeln!(f, "tcb_status {status}")?;
        }
        for advisory in &self.advisories {
            writeln!(f, "advisory {advisory}")?;
        }
        for (name, value) in &self.registers {
            writeln!(f, "{name} {value}")?;
        }
        for Reason {
            code,
            expected,
            found,
        } in &self.reasons
        {
            writeln!(f, "reason {code}: {found}, expected {expected}")?;
        }
        Ok(())
    }
}

fn judge(
    quote: &[u8],
    files: &CollateralFiles,
    policy: &QuotePolicy,
    at: UnixTime,
    prepare: impl FnOnce(CollateralParts<'_>) -> Result<Collateral, CollateralError>,
) -> Result<Report, Stopped> {
    let quote = Quote::parse(quote)?;
    let collateral = prepare(files.parts(&quote))?;
    let verified = verify(quote, &collateral, at)?;

    let mut checks = verified.check_platform(&policy.platform);
    if let Some(identity) = &policy.identity {
        checks.extend(verified.check_identity(identity));
    }
    if let Some(Hex(report_data)) = policy.report_data {
        checks.push(verified.check_report_data(&ReportData(report_data)));
    }
    let reasons: Vec<_> = checks.iter().filter_map(Check::reason).collect();
    Ok(Report {
        verdict: match reasons.is_empty() {
            true => Verdict::Trusted,
            false => Verdict::Rejected,
        },
        tcb_status: Some(verified.status()),
        advisories: verified.advisories().clone(),
        reasons,
        registers: verified.body().digests(),
        checks,
    })
}

/// Where it ended before there was anything to compare.
enum Stopped {
    Quote(QuoteError),
    Collateral(CollateralError),
    Verify(VerifyError),
}

impl From<QuoteError> for Stopped {
    fn from(error: QuoteError) -> Self {
        Self::Quote(error)
    }
}

impl From<CollateralError> for Stopped {
    fn from(error: CollateralError) -> Self {
        Self::Collateral(error)
    }
}

impl From<VerifyError> for Stopped {
    fn from(error: VerifyError) -> Self {
        Self::Verify(error)
    }
}

impl From<Stopped> for Report {
    fn from(stopped: Stopped) -> Self {
        let reason = |code: String, expected: &str, error: &dyn fmt::Display| Reason {
            code,
            expected: expected.into(),
            found: error.to_string(),
        };
        match stopped {
            Stopped::Quote(error) => Self::stopped(reason(
                error.code().into(),
                "a TDX quote of version 4 or 5 and nothing after it",
                &error,
            )),
            Stopped::Collateral(error) => Self::stopped(reason(
                error.code(),
                "collateral that is signed under the pinned root and valid at that time",
                &error,
            )),
            Stopped::Verify(error) => {
                let report = Self::stopped(reason(
                    error.code(),
                    "a quote that verifies with this collateral at that time",
                    &error,
                ));
                match error {
                    VerifyError::Revoked { advisories } => Self {
                        tcb_status: Some(TcbStatus::Revoked),
                        advisories,
                        ..report
                    },
                    _ => report,
                }
            }
        }
    }
}
