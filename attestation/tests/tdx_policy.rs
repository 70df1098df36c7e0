//! What a policy takes, what it does not, and what it cannot be made to take.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

#[macro_use]
mod paper_td;

use std::collections::BTreeSet;

use attestation::register::{Digest256, Digest384};
use attestation::tdx::{Accept, Hex, PlatformPolicy, TcbStatus, TdAttributes, Xfam};
use serde_json::json;

use paper_td::judge::{check_policy, judge, policy, verified};
use paper_td::pki;
use paper_td::{
    MRSEAM, MRSERVICETD, MRSIGNERSEAM, MRTD, Paper, REPORT_DATA, REPORTDATA, SEAMATTRIBUTES,
    TDATTRIBUTES, TEE_TCB_SVN, VMID, XFAM,
};

#[test]
fn each_claim_that_a_policy_does_not_take_gives_its_reason() {
    check_policy(faults! {
        "td-debug": "debug" => |paper, _| paper.set_bits(TDATTRIBUTES, 1);
        "td-debug": "profiling" => |paper, _| paper.set_bits(TDATTRIBUTES, 1 << 5);
        "td-reserved": "reserved" => |paper, _| paper.set_bits(TDATTRIBUTES, 1 << 40);
        "td-attributes": "migratable" => |paper, _| paper.set_bits(TDATTRIBUTES, 1 << 29);
        "sept-ve-disable": "no SEPT_VE_DISABLE" => |paper, _| paper.body[TDATTRIBUTES + 3] = 0;
        "xfam": "PT" => |paper, _| paper.set_bits(XFAM, 1 << 8);
        "service-td": "service TD" => |paper, _| paper.body[MRSERVICETD] = 1;
        "service-td": "service TD at first" => |paper, _| paper.body[VMID + 1 + 80] = 1;
        "service-td": "service TD now" => |paper, _| paper.body[885 - 9] = 1;
        "vmid": "partition" => |paper, _| paper.body[VMID] = 1;
        "mrsignerseam": "module signer" => |paper, _| other_module(paper);
        "mrseam": "module" => |_, policy| policy.platform.mrseam = none();
        "tcb-status": "status" => |paper, _| paper.status("SWHardeningNeeded");
        "tcb-status": "no status" => |_, policy| policy.platform.statuses.clear();
        "advisories": "advisory" => |paper, _| advisory(paper);
        "evaluation-number": "number" => |_, policy| policy.platform.min_evaluation_number = 21;
        "tee-tcb-svn": "first SVN of TEE" => |_, policy| policy.platform.min_tee_tcb_svn.0[0] = TEE_TCB_SVN[0] + 1;
        "tee-tcb-svn": "last SVN of TEE" => |_, policy| policy.platform.min_tee_tcb_svn.0[15] = TEE_TCB_SVN[15] + 1;
        "pce-svn": "SVN of PCE" => |_, policy| policy.platform.min_pce_svn = 14;
        "qe-svn": "SVN of QE" => |_, policy| policy.platform.min_qe_svn = 5;
        "dynamic-platform": "dynamic" => |_, policy| policy.platform.dynamic_platform = false;
        "cached-keys": "cached keys" => |_, policy| policy.platform.cached_keys = false;
        "smt": "SMT" => |_, policy| policy.platform.smt = false;
        "fmspc": "FMSPC" => |_, policy| policy.platform.fmspc = none();
        "ppid": "PPID" => |_, policy| policy.platform.ppid = none();
        "instance": "instance" => |_, policy| policy.platform.instance = none();
        "pck": "PCK" => |_, policy| policy.platform.pck = none();
        "mrtd": "MRTD" => |paper, _| paper.body[MRTD] ^= 1;
        "mrconfigid": "MRCONFIGID" => |paper, _| paper.body[MRTD + 48] ^= 1;
        "mrowner": "MROWNER" => |paper, _| paper.body[MRTD + 2 * 48] ^= 1;
        "mrownerconfig": "MROWNERCONFIG" => |paper, _| paper.body[MRTD + 3 * 48] ^= 1;
        "rtmr0": "RTMR0" => |paper, _| paper.body[MRTD + 4 * 48] ^= 1;
        "rtmr1": "RTMR1" => |paper, _| paper.body[MRTD + 5 * 48] ^= 1;
        "rtmr2": "RTMR2" => |paper, _| paper.body[MRTD + 6 * 48] ^= 1;
        "rtmr3": "RTMR3" => |paper, _| paper.body[MRTD + 7 * 48] ^= 1;
        "mrtd": "no build" => |_, policy| policy.identity.builds.clear();
        "report-data": "REPORTDATA" => |paper, _| paper.body[REPORTDATA + 63] ^= 1;
    });
}

fn none<T: Ord>() -> Accept<T> {
    Accept::OneOf(BTreeSet::new())
}

fn advisory(paper: &mut Paper) {
    paper.tcb_info["tcbLevels"][0]["advisoryIDs"] = json!(["INTEL-SA-00001"]);
}

/// A TDX module that Intel's table knows, by another signer.
fn other_module(paper: &mut Paper) {
    paper.body[MRSIGNERSEAM..SEAMATTRIBUTES].fill(0x11);
    paper.module()["mrsigner"] = "11".repeat(48).into();
}

