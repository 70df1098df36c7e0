//! The same evidence before dcap-qvl 0.7.1 and before us.
//!
//! Where both reach a status it is the same one, and nothing that it refuses do we
//! take, but for the reasons stated in `oracle`.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

mod oracle;
mod paper_td;
mod recorded;

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;

use attestation::tdx::{Collateral, Quote, verify};
use attestation::time::UnixTime;
use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::verify::QuoteVerifier;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use serde_json::{Value, json};

use oracle::{KNOWN, oracle, takes_what_it_must_not};
use paper_td::edit::{self, Edit};
use paper_td::judge::verified;
use paper_td::{COMPONENTS, Paper, TEE_TCB_SVN, TEE_TCB_SVN_2, isv_level, level};

#[test]
fn every_platform_has_the_status_that_the_oracle_gives_it() {
    let statuses = RefCell::new(BTreeMap::new());
    runner(CASES)
        .run(&platforms(), |paper| {
            let built = paper.build();
            let ours = verified(&built).map(|verified| {
                let advisories: Vec<_> = verified.advisories().iter().cloned().collect();
                (verified.status().to_string(), advisories)
            });
            let theirs = oracle(&built);
            prop_assert_eq!(
                ours.as_ref().ok(),
                theirs.as_ref().ok(),
                "{:?} {:?}",
                ours,
                theirs
            );
            let word = ours.map_or_else(|code| code, |(status, _)| status);
            *statuses.borrow_mut().entry(word).or_insert(0) += 1;
            Ok(())
        })
        .unwrap();
    println!("{:?}", statuses.borrow());
    assert!(statuses.into_inner().len() > 8, "hardly anything was tried");
}

fn runner(cases: u32) -> TestRunner {
    TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    })
}

const CASES: u32 = 300;

/// Platforms somewhere between the levels of a table that comes in any order.
fn platforms() -> impl Strategy<Value = Paper> {
    let near = |base: u8| prop_oneof![6 => base - 2..=base, 1 => Just(base + 1)];
    let major = || prop_oneof![8 => Just(1_u8), 1 => Just(0), 1 => Just(2)];
    let status = prop_oneof![
        4 => Just("UpToDate"),
        2 => Just("OutOfDate"),
        1 => Just("SWHardeningNeeded"),
        1 => Just("ConfigurationNeeded"),
        1 => Just("ConfigurationAndSWHardeningNeeded"),
        1 => Just("OutOfDateConfigurationNeeded"),
        1 => Just("Revoked"),
    ];
    let part = || prop_oneof![4 => Just("UpToDate"), 2 => Just("OutOfDate"), 1 => Just("Revoked")];
    let row = (near(5), near(13), near(7), major(), near(3), status);
    let levels = prop::collection::vec(row, 0..5);
    let modules = prop::collection::vec((near(5), part()), 0..4);
    let enclaves = prop::collection::vec((near(3), part()), 1..4);
    let launch = (near(7), major(), near(3));
    let now = prop::option::of((near(7), major(), near(3)));
    (levels, modules, enclaves, launch, now, near(5)).prop_map(
        |(levels, modules, enclaves, launch, now, isvsvn)| {
            let mut paper = match now {
                None => Paper::good(),
                Some(_) => Paper::td15(),
            };
            let tdx = |(module, major, microcode)| {
                let mut svns = TEE_TCB_SVN;
                [svns[0], svns[1], svns[2]] = [module, major, microcode];
                svns
            };
            paper.body[..16].copy_from_slice(&tdx(launch));
            if let Some(now) = now {
                paper.body[TEE_TCB_SVN_2..TEE_TCB_SVN_2 + 16].copy_from_slice(&tdx(now));
            }
            paper.qe_report[258] = isvsvn;
            let levels = levels.into_iter().enumerate().map(|(index, row)| {
                let (sgx, pcesvn, module, major, microcode, status) = row;
                let mut components = COMPONENTS;
                components[0] = sgx;
                let tdx = tdx((module, major, microcode));
                let mut level = level(components, pcesvn.into(), tdx, status);
                level["advisoryIDs"] = json!([format!("INTEL-SA-1000{index}")]);
                level
            });
            paper.tcb_info["tcbLevels"] = levels.collect();
            paper.module()["tcbLevels"] = isv_levels(modules);
            paper.qe_identity["tcbLevels"] = isv_levels(enclaves);
            paper
        },
    )
}

