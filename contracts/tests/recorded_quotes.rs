//! Recorded quotes judged by the contracts and by the library: one verdict on each.
//!
//! Those of real machines with every collateral of their family by the production code;
//! those that somebody made up, each with one fault, by the same code under their root.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

#[path = "../../attestation/tests/recorded/mod.rs"]
mod recorded;
mod tvm;
mod world;

use attestation::certificate::Certificate;
use attestation::register::Digest384;
use attestation::tdx::{
    Collateral, CollateralFiles, IdentityPolicy, PlatformPolicy, Policy, Quote, TrustAnchor, verify,
};
use attestation::time::UnixTime;
use contracts::code::Code;
use tycho_types::cell::Cell;

use tvm::Tvm;
use world::{Refusal, World};

#[test]
fn real_quotes_are_judged_on_the_chain_as_by_the_library() {
    let (Some(vectors), Some(tvm)) = (recorded::tdx(), tvm::start(0)) else {
        return;
    };
    let code = Code::COLLATERAL.cell().unwrap();
    let mut trusted = 0;
    for row in vectors.table("ORACLE.csv") {
        let [id, file, _, _, set, at, ..] = &row[..] else {
            panic!("{row:?}");
        };
        let (bytes, files) = (vectors.read(file), format!("collateral/{set}"));
        let case = Case {
            bytes: &bytes,
            files: vectors.collateral(&files),
            at: at.parse().unwrap(),
        };
        let library = case.by_library(Collateral::verify);
        let chain = case.by_contracts(&tvm, &code);
        assert_agree(&format!("{id} {set}"), &library, &chain);
        trusted += usize::from(chain.is_ok());
    }
    assert_eq!(trusted, 28);
}

#[test]
fn quotes_with_one_fault_are_judged_on_the_chain_as_by_the_library() {
    let (Some(vectors), Some(tvm)) = (recorded::tdx(), tvm::start(0)) else {
        return;
    };
    let root = vectors.read("synthetic/test_root_ca.der");
    let anchor = TrustAnchor::from_certificate(&root).unwrap();
    let x = Certificate::parse(&root).unwrap().key.point[1..33]
        .try_into()
        .unwrap();
    let code = tvm::collateral_under(&x);
    let mut cases = 0;
    for row in vectors.table("synthetic/ORACLE.csv") {
        let folder = format!("synthetic/{}", row[0]);
        let bytes = vectors.read(&format!("{folder}/quote.bin"));
        let case = Case {
            bytes: &bytes,
            files: vectors.collateral(&folder),
            at: 1_793_534_400,
        };
        let library = case.by_library(|parts, at| Collateral::verify_under(&anchor, parts, at));
        let chain = case.by_contracts(&tvm, &code);
        match DIVERGENCES.iter().find(|(case, _)| row[0] == *case) {
            Some((_, exit)) => assert_eq!((library, chain), (Ok(()), Err(Refusal::Exit(*exit)))),
            None => assert_agree(&row[0], &library, &chain),
        }
        cases += 1;
    }
    assert_eq!(cases, 92);
}

struct Case<'a> {
    bytes: &'a [u8],
    files: CollateralFiles,
    at: u32,
}

impl Case<'_> {
    /// With a policy that wants what the quote has.
    fn by_library(
        &self,
        prepare: impl FnOnce(
            attestation::tdx::CollateralParts<'_>,
            UnixTime,
        ) -> Result<Collateral, attestation::tdx::CollateralError>,
    ) -> Result<(), String> {
        let at = UnixTime(self.at.into());
        let quote = Quote::parse(self.bytes).map_err(|error| error.code().to_owned())?;
        let body = *quote.unverified_body();
        let collateral = prepare(self.files.parts(&quote), at).map_err(|error| error.code())?;
        let verified = verify(quote, &collateral, at).map_err(|error| error.code())?;
        let policy = Policy {
            platform: PlatformPolicy::strict(),
            identity: IdentityPolicy {
                builds: [body.registers].into(),
                mrconfigid: [body.mrconfigid].into(),
                mrowner: [Digest384::ZERO].into(),
                mrownerconfig: [Digest384::ZERO].into(),
            },
        };
        let judged = verified.appraise(&policy, &body.report_data);
        judged.map(|_| ()).map_err(|rejection| {
            let failed = rejection.checks.iter().filter(|check| !check.passed);
            failed.map(|check| check.name).collect::<Vec<_>>().join(" ")
        })
    }

    fn by_contracts(&self, tvm: &Tvm, collateral: &Cell) -> Result<(), Refusal> {
        let quote = Quote::parse(self.bytes);
        let quote = quote.map_err(|error| Refusal::Unsendable(error.to_string()))?;
        let world = World::start(tvm, self.at, collateral, &world::published(&quote));
        world.post(&self.files.parts(&quote))?;
        world.judge(&quote).map(|_| ())
    }
}

/// What the contracts refuse and the library takes: Intel's documents descend.
const DIVERGENCES: [(&str, i32); 1] = [("status-levels-unsorted", 143)];

fn assert_agree(case: &str, library: &Result<(), String>, chain: &Result<(), Refusal>) {
    match (library, chain) {
        (Ok(()), Ok(())) => {}
        // Not a quote, a chain or a key: there is nothing to send.
        (Err(_), Err(Refusal::Unsendable(_))) => {}
        (Err(library), Err(Refusal::Exit(chain))) => {
            let expected: Vec<_> = library.split(' ').flat_map(exits).copied().collect();
            assert!(expected.contains(chain), "{case}: {library}, {chain}");
        }
        _ => panic!("{case}: {library:?}, {chain:?}"),
    }
}

/// Exit codes that say what the library says.
fn exits(code: &str) -> &'static [i32] {
    match code {
        "fmspc" => &[140],
        "pck-ca-revoked" | "tcb-signing-revoked" => &[142],
        "evaluation-numbers" => &[145],
        "pceid" => &[146],
        "qe-isvprodid" | "qe-miscselect" => &[147],
        "qe-level" => &[148],
        // Of a TD under debug, the TD is looked at first.
        "platform-level" => &[149, 112],
        "td-module-level" | "td-module-version" => &[150],
        "tcb-status" => &[172, 151],
        "advisories" => &[172],
        "td-debug" | "td-reserved" | "sept-ve-disable" => &[112],
        // A document that provides for another module is not read.
        "td-module-signer" | "td-module-attributes" => &[100],
        // What the contract knows of a report or certificate is part of what was signed.
        "attestation-key" | "root-key" => &[101],
        // The issuer's name is part of the shape of a list.
        "pck-crl-issuer" => &[100],
        "tcb-info-version" | "tcb-info-type" | "qe-identity-id" | "qe-identity-version" => &[100],
        code if code.ends_with("-signature") => &[101],
        code if code.ends_with("-expired") || code.ends_with("-not-yet-valid") => &[103],
        code if code.ends_with("-malformed") => &[100],
        code => panic!("no exit code for {code}"),
    }
}
