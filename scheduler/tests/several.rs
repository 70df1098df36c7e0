//! Several schedulers as one service: workers here and there, clients anywhere, and what
//! happens when parts of it are gone.
#![cfg(test)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests"
)]

mod member;

use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use axum::http::StatusCode;
use futures_util::future::join_all;
use member::{Member, within};
use scheduler::metrics::Ending;
use serde_json::json;
use tests::asker::{AskError, Asker, texts};
use tests::nats::Nats;
use tests::stand_in::{Manner, StandIn, Terms};
use tokio::time::timeout;

#[tokio::test(flavor = "multi_thread")]
async fn any_scheduler_takes_any_request_and_counts_what_its_own_clients_asked() {
    let Some((_nats, members)) = network(3).await else {
        return;
    };
    let mut workers = Vec::new();
    for member in &members {
        workers.push(member.worker(Terms::default()).await);
    }
    know(&members, &workers).await;
    let mut asked = Vec::new();
    for (place, member) in members.iter().enumerate() {
        let asker = Asker::connect(member.clients).await.unwrap();
        asked.push(async move {
            let said = (0..STREAMS).map(|index| {
                let texts = texts(place * STREAMS + index);
                let asker = &asker;
                async move {
                    let said = asker.ask(texts.clone()).await.unwrap();
                    assert_eq!(said.texts, texts);
                    said.worker
                }
            });
            join_all(said).await
        });
    }
    for (member, said) in members.iter().zip(join_all(asked).await) {
        for worker in &workers {
            let share = said.iter().filter(|by| **by == worker.id).count();
            assert!(share > 0, "nothing was asked of {}", worker.id);
        }
        let metrics = &member.scheduler.metrics;
        let settled = usize::try_from(metrics.count(Ending::Settled)).unwrap();
        assert_eq!(settled, STREAMS);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_assignment_of_one_scheduler_is_taken_by_another() {
    let Some((_nats, members)) = network(2).await else {
        return;
    };
    let workers = vec![members[0].worker(Terms::default()).await];
    know(&members, &workers).await;
    let here = Asker::connect(members[0].clients).await.unwrap();
    let there = Asker::connect(members[1].clients).await.unwrap();
    let assignment = here.assign(&json!({})).await.unwrap();
    let answer = there.begin(&assignment, texts(3)).await.unwrap();
    assert_eq!(answer.whole().await.unwrap().texts, texts(3));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_nobody_reads_holds_up_nobody_on_the_connection_of_two_schedulers() {
    let Some((_nats, members)) = network(2).await else {
        return;
    };
    let workers = vec![members[0].worker(Terms::default()).await];
    know(&members, &workers).await;
    let asker = Asker::connect(members[1].clients).await.unwrap();
    let assignment = asker.assign(&json!({})).await.unwrap();
    let mut idle = Vec::new();
    for _ in 0..32 {
        // Each would be 2 MiB, if anyone took it.
        let texts = vec![vec![0; 32 << 10]; 64];
        idle.push(asker.begin(&assignment, texts).await.unwrap());
    }
    for index in 0..32 {
        let said = timeout(PATIENCE, asker.ask(texts(index))).await;
        assert_eq!(said.unwrap().unwrap().texts, texts(index));
    }
    for answer in idle {
        assert_eq!(answer.whole().await.unwrap().texts.len(), 64);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deadline_frees_the_worker_of_another_scheduler() {
    let Some((_nats, members)) = network(2).await else {
        return;
    };
    let workers = vec![members[0].worker(Terms::of(Manner::Endless)).await];
    know(&members, &workers).await;
    let mut asker = Asker::connect(members[1].clients).await.unwrap();
    asker.deadline_ms = 2000;
    let cut = timeout(PATIENCE, asker.ask(texts(1))).await.unwrap();
    assert_eq!(cut.unwrap_err(), AskError::Broken);
    assert_eq!(members[1].scheduler.metrics.count(Ending::Late), 1);
    within(|| workers[0].busy() == 0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_nats_each_scheduler_serves_its_own_and_with_it_all_again() {
    let Some((mut nats, members)) = network(2).await else {
        return;
    };
    let mut workers = Vec::new();
    for member in &members {
        workers.push(member.worker(Terms::default()).await);
    }
    know(&members, &workers).await;
    nats.kill();
    within(|| {
        let [one, two] = [0, 1].map(|place| &members[place].scheduler.workers);
        one.get(&workers[1].id).is_none() && two.get(&workers[0].id).is_none()
    })
    .await;
    for (member, worker) in members.iter().zip(&workers) {
        let asker = Asker::connect(member.clients).await.unwrap();
        let said = asker.ask(texts(2)).await.unwrap();
        assert_eq!(said.worker, worker.id);
    }
    nats.run();
    know(&members, &workers).await;
    let asker = Asker::connect(members[0].clients).await.unwrap();
    let except = json!({"except": [workers[0].id]});
    let assignment = asker.assign(&except).await.unwrap();
    let answer = asker.begin(&assignment, texts(4)).await.unwrap();
    assert_eq!(answer.whole().await.unwrap().worker, workers[1].id);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_leaves_one_scheduler_is_reached_through_the_other() {
    let Some((_nats, mut members)) = network(3).await else {
        return;
    };
    let mut worker = members[0].worker(Terms::default()).await;
    worker.dial(members[1].workers);
    know(&members, std::slice::from_ref(&worker)).await;
    within(|| members[1].has(&worker.id)).await;
    let asker = Asker::connect(members[2].clients).await.unwrap();
    drop(members.remove(0));
    let left = members[0].at.to_string();
    within(|| match members[1].scheduler.workers.get(&worker.id) {
        Some(known) => known.at.as_deref() == Some(&*left),
        None => false,
    })
    .await;
    assert_eq!(asker.ask(texts(5)).await.unwrap().worker, worker.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_has_another_key_is_neither_heard_nor_let_in() {
    let Some((nats, mut members)) = network(1).await else {
        return;
    };
    members.push(Member::start(LOCALHOST, nats.url(), "22").await);
    let workers = [
        members[0].worker(Terms::default()).await,
        members[1].worker(Terms::default()).await,
    ];
    // What the stranger says is in the bucket once its own member comes to know it.
    members.push(Member::start(LOCALHOST, nats.url(), "22").await);
    within(|| members[2].scheduler.workers.get(&workers[1].id).is_some()).await;
    assert!(members[0].scheduler.workers.get(&workers[1].id).is_none());
    assert!(members[1].scheduler.workers.get(&workers[0].id).is_none());

    // It believes what it reads, as if it had made it.
    let stranger = &members[1].scheduler.workers;
    let announcement = members[0].scheduler.workers.announcement(&workers[0].id);
    let at = members[0].at.to_string();
    assert!(stranger.announced(announcement.unwrap(), &at).unwrap());
    let asker = Asker::connect(members[1].clients).await.unwrap();
    let except = json!({"except": [workers[1].id]});
    let assignment = asker.assign(&except).await.unwrap();
    assert_eq!(assignment.worker, workers[0].id);
    let refused = asker.begin(&assignment, texts(1)).await.unwrap_err();
    let gone = AskError::Refused(StatusCode::SERVICE_UNAVAILABLE, "worker_gone".into());
    assert_eq!(refused, gone);
    assert!(
        stranger.get(&workers[0].id).is_none(),
        "it is not tried again"
    );
}

/// So many schedulers of one deployment. `None` where there is no NATS.
async fn network(count: usize) -> Option<(Nats, Vec<Member>)> {
    let nats = Nats::start(LOCALHOST)?;
    let mut members = Vec::new();
    for _ in 0..count {
        members.push(Member::start(LOCALHOST, nats.url(), "11").await);
    }
    Some((nats, members))
}

/// Comes back once every scheduler knows every worker.
async fn know(members: &[Member], workers: &[StandIn]) {
    within(|| {
        let knows = |member: &Member, worker: &StandIn| {
            let known = &member.scheduler.workers;
            known.get(&worker.id).is_some()
        };
        members
            .iter()
            .all(|member| workers.iter().all(|worker| knows(member, worker)))
    })
    .await;
}

const STREAMS: usize = 200;

const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

const PATIENCE: Duration = Duration::from_secs(20);