/// Best first, as Intel writes them, each version once.
fn isv_levels(mut levels: Vec<(u8, &str)>) -> Value {
    levels.sort_by_key(|(isvsvn, _)| std::cmp::Reverse(*isvsvn));
    levels.dedup_by_key(|(isvsvn, _)| *isvsvn);
    let levels = levels.into_iter();
    let levels = levels.map(|(isvsvn, status)| isv_level(isvsvn, status, json!([])));
    levels.collect()
}

#[test]
fn the_oracle_takes_a_good_paper_too() {
    for paper in [Paper::good(), Paper::td15(), Paper::td15_ex()] {
        let found = oracle(&paper.build());
        assert_eq!(found, Ok(("UpToDate".into(), vec![])));
    }
}

#[test]
fn nothing_signed_anew_is_taken_that_the_oracle_refuses_but_for_a_stated_reason() {
    let taken = Cell::new(0);
    let edits = prop::collection::vec(any::<u8>(), 0..40);
    runner(3 * CASES)
        .run(&(any::<u8>(), edits), |(form, edits)| {
            let built = edit::build(form, &Edit::read(&edits));
            prop_assert_eq!(takes_what_it_must_not(&built), None);
            taken.set(taken.get() + u32::from(verified(&built).is_ok()));
            Ok(())
        })
        .unwrap();
    assert!(taken.get() > CASES / 2, "hardly anything was taken");
}

#[test]
fn each_stated_reason_still_makes_a_difference() {
    for known in KNOWN {
        let mut paper = Paper::good();
        (known.change)(&mut paper);
        let built = paper.build();
        assert!(verified(&built).is_ok(), "{}", known.reason);
        assert_eq!(oracle(&built).unwrap_err(), known.error, "{}", known.reason);
    }
}

#[test]
fn no_changed_quote_is_taken_that_the_oracle_refuses() {
    let Some(vectors) = recorded::tdx() else {
        return;
    };
    let taken = Cell::new(0);
    for (file, set, at) in REAL {
        let bytes = vectors.read(file);
        let files = vectors.collateral(&format!("collateral/{set}"));
        let parts = files.parts(&Quote::parse(&bytes).unwrap());
        let collateral = Collateral::verify(parts, UnixTime(at)).unwrap();
        let theirs = vectors.read(&format!("collateral/{set}/dcap_qvl_collateral.json"));
        let theirs: QuoteCollateralV3 = serde_json::from_slice(&theirs).unwrap();
        let oracle = QuoteVerifier::new_prod();
        let result = runner(CASES).run(&changes(bytes.len()), |changes| {
            let mut changed = bytes.clone();
            changes.iter().for_each(|change| change.apply(&mut changed));
            let ours = Quote::parse(&changed)
                .is_ok_and(|quote| verify(quote, &collateral, UnixTime(at)).is_ok());
            taken.set(taken.get() + u32::from(ours));
            prop_assert!(!ours || oracle.verify(&changed, &theirs, at).is_ok());
            Ok(())
        });
        result.unwrap();
    }
    assert!(
        taken.get() > 0,
        "some changes change nothing, and these are taken"
    );
}

/// Quotes with collateral of their day.
const REAL: [(&str, &str, u64); 3] = [
    (
        "TelegramMessenger__cocoon/76641c46_v4_tee-test-quote.dat.quote.bin",
        "2026-01-12_90c06f000000",
        1_769_529_299,
    ),
    (
        "google__go-tdx-guest/cf77a6e9_v5_testing-testdata-quote_v5_sample.dat.quote.bin",
        "2026-02-01_90c06f000000",
        1_771_028_279,
    ),
    (
        "crate__dcap-qvl-0.7.1/fd88575b_v5_sample-tdx_quote_td15ex.quote.bin",
        "2026-10-08_b0c06f000000",
        1_792_714_008,
    ),
];

