//! Verification of one real TDX quote, beside dcap-qvl in the same run, on one core.
//!
//! `cargo bench -p attestation --bench tdx`. Needs the recorded vectors.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "a benchmark of broken input may panic"
)]

#[path = "../tests/recorded/mod.rs"]
mod recorded;

use std::cell::RefCell;
use std::hint::black_box;
use std::time::{Duration, Instant};

use attestation::tdx::{Collateral, PlatformCache, Quote, verify, verify_cached};
use attestation::time::UnixTime;
use criterion::Criterion;
use dcap_qvl::QuoteCollateralV3;
use dcap_qvl::verify::QuoteVerifier;

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

/// Criterion, and the best time of each benchmark.
#[derive(Default)]
struct Bench {
    criterion: Criterion,
    best: Vec<(&'static str, Duration)>,
}

impl Bench {
    fn run<T>(&mut self, name: &'static str, mut once: impl FnMut() -> T) {
        let best = RefCell::new(Duration::MAX);
        self.criterion.bench_function(name, |bencher| {
            bencher.iter_custom(|iterations| {
                let start = Instant::now();
                for _ in 0..iterations {
                    black_box(once());
                }
                let elapsed = start.elapsed();
                let each = elapsed / u32::try_from(iterations).unwrap();
                best.replace_with(|best| each.min(*best));
                elapsed
            });
        });
        self.best.push((name, best.into_inner()));
    }

    fn compare(&self, theirs: &str, ours: &str) {
        let best = |name| {
            self.best
                .iter()
                .find(|(other, _)| *other == name)
                .unwrap()
                .1
        };
        let (a, b) = (best(theirs), best(ours));
        let ratio = a.div_duration_f64(b);
        println!("{ratio:6.1}x  {ours} ({b:.1?}) against {theirs} ({a:.1?})");
    }
}
