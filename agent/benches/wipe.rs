//! What it costs to wipe what is freed: the engine with the agent's allocator and with
//! the system's, by turns in one process.
//!
//!     cargo bench -p agent --bench wipe [-- DIR]
//!
//! `DIR` has a chat model; without it, it is the small one of the tests, of which the
//! least is arithmetic.

#![allow(unsafe_code, reason = "an allocator is asked in raw pointers")]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::unwrap_used,
    reason = "a program for who measures"
)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use agent::wipe::Wiping;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use inference::{Engine, Event, Limits, Message, Prompt, Request, Role, Sampling};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;

#[tokio::main]
async fn main() {
    let small = Path::new(env!("CARGO_MANIFEST_DIR")).join("../inference/models/cocoon-tiny");
    let dir = std::env::args()
        .skip(1)
        .find(|argument| argument != "--bench");
    let engine = Engine::load_with(&dir.map_or(small, PathBuf::from), Limits::default()).unwrap();
    println!(
        "{:<28} {:>9} {:>9} {:>6}  {:>9} {:>9} {:>6}",
        "", "tokens/s", "wiping", "ratio", "CPU µs", "wiping", "ratio"
    );
    for (name, streams, prompt, tokens) in [
        ("prefill", 1, 512, 1),
        ("one answer", 1, 16, 64),
        ("eight answers", 8, 16, 64),
    ] {
        let mut best = [Cost::WORST; 2];
        for round in 0..=ROUNDS {
            for (best, wipes) in best.iter_mut().zip([false, true]) {
                WIPES.store(wipes, Ordering::Relaxed);
                let cost = run(&engine, streams, prompt, tokens).await;
                // The first round wakes threads and touches memory.
                if round > 0 {
                    *best = best.least(cost);
                }
            }
        }
        let [plain, wiping] = best.map(Cost::each);
        println!(
            "{name:<28} {:>9.0} {:>9.0} {:>6.2}  {:>9.1} {:>9.1} {:>6.2}",
            plain.rate,
            wiping.rate,
            wiping.rate / plain.rate,
            plain.cpu,
            wiping.cpu,
            plain.cpu / wiping.cpu,
        );
    }
    let start = Instant::now();
    (0..1000).for_each(|_| inference::wipe_stack());
    println!(
        "a thread's stack, before it waits: {:.1} µs",
        start.elapsed().as_secs_f64() * 1e3
    );
}

/// Answers side by side, of the same length.
async fn run(engine: &Engine, streams: usize, prompt: usize, tokens: usize) -> Cost {
    let (start, used) = (Instant::now(), used());
    let answers = (0..streams).map(async |_| {
        // Nothing of it was read before.
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let prompt = format!("{count} {}", "a ".repeat(prompt / 2));
        let mut answer = engine
            .answer(Request {
                prompt: Prompt::Chat(vec![Message::new(Role::User, prompt)]),
                max_tokens: Some(tokens),
                sampling: Sampling {
                    temperature: Some(0.0),
                    ..Sampling::default()
                },
                ..Request::default()
            })
            .unwrap();
        let mut took = 0;
        while let Some(event) = answer.next().await {
            if let Event::Finish { usage, .. } = event.unwrap() {
                took = if tokens == 1 {
                    usage.prompt
                } else {
                    usage.completion
                };
            }
        }
        took
    });
    let tokens = join_all(answers).await.into_iter().sum();
    Cost {
        tokens,
        wall: start.elapsed().as_secs_f64(),
        cpu: crate::used() - used,
    }
}

/// In seconds, of so many tokens.
#[derive(Clone, Copy)]
struct Cost {
    tokens: usize,
    wall: f64,
    cpu: f64,
}

impl Cost {
    const WORST: Self = Self {
        tokens: 0,
        wall: f64::MAX,
        cpu: f64::MAX,
    };

    fn least(self, other: Self) -> Self {
        Self {
            tokens: other.tokens,
            wall: self.wall.min(other.wall),
            cpu: self.cpu.min(other.cpu),
        }
    }

    fn each(self) -> Each {
        Each {
            rate: self.tokens as f64 / self.wall,
            cpu: self.cpu * 1e6 / self.tokens as f64,
        }
    }
}

/// Tokens a second, and processor time of one in microseconds.
struct Each {
    rate: f64,
    cpu: f64,
}

/// Of this process, in seconds.
fn used() -> f64 {
    let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
    (usage.user_time() + usage.system_time()).num_microseconds() as f64 / 1e6
}

/// One of the two, as it is set; both give the system's memory.
struct Either;

static COUNT: AtomicUsize = AtomicUsize::new(0);
static WIPES: AtomicBool = AtomicBool::new(false);

#[global_allocator]
static MEMORY: Either = Either;

// SAFETY: both hand on the system's pointers and layouts as they came.
unsafe impl GlobalAlloc for Either {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller keeps what the trait asks for.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        match WIPES.load(Ordering::Relaxed) {
            // SAFETY: as above.
            true => unsafe { Wiping.dealloc(memory, layout) },
            // SAFETY: as above.
            false => unsafe { System.dealloc(memory, layout) },
        }
    }

    unsafe fn realloc(&self, memory: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        match WIPES.load(Ordering::Relaxed) {
            // SAFETY: as above.
            true => unsafe { Wiping.realloc(memory, layout, size) },
            // SAFETY: as above.
            false => unsafe { System.realloc(memory, layout, size) },
        }
    }
}

const ROUNDS: usize = 12;