/// Something that somebody might do to a quote.
#[derive(Clone, Debug)]
enum Change {
    /// Another value of one byte.
    Set(usize, u8),
    /// Bytes cut out.
    Cut(usize, usize),
    /// Bytes put in.
    Put(usize, Vec<u8>),
    /// A stretch of it copied elsewhere.
    Copy(usize, usize, usize),
    /// A length field of four bytes moved up or down.
    Add(usize, i32),
}

fn changes(len: usize) -> impl Strategy<Value = Vec<Change>> {
    let at = prop_oneof![0..len, 0..1300_usize, len - 64..len];
    let at = at.boxed();
    let change = prop_oneof![
        (at.clone(), any::<u8>()).prop_map(|(at, byte)| Change::Set(at, byte)),
        (at.clone(), 1..64_usize).prop_map(|(at, len)| Change::Cut(at, len)),
        (at.clone(), prop::collection::vec(any::<u8>(), 1..64))
            .prop_map(|(at, bytes)| Change::Put(at, bytes)),
        (at.clone(), at.clone(), 1..128_usize)
            .prop_map(|(from, to, len)| Change::Copy(from, to, len)),
        (at, -8..8).prop_map(|(at, change)| Change::Add(at, change)),
    ];
    prop::collection::vec(change, 1..4)
}

impl Change {
    fn apply(&self, bytes: &mut Vec<u8>) {
        let len = bytes.len();
        let clamp = |at: usize| at.min(len);
        match self {
            Self::Set(at, byte) => bytes
                .iter_mut()
                .skip(*at)
                .take(1)
                .for_each(|old| *old = *byte),
            Self::Cut(at, count) => drop(bytes.drain(clamp(*at)..clamp(at + count))),
            Self::Put(at, new) => drop(bytes.splice(clamp(*at)..clamp(*at), new.iter().copied())),
            Self::Copy(from, to, count) => {
                let stretch = bytes[clamp(*from)..clamp(from + count)].to_vec();
                let rest = bytes.iter_mut().skip(*to).zip(stretch);
                rest.for_each(|(old, new)| *old = new);
            }
            Self::Add(at, change) => {
                if let Some(field) = bytes.get_mut(*at..at + 4) {
                    let field: &mut [u8; 4] = field.try_into().unwrap();
                    *field = i32::from_le_bytes(*field)
                        .wrapping_add(*change)
                        .to_le_bytes();
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    #[test]
    fn arbitrary_bytes_are_no_quote_and_no_panic(bytes: Vec<u8>) {
        prop_assert!(Quote::parse(&bytes).is_err());
    }

    #[test]
    fn changed_collateral_is_refused_without_a_panic(
        which in 0..7_usize,
        change in changes(1500),
    ) {
        let good = Paper::good().build();
        let mut built = Paper::good().build();
        let text = |text: &mut String| {
            let mut bytes = std::mem::take(text).into_bytes();
            change.iter().for_each(|change| change.apply(&mut bytes));
            *text = String::from_utf8_lossy(&bytes).into_owned();
        };
        let raw = |bytes: &mut Vec<u8>| change.iter().for_each(|change| change.apply(bytes));
        match which {
            0 => text(&mut built.tcb_info),
            1 => text(&mut built.tcb_chain),
            2 => text(&mut built.qe_identity),
            3 => text(&mut built.qe_chain),
            4 => text(&mut built.pck_crl_chain),
            5 => raw(&mut built.pck_crl),
            _ => raw(&mut built.root_crl),
        }
        // Only what changed nothing, or line ends after the end, may still be taken.
        if verified(&built).is_ok() {
            let same = |a: &str, b: &str| a.trim_end() == b.trim_end_matches(['\0', '\r', '\n']);
            prop_assert!(same(&good.tcb_info, &built.tcb_info));
            prop_assert!(same(&good.qe_identity, &built.qe_identity));
            prop_assert_eq!(&good.pck_crl, &built.pck_crl);
            prop_assert_eq!(&good.root_crl, &built.root_crl);
        }
    }
}
