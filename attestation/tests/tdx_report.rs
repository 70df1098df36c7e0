//! What scripts read: the verdict on a stored quote, and the policy that it is held against.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod paper_td;

use std::convert::Infallible;

use attestation::appraisal::{Reason, Verdict};
use attestation::tdx::{
    Accept, CollateralFiles, FilesError, Hex, PlatformPolicy, QuotePolicy, Report, TcbStatus,
};
use serde_json::json;

use paper_td::judge::anchor;
use paper_td::{AT, Built, Paper};

#[test]
fn a_trusted_quote_has_no_reasons() {
    let report = report(&Paper::good().build(), "");
    let zero = "00".repeat(48);
    let expected = json!({
        "verdict": "trusted",
        "tcb_status": "UpToDate",
        "advisories": [],
        "reasons": [],
        "registers": {
            "mrtd": "30".repeat(48),
            "rtmr0": "40".repeat(48),
            "rtmr1": "41".repeat(48),
            "rtmr2": "42".repeat(48),
            "rtmr3": "43".repeat(48),
            "mrconfigid": "31".repeat(48),
            "mrowner": zero,
            "mrownerconfig": zero,
            "mrseam": "20".repeat(48),
        },
    });
    assert_eq!(json!(report), expected);
    assert_eq!(report.verdict.exit_code(), 0);
}

#[test]
fn a_status_that_is_not_accepted_is_reported_with_its_advisories() {
    let mut paper = Paper::good();
    paper.body[0] = 6;
    let report = report(&paper.build(), "");
    let value = json!(report);
    assert_eq!(value["verdict"], "rejected");
    assert_eq!(value["tcb_status"], "OutOfDate");
    assert_eq!(value["advisories"], json!(["INTEL-SA-00002"]));
    assert_eq!(
        value["reasons"],
        json!([
            { "code": "tcb-status", "expected": "UpToDate", "found": "OutOfDate" },
            { "code": "advisories", "expected": "none", "found": "INTEL-SA-00002" },
        ])
    );
    assert_eq!(report.verdict.exit_code(), 1);
    let text = report.to_string();
    assert!(text.starts_with("verdict rejected\ntcb_status OutOfDate\nadvisory INTEL-SA-00002\n"));
    assert!(text.contains("\nreason tcb-status: OutOfDate, expected UpToDate\n"));
}

#[test]
fn a_revoked_platform_keeps_its_status_and_gets_nothing_else_believed() {
    let mut paper = Paper::good();
    paper.status("Revoked");
    let value = json!(report(&paper.build(), ""));
    assert_eq!(value["tcb_status"], "Revoked");
    assert_eq!(value["registers"], json!({}));
    assert_eq!(value["reasons"][0]["code"], "tcb-status");
}

#[test]
fn what_does_not_verify_has_no_status_and_no_registers() {
    let mut built = Paper::good().build();
    built.quote.truncate(1);
    let expected = json!({
        "verdict": "rejected",
        "tcb_status": null,
        "advisories": [],
        "reasons": [{
            "code": "quote-truncated",
            "expected": "a TDX quote of version 4 or 5 and nothing after it",
            "found": "version at offset 0 needs 2 bytes, 1 left",
        }],
        "registers": {},
    });
    assert_eq!(json!(report(&built, "")), expected);
}

#[test]
fn inputs_that_cannot_be_read_leave_it_undecided() {
    let report = Report::undecided(Reason {
        code: "input".into(),
        expected: "a file".into(),
        found: "none".into(),
    });
    assert_eq!(json!(report)["verdict"], "undecided");
    assert_eq!(
        (report.verdict, report.verdict.exit_code()),
        (Verdict::Undecided, 2)
    );
}

#[test]
fn a_policy_of_nothing_is_strict() {
    let policy: QuotePolicy = toml::from_str("").unwrap();
    assert_eq!(policy, QuotePolicy::default());
    assert_eq!(policy.platform, PlatformPolicy::strict());
    assert_eq!(policy.platform.statuses, [TcbStatus::UpToDate].into());
}

#[test]
fn a_policy_may_let_in_more_and_pin_more() {
    let mut paper = Paper::good();
    paper.body[0] = 6;
    let built = paper.build();
    let lenient = r#"
        [platform]
        statuses = ["UpToDate", "OutOfDate"]
        advisories = ["INTEL-SA-00002"]
    "#;
    assert!(codes(&built, lenient).is_empty());
    let pinned = r#"
        [platform]
        statuses = ["OutOfDate"]
        advisories = ["INTEL-SA-00002"]
        min_evaluation_number = 21
        xfam = "0x0000000000000007"
        attributes = "0x0000000000000000"
        fmspc = ["b0c06f000000"]
        ppid = "any"
    "#;
    let expected = ["evaluation-number", "td-attributes", "xfam", "fmspc"];
    assert_eq!(codes(&built, pinned), expected);
}

#[test]
fn a_policy_may_name_the_software_and_what_it_said() {
    let digest = |byte: &str| byte.repeat(48);
    let identity = format!(
        r#"
        report_data = "{}"
        [identity]
        mrconfigid = ["{}"]
        mrowner = ["{zero}"]
        mrownerconfig = ["{zero}"]
        [[identity.builds]]
        mrtd = "{}"
        rtmr0 = "{}"
        rtmr1 = "{}"
        rtmr2 = "{}"
        rtmr3 = "{}"
        "#,
        "44".repeat(64),
        digest("31"),
        digest("30"),
        digest("40"),
        digest("41"),
        digest("42"),
        digest("43"),
        zero = digest("00"),
    );
    let built = Paper::good().build();
    assert!(codes(&built, &identity).is_empty());
    let other = identity
        .replace(&digest("41"), &digest("51"))
        .replace(&"44".repeat(64), &"45".repeat(64));
    assert_eq!(codes(&built, &other), ["rtmr1", "report-data"]);
}

