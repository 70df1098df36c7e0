//! Verification of one real TDX quote, beside dcap-qvl in the same run, on one core.
//!
//! `cargo bench -p attestation --bench tdx`. Needs the recorded vectors.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "a benchmark of broken input may panic"
)]

mod bench;
#[path = "../tests/recorded/mod.rs"]
mod recorded;

use attestation::tdx::{Collateral, PlatformCache, Quote, verify, verify_cached};
use attestation::time::UnixTime;
use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::verify::QuoteVerifier;

use bench::Bench;

fn main() {
    let Some(vectors) = recorded::tdx() else {
        return;
    };
    let set = format!("collateral/{SET}");
    let (bytes, files) = (vectors.read(QUOTE), vectors.collateral(&set));
    let parts = files.parts(&Quote::parse(&bytes).unwrap());
    let collateral = Collateral::verify(parts, AT).unwrap();
    let mut cache = PlatformCache::new(16.try_into().unwrap());
    let oracle = QuoteVerifier::new_prod();
    let theirs = vectors.read(&format!("{set}/dcap_qvl_collateral.json"));
    let theirs: QuoteCollateralV3 = serde_json::from_slice(&theirs).unwrap();

    let mut bench = Bench::default();
    bench.run("dcap-qvl: full verification", || {
        oracle.verify(&bytes, &theirs, AT.0).unwrap()
    });
    bench.run("full verification", || {
        let quote = Quote::parse(&bytes).unwrap();
        let collateral = Collateral::verify(parts, AT).unwrap();
        verify(quote, &collateral, AT).unwrap()
    });
    bench.run("prepared collateral", || {
        verify(Quote::parse(&bytes).unwrap(), &collateral, AT).unwrap()
    });
    bench.run("prepared collateral, known platform", || {
        let quote = Quote::parse(&bytes).unwrap();
        verify_cached(quote, &collateral, AT, &mut cache).unwrap()
    });
    bench.run("dcap-qvl: parse only", || {
        dcap_qvl::quote::Quote::parse(&bytes).unwrap()
    });
    bench.run("parse only", || Quote::parse(&bytes).unwrap());
    bench.compare("dcap-qvl: full verification", "full verification");
    bench.compare("dcap-qvl: full verification", "prepared collateral");
    bench.compare(
        "dcap-qvl: full verification",
        "prepared collateral, known platform",
    );
    bench.compare("dcap-qvl: parse only", "parse only");
}

const QUOTE: &str = "TelegramMessenger__cocoon/76641c46_v4_tee-test-quote.dat.quote.bin";
const SET: &str = "2026-01-12_90c06f000000";
const AT: UnixTime = UnixTime(1_769_529_299);
