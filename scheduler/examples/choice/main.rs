//! Hours in a network, made up, to compare ways to choose: what clients wait for, what is
//! paid, how evenly workers are used, how often a conversation finds its cache.
//!
//!     cargo run --release -p scheduler --example choice
//!
//! prints the tables of `docs/choice.md` and writes the drawings beside it. The same numbers
//! each time: all that is random comes from one seed.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    clippy::cast_sign_loss,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "a simulation of numbers of its own"
)]

#[path = "../plot/mod.rs"]
mod plot;
mod policy;
mod world;

use std::path::Path;
use std::time::Duration;
use std::{fs, io};

use plot::{Line, Plot};
use policy::{Ask, Baseline, Heard, Ours, Policy, Rule};
use scheduler::dice::mix;
use scheduler::directory::Outcome;
use world::{Found, Hedging, Plan, simulate};

fn main() -> io::Result<()> {
    let calm = Plan::default();
    let mut text = String::from(HEADER);
    let mut found = Vec::new();
    text.push_str("\n## Ways to choose\n\n");
    text.push_str(Found::COLUMNS);
    for (name, make) in WAYS {
        let one = simulate(&calm, *make);
        text.push_str(&one.row(name));
        found.push((*name, one));
    }
    text.push_str("\n![time to first token](choice-first-token.svg)\n");
    text.push_str("![use of each worker](choice-use.svg)\n");

    text.push_str("\n## Trying again, and asking two\n\n");
    text.push_str(Found::COLUMNS);
    for (name, attempts, hedging) in PATIENCE {
        let plan = Plan {
            attempts: *attempts,
            hedging: *hedging,
            ..calm
        };
        text.push_str(&simulate(&plan, ours).row(name));
    }

    text.push_str("\n## Offers that are older, and more schedulers\n\n");
    text.push_str(Found::COLUMNS);
    for (schedulers, heartbeat) in [(1, 0.5), (4, 2.0), (16, 2.0), (16, 5.0)] {
        for (name, make) in [
            ("two choices", ours as Make),
            ("the least loaded", least_loaded),
        ] {
            let plan = Plan {
                schedulers,
                heartbeat,
                ..calm
            };
            let name = format!("{name}: {schedulers} schedulers, offers every {heartbeat} s");
            text.push_str(&simulate(&plan, make).row(&name));
        }
    }

    text.push_str(STANDING);
    for standing in [1000, 750, 500, 250, 100, 1] {
        let share = share(standing);
        text.push_str(&format!("| {standing} | {share:.2} |\n"));
    }

    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
    print!("{text}");
    fs::write(docs.join("choice.md"), &text)?;
    let lines = |of: &dyn Fn(&Found) -> Vec<(f64, f64)>| -> Vec<Line> {
        found
            .iter()
            .map(|(name, found)| Line::new(name, of(found)))
            .collect()
    };
    let waits = Plot {
        title: "Requests that wait at most so long for their first token",
        x: "seconds",
        y: "of a hundred requests",
        is_log: true,
        lines: lines(&Found::waits),
    };
    fs::write(docs.join("choice-first-token.svg"), waits.svg())?;
    let uses = Plot {
        title: "Use of each worker, the least used first",
        x: "worker",
        y: "of a hundred slots",
        is_log: false,
        lines: lines(&Found::uses),
    };
    fs::write(docs.join("choice-use.svg"), uses.svg())
}

/// What one of sixty gets, in shares, whose standing differs.
fn share(standing: u16) -> f64 {
    const REQUESTS: u64 = 200_000;
    let mut policy = Ours::new(false);
    let heard = Heard {
        slots: 16,
        free: 16,
        queued: 0,
        ask: 1000,
    };
    for worker in 0..60 {
        policy.hear(worker, heard, Duration::ZERO);
    }
    policy.judge(standing, Duration::ZERO);
    let answer = Outcome::Answered {
        first: Duration::from_millis(300),
        rest: Duration::from_secs(4),
        tokens: 200,
    };
    let mut first = 0;
    for number in 0..REQUESTS {
        let ask = Ask {
            max_price: 1000,
            conversation: number,
            except: &[],
        };
        let sent = policy.pick(&ask, Duration::ZERO, mix(number));
        let sent = sent.expect("nobody is busy");
        first += u64::from(sent.worker == 0);
        policy.done(sent, &answer, Duration::ZERO);
    }
    first as f64 * 60.0 / REQUESTS as f64
}

type Make = fn() -> Box<dyn Policy>;

const WAYS: &[(&str, Make)] = &[
    ("first idle in map order", || {
        Baseline::boxed(Rule::FirstIdle)
    }),
    ("random", || Baseline::boxed(Rule::Random)),
    ("round robin", || Baseline::boxed(Rule::RoundRobin)),
    ("least connections", || {
        Baseline::boxed(Rule::LeastConnections)
    }),
    ("the least loaded", least_loaded),
    ("two choices, no affinity", || Ours::boxed(false)),
    ("two choices", ours),
];

const PATIENCE: &[(&str, usize, Hedging)] = &[
    ("one attempt", 1, Hedging::Never),
    ("two attempts", 2, Hedging::Never),
    ("three attempts", 3, Hedging::Never),
    (
        "three, and another after p90",
        3,
        Hedging::After { thousandths: 900 },
    ),
    (
        "three, and another after p95",
        3,
        Hedging::After { thousandths: 950 },
    ),
    (
        "three, and another after p99",
        3,
        Hedging::After { thousandths: 990 },
    ),
    ("as `retry` has it", 3, Hedging::Rule),
];

fn ours() -> Box<dyn Policy> {
    Ours::boxed(true)
}

fn least_loaded() -> Box<dyn Policy> {
    Baseline::boxed(Rule::LeastLoaded)
}

const STANDING: &str = "
## What a standing is worth

One worker of sixty that are alike, the others with a standing of 1000. Its shares of all
requests, one being what each gets where all are the same.

| standing | shares |
|---|---|
";

const HEADER: &str = "\
# How workers are chosen, simulated

Written by `cargo run --release -p scheduler --example choice`; all of it follows from one
seed. 60 workers of three kinds of GPU, their asks from a half to twice what is usual for the
kind, every sixth four times; four schedulers, any of which gets any request; offers every two
seconds. Demand by conversations of about five turns, between a quarter and three quarters of
what all could serve, in the course of a day of twenty minutes. Half of the clients pay up to one and a half times the
usual price, half up to four times. After five minutes two workers begin to fail at once, and
after ten one is lost and one takes five times as long. Of the others every five-hundredth
answer fails.

Times are seconds until the first token, over all attempts. Price: of a million tokens, the
usual one is 1000. Uneven: how far use of the workers is from their mean (who asks for less is used more).
A request without an answer counts as 30 seconds. Found: turns that
came to the worker that remembers the conversation. Extra: attempts beyond the first, and of
work what was thrown away.
";