#[test]
fn policies_with_unknown_words_are_refused() {
    for text in [
        "platfrom = {}",
        "[platform]\nstatus = []",
        "[platform]\nstatuses = [\"Fine\"]",
        "[platform]\nppid = \"none\"",
        "[platform]\nppid = [\"00\"]",
        "[platform]\nxfam = \"7\"",
        "[identity]\nbuilds = []",
    ] {
        assert!(toml::from_str::<QuotePolicy>(text).is_err(), "{text}");
    }
}

#[test]
fn a_policy_survives_being_written() {
    let mut policy = PlatformPolicy::strict();
    policy.ppid = Accept::OneOf([Hex([7; 16])].into());
    let text = json!(policy);
    assert_eq!(text["fmspc"], "any");
    assert_eq!(text["ppid"], json!(["07".repeat(16)]));
    assert_eq!(
        serde_json::from_value::<PlatformPolicy>(text).unwrap(),
        policy
    );
}

#[test]
fn files_are_found_under_either_name_and_missed_by_name() {
    let built = Paper::good().build();
    let all = files(&built);
    let read = |missing: &str| {
        CollateralFiles::read(|name| {
            let file = all
                .iter()
                .find(|(other, _)| *other == name && name != missing);
            Ok::<_, Infallible>(file.map(|(_, bytes)| bytes.clone()))
        })
    };
    for (name, _) in &all {
        let found = read(name).map(|_| ());
        assert_eq!(found, Err(FilesError::Missing { name }));
    }
    assert_eq!(
        read("tcb_info.json").unwrap_err().to_string(),
        "tcb_info.json is missing"
    );
    let text = CollateralFiles::read(|_| Ok::<_, Infallible>(Some(vec![0xff])));
    assert_eq!(text.unwrap_err().to_string(), "tcb_info.json is not UTF-8");
}

#[test]
fn of_several_lists_a_quote_gets_that_of_its_own_authority() {
    let papers = [Paper::good(), Paper::processor()];
    let lists = papers.clone().map(|paper| paper.pck_crl.sign());
    for (mut paper, own) in papers.into_iter().zip(0..) {
        let verdict = |built: &Built, platform: &[u8], processor: &[u8]| {
            let mut all = files(built).to_vec();
            all.retain(|(name, _)| *name != "pck_platform_crl.der");
            all.push(("pck_platform_crl.der", platform.to_vec()));
            all.push(("pck_processor_crl.der", processor.to_vec()));
            let report = report_on(built, "", &all);
            let code = |reason: Reason| reason.code;
            report.reasons.into_iter().map(code).collect::<Vec<_>>()
        };
        let built = paper.build();
        assert!(verdict(&built, &lists[0], &lists[1]).is_empty());
        assert!(verdict(&built, &lists[1], &lists[0]).is_empty());
        let other = &lists[1 - own];
        assert_eq!(verdict(&built, other, other), ["pck-crl-malformed"]);

        let serial = paper.pck.serial.clone();
        paper.pck_crl.revoked.push((serial, vec![]));
        let revoking = paper.pck_crl.sign();
        assert_eq!(verdict(&built, &revoking, other), ["pck-revoked"]);
        assert_eq!(verdict(&built, other, &revoking), ["pck-revoked"]);
    }
}

#[test]
fn one_list_may_be_of_either_authority_and_have_any_of_the_names() {
    for (paper, name) in [
        (Paper::processor(), "pck_processor_crl.der"),
        (Paper::processor(), "pck_crl.der"),
        (Paper::good(), "pck_crl.der"),
    ] {
        let built = paper.build();
        let mut all = files(&built).to_vec();
        let list = all.iter_mut().find(|(name, _)| name.starts_with("pck"));
        list.unwrap().0 = name;
        assert!(report_on(&built, "", &all).reasons.is_empty(), "{name}");
        let chain = built.pck_crl_chain.clone();
        all.push(("pck_crl_issuer_chain.pem", chain.into()));
        assert!(report_on(&built, "", &all).reasons.is_empty(), "{name}");
    }
}

fn codes(built: &Built, policy: &str) -> Vec<String> {
    let report = report(built, policy);
    report
        .reasons
        .into_iter()
        .map(|reason| reason.code)
        .collect()
}

fn report(built: &Built, policy: &str) -> Report {
    report_on(built, policy, &files(built))
}

fn report_on(built: &Built, policy: &str, all: &[(&str, Vec<u8>)]) -> Report {
    let policy = toml::from_str(policy).unwrap();
    let files = CollateralFiles::read(|name| {
        let file = all.iter().find(|(other, _)| *other == name);
        Ok::<_, Infallible>(file.map(|(_, bytes)| bytes.clone()))
    })
    .unwrap();
    Report::under(&anchor(built), &built.quote, &files, &policy, AT)
}

/// The fewest files that suffice.
fn files(built: &Built) -> [(&'static str, Vec<u8>); 5] {
    [
        ("tcb_info.json", built.tcb_info.clone().into()),
        ("tcb_info_issuer_chain.pem", built.tcb_chain.clone().into()),
        ("td_qe_identity.json", built.qe_identity.clone().into()),
        ("pck_platform_crl.der", built.pck_crl.clone()),
        ("root_ca_crl.der", built.root_crl.clone()),
    ]
}
