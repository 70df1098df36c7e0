//! Recorded TDX quotes, real and synthetic, against the verdicts of other verifiers.

mod recorded;

use std::collections::BTreeSet;

use attestation::appraisal::Verdict;
use attestation::tdx::{Quote, QuoteError, QuotePolicy, Report, TcbStatus, TrustAnchor};
use attestation::time::UnixTime;

use recorded::Vectors;

/// Real quotes that we judge otherwise than dcap-qvl 0.7.1 does, and why.
const DIVERGENCES: [(&str, &str, &str); 0] = [];

/// Every real quote with every set of collateral for its processors.
#[test]
fn real_quotes_are_judged_as_by_dcap_qvl_or_for_a_stated_reason() {
    let Some(vectors) = recorded::tdx() else {
        return;
    };
    let mut seen = BTreeSet::new();
    for row in vectors.table("ORACLE.csv") {
        let [id, file, _, _, set, at, _, _, oracle, advisories, ..] = &row[..] else {
            panic!("{row:?}");
        };
        let found = summary(&real(&vectors, file, set, at));
        let expected = expected(oracle, advisories);
        let listed = DIVERGENCES.iter().find(|(a, b, _)| a == id && b == set);
        match listed {
            None => assert_eq!(found, expected, "{id} with {set}"),
            Some(_) => {
                assert_ne!(found, expected, "{id} with {set} diverges no more");
                seen.insert((id.clone(), set.clone()));
            }
        }
    }
    assert_eq!(seen.len(), DIVERGENCES.len(), "stale divergences");
}

fn real(vectors: &Vectors, file: &str, set: &str, at: &str) -> Report {
    let files = vectors.collateral(&format!("collateral/{set}"));
    let at = UnixTime(at.parse().unwrap());
    Report::new(&vectors.read(file), &files, &QuotePolicy::default(), at)
}

/// Verdict, status or code, advisories.
fn summary(report: &Report) -> (Verdict, String, Vec<String>) {
    let reason = match report.verdict {
        Verdict::Trusted => "UpToDate".into(),
        _ => report.reasons[0].code.clone(),
    };
    let what = match (reason.as_str(), report.tcb_status) {
        ("tcb-status", Some(status)) => status.to_string(),
        _ => reason,
    };
    let advisories = match report.verdict {
        Verdict::Rejected if !what.chars().next().unwrap().is_uppercase() => Vec::new(),
        _ => report.advisories.iter().cloned().collect(),
    };
    (report.verdict, what, advisories)
}

/// The same, from what the oracle printed.
fn expected(oracle: &str, advisories: &str) -> (Verdict, String, Vec<String>) {
    let advisories = advisories.split_whitespace().map(String::from).collect();
    if oracle == "UpToDate" {
        return (Verdict::Trusted, oracle.into(), advisories);
    }
    let codes = [
        ("OutOfDate", "OutOfDate"),
        ("Debug mode is enabled", "td-debug"),
        ("SEPT_VE_DISABLE is not enabled", "sept-ve-disable"),
        ("No matching TCB level found", "platform-level"),
        ("CertNotValidYet", "pck-not-yet-valid"),
        ("Invalid MR service TD", "service-td"),
    ];
    let (_, code) = codes
        .iter()
        .find(|(text, _)| oracle.contains(text))
        .unwrap_or_else(|| panic!("no code for {oracle}"));
    (Verdict::Rejected, (*code).into(), advisories)
}
