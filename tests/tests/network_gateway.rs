//! An application, the gateway, and a network whose schedulers and workers may lie.
#![cfg(test)]

mod paper_network;

use std::sync::Arc;

use axum::http::{HeaderValue, StatusCode};
use client::network::Options;
use paper_network::application::{COST, OPTIONS, SECRET, ask, chat, gateway, get, network, purse};
use paper_network::{Lie, PRICE, Scheduler};
use serde_json::{Value, json};
use tokio::net::TcpListener;

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
async fn a_scheduler_that_starts_again_is_waited_for() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = gateway(&[listener.local_addr().unwrap()], Vec::new());
    let again = async {
        drop(listener.accept().await.unwrap());
        Scheduler::serve(listener, 1, &[], true)
    };
    let ((status, _, body), _) = tokio::join!(ask(&gateway, chat(1, false)), again);
    assert_eq!(status, StatusCode::OK, "{body:?}");
}

#[tokio::test]
async fn a_lie_that_leaves_nobody_is_named() {
    for (lie, status, code, said) in [
        (Lie::Build, StatusCode::BAD_GATEWAY, "worker_gone", "again"),
        (
            Lie::Stale,
            StatusCode::BAD_GATEWAY,
            "worker_not_trusted",
            "the worker is not trusted",
        ),
        (
            Lie::Price,
            StatusCode::PAYMENT_REQUIRED,
            "price_too_high",
            "wants 2000001 nanotons",
        ),
        (Lie::Stubborn, StatusCode::OK, "", ""),
        (Lie::Full, StatusCode::TOO_MANY_REQUESTS, "full", "no"),
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
async fn what_a_scheduler_takes_beyond_its_fee_and_the_tip_is_paid_as_agreed_and_named() {
    let more = PRICE / 4;
    let said = "the scheduler's price was 2500000, and what the worker asks, its fee and the tip \
                are 2000000";
    for (tip, problem) in [(0, json!(said)), (more, Value::Null)] {
        let (_scheduler, address) = Scheduler::start(1, &[(0, Lie::Skim)], false).await;
        let folder = tempfile::tempdir().unwrap();
        let purse = purse(&folder, 1_000_000);
        let options = Options {
            max_price: PRICE + more,
            tip,
            ..OPTIONS
        };
        let gateway = network(&[address], vec![Arc::clone(&purse)], options).router();
        let (status, _, body) = ask(&gateway, chat(1, false)).await;
        assert_eq!(status, StatusCode::OK, "{body:?}");
        assert_eq!(purse.balance().spent, COST + COST / 4);
        let usage = get(&gateway, "/cocoon/usage").await;
        assert_eq!(usage["requests"][0]["problem"], problem);
    }
}

#[tokio::test]
async fn an_application_tips_what_it_says_of_what_its_gateway_tips() {
    let (scheduler, address) = Scheduler::start(1, &[], true).await;
    let options = Options { tip: 7, ..OPTIONS };
    let gateway = network(&[address], Vec::new(), options).router();
    let asked = async |tip: Option<&'static str>| {
        let mut request = chat(1, false);
        let tip = tip.map(HeaderValue::from_static);
        tip.and_then(|tip| request.headers_mut().insert("cocoon-tip", tip));
        let (status, _, body) = ask(&gateway, request).await;
        (status, body.unwrap())
    };
    for tip in [None, Some("0"), Some("6"), Some("7")] {
        assert_eq!(asked(tip).await.0, StatusCode::OK);
    }
    for tip in ["8", "-1", "1.5", "", "much"] {
        let (status, body) = asked(Some(tip)).await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{tip:?}");
        assert!(body.contains("invalid_tip"), "{body}");
    }
    let seen = scheduler.seen.lock().unwrap();
    let tips: Vec<_> = seen.assignments.iter().map(|asked| asked.tip).collect();
    assert_eq!(tips, [7, 0, 6, 7]);
}

#[tokio::test]
async fn a_settlement_that_lies_is_not_counted_and_is_named() {
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
    for lie in [Lie::Truncated, Lie::Changed, Lie::Repeated] {
        let (_, address) = Scheduler::start(1, &[(0, lie)], false).await;
        // Who lied to one is asked no more by that one.
        let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let purses = folders.each_ref().map(|folder| purse(folder, 1_000_000));
        let [one, other] = purses
            .each_ref()
            .map(|purse| gateway(&[address], vec![Arc::clone(purse)]));
        let (status, _, body) = ask(&one, chat(1, false)).await;
        assert_eq!(status, StatusCode::BAD_GATEWAY);
        let (code, begins) = match lie {
            Lie::Changed => ("worker_gone", false),
            _ => ("answer_broken", true),
        };
        assert!(body.unwrap().contains(code));
        let (status, _, body) = ask(&other, chat(1, true)).await;
        assert_eq!(status == StatusCode::OK, begins);
        assert_eq!(body.is_err(), begins, "a stream that breaks off, {lie:?}");
        for purse in purses {
            assert_eq!(purse.balance().spent, 0, "{lie:?}");
        }
    }
}

#[tokio::test]
async fn the_answer_to_another_request_opens_for_nobody_and_costs_nothing() {
    let (_, address) = Scheduler::start(1, &[(0, Lie::Other)], false).await;
    let folder = tempfile::tempdir().unwrap();
    let purse = purse(&folder, 1_000_000);
    let gateway = gateway(&[address], vec![Arc::clone(&purse)]);
    let (status, _, body) = ask(&gateway, chat(1, false)).await;
    assert_eq!(status, StatusCode::OK, "there was none before: {body:?}");
    let (status, _, body) = ask(&gateway, chat(1, false)).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    let body = body.unwrap();
    assert!(body.contains("was changed on its way"), "{body}");
    assert_eq!(purse.balance().spent, COST);
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
    for (purses, code, what_to_do) in [
        (vec![purse], "purse_empty", "raise --budget"),
        (
            Vec::new(),
            "no_channel",
            "`cocoon chain channel open --payee`",
        ),
    ] {
        let (status, _, body) = ask(&gateway(&[address], purses), chat(1, false)).await;
        assert_eq!(status, StatusCode::PAYMENT_REQUIRED);
        let body: serde_json::Value = serde_json::from_str(&body.unwrap()).unwrap();
        assert_eq!(body["error"]["code"], code);
        let message = body["error"]["message"].as_str().unwrap();
        assert!(message.contains(what_to_do), "{message}");
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
