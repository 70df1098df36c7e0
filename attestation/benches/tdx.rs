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

use std::cell::RefCell;
use std::fmt;
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

/// Criterion, and what each benchmark took at best.
#[derive(Default)]
struct Bench {
    criterion: Criterion,
    best: Vec<(&'static str, Cost)>,
}

#[derive(Clone, Copy)]
struct Cost {
    time: Duration,
    /// Allocations, and what they asked for in all.
    pieces: usize,
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
        let before = counting::allocated();
        black_box(once());
        let after = counting::allocated();
        let cost = Cost {
            time: best.into_inner(),
            pieces: after[0] - before[0],
            bytes: after[1] - before[1],
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
            "{:6.1}x  {ours} ({b}) against {theirs} ({a}); allocations {}, bytes {}",
            a.time.div_duration_f64(b.time),
            ratio(a.pieces, b.pieces),
            ratio(a.bytes, b.bytes),
        );
    }
}

impl fmt::Display for Cost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            time,
            pieces,
            bytes,
        } = self;
        write!(f, "{time:.1?}, {pieces} allocations of {bytes} bytes")
    }
}

/// How many times less, in words where there is nothing left.
fn ratio(theirs: usize, ours: usize) -> String {
    let number = |count| f64::from(u32::try_from(count).unwrap());
    match ours {
        0 => "none".into(),
        _ => format!("{:.1}x fewer", number(theirs) / number(ours)),
    }
}

/// Counts what is asked of the C library's allocator, which AWS-LC asks too.
mod counting {
    use std::ffi::c_void;
    use std::sync::atomic::{AtomicUsize, Ordering};

    /// Pieces and bytes so far.
    pub(super) fn allocated() -> [usize; 2] {
        [&PIECES, &BYTES].map(|counter| counter.load(Ordering::Relaxed))
    }

    static PIECES: AtomicUsize = AtomicUsize::new(0);
    static BYTES: AtomicUsize = AtomicUsize::new(0);

    fn count(bytes: usize) {
        PIECES.fetch_add(1, Ordering::Relaxed);
        BYTES.fetch_add(bytes, Ordering::Relaxed);
    }

    unsafe extern "C" {
        fn __libc_malloc(size: usize) -> *mut c_void;
        fn __libc_calloc(count: usize, size: usize) -> *mut c_void;
        fn __libc_realloc(memory: *mut c_void, size: usize) -> *mut c_void;
    }

    // SAFETY: each passes its call on as it came to the function that glibc has under
    // the other name; what comes back is freed by glibc's own `free`.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn malloc(size: usize) -> *mut c_void {
        count(size);
        // SAFETY: the caller keeps the contract, which is the same one.
        unsafe { __libc_malloc(size) }
    }

    // SAFETY: as above.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn calloc(number: usize, size: usize) -> *mut c_void {
        count(number.saturating_mul(size));
        // SAFETY: the caller keeps the contract, which is the same one.
        unsafe { __libc_calloc(number, size) }
    }

    // SAFETY: as above.
    #[unsafe(no_mangle)]
    unsafe extern "C" fn realloc(memory: *mut c_void, size: usize) -> *mut c_void {
        count(size);
        // SAFETY: the caller keeps the contract, which is the same one.
        unsafe { __libc_realloc(memory, size) }
    }
}
