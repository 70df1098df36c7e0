//! Verification of one real TDX quote, beside dcap-qvl in the same run, on one core.
//!
//! `cargo bench -p attestation --bench tdx`. Needs the recorded vectors.

#![allow(unsafe_code, reason = "an allocator that counts")]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "a benchmark of broken input may panic"
)]

#[path = "../tests/recorded/mod.rs"]
mod recorded;

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::RefCell;
use std::hint::black_box;
use std::sync::atomic::{AtomicUsize, Ordering};
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

/// Criterion, and what each benchmark took at best.
#[derive(Default)]
struct Bench {
    criterion: Criterion,
    best: Vec<(&'static str, Cost)>,
}

#[derive(Clone, Copy)]
struct Cost {
    time: Duration,
    bytes: usize,
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
        let before = ALLOCATED.load(Ordering::Relaxed);
        black_box(once());
        let cost = Cost {
            time: best.into_inner(),
            bytes: ALLOCATED.load(Ordering::Relaxed) - before,
        };
        self.best.push((name, cost));
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
        println!(
            "{:6.1}x  {ours} ({:.1?}, {} bytes allocated) against {theirs} ({:.1?}, {} bytes)",
            a.time.div_duration_f64(b.time),
            b.time,
            b.bytes,
            a.time,
            a.bytes,
        );
    }
}

/// Counts what is asked of the system's allocator.
struct Counting;

static ALLOCATED: AtomicUsize = AtomicUsize::new(0);

#[global_allocator]
static COUNTING: Counting = Counting;

// SAFETY: passes every call on as it came; the counter is no memory of anyone's.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATED.fetch_add(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller keeps the contract, which is the same one.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: `memory` came from `alloc` above, with this layout.
        unsafe { System.dealloc(memory, layout) }
    }
}
