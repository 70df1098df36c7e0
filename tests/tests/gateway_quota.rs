//! What a key has used up: what was paid for, whether or not somebody waited for it.
#![cfg(test)]

mod paper_network;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use attestation::register::Digest256;
use axum::Router;
use axum::body::Body;
use axum::http::{Request, header};
use client::gateway::front::Front;
use client::gateway::keys::Keys;
use http_body_util::BodyExt as _;
use paper_network::application::{ask, chat, gateway, purse};
use paper_network::{Lie, Scheduler};
use tokio::time::{sleep, timeout};
use tower::ServiceExt as _;

const TICK: Duration = Duration::from_millis(20);

const PATIENCE: Duration = Duration::from_secs(60);

/// A gateway with one such worker, and one key.
async fn with(lie: Lie, folder: &tempfile::TempDir) -> (Arc<Scheduler>, Router) {
    let (scheduler, address) = Scheduler::start(1, &[(0, lie)], false).await;
    let keys = format!(
        "[[key]]\nname = \"bot\"\nsha256 = \"{}\"\nrequests_per_minute = 60\n\
         tokens_per_day = 100000\nmodels = [\"*\"]\noperator = true\n",
        Digest256::of(b"secret")
    );
    let front = Front::new(
        SocketAddr::from(([127, 0, 0, 1], 8080)),
        Some(Keys::parse(&keys).unwrap()),
        Vec::new(),
    );
    let gateway = gateway(&[address], vec![purse(folder, 1_000_000)]);
    (scheduler, front.before(gateway))
}

async fn until_shown(gateway: &Router, line: impl Fn(&str) -> bool) {
    let shown = async {
        loop {
            let request = Request::get("/cocoon/metrics");
            let request = request.header(header::AUTHORIZATION, "Bearer secret");
            let request = request.body(Body::empty()).unwrap();
            let (_, _, shown) = ask(gateway, request).await;
            if shown.unwrap().lines().any(&line) {
                return;
            }
            sleep(TICK).await;
        }
    };
    timeout(PATIENCE, shown).await.unwrap();
}

#[tokio::test]
async fn who_hangs_up_has_used_what_is_paid() {
    let folder = tempfile::tempdir().unwrap();
    let (scheduler, gateway) = with(Lie::Halting, &folder).await;
    let response = gateway.clone().oneshot(chat(1, true)).await.unwrap();
    let mut body = response.into_body();
    body.frame().await.unwrap().unwrap();
    drop(body);
    scheduler.gate.notify_one();
    let paid = "cocoon_gateway_tokens_total{key=\"bot\"} 42";
    until_shown(&gateway, |line| line == paid).await;
}

#[tokio::test]
async fn who_leaves_before_an_answer_begins_has_used_what_was_set_aside() {
    let folder = tempfile::tempdir().unwrap();
    let (scheduler, gateway) = with(Lie::Silent, &folder).await;
    let asked = tokio::spawn(gateway.clone().oneshot(chat(1, true)));
    let sealed = async {
        while scheduler.seen.lock().unwrap().sealed.is_empty() {
            sleep(TICK).await;
        }
    };
    timeout(PATIENCE, sealed).await.unwrap();
    asked.abort();
    assert!(asked.await.is_err_and(|left| left.is_cancelled()));
    let left = "cocoon_gateway_requests_total{key=\"bot\",status=\"499\"} 1";
    until_shown(&gateway, |line| line == left).await;
    // More than the answer would have had; the body and a template's part are in it.
    let used = |line: &str| {
        let tokens = line.strip_prefix("cocoon_gateway_tokens_total{key=\"bot\"} ");
        tokens.is_some_and(|tokens| tokens.parse::<u64>().unwrap() > 1024 + 100)
    };
    until_shown(&gateway, used).await;
}
