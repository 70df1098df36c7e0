//! Clients, a scheduler, and workers that dialled in: many streams at once, and what goes
//! wrong with them.
#![cfg(test)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests"
)]

mod one_scheduler;

use std::time::{Duration, Instant};

use attestation::register::Digest256;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures_util::future::join_all;
use http_body_util::BodyExt as _;
use one_scheduler::{Network, PATIENCE, TICK};
use scheduler::metrics::Ending;
use sealed::ChunkError;
use serde_json::{Value, json};
use session::http::Connection;
use tests::asker::{AskError, texts};
use tests::stand_in::{Manner, StandIn, Terms};
use tests::td::Td;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_streams_over_three_workers_lose_and_mix_nothing() {
    let network = Network::alone().await;
    let workers = network.workers(3, Terms::default()).await;
    let mut askers = Vec::new();
    for _ in 0..4 {
        askers.push(network.asker().await);
    }
    let mut most = 0;
    for _ in 0..2 {
        let before = resident_kib();
        let streams = (0..STREAMS).map(|index| {
            let asker = &askers[index % askers.len()];
            async move {
                let texts = texts(index);
                let said = asker.ask(texts.clone()).await.unwrap();
                assert_eq!(said.texts, texts, "stream {index}");
                (said.worker, said.settlement.tokens)
            }
        });
        let said = join_all(streams).await;
        let tokens: u64 = said.iter().map(|(_, tokens)| tokens).sum();
        let asked = (0..STREAMS)
            .flat_map(texts)
            .map(|text| text.len())
            .sum::<usize>();
        assert_eq!(tokens, u64::try_from(asked).unwrap());
        for worker in &workers {
            let share = said.iter().filter(|(by, _)| *by == worker.id).count();
            assert!(share > 0, "nothing was asked of {}", worker.id);
        }
        most = resident_kib().saturating_sub(before);
    }
    assert!(most < 64 << 10, "the second wave left {most} KiB");
    let metrics = &network.scheduler.metrics;
    assert_eq!(metrics.count(Ending::Settled), 2000);
    let said = network.asker().await.get("/metrics").await.unwrap();
    let said = String::from_utf8(said.to_vec()).unwrap();
    for line in [
        "cocoon_scheduler_requests_total{ending=\"settled\"} 2000",
        "cocoon_scheduler_requests_open 0",
        "cocoon_scheduler_workers 3",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_killed_mid_stream_breaks_its_answers_and_the_next_ones_go_elsewhere() {
    let network = Network::start().await;
    let slow = Terms {
        pause: Duration::from_millis(20),
        ..Terms::default()
    };
    let mut workers = network.workers(2, slow).await;
    let asker = network.asker().await;
    let assignment = asker.assign(&json!({})).await.unwrap();
    let mut answer = asker.begin(&assignment, vec![vec![1]; 100]).await.unwrap();
    assert!(answer.next().await.unwrap().is_some());
    let place = workers
        .iter()
        .position(|worker| worker.id == assignment.worker);
    drop(workers.remove(place.unwrap()));
    assert_eq!(answer.whole().await.unwrap_err(), AskError::Broken);
    network.gone(assignment.worker).await;

    let late = asker.begin(&assignment, texts(1)).await.unwrap_err();
    let gone = AskError::Refused(StatusCode::SERVICE_UNAVAILABLE, "worker_gone".into());
    assert_eq!(late, gone);
    let said = asker.ask(texts(2)).await.unwrap();
    assert_eq!(said.worker, workers[0].id);
    let metrics = &network.scheduler.metrics;
    assert_eq!(metrics.count(Ending::Failed), 1);
    assert_eq!(metrics.count(Ending::Settled), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_reads_nothing_holds_up_nobody_and_nothing_is_kept_for_it() {
    let network = Network::alone().await;
    let _endless = network.workers(1, Terms::default()).await;
    let asker = network.asker().await;
    let assignment = asker.assign(&json!({})).await.unwrap();
    let before = resident_kib();
    let mut idle = Vec::new();
    for _ in 0..32 {
        // Each would be 2 MiB, if anyone took it.
        idle.push(
            asker
                .begin(&assignment, vec![vec![0; 32 << 10]; 64])
                .await
                .unwrap(),
        );
    }
    for index in 0..32 {
        let said = timeout(PATIENCE, asker.ask(texts(index))).await;
        assert_eq!(said.unwrap().unwrap().texts, texts(index));
    }
    let kept = resident_kib().saturating_sub(before);
    assert!(
        kept < 128 << 10,
        "{kept} KiB are kept for 32 clients that do not read"
    );
    for answer in idle {
        assert_eq!(answer.whole().await.unwrap().texts.len(), 64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_reads_of_a_worker_holds_up_nothing_else_on_its_connection() {
    let mut worker = StandIn::start(Terms::of(Manner::Flooding)).await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    worker.dial(listener.local_addr().unwrap());
    let (tcp, _) = listener.accept().await.unwrap();
    let connection = Connection::open(tcp, &Td::new().policy()).await.unwrap();
    let endless = || {
        let request = Request::get("http://worker.cocoon.invalid/network/offer");
        let request = request.body(Body::empty()).unwrap();
        connection.requests.clone().send_request(request)
    };
    let answers = join_all((0..400).map(|_| endless())).await;
    let mut answers: Vec<_> = answers.into_iter().map(|it| it.unwrap()).collect();
    let read = answers.last_mut().unwrap();
    for _ in 0..STREAMS {
        let next = timeout(PATIENCE, read.body_mut().frame()).await;
        next.unwrap().unwrap().unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_counts_wrong_or_vouches_for_another_answer_is_not_paid() {
    for manner in [Manner::Greedy, Manner::Mistaken] {
        let network = Network::start().await;
        let _workers = network.workers(1, Terms::of(manner)).await;
        network.asker().await.ask(texts(1)).await.unwrap();
        let metrics = &network.scheduler.metrics;
        assert_eq!(metrics.count(Ending::Unsettled), 1, "{manner:?}");
        assert_eq!(metrics.paid(), (0, 0));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_without_end_is_cut_at_its_deadline() {
    let network = Network::start().await;
    let workers = network.workers(1, Terms::of(Manner::Endless)).await;
    let mut asker = network.asker().await;
    asker.deadline_ms = 2000;
    let cut = timeout(PATIENCE, asker.ask(texts(1))).await.unwrap();
    assert_eq!(cut.unwrap_err(), AskError::Broken);
    assert_eq!(network.scheduler.metrics.count(Ending::Late), 1);
    let idle = async {
        while workers[0].busy() > 0 {
            sleep(TICK).await;
        }
    };
    timeout(PATIENCE, idle).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_give_no_time_turn_nobody_against_a_worker() {
    let network = Network::start().await;
    let slow = Terms {
        pause: Duration::from_millis(50),
        ..Terms::default()
    };
    let _workers = network.workers(1, slow).await;
    let mut asker = network.asker().await;
    asker.ask(texts(0)).await.unwrap();
    asker.deadline_ms = 10;
    for index in 0..4 {
        let assignment = asker.assign(&json!({})).await.unwrap();
        let cut = asker.begin(&assignment, texts(index)).await;
        assert!(match cut {
            Ok(answer) => answer.whole().await.is_err(),
            Err(_) => true,
        });
    }
    asker.deadline_ms = 10_000;
    assert!(asker.ask(texts(1)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_chunk_that_comes_twice_is_refused_by_the_client() {
    let network = Network::start().await;
    let _workers = network.workers(1, Terms::of(Manner::Repeating)).await;
    let error = network.asker().await.ask(texts(1)).await.unwrap_err();
    assert_eq!(error, AskError::Forged(ChunkError::Forged { chunk: 2 }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_offers_for_another_or_falls_silent_is_asked_nothing() {
    let network = Network::start().await;
    let mut impostor = StandIn::start(Terms::of(Manner::Impostor)).await;
    impostor.dial(network.workers);
    let silent = network.workers(1, Terms::of(Manner::Silent)).await;
    let asker = network.asker().await;
    let heard = asker.assign(&json!({})).await.unwrap();
    assert_eq!(heard.worker, silent[0].id);
    network.gone(silent[0].id).await;
    assert!(network.scheduler.workers.get(&impostor.id).is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_floods_is_heard_as_often_as_the_scheduler_likes() {
    let network = Network::start().await;
    let _flood = network.workers(1, Terms::of(Manner::Flooding)).await;
    let mut changes = network.scheduler.workers.changes();
    let (began, mut heard) = (Instant::now(), 0);
    sleep(Duration::from_millis(500)).await;
    while changes.try_recv().is_ok() {
        heard += 1;
    }
    let most = began.elapsed().as_millis() / 12;
    assert!(heard <= most, "{heard} offers were heard, {most} at most");
    assert!(network.asker().await.ask(texts(1)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_early_pays_all_the_same() {
    let network = Network::start().await;
    let _workers = network.workers(1, Terms::default()).await;
    let asker = network.asker().await;
    let assignment = asker.assign(&json!({})).await.unwrap();
    let mut answer = asker
        .begin(&assignment, vec![vec![1; 100]; 100])
        .await
        .unwrap();
    assert!(answer.next().await.unwrap().is_some());
    drop(answer);
    let metrics = &network.scheduler.metrics;
    let settled = async {
        while metrics.count(Ending::Settled) == 0 {
            sleep(TICK).await;
        }
    };
    timeout(PATIENCE, settled).await.unwrap();
    assert_eq!(metrics.paid().0, 10_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_no_room_waits_for_it_and_not_beyond_the_deadline() {
    let network = Network::start().await;
    let one = Terms {
        slots: 1,
        pause: Duration::from_millis(10),
        ..Terms::default()
    };
    let _workers = network.workers(1, one).await;
    let asker = network.asker().await;
    let answers = (0..8).map(|index| asker.ask(texts(index)));
    for (index, said) in join_all(answers).await.into_iter().enumerate() {
        assert_eq!(said.unwrap().texts, texts(index));
    }
    let _taken = asker.assign(&json!({})).await.unwrap();
    let impatient = asker.assign(&json!({"deadline_ms": 50})).await.unwrap_err();
    let full = AskError::Refused(StatusCode::TOO_MANY_REQUESTS, "full".into());
    assert_eq!(impatient, full);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_had_is_refused_by_name() {
    let network = Network::start().await;
    let workers = network.workers(1, Terms::default()).await;
    let asker = network.asker().await;
    let nobody = Digest256::of(b"nobody");
    for (with, status, code) in [
        (json!({"model": "other"}), 404, "model_not_found"),
        (json!({"max_price": 1}), 402, "price_too_low"),
        (json!({"limit": "many"}), 400, "bad_request"),
        (json!({"except": vec![nobody; 17]}), 400, "bad_request"),
        (
            json!({"except": [workers[0].id], "deadline_ms": 50}),
            429,
            "full",
        ),
    ] {
        let status = StatusCode::from_u16(status).unwrap();
        let refused = asker.assign(&with).await.unwrap_err();
        assert_eq!(refused, AskError::Refused(status, code.into()), "{with}");
    }
    let assignment = asker.assign(&json!({})).await.unwrap();
    for (with, code) in [(
        sealed::Assignment {
            price: 1,
            ..assignment.clone()
        },
        "price_too_low",
    )] {
        let refused = asker.begin(&with, texts(1)).await.unwrap_err();
        assert_eq!(
            refused,
            AskError::Refused(StatusCode::PAYMENT_REQUIRED, code.into())
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn models_and_status_say_what_there_is() {
    let network = Network::start().await;
    let workers = network.workers(2, Terms::default()).await;
    let asker = network.asker().await;
    let models: Value =
        serde_json::from_slice(&asker.get("/network/v1/models").await.unwrap()).unwrap();
    let expected = json!([{
        "name": "echo", "root": null, "workers": 2, "price": 1_000_000, "free": 1024,
    }]);
    assert_eq!(models["models"], expected);
    let page = asker.get("/status").await.unwrap();
    let page = String::from_utf8(page.to_vec()).unwrap();
    for worker in workers {
        assert!(page.contains(&worker.id.to_string()), "{page}");
    }
}

fn resident_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.unwrap().trim().trim_end_matches(" kB");
    number.parse().unwrap()
}

const STREAMS: usize = 1000;
