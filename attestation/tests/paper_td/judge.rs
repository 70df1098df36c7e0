//! The verdict on a paper, as one word.

use std::collections::BTreeSet;

use attestation::register::Digest384;
use attestation::tdx::{
    Collateral, IdentityPolicy, PlatformPolicy, Policy, Quote, TrustAnchor, Verified, verify,
};

use super::{AT, Built, MRCONFIGID, Paper, REPORT_DATA, registers};

/// Rows of a table: `"reason": "what is wrong" => |paper| how;`.
#[allow(unused_macros, reason = "not every test has a table")]
macro_rules! faults {
    ($($code:literal: $what:literal => $change:expr;)*) => {
        &[$(($what, $change, $code)),*]
    };
}

/// A fault, and the reason that it must give.
pub(crate) type Row = (&'static str, fn(&mut Paper), &'static str);

pub(crate) fn check(rows: &[Row]) {
    for (what, change, expected) in rows {
        let mut paper = Paper::good();
        change(&mut paper);
        let found = judge(&paper.build(), &policy());
        assert_eq!(found, Err((*expected).into()), "{what}");
    }
}

/// A fault of the claims or of the policy, and the reason that it must give.
pub(crate) type PolicyRow = (&'static str, fn(&mut Paper, &mut Policy), &'static str);

pub(crate) fn check_policy(rows: &[PolicyRow]) {
    for (what, change, expected) in rows {
        let (mut paper, mut policy) = (Paper::td15_ex(), policy());
        change(&mut paper, &mut policy);
        let found = judge(&paper.build(), &policy);
        assert_eq!(found, Err((*expected).into()), "{what}");
    }
}

/// The code of the first reason, if any.
pub(crate) fn judge(built: &Built, policy: &Policy) -> Result<(), String> {
    match verified(built)?.appraise(policy, &REPORT_DATA) {
        Ok(_) => Ok(()),
        Err(rejection) => {
            let failed = rejection.checks.iter().find(|check| !check.passed);
            Err(failed.unwrap().name.into())
        }
    }
}

pub(crate) fn verified(built: &Built) -> Result<Verified, String> {
    let quote = Quote::parse(&built.quote).map_err(|error| String::from(error.code()))?;
    let collateral = Collateral::verify_under(&anchor(built), built.parts(), AT)
        .map_err(|error| error.code())?;
    verify(quote, &collateral, AT).map_err(|error| error.code())
}

pub(crate) fn anchor(built: &Built) -> TrustAnchor {
    TrustAnchor::from_certificate(&built.root).unwrap()
}

/// Takes the good TD and nothing else.
pub(crate) fn policy() -> Policy {
    Policy {
        platform: PlatformPolicy::strict(),
        identity: IdentityPolicy {
            builds: BTreeSet::from([registers()]),
            mrconfigid: BTreeSet::from([MRCONFIGID]),
            mrowner: BTreeSet::from([Digest384::ZERO]),
            mrownerconfig: BTreeSet::from([Digest384::ZERO]),
        },
    }
}
