//! Which level a platform has reached, and what follows from it.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

#[macro_use]
mod paper_td;

use attestation::tdx::TcbStatus;
use attestation::time::UnixTime;
use serde_json::{Value, json};

use paper_td::judge::{Row, judge, policy, verified};
use paper_td::{COMPONENTS, Paper, TEE_TCB_SVN, TEE_TCB_SVN_2, level};

/// Rows of a table: `status: "what is wrong" => |paper| how;`.
macro_rules! statuses {
    ($($status:ident: $what:literal => $change:expr;)*) => {
        &[$(($what, $change, TcbStatus::$status)),*]
    };
}

#[test]
fn each_component_below_every_level_gives_no_level() {
    for index in 0..16 {
        let found = found_with_level(|sgx, _, _| sgx[index] += 1);
        assert_eq!(found, Err("platform-level".into()), "SGX component {index}");
        let found = found_with_level(|_, _, tdx| tdx[index] += 1);
        // The first two are the module's, which has levels of its own.
        let expected = match index {
            0 | 1 => Ok(()),
            _ => Err("platform-level".into()),
        };
        assert_eq!(found, expected, "TDX component {index}");
    }
    let found = found_with_level(|_, pcesvn, _| *pcesvn += 1);
    assert_eq!(found, Err("platform-level".into()));
}

/// The only level is the platform's own, but for a change.
fn found_with_level(
    change: impl FnOnce(&mut [u8; 16], &mut u16, &mut [u8; 16]),
) -> Result<(), String> {
    let (mut sgx, mut pcesvn, mut tdx) = (COMPONENTS, 13, TEE_TCB_SVN);
    change(&mut sgx, &mut pcesvn, &mut tdx);
    let mut paper = Paper::good();
    paper.tcb_info["tcbLevels"] = json!([level(sgx, pcesvn, tdx, "UpToDate")]);
    judge(&paper.build(), &policy())
}

#[test]
fn a_module_of_major_version_0_is_compared_in_the_platforms_levels() {
    let mut paper = Paper::good();
    paper.body[1] = 0;
    paper.remove("tdxModuleIdentities");
    let old = |svn| {
        level(
            COMPONENTS,
            13,
            [svn, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0],
            "UpToDate",
        )
    };
    paper.set("tcbLevels", json!([old(7)]));
    assert_eq!(judge(&paper.build(), &policy()), Ok(()));
    paper.set("tcbLevels", json!([old(8)]));
    assert_eq!(
        judge(&paper.build(), &policy()),
        Err("platform-level".into())
    );
    paper.set("tcbLevels", json!([old(7)]));
    paper.tcb_info["tdxModule"]["mrsigner"] = "11".repeat(48).into();
    assert_eq!(
        judge(&paper.build(), &policy()),
        Err("td-module-signer".into())
    );
}

#[test]
fn levels_are_tried_from_the_best_in_whichever_order_they_come() {
    let mut paper = Paper::good();
    paper.tcb_info["tcbLevels"]
        .as_array_mut()
        .unwrap()
        .reverse();
    assert_eq!(judge(&paper.build(), &policy()), Ok(()));
    paper.module()["tcbLevels"]
        .as_array_mut()
        .unwrap()
        .reverse();
    assert_eq!(judge(&paper.build(), &policy()), Ok(()));
}

#[test]
fn each_fault_of_the_platform_gives_its_status() {
    for (what, change, expected) in STATUSES {
        let mut paper = Paper::td15();
        change(&mut paper);
        let found = verified(&paper.build()).map(|verified| verified.status());
        assert_eq!(found, Ok(*expected), "{what}");
    }
}

/// A change, and the status that it must lead to.
type Change = (&'static str, fn(&mut Paper), TcbStatus);

const STATUSES: &[Change] = statuses! {
    UpToDate: "good" => |_| {};
    SWHardeningNeeded: "software" => |paper| paper.status("SWHardeningNeeded");
    ConfigurationNeeded: "setup" => |paper| paper.status("ConfigurationNeeded");
    ConfigurationAndSWHardeningNeeded: "both" => |paper| paper.status("ConfigurationAndSWHardeningNeeded");
    OutOfDate: "old" => |paper| paper.status("OutOfDate");
    OutOfDateConfigurationNeeded: "old, setup" => |paper| paper.status("OutOfDateConfigurationNeeded");
    OutOfDate: "old microcode" => |paper| svns(paper, 2, 2);
    OutOfDate: "old module" => |paper| svns(paper, 0, 6);
    OutOfDateConfigurationNeeded: "old module, setup" => |paper| {
        paper.status("ConfigurationNeeded");
        svns(paper, 0, 6);
    };
    OutOfDate: "old enclave" => |paper| paper.qe_report[258] = 2;
    TDRelaunchAdvised: "updated since" => |paper| paper.body[0] = 6;
    TDRelaunchAdvisedConfigurationNeeded: "updated since, setup" => |paper| {
        paper.status("ConfigurationNeeded");
        paper.body[0] = 6;
    };
    OutOfDate: "updated since, old enclave" => |paper| {
        paper.body[0] = 6;
        paper.qe_report[258] = 2;
    };
};

/// Sets one SVN as of launch and as of now.
fn svns(paper: &mut Paper, index: usize, svn: u8) {
    paper.body[index] = svn;
    paper.body[TEE_TCB_SVN_2 + index] = svn;
}

#[test]
fn a_revoked_or_unknown_part_is_refused_at_launch_and_now() {
    let rows: &[Row] = faults! {
        "tcb-status": "revoked platform" => |paper| paper.status("Revoked");
        "tcb-status": "revoked module at launch" => |paper| paper.body[0] = 4;
        "tcb-status": "revoked module now" => |paper| paper.body[TEE_TCB_SVN_2] = 4;
        "td-module-level": "module below all at launch" => |paper| paper.body[0] = 2;
        "td-module-level": "module below all now" => |paper| paper.body[TEE_TCB_SVN_2] = 2;
        "td-module-version": "unknown module at launch" => |paper| paper.body[1] = 9;
        "td-module-version": "unknown module now" => |paper| paper.body[TEE_TCB_SVN_2 + 1] = 9;
    };
    for (what, change, expected) in rows {
        let mut paper = Paper::td15();
        change(&mut paper);
        let found = verified(&paper.build()).map(|_| ());
        assert_eq!(found, Err((*expected).into()), "{what}");
    }
}

#[test]
fn advisories_of_platform_module_and_enclave_are_gathered() {
    let mut paper = Paper::good();
    paper.body[0] = 6;
    paper.qe_report[258] = 2;
    paper.tcb_info["tcbLevels"][0]["advisoryIDs"] = json!(["INTEL-SA-00001"]);
    let verified = verified(&paper.build()).unwrap();
    let expected = ["INTEL-SA-00001", "INTEL-SA-00002", "INTEL-SA-00003"];
    assert!(verified.advisories().iter().eq(expected));
}

#[test]
fn the_date_of_a_platform_is_that_of_its_oldest_part() {
    let old = "2025-01-01T00:00:00Z";
    let parts: [fn(&mut Paper) -> &mut Value; 3] = [
        |paper| &mut paper.tcb_info["tcbLevels"][0]["tcbDate"],
        |paper| &mut paper.module()["tcbLevels"][0]["tcbDate"],
        |paper| &mut paper.qe_identity["tcbLevels"][0]["tcbDate"],
    ];
    for part in parts {
        let mut paper = Paper::good();
        *part(&mut paper) = old.into();
        let verified = verified(&paper.build()).unwrap();
        assert_eq!(Some(verified.tcb_date()), UnixTime::from_iso8601(old));
    }
}
