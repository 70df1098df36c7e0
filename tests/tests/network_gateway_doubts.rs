//! Requests that break off on their way through the gateway: what they cost is known in
//! the end, and no more is signed than that.
#![cfg(test)]

mod paper_network;

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::http::StatusCode;
use client::network::Options;
use client::network::purse::Purse;
use http_body_util::BodyExt as _;
use paper_network::application::{COST, OPTIONS, ask, chat, gateway, get, network, purse};
use paper_network::{Lie, Scheduler};
use tower::ServiceExt as _;

const BUDGET: u64 = 1_000_000;

async fn until(what: impl Fn() -> bool) {
    let done = async {
        while !what() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), done)
        .await
        .unwrap();
}

fn is_settled(purse: &Purse) -> bool {
    (purse.balance().spent, purse.balance().reserved) == (COST, 0)
}

#[tokio::test]
async fn what_the_scheduler_counts_ends_a_doubt() {
    let (scheduler, address) = Scheduler::start(2, &[(0, Lie::Gone)], false).await;
    let folder = tempfile::tempdir().unwrap();
    let purse = purse(&folder, BUDGET);
    let network = network(&[address], vec![Arc::clone(&purse)], OPTIONS);
    let (status, _, body) = ask(&Arc::clone(&network).router(), chat(1, false)).await;
    assert_eq!(status, StatusCode::OK, "{body:?}");
    until(|| purse.in_doubt().is_some() && purse.balance().reserved == 0).await;
    // Its answer was lost, and its worker signed for it.
    scheduler.counts(2 * COST, false);
    network.reconcile().await;
    assert_eq!(
        (purse.balance().spent, purse.balance().reserved),
        (2 * COST, 0)
    );
    assert!(purse.in_doubt().is_none());
}

#[tokio::test]
async fn what_only_the_client_sees_is_wrong_costs_what_the_worker_signed_and_stops_nobody() {
    for (lie, charged) in [
        (Lie::Counts, Some(COST + 2)),
        (Lie::Unsettled, Some(COST)),
        // These the scheduler refuses too.
        (Lie::Tokens, None),
        (Lie::Dear, None),
        (Lie::Request, None),
        (Lie::Key, None),
    ] {
        let (scheduler, address) = Scheduler::start(2, &[(0, lie)], false).await;
        let folder = tempfile::tempdir().unwrap();
        let purse = purse(&folder, BUDGET);
        let network = network(&[address], vec![Arc::clone(&purse)], OPTIONS);
        let gateway = Arc::clone(&network).router();
        let (status, headers, _) = ask(&gateway, chat(1, false)).await;
        assert_eq!(status, StatusCode::OK, "{lie:?}");
        assert!(headers.contains_key("cocoon-problem"), "{lie:?}");
        assert!(purse.in_doubt().is_some(), "{lie:?}");
        scheduler.counts(charged.unwrap_or(0), charged.is_none());
        // Before anybody asked how it ended.
        for _ in 0..2 {
            let (status, headers, body) = ask(&gateway, chat(1, false)).await;
            assert_eq!(status, StatusCode::OK, "{lie:?}: {body:?}");
            assert!(!headers.contains_key("cocoon-problem"), "{lie:?}");
            let mut seen = scheduler.seen.lock().unwrap();
            seen.counted = seen.counted.map(|(spent, _)| (spent + COST, 0));
        }
        network.reconcile().await;
        assert!(purse.in_doubt().is_none(), "{lie:?}");
        let spent = charged.unwrap_or(0) + 2 * COST;
        assert_eq!(purse.balance().spent, spent, "{lie:?}");
        assert_eq!(purse.balance().reserved, 0, "{lie:?}");
    }
}

#[tokio::test]
async fn a_scheduler_charges_nothing_that_the_worker_did_not_sign_for_this_request() {
    for lie in [Lie::Tokens, Lie::Dear, Lie::Request, Lie::Key] {
        let (scheduler, address) = Scheduler::start(1, &[(0, lie)], false).await;
        let folder = tempfile::tempdir().unwrap();
        let purse = purse(&folder, BUDGET);
        let network = network(&[address], vec![Arc::clone(&purse)], OPTIONS);
        drop(ask(&Arc::clone(&network).router(), chat(1, false)).await);
        scheduler.counts(COST, false);
        network.reconcile().await;
        assert!(purse.in_doubt().is_some(), "{lie:?}");
        assert_eq!(purse.balance().spent, 0, "{lie:?}");
    }
}

#[tokio::test]
async fn a_request_that_is_refused_as_sent_twice_is_in_doubt_and_goes_elsewhere() {
    let (scheduler, address) = Scheduler::start(2, &[(0, Lie::Replayed)], false).await;
    let folder = tempfile::tempdir().unwrap();
    let purse = purse(&folder, BUDGET);
    let network = network(&[address], vec![Arc::clone(&purse)], OPTIONS);
    let (status, headers, body) = ask(&Arc::clone(&network).router(), chat(1, false)).await;
    assert_eq!(status, StatusCode::OK, "{body:?}");
    assert_eq!(headers["cocoon-worker"], scheduler.worker(1).to_string());
    let first = hex::encode(scheduler.seen.lock().unwrap().envelopes[0].id);
    assert_eq!(purse.in_doubt().unwrap().requests, [first]);
    scheduler.counts(COST, true);
    network.reconcile().await;
    assert!(purse.in_doubt().is_none());
    assert_eq!(purse.balance().spent, COST);
}

