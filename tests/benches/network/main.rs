//! What the way through the network costs, beside what one would take instead: nginx as
//! a reverse proxy with TLS, and LiteLLM. All stand before a server that answers at
//! once; each is a process of its own (nginx: several), whose processor time is counted.
//!
//! ```text
//! direct    application ── HTTP ── server
//! nginx     application ── TLS ─── nginx ──── HTTP ── server
//! LiteLLM   application ── HTTP ── LiteLLM ── HTTP ── server
//! cocoon    application ── HTTP ── gateway ── HTTP, sealed ── scheduler
//!                                  ── attested TLS, sealed ── worker
//! paid      the same, each request paid out of a Channel and into another one
//! ```
//!
//!     cargo bench -p tests --bench network
//!
//! Wants nginx, LiteLLM where [`LITELLM`] says, and a TVM (`npm ci` in `contracts`); what is
//! not there is left out. The chain is in this process, and not counted.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a program for who measures"
)]

mod load;
mod money;
mod process;
mod roles;
#[path = "../../tests/paid/takes.rs"]
mod takes;
mod ways;

use std::time::Duration;

use load::Load;
use money::Money;
use ways::LITELLM;

fn main() {
    let mut arguments = std::env::args().skip(1);
    match arguments.next() {
        Some(role) if roles::is_known(&role) => roles::play(&role, &arguments.collect::<Vec<_>>()),
        _ => measure(),
    }
}

#[tokio::main]
async fn measure() {
    let money = Money::start().await;
    let mut ways = ways::all(money.as_ref());
    for way in &mut ways {
        way.warm().await;
    }
    for _ in 0..ROUNDS {
        for way in &mut ways {
            way.one_by_one(ONE_BY_ONE).await;
            way.together(AT_ONCE, TOGETHER).await;
        }
    }
    println!(
        "{} requests one by one and {} at {AT_ONCE} at once, in turns, for each way\n",
        ROUNDS * ONE_BY_ONE,
        ROUNDS * TOGETHER
    );
    println!(
        "{:<8} {:>8} {:>8} {:>8} {:>8} {:>9}  {:>9} {:>9}",
        "", "p50 µs", "p99 µs", "+p50", "+p99", "at once/s", "CPU µs", "per core"
    );
    let direct = ways[0].latency();
    for way in &ways {
        way.row(direct);
    }
    println!("\nCPU µs: of a request, in what stands between application and server; per core:");
    println!("requests a second that one core of it passes. By process:\n");
    for way in &ways {
        way.processes();
    }
    if !ways.iter().any(|way| way.name == "LiteLLM") {
        println!("\nLiteLLM was left out: no {LITELLM}");
    }
    if money.is_none() {
        println!("\nThe paid way was left out: no TVM");
    }
}

const ROUNDS: usize = 6;
const ONE_BY_ONE: usize = 100;
const TOGETHER: usize = 320;
const AT_ONCE: usize = 16;

/// Half of them took no longer, and all but one of a hundred.
#[derive(Clone, Copy)]
struct Latency {
    half: Duration,
    most: Duration,
}
