//! A pick and what is done with it, and a heartbeat, with 100, 10 000 and 1 000 000 workers
//! in one run; and what a worker takes in memory.
//!
//!     cargo bench -p scheduler --bench choice

#![allow(
    clippy::arithmetic_side_effects,
    clippy::unwrap_used,
    reason = "a program for who measures"
)]

use std::cell::{Cell, RefCell};
use std::hint::black_box;
use std::time::Duration;

use attestation::register::Digest256;
use criterion::Criterion;
use scheduler::choice::Wanted;
use scheduler::dice::Dice;
use scheduler::directory::{Directory, Outcome};
use sealed::{Offer, OfferedModel};

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    let mut rows = Vec::new();
    for workers in [100, 10_000, 1_000_000] {
        let before = resident();
        let directory = RefCell::new(directory(workers));
        let memory = (resident() - before) / workers;
        let mut measure = |name: &str, once: &dyn Fn(&mut Directory, u64)| {
            let best = Cell::new(Duration::MAX);
            let mut dice = Dice(1);
            criterion.bench_function(&format!("{name}, {workers} workers"), |bencher| {
                bencher.iter_custom(|count| {
                    let mut directory = directory.borrow_mut();
                    let start = std::time::Instant::now();
                    (0..count).for_each(|_| once(&mut directory, dice.roll()));
                    let taken = start.elapsed();
                    best.set(best.get().min(taken.div_f64(ratio(count))));
                    taken
                });
            });
            best.get()
        };
        let pick =
            |affinity| move |directory: &mut Directory, random| pick(directory, random, affinity);
        let times = [
            measure("pick and done", &pick(false)),
            measure("pick and done, by affinity", &pick(true)),
            measure("heartbeat", &|directory, random| {
                let worker = Dice(random).below(workers);
                directory.update(id(worker), &offer(worker), NOW).unwrap();
            }),
        ];
        rows.push((workers, times, memory));
    }
    let (_, least, _) = *rows.first().unwrap();
    println!("workers: pick, by affinity, heartbeat (and times as long as with 100); memory");
    for (workers, times, memory) in &rows {
        let cells = times
            .iter()
            .zip(least)
            .map(|(time, least)| format!("{time:.1?} ({:.1}x)", time.div_duration_f64(least)));
        let cells: Vec<_> = cells.collect();
        println!("{workers}: {}; {memory} bytes a worker", cells.join(", "));
    }
}

fn pick(directory: &mut Directory, random: u64, with_affinity: bool) {
    let wanted = Wanted {
        model: MODEL,
        max_price: 1500,
        affinity: with_affinity.then(|| Digest256::of(&random.to_be_bytes())),
        except: &[],
    };
    let pick = black_box(directory.pick(&wanted, NOW, random).unwrap());
    directory.done(pick, &ANSWER, NOW);
}

/// Of asks between 500 and 2500; a client's limit cuts off half of them.
fn directory(workers: usize) -> Directory {
    let mut directory = Directory::new([0; 32]);
    for worker in 0..workers {
        directory.update(id(worker), &offer(worker), NOW).unwrap();
    }
    directory
}

fn offer(worker: usize) -> Offer {
    Offer {
        worker: id(worker),
        draining: false,
        models: vec![OfferedModel {
            name: MODEL.into(),
            root: None,
            slots: 16,
            free: 16,
            queued: 0,
            tokens_per_second: 50,
            context: 8192,
            ask: 500 + Dice(worker.try_into().unwrap()).roll() % 2000,
        }],
    }
}

fn id(worker: usize) -> Digest256 {
    Digest256::of(&worker.to_be_bytes())
}

/// Of this process, in bytes.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: usize = line
        .unwrap()
        .trim()
        .trim_end_matches(" kB")
        .parse()
        .unwrap();
    kib * 1024
}

fn ratio(count: u64) -> f64 {
    f64::from(u32::try_from(count).unwrap())
}

const MODEL: &str = "a-model-of-8-billion";
const NOW: Duration = Duration::ZERO;
const ANSWER: Outcome = Outcome::Answered {
    first: Duration::from_millis(300),
    rest: Duration::from_secs(4),
    tokens: 200,
};
