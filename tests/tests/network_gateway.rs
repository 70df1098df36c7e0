//! An application, the gateway, and a network whose schedulers and workers may lie.
#![cfg(test)]

mod paper_network;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use client::network::purse::{ChannelFile, Purse};
use client::network::scheduler::Scheduler as Way;
use client::network::{Network, Options};
use http_body_util::BodyExt as _;
use paper_network::{Lie, PAYEE, PRICE, Scheduler};
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::td::Td;
use tower::ServiceExt as _;
use tycho_types::cell::HashBytes;
use tycho_types::models::StdAddr;

const SECRET: &str = "what nobody on the way may read";

/// What 42 tokens cost.
const COST: u64 = 42 * PRICE / 1_000_000;

fn purse(folder: &TempDir, budget: u64) -> Arc<Purse> {
    let path = channel(folder);
    Arc::new(Purse::open(&path, Some(budget)).unwrap())
}

fn channel(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("channel.json");
    let file = ChannelFile {
        channel: StdAddr::new(0, HashBytes([1; 32])).to_string(),
        global_id: -3,
        payee: PAYEE.to_string(),
        deposit: 1_000_000_000,
        until: u32::MAX,
        voucher_key: "key".into(),
    };
    std::fs::write(&path, serde_json::to_vec(&file).unwrap()).unwrap();
    std::fs::write(folder.path().join("key"), "07".repeat(32)).unwrap();
    path
}

fn gateway(schedulers: &[SocketAddr], purses: Vec<Arc<Purse>>) -> Router {
    let way = |address: &SocketAddr| Way::new(format!("http://{address}").parse().unwrap());
    let ways = schedulers
        .iter()
        .map(way)
        .collect::<Result<_, _>>()
        .unwrap();
    let options = Options {
        max_price: PRICE,
        answer: 100,
        deadline: Duration::from_secs(20),
    };
    Network::new(ways, Arc::new(Td::new().policy()), purses, options)
        .unwrap()
        .router()
}

fn chat(turns: usize, stream: bool) -> Request<Body> {
    let messages: Vec<_> = (0..turns)
        .map(|turn| json!({ "role": if turn % 2 == 0 { "user" } else { "assistant" }, "content": SECRET }))
        .collect();
    let body = json!({ "model": "tiny", "messages": messages, "stream": stream });
    Request::post("/v1/chat/completions")
        .header("content-type", "application/json")
        .header("authorization", "Bearer secret")
        .body(body.to_string().into())
        .unwrap()
}

async fn ask(
    gateway: &Router,
    request: Request<Body>,
) -> (StatusCode, HeaderMap, Result<String, ()>) {
    let response = gateway.clone().oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(drop);
    let body = body.map(|body| String::from_utf8(body.to_bytes().to_vec()).unwrap());
    (head.status, head.headers, body)
}

async fn get(gateway: &Router, path: &str) -> Value {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let (status, _, body) = ask(gateway, request).await;
    assert_eq!(status, StatusCode::OK);
    serde_json::from_str(&body.unwrap()).unwrap()
}

