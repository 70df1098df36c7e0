//! What the suite in jest needs and cannot make: evidence that an emulated Intel signed.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests are tests"
)]

mod emulated;
mod tvm;
mod world;

use std::collections::BTreeMap;
use std::path::Path;

use contracts::cells::Bytes;
use contracts::claim::{Claim, Keys};
use contracts::registry::{build_key, configuration_key};
use serde_json::json;
use tests::td::Td;
use tycho_types::cell::{HashBytes, Lazy};
use tycho_types::models::StdAddr;

use emulated::{BLOCK, BLOCK_ROOT, Emulated, NOW};
use world::{GLOBAL_ID, build};

/// With COCOON_WRITE, writes it.
#[test]
fn the_fixture_of_the_jest_suite_is_what_this_crate_makes() {
    let td = Emulated::new();
    let keys = Keys {
        receipt: HashBytes([1; 32]),
        seal: HashBytes([2; 32]),
        tls: Bytes([3; 48]),
    };
    let claim = Claim {
        global_id: GLOBAL_ID,
        node: StdAddr::new(0, HashBytes([7; 32])),
        gpus: Bytes([4; 48]),
        block: BLOCK,
        block_root: HashBytes(BLOCK_ROOT),
        keys: Lazy::new(&keys).unwrap(),
    };
    let statements = td.statements().sign(&td.intel);
    let posts = world::messages(&statements.parts()).unwrap();
    let fixture = BTreeMap::from([
        ("now", json!(NOW)),
        ("posts", json!(posts.each_ref().map(tvm::text))),
        ("attest", json!(tvm::text(&build(&td.attest(&claim))))),
        (
            "reportData",
            json!(hex::encode(claim.report_data().unwrap().0)),
        ),
        ("build", json!(build_key(&Td::REGISTERS).to_string())),
        (
            "configuration",
            json!(configuration_key(&Td::MRCONFIGID).to_string()),
        ),
    ]);
    let fixture = serde_json::to_string_pretty(&fixture).unwrap() + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/attestation.json");
    if std::env::var_os("COCOON_WRITE").is_some() {
        std::fs::write(&path, &fixture).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == fixture,
        "with COCOON_WRITE=1 this test writes {}",
        path.display()
    );
}
