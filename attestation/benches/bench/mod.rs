//! Criterion, and a comparison of what each benchmark took at best, in time and in bytes
//! asked of the allocator.

#![allow(unsafe_code, reason = "an allocator that counts")]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "a benchmark of broken input may panic"
)]

use std::cell::RefCell;
use std::fmt;
use std::hint::black_box;
use std::time::{Duration, Instant};

use criterion::Criterion;

/// Criterion, and what each benchmark took at best.
#[derive(Default)]
pub(crate) struct Bench {
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
    pub(crate) fn run<T>(&mut self, name: &'static str, mut once: impl FnMut() -> T) {
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

    pub(crate) fn compare(&self, theirs: &str, ours: &str) {
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