/// A claim, and how to let it in.
type Allowance = (fn(&mut Paper), fn(&mut PlatformPolicy));

#[test]
fn whatever_a_policy_does_not_take_can_be_let_in_by_name() {
    let cases: [Allowance; 8] = [
        (
            |paper| paper.set_bits(TDATTRIBUTES, 1 << 29),
            |policy| {
                policy.attributes = TdAttributes(1 << 28 | 1 << 29);
            },
        ),
        (
            |paper| paper.set_bits(XFAM, 1 << 8),
            |policy| policy.xfam = Xfam(!0),
        ),
        (
            |paper| paper.body[MRSERVICETD..MRSERVICETD + 48].fill(1),
            |policy| {
                policy.service_tds = BTreeSet::from([Digest384::from_bytes([1; 48])]);
            },
        ),
        (other_module, |policy| {
            policy.mrsignerseam = BTreeSet::from([Digest384::from_bytes([0x11; 48])]);
        }),
        (
            |paper| paper.status("SWHardeningNeeded"),
            |policy| {
                policy.statuses.insert(TcbStatus::SWHardeningNeeded);
            },
        ),
        (advisory, |policy| {
            policy.advisories.insert("INTEL-SA-00001".into());
        }),
        (
            |paper| paper.pck.extensions[2] = off(),
            |policy| {
                (policy.dynamic_platform, policy.cached_keys, policy.smt) = (false, false, false);
            },
        ),
        (
            |_| {},
            |policy| {
                (policy.min_pce_svn, policy.min_qe_svn) = (13, 4);
                policy.min_tee_tcb_svn = Hex(TEE_TCB_SVN);
                policy.mrseam = Accept::OneOf([MRSEAM].into());
                policy.fmspc = Accept::OneOf([Hex(pki::FMSPC)].into());
                policy.ppid = Accept::OneOf([Hex(pki::PPID)].into());
                policy.instance = Accept::OneOf([Hex(pki::INSTANCE)].into());
                let pck = Digest256::of(&Paper::good().pck.sign());
                policy.pck = Accept::OneOf([pck].into());
            },
        ),
    ];
    for (index, (change, allow)) in cases.iter().enumerate() {
        let (mut paper, mut policy) = (Paper::td15_ex(), policy());
        change(&mut paper);
        allow(&mut policy.platform);
        assert_eq!(judge(&paper.build(), &policy), Ok(()), "case {index}");
    }
}

/// Intel's extension of a platform where nothing is switched on.
fn off() -> Vec<u8> {
    let mut fields = pki::sgx_fields();
    fields[6] = pki::field(&[7], pki::setup([false; 3]));
    pki::sgx_extension(&fields)
}

#[test]
fn debug_reserved_bits_and_revoked_keys_cannot_be_let_in() {
    let mut policy = policy();
    policy.platform.attributes = TdAttributes(!0);
    policy.platform.statuses.insert(TcbStatus::Revoked);
    for (bit, expected) in [
        (0, "td-debug"),
        (6, "td-debug"),
        (1, "td-reserved"),
        (61, "td-reserved"),
    ] {
        let mut paper = Paper::good();
        paper.set_bits(TDATTRIBUTES, 1 << bit);
        assert_eq!(judge(&paper.build(), &policy), Err(expected.into()));
    }
    let mut paper = Paper::good();
    paper.status("Revoked");
    assert_eq!(judge(&paper.build(), &policy), Err("tcb-status".into()));
}

#[test]
fn a_platform_that_does_not_say_how_it_is_set_up_is_not_taken_to_be_set_up_well() {
    let mut paper = Paper::good();
    paper.pck.extensions[2] = pki::sgx_extension(&pki::sgx_fields()[..5]);
    assert_eq!(judge(&paper.build(), &policy()), Ok(()));
    let mut strict = policy();
    strict.platform.smt = false;
    assert_eq!(judge(&paper.build(), &strict), Err("smt".into()));
    strict = policy();
    strict.platform.instance = Accept::OneOf([Hex(pki::INSTANCE)].into());
    assert_eq!(judge(&paper.build(), &strict), Err("instance".into()));
}

#[test]
fn every_difference_is_reported_and_so_is_every_agreement() {
    let mut paper = Paper::good();
    paper.set_bits(TDATTRIBUTES, 1);
    paper.body[MRTD + 5 * 48] ^= 1;
    paper.body[REPORTDATA] ^= 1;
    let rejection = verified(&paper.build())
        .unwrap()
        .appraise(&policy(), &REPORT_DATA)
        .unwrap_err();
    let failed = rejection.checks.iter().filter(|check| !check.passed);
    let failed: Vec<_> = failed.map(|check| check.name).collect();
    assert_eq!(failed, ["td-debug", "rtmr1", "report-data"]);
    let trusted = verified(&Paper::good().build())
        .unwrap()
        .appraise(&policy(), &REPORT_DATA)
        .unwrap();
    let names = |checks: &[attestation::appraisal::Check]| -> Vec<&str> {
        checks.iter().map(|check| check.name).collect()
    };
    assert_eq!(names(trusted.checks()), names(&rejection.checks));
    let text = rejection.to_string();
    assert!(
        text.starts_with("td-debug: expected 0x0000000000000000, found 0x0000000000000001; "),
        "{text}"
    );
}