#[tokio::test]
async fn a_voucher_follows_that_covers_what_the_scheduler_counts_and_no_more() {
    let (scheduler, address) = Scheduler::start(1, &[(0, Lie::Gone)], false).await;
    let folder = tempfile::tempdir().unwrap();
    let purse = purse(&folder, BUDGET);
    let gateway = gateway(&[address], vec![Arc::clone(&purse)]);
    drop(ask(&gateway, chat(1, false)).await);
    until(|| purse.in_doubt().is_some() && purse.balance().reserved == 0).await;
    let prepaid = scheduler.seen.lock().unwrap().vouchers[0]
        .as_ref()
        .unwrap()
        .amount;
    scheduler.counts(9, false);
    drop(ask(&gateway, chat(1, false)).await);
    let seen = scheduler.seen.lock().unwrap();
    let amounts = seen.vouchers.iter().flatten().map(|voucher| voucher.amount);
    assert_eq!(amounts.collect::<Vec<_>>(), [prepaid, prepaid, prepaid + 9]);
}

#[tokio::test]
async fn a_scheduler_is_not_believed_beyond_what_is_in_doubt() {
    let (scheduler, address) = Scheduler::start(1, &[], false).await;
    let folder = tempfile::tempdir().unwrap();
    let purse = purse(&folder, BUDGET);
    let gateway = gateway(&[address], vec![Arc::clone(&purse)]);
    scheduler.counts(BUDGET / 2, false);
    let (status, _, body) = ask(&gateway, chat(1, false)).await;
    assert_eq!(status, StatusCode::PAYMENT_REQUIRED, "{body:?}");
    assert_eq!(scheduler.seen.lock().unwrap().vouchers.len(), 1);
    assert_eq!((purse.balance().spent, purse.balance().reserved), (0, 0));
}

#[tokio::test]
async fn an_answer_that_nobody_reads_any_more_is_settled() {
    for stream in [true, false] {
        let (scheduler, address) = Scheduler::start(1, &[(0, Lie::Halting)], false).await;
        let folder = tempfile::tempdir().unwrap();
        let purse = purse(&folder, BUDGET);
        let gateway = gateway(&[address], vec![Arc::clone(&purse)]);
        let asked = tokio::spawn(async move {
            let response = gateway.oneshot(chat(1, stream)).await.unwrap();
            let mut body = response.into_body();
            body.frame().await.unwrap().unwrap();
            body
        });
        match stream {
            true => drop::<Body>(asked.await.unwrap()),
            false => {
                until(|| scheduler.seen.lock().unwrap().bodies.len() == 1).await;
                // Its first bytes have to pass before it is an answer.
                tokio::time::sleep(Duration::from_secs(1)).await;
                asked.abort();
                assert!(asked.await.unwrap_err().is_cancelled());
            }
        }
        assert!(!is_settled(&purse));
        scheduler.gate.notify_one();
        until(|| is_settled(&purse)).await;
        assert!(purse.in_doubt().is_none(), "stream: {stream}");
    }
}

#[tokio::test]
async fn an_answer_that_nobody_takes_is_settled_once_its_time_is_over_and_breaks_off() {
    let (scheduler, address) = Scheduler::start(1, &[], false).await;
    let folder = tempfile::tempdir().unwrap();
    let purse = purse(&folder, BUDGET);
    let options = Options {
        deadline: Duration::from_secs(1),
        ..OPTIONS
    };
    let network = network(&[address], vec![Arc::clone(&purse)], options);
    let response = network.router().oneshot(chat(1, true)).await.unwrap();
    until(|| is_settled(&purse)).await;
    assert!(purse.in_doubt().is_none());
    assert_eq!(scheduler.seen.lock().unwrap().sealed.len(), 1);
    let mut body = response.into_body();
    body.frame().await.unwrap().unwrap();
    assert!(body.collect().await.is_err(), "it is not taken for whole");
}

#[tokio::test]
async fn a_request_whose_application_leaves_before_an_answer_is_in_doubt() {
    let (scheduler, address) = Scheduler::start(1, &[(0, Lie::Silent)], false).await;
    let folder = tempfile::tempdir().unwrap();
    let purse = purse(&folder, BUDGET);
    let network = network(&[address], vec![Arc::clone(&purse)], OPTIONS);
    let asked = tokio::spawn(Arc::clone(&network).router().oneshot(chat(1, false)));
    until(|| scheduler.seen.lock().unwrap().sealed.len() == 1).await;
    assert!(purse.balance().reserved > 0);
    asked.abort();
    until(|| purse.balance().reserved == 0).await;
    scheduler.counts(0, true);
    network.reconcile().await;
    assert!(purse.in_doubt().is_none());
    assert_eq!(purse.balance().spent, 0);
}

#[tokio::test]
async fn a_second_worker_answers_where_the_first_is_silent_and_both_are_accounted_for() {
    let (scheduler, address) = Scheduler::start(2, &[(0, Lie::Silent)], false).await;
    let folder = tempfile::tempdir().unwrap();
    let purse = purse(&folder, BUDGET);
    let options = Options {
        hedge: true,
        ..OPTIONS
    };
    let network = network(&[address], vec![Arc::clone(&purse)], options);
    let gateway = Arc::clone(&network).router();
    let (status, headers, body) = ask(&gateway, chat(1, false)).await;
    assert_eq!(status, StatusCode::OK, "{body:?}");
    assert_eq!(headers["cocoon-worker"], scheduler.worker(1).to_string());
    until(|| purse.balance().reserved == 0).await;
    assert_eq!(purse.balance().spent, COST, "the slower one is in doubt");
    scheduler.counts(2 * COST, false);
    network.reconcile().await;
    assert_eq!(purse.balance().spent, 2 * COST);
    let second = scheduler.seen.lock().unwrap().assignments[1].clone();
    assert_eq!(second.except, [scheduler.worker(0)]);
    assert_eq!(get(&gateway, "/cocoon/usage").await["spent"], 2 * COST);
}
