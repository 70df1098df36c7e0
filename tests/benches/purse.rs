//! What paying costs: a purse by itself, where each change has a write of its own and where
//! those that wait share one; and a gateway that pays, beside one that need not. Scheduler
//! and workers are the double of `tests/network_gateway.rs`, in this process.
//!
//!     cargo bench -p tests --bench purse

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::unwrap_used,
    reason = "a program for who measures"
)]

#[path = "../tests/paper_network/mod.rs"]
mod paper_network;

use std::sync::{Arc, Mutex};
use std::time::Instant;

use attestation::register::Digest256;
use axum::http::StatusCode;
use client::network::agreed::Agreed;
use client::network::purse::Purse;
use futures_util::{StreamExt as _, stream};
use paper_network::{PRICE, Scheduler, application};

fn main() {
    println!("a purse, in requests a second (reserved and released, both on disk)\n");
    println!(
        "{:>7} {:>10} {:>10} {:>7}",
        "at once", "each", "shared", "ratio"
    );
    for at_once in AT_ONCE {
        let (mut each, mut shared) = (0.0, 0.0);
        for _ in 0..ROUNDS {
            each += purse(at_once, &Mutex::new(()), true);
            shared += purse(at_once, &Mutex::new(()), false);
        }
        row(at_once, each, shared);
    }
    println!("\na gateway, in requests a second\n");
    println!(
        "{:>7} {:>10} {:>10} {:>7}",
        "at once", "free", "paying", "ratio"
    );
    let runtime = tokio::runtime::Runtime::new().unwrap();
    for at_once in AT_ONCE {
        let (mut free, mut paying) = (0.0, 0.0);
        for _ in 0..ROUNDS {
            free += runtime.block_on(gateway(at_once, false));
            paying += runtime.block_on(gateway(at_once, true));
        }
        row(at_once, free, paying);
    }
}

fn row(at_once: usize, one: f64, other: f64) {
    let rounds = f64::from(ROUNDS);
    let (one, other) = (one / rounds, other / rounds);
    println!(
        "{at_once:>7} {one:>10.0} {other:>10.0} {:>7.2}",
        other / one
    );
}

/// With so many payers, who take turns at the disk if so told.
fn purse(payers: usize, turn: &Mutex<()>, each: bool) -> f64 {
    let folder = tempfile::tempdir_in(".").unwrap();
    let purse = Purse::open(&application::channel(&folder), None).unwrap();
    let agreed = Agreed {
        limit: 1000,
        price: PRICE,
        request: Digest256::ZERO,
        receipt_key: Digest256::ZERO,
        until: u32::MAX,
    };
    let pay = |payer: usize| {
        for number in 0..REQUESTS / payers {
            let id = format!("{payer}-{number}");
            for change in [
                &|purse: &Purse| drop(purse.reserve(&id, agreed).unwrap()),
                &|purse: &Purse| purse.release(&id).unwrap(),
            ] as [&dyn Fn(&Purse); 2]
            {
                let turn = each.then(|| turn.lock().unwrap());
                change(&purse);
                drop(turn);
            }
        }
    };
    let started = Instant::now();
    std::thread::scope(|scope| {
        for payer in 0..payers {
            scope.spawn(move || pay(payer));
        }
    });
    per_second(started)
}

async fn gateway(at_once: usize, pays: bool) -> f64 {
    let (_, address) = Scheduler::start(1, &[], !pays).await;
    let folder = tempfile::tempdir_in(".").unwrap();
    let purse = pays.then(|| Purse::open(&application::channel(&folder), None).unwrap());
    let gateway = application::gateway(&[address], purse.map(Arc::new).into_iter().collect());
    let ask = async || {
        let (status, _, body) = application::ask(&gateway, application::chat(1, false)).await;
        assert_eq!(status, StatusCode::OK, "{body:?}");
    };
    // The first one has the worker prove itself.
    ask().await;
    let started = Instant::now();
    stream::iter(0..REQUESTS)
        .for_each_concurrent(at_once, |_| ask())
        .await;
    per_second(started)
}

fn per_second(started: Instant) -> f64 {
    REQUESTS as f64 / started.elapsed().as_secs_f64()
}

const AT_ONCE: [usize; 3] = [1, 8, 64];

const REQUESTS: usize = 256;

const ROUNDS: u32 = 3;
