//! What it adds that a worker is linked to another scheduler, and what it would be to send
//! the bytes over NATS instead. All ends are in this process, but for `nats-server`.
//!
//!     cargo bench -p scheduler --bench fabric

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a program for who measures"
)]

#[path = "../tests/member/mod.rs"]
mod member;

use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::StreamExt as _;
use member::{Member, within};
use scheduler::fabric::registry;
use serde_json::json;
use tests::asker::Asker;
use tests::nats::Nats;
use tests::stand_in::Terms;

#[tokio::main]
async fn main() {
    let nats = Nats::start(LOCALHOST).unwrap();
    let here = Member::start(LOCALHOST, nats.url(), "11").await;
    let there = Member::start(LOCALHOST, nats.url(), "11").await;
    let worker = here.worker(Terms::default()).await;
    within(|| there.scheduler.workers.get(&worker.id).is_some()).await;
    let askers = [
        Asker::connect(here.clients).await.unwrap(),
        Asker::connect(there.clients).await.unwrap(),
    ];
    let bus = Bus::over(&nats).await;

    // Side by side, so that they share whatever else the machine does.
    let mut small = [Vec::new(), Vec::new(), Vec::new()];
    let mut large = small.clone();
    for round in 0..ROUNDS {
        for (asker, times) in askers.iter().zip(&mut small) {
            times.push(answer(asker, vec![vec![1; SMALL]]).await);
        }
        small[2].push(bus.ask(SMALL, 1).await);
        if round % EACH == 0 {
            for (asker, times) in askers.iter().zip(&mut large) {
                times.push(answer(asker, vec![vec![1; LARGE]; PIECES]).await);
            }
            large[2].push(bus.ask(LARGE, PIECES).await);
        }
    }
    println!("microseconds, p50 and p99");
    table(&format!("an answer of {SMALL} bytes"), small);
    table(&format!("an answer of {PIECES} times {LARGE} bytes"), large);
}

fn table(name: &str, times: [Vec<Duration>; 3]) {
    let [own, others, nats] = times.map(|mut times| {
        times.sort_unstable();
        let at = |hundredth: usize| times[times.len() * hundredth / 100].as_secs_f64() * 1e6;
        [at(50), at(99)]
    });
    println!("{name}");
    println!("  worker linked here:        {:8.0} {:8.0}", own[0], own[1]);
    println!(
        "  linked to another:         {:8.0} {:8.0}",
        others[0], others[1]
    );
    println!(
        "  added:                     {:8.0} {:8.0}  ratio {:.2} {:.2}",
        others[0] - own[0],
        others[1] - own[1],
        others[0] / own[0],
        others[1] / own[1],
    );
    println!(
        "  NATS there and back alone: {:8.0} {:8.0}",
        nats[0], nats[1]
    );
}

/// Sealed, sent, said again, opened.
async fn answer(asker: &Asker, texts: Vec<Vec<u8>>) -> Duration {
    let assignment = asker.assign(&json!({})).await.unwrap();
    let start = Instant::now();
    let answer = asker.begin(&assignment, texts.clone()).await.unwrap();
    assert_eq!(answer.whole().await.unwrap().texts, texts);
    start.elapsed()
}

/// The same bytes as messages, without flow control, cancellation or end.
struct Bus {
    nats: async_nats::Client,
}

impl Bus {
    async fn over(nats: &Nats) -> Self {
        let connect = async || {
            let urls = [nats.url()];
            registry::connect(&urls, registry::options()).await.unwrap()
        };
        let far = connect().await;
        let mut asked = far.subscribe("ask").await.unwrap();
        far.flush().await.unwrap();
        tokio::spawn(async move {
            while let Some(message) = asked.next().await {
                let reply = message.reply.unwrap();
                far.publish(reply, message.payload).await.unwrap();
            }
        });
        Self {
            nats: connect().await,
        }
    }

    async fn ask(&self, size: usize, pieces: usize) -> Duration {
        let start = Instant::now();
        let inbox = self.nats.new_inbox();
        let mut answers = self.nats.subscribe(inbox.clone()).await.unwrap();
        let piece = Bytes::from(vec![1; size]);
        for _ in 0..pieces {
            let sent = self
                .nats
                .publish_with_reply("ask", inbox.clone(), piece.clone());
            sent.await.unwrap();
        }
        for _ in 0..pieces {
            answers.next().await.unwrap();
        }
        start.elapsed()
    }
}

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

/// As many as a scheduler assigns to one address.
const ROUNDS: usize = 1500;

/// Of so many rounds one has large answers, too.
const EACH: usize = 4;

const SMALL: usize = 256;
const LARGE: usize = 32 << 10;

/// As much as an asker pays for.
const PIECES: usize = 3;
