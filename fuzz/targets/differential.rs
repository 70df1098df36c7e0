//! A quote and its collateral with edits in them, signed anew: nothing is taken that
//! dcap-qvl refuses, but for a stated reason.

#![no_main]

use libfuzzer_sys::fuzz_target;
use oracle::takes_what_it_must_not;
use paper_td::edit::{self, Edit};

#[allow(dead_code, reason = "what the differences are for is the tests' part")]
#[path = "../../attestation/tests/oracle/mod.rs"]
mod oracle;
#[path = "../../attestation/tests/paper_td/mod.rs"]
mod paper_td;

fuzz_target!(|bytes: &[u8]| {
    let Some((form, edits)) = bytes.split_first() else {
        return;
    };
    let built = edit::build(*form, &Edit::read(edits));
    assert_eq!(takes_what_it_must_not(&built), None);
});