#[tokio::test]
async fn an_answer_comes_sealed_is_settled_and_says_what_it_cost() {
    let (scheduler, address) = Scheduler::start(1, &[], false).await;
    let folder = tempfile::tempdir().unwrap();
    let purse = purse(&folder, 1_000_000);
    let gateway = gateway(&[address], vec![Arc::clone(&purse)]);
    let (status, headers, body) = ask(&gateway, chat(1, false)).await;
    assert_eq!(status, StatusCode::OK, "{body:?}");
    assert_eq!(headers["cocoon-cost"], COST.to_string());
    assert!(body.unwrap().contains("1 asked"));
    let (_, headers, body) = ask(&gateway, chat(3, true)).await;
    let body = body.unwrap();
    assert!(
        body.contains("3 asked") && body.ends_with("data: [DONE]\n\n"),
        "{body}"
    );
    let balance = purse.balance();
    assert_eq!(
        (balance.spent, balance.reserved, balance.tokens),
        (2 * COST, 0, 84)
    );

    let usage = get(&gateway, "/cocoon/usage").await;
    assert_eq!(usage["spent"], 2 * COST);
    let newest = &usage["requests"][0];
    assert_eq!(
        newest["request"],
        headers["cocoon-request"].to_str().unwrap()
    );
    assert_eq!(
        (&newest["cost"], &newest["settled"]),
        (&json!(COST), &json!(true))
    );
    let trust = get(&gateway, "/cocoon/trust").await;
    assert_eq!(trust["workers"][0]["worker"], json!(scheduler.worker(0)));
    assert!(trust["workers"][0]["checks"].as_array().unwrap().len() > 5);
    let models = get(&gateway, "/v1/models").await;
    assert_eq!(models["data"][0]["id"], "tiny");

    let seen = scheduler.seen.lock().unwrap();
    assert_eq!(seen.proofs, 1, "evidence is asked for once");
    let all: Vec<_> = seen.sealed.iter().flatten().copied().collect();
    let leaks = |text: &str| all.windows(text.len()).any(|at| at == text.as_bytes());
    assert!(!leaks(SECRET) && !leaks("messages"));
    assert!(
        seen.heads[0]
            .headers
            .iter()
            .all(|header| header.0 != "authorization")
    );
    assert_eq!(seen.assignments[0].affinity, seen.assignments[1].affinity);
    assert_eq!(seen.heads[0].tenant, seen.heads[1].tenant);
    let first = seen.vouchers[0].as_ref().unwrap();
    let limit = seen.envelopes[0].limit;
    assert_eq!(
        first.amount,
        limit * PRICE / 1_000_000,
        "prepaid, and no more"
    );
    assert_ne!(seen.envelopes[0].id, seen.envelopes[1].id);
}

#[tokio::test]
async fn whoever_cannot_serve_is_passed_over_before_an_answer_begins() {
    for lie in [Lie::Build, Lie::Swapped, Lie::Stale, Lie::Full, Lie::Gone] {
        let (scheduler, address) = Scheduler::start(2, &[(0, lie)], true).await;
        let gateway = gateway(&[address], Vec::new());
        let (status, headers, body) = ask(&gateway, chat(1, false)).await;
        assert_eq!(status, StatusCode::OK, "{lie:?}: {body:?}");
        let worker = scheduler.worker(1).to_string();
        assert_eq!(headers["cocoon-worker"], worker, "{lie:?}");
        let seen = scheduler.seen.lock().unwrap();
        let unproved = matches!(lie, Lie::Build | Lie::Swapped | Lie::Stale);
        let sent = if unproved { 1 } else { 2 };
        assert_eq!(
            seen.sealed.len(),
            sent,
            "{lie:?}: nothing goes to who proved nothing"
        );
    }
}

#[tokio::test]
async fn a_lie_that_leaves_nobody_is_named() {
    for (lie, status, code, said) in [
        (Lie::Build, StatusCode::BAD_GATEWAY, "worker_gone", "again"),
        (
            Lie::Price,
            StatusCode::PAYMENT_REQUIRED,
            "price_too_high",
            "wants 2000001 nanotons",
        ),
        (Lie::Stubborn, StatusCode::OK, "", ""),
        (Lie::Full, StatusCode::SERVICE_UNAVAILABLE, "full", "no"),
        (
            Lie::Uncovered,
            StatusCode::PAYMENT_REQUIRED,
            "not_covered",
            "no",
        ),
    ] {
        let lies = match lie {
            Lie::Build => vec![(0, Lie::Build), (1, Lie::Stubborn)],
            lie => vec![(0, lie)],
        };
        let workers = lies.len();
        let (_, address) = Scheduler::start(workers, &lies, true).await;
        let (found, _, body) = ask(&gateway(&[address], Vec::new()), chat(1, false)).await;
        let body = body.unwrap();
        assert_eq!(found, status, "{lie:?}: {body}");
        if status != StatusCode::OK {
            let error: Value = serde_json::from_str(&body).unwrap();
            assert_eq!(error["error"]["code"], code, "{body}");
            assert!(body.contains(said), "{body}");
        }
    }
}

