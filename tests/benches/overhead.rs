//! What the way to the engine costs: an application's HTTP, the gateway, attested
//! TLS, the agent, and the engine, beside the engine alone. All ends are in this
//! process, the application's too.
//!
//!     cargo bench -p tests --bench overhead

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::unwrap_used,
    reason = "a program for who measures"
)]

#[path = "../tests/served/mod.rs"]
mod served;

use std::time::{Duration, Instant};

use axum::body::Body;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use http_body_util::BodyExt as _;
use inference::{Engine, Event, Limits, Message, Prompt, Request, Role, Sampling};
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeValLike as _;
use serde_json::json;
use served::Served;

#[tokio::main]
async fn main() {
    let engine = served::engine(Limits::default());
    let served = Served::start(Limits::default()).await;
    // The first requests of all wake threads and make the connection.
    for _ in 0..4 {
        alone(&engine, TOKENS).await;
        served.models().await;
        whole(&served, TOKENS).await;
    }

    let (mut bare, mut way) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        bare.push(alone(&engine, TOKENS).await);
        way.push(whole(&served, TOKENS).await);
    }
    let first = [&bare, &way].map(|runs| median(runs.iter().map(|run| run.first)));
    let token = [&bare, &way].map(|runs| median(runs.iter().map(Run::token)));
    row("first token, microseconds", first);
    row("each further token, microseconds", token);

    let bare = cpu(|| async { alone(&engine, 1).await.first }).await;
    let way = cpu(|| async { whole(&served, 1).await.first }).await;
    row("processor time of a request, microseconds", [bare, way]);
    let models = cpu(|| async { served.models().await }).await;
    println!(
        "requests a second and core, the engine left out: {:.0}",
        1e6 / (way - bare)
    );
    println!(
        "requests a second and core that no engine sees: {:.0}",
        1e6 / models
    );
}

fn row(name: &str, [bare, way]: [f64; 2]) {
    println!(
        "{name}: {bare:.0} alone, {way:.0} the whole way, {:.0} added",
        way - bare
    );
}

/// The middle one, in microseconds.
fn median(times: impl Iterator<Item = Duration>) -> f64 {
    let mut times: Vec<_> = times.collect();
    times.sort_unstable();
    times.get(times.len() / 2).unwrap().as_secs_f64() * 1e6
}

/// Processor time of one of many requests, sixteen at a time, in microseconds.
async fn cpu<F: Future>(request: impl Fn() -> F) -> f64 {
    let used = || {
        let usage = getrusage(UsageWho::RUSAGE_SELF).unwrap();
        (usage.user_time() + usage.system_time()).num_microseconds()
    };
    let before = used();
    for _ in 0..ROUNDS {
        join_all((0..16).map(|_| request())).await;
    }
    (used() - before) as f64 / (16 * ROUNDS) as f64
}

/// One answer.
struct Run {
    first: Duration,
    last: Duration,
    tokens: usize,
}

impl Run {
    fn token(&self) -> Duration {
        let later = u32::try_from(self.tokens - 1).unwrap_or(1).max(1);
        (self.last - self.first) / later
    }
}

async fn alone(engine: &Engine, tokens: usize) -> Run {
    let start = Instant::now();
    let mut answer = engine
        .answer(Request {
            prompt: Prompt::Chat(vec![Message::new(Role::User, PROMPT.to_owned())]),
            max_tokens: Some(tokens),
            sampling: Sampling {
                temperature: Some(0.0),
                ..Sampling::default()
            },
            ..Request::default()
        })
        .unwrap();
    let mut first = None;
    while let Some(event) = answer.next().await {
        if let Event::Text { .. } = event.unwrap() {
            first = first.or(Some(start.elapsed()));
        }
    }
    let last = start.elapsed();
    Run {
        first: first.unwrap_or(last),
        last,
        tokens,
    }
}

async fn whole(served: &Served, tokens: usize) -> Run {
    let request = json!({
        "model": Served::MODEL,
        "messages": [{"role": "user", "content": PROMPT}],
        "max_tokens": tokens,
        "temperature": 0,
        "stream": true,
    });
    let start = Instant::now();
    let mut body = served
        .ask(Body::from(request.to_string()))
        .await
        .into_body();
    let mut first = None;
    while let Some(frame) = body.frame().await {
        let data = frame.unwrap().into_data().unwrap_or_default();
        // The role comes before the first token.
        if data.windows(6).any(|part| part == b"\"delta")
            && !data.windows(6).any(|part| part == b"\"role\"")
        {
            first = first.or(Some(start.elapsed()));
        }
    }
    let last = start.elapsed();
    Run {
        first: first.unwrap_or(last),
        last,
        tokens,
    }
}

/// Answered with more tokens than are asked for.
const PROMPT: &str = "Recite Psalm 23:4.";
const TOKENS: usize = 32;
const ROUNDS: usize = 60;
