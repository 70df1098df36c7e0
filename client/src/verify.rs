//! `cocoon verify URL`: what a worker proves, check by check.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use attestation::appraisal::{Check, Verdict};
use attestation::policy::Policy;
use serde_json::json;
use session::client::{ChallengeError, ConnectError};
use session::http::{AgainError, OpenError};

use crate::address::Address;
use crate::worker::{FRESH, SendError, Worker};

/// Connects, verifies, prints, and sends nothing else.
pub async fn run(address: Address, policy: Arc<Policy>, json: bool) -> anyhow::Result<Verdict> {
    let worker = Worker::new(address, policy, FRESH);
    let (checks, timing) = match worker.trusted().await {
        Ok((trusted, timing)) => (trusted.checks().to_vec(), Some(timing)),
        Err(error) => match rejection(&error) {
            Some(checks) => (checks.to_vec(), None),
            None => return Err(error.into()),
        },
    };
    let verdict = match timing {
        Some(_) => Verdict::Trusted,
        None => Verdict::Rejected,
    };
    let mut out = io::stdout().lock();
    match json {
        true => {
            let timing = timing.map(|timing| {
                json!({
                    "evidence_ms": millis(timing.evidence),
                    "verification_ms": millis(timing.verification),
                })
            });
            let report = json!({ "verdict": verdict, "checks": checks, "timing": timing });
            writeln!(out, "{report}")?;
        }
        false => {
            print_table(&mut out, &checks)?;
            writeln!(out, "{}", summary(&checks, verdict))?;
        }
    }
    Ok(verdict)
}

/// The checks of a peer that was judged and found wanting.
pub(crate) fn rejection(error: &SendError) -> Option<&[Check]> {
    match error {
        SendError::Open(OpenError::Untrusted(ConnectError::Challenge(error)))
        | SendError::Again(AgainError::Stale(error)) => match error {
            ChallengeError::Rejected(rejection) => Some(&rejection.checks),
            _ => None,
        },
        _ => None,
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

pub(crate) fn print_table(out: &mut impl Write, checks: &[Check]) -> io::Result<()> {
    let width = checks.iter().map(|check| check.name.len()).max();
    let width = width.unwrap_or_default();
    for check in checks {
        let name = check.name;
        match check.passed {
            true => writeln!(out, "ok    {name:width$}  {}", check.found)?,
            false => {
                writeln!(out, "FAIL  {name:width$}  expected {}", check.expected)?;
                writeln!(out, "      {:width$}  found    {}", "", check.found)?;
            }
        }
    }
    Ok(())
}

fn summary(checks: &[Check], verdict: Verdict) -> String {
    let failed = checks.iter().filter(|check| !check.passed).count();
    match failed {
        0 => format!("trusted: {} checks passed", checks.len()),
        _ => format!(
            "{verdict}: {failed} of {} checks failed, nothing was sent",
            checks.len()
        ),
    }
}