#[tokio::test]
async fn a_settlement_that_lies_is_not_paid_and_is_named() {
    for (lie, said) in [
        (Lie::Counts, "signed for 43 tokens, and the answer says 42"),
        (
            Lie::Tokens,
            "signed for 1000012 tokens, and the answer says 42",
        ),
        (
            Lie::Dear,
            "asks 2000001 for a million tokens, and 2000000 were agreed upon",
        ),
        (Lie::Request, "the receipt is of another request"),
        (Lie::Key, "the worker's proved key did not sign the receipt"),
        (Lie::Unsettled, "the answer ends without a settlement"),
    ] {
        let (scheduler, address) = Scheduler::start(2, &[(0, lie)], false).await;
        let folder = tempfile::tempdir().unwrap();
        let purse = purse(&folder, 1_000_000);
        let gateway = gateway(&[address], vec![Arc::clone(&purse)]);
        let (status, headers, body) = ask(&gateway, chat(1, false)).await;
        assert_eq!(status, StatusCode::OK, "the answer is whole: {body:?}");
        let problem = headers["cocoon-problem"].to_str().unwrap();
        assert!(problem.contains(said), "{lie:?}: {problem}");
        assert_eq!(
            (purse.balance().spent, purse.balance().reserved),
            (0, 0),
            "{lie:?}"
        );
        // Who lied is asked no more.
        let (_, headers, _) = ask(&gateway, chat(1, false)).await;
        assert_eq!(headers["cocoon-worker"], scheduler.worker(1).to_string());
        assert_eq!(purse.balance().spent, COST);
    }
}

#[tokio::test]
async fn a_cut_or_changed_answer_does_not_pass_for_a_whole_one() {
    for lie in [Lie::Truncated, Lie::Changed] {
        let (_, address) = Scheduler::start(1, &[(0, lie)], false).await;
        let folder = tempfile::tempdir().unwrap();
        let purse = purse(&folder, 1_000_000);
        let gateway = gateway(&[address], vec![Arc::clone(&purse)]);
        let (status, _, body) = ask(&gateway, chat(1, false)).await;
        assert_eq!(status, StatusCode::BAD_GATEWAY);
        assert!(body.unwrap().contains("answer_broken"));
        let (_, _, body) = ask(&gateway, chat(1, true)).await;
        assert!(body.is_err(), "a stream that breaks off, {lie:?}");
        assert_eq!(purse.balance().spent, 0, "{lie:?}");
    }
}

#[tokio::test]
async fn another_scheduler_answers_when_one_is_gone() {
    let (_, address) = Scheduler::start(1, &[], true).await;
    let gone = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let gateway = gateway(&[gone, address], Vec::new());
    for _ in 0..3 {
        let (status, _, body) = ask(&gateway, chat(1, false)).await;
        assert_eq!(status, StatusCode::OK, "{body:?}");
    }
}

#[tokio::test]
async fn no_more_is_spent_than_the_budget_and_nobody_is_paid_without_a_channel() {
    let (scheduler, address) = Scheduler::start(1, &[], false).await;
    let folder = tempfile::tempdir().unwrap();
    let purse = purse(&folder, 10);
    for purses in [vec![purse], Vec::new()] {
        let (status, _, body) = ask(&gateway(&[address], purses), chat(1, false)).await;
        assert_eq!(status, StatusCode::PAYMENT_REQUIRED);
        assert!(body.unwrap().contains("not_covered"));
    }
    assert!(scheduler.seen.lock().unwrap().sealed.is_empty());
}

#[tokio::test]
async fn many_conversations_at_once_are_not_mixed_and_all_paid() {
    let (scheduler, address) = Scheduler::start(3, &[], false).await;
    let folder = tempfile::tempdir().unwrap();
    let purse = purse(&folder, 1_000_000_000);
    let gateway = gateway(&[address], vec![Arc::clone(&purse)]);
    let asked = (1..=40).map(|turns| {
        let gateway = gateway.clone();
        tokio::spawn(async move {
            let (_, _, body) = ask(&gateway, chat(turns, turns % 2 == 0)).await;
            assert!(body.unwrap().contains(&format!("\"{turns} asked\"")));
        })
    });
    for asked in asked.collect::<Vec<_>>() {
        asked.await.unwrap();
    }
    assert_eq!(
        (purse.balance().spent, purse.balance().reserved),
        (40 * COST, 0)
    );
    let seen = scheduler.seen.lock().unwrap();
    let most = seen
        .vouchers
        .iter()
        .flatten()
        .map(|voucher| voucher.amount)
        .max();
    let prepaid: u64 = seen
        .envelopes
        .iter()
        .map(|one| one.limit * PRICE / 1_000_000)
        .sum();
    assert!(most.unwrap() <= prepaid);
}
