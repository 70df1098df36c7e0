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

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use attestation::aci::Keyset;
use attestation::register::Digest256;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures_util::future::{join_all, try_join_all};
use member::{Member, within};
use scheduler::fabric::Fabric as _;
use scheduler::fabric::key::Key;
use scheduler::fabric::peers::Peers;
use scheduler::fabric::registry::{self, Registry, RegistryError};
use scheduler::metrics::Ending;
use scheduler::workers::Change;
use serde_json::json;
use tests::asker::{AskError, Asker, texts};
use tests::nats::Nats;
use tests::stand_in::{Manner, StandIn, Terms};
use tokio::net::TcpStream;
use tokio::sync::broadcast::Receiver;
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

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_judged_by_the_scheduler_that_it_is_linked_to_and_by_no_other() {
    for (manner, expected) in [
        (Manner::Honest, [1000, 0, 0]),
        (Manner::Breaking, [0, 1000, 0]),
        (Manner::Stranger, [0, 1000, 0]),
        (Manner::Mistaken, [0, 0, 1000]),
        (Manner::Greedy, [0, 0, 1000]),
    ] {
        let Some((_nats, members)) = network(2).await else {
            return;
        };
        let workers = [members[0].worker(Terms::of(manner)).await];
        know(&members, &workers).await;
        let asker = Asker::connect(members[1].clients).await.unwrap();
        drop(asker.ask(texts(9)).await);
        // To the other it is as if we had changed what it said.
        let [here, there] = [0, 1].map(|place| members[place].scheduler.workers.standings());
        within(|| {
            let table = here.table().into_iter().map(|row| row.counts);
            let counts = table.map(|it| [it.answered, it.failed, it.lied]);
            counts.eq([expected])
        })
        .await;
        members[1].scheduler.idle().await;
        assert!(there.table().is_empty(), "{manner:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lied_is_announced_no_more() {
    let Some((_nats, members)) = network(2).await else {
        return;
    };
    let workers = [members[0].worker(Terms::of(Manner::Mistaken)).await];
    know(&members, &workers).await;
    let asker = Asker::connect(members[0].clients).await.unwrap();
    drop(asker.ask(texts(9)).await);
    within(|| members[1].scheduler.workers.get(&workers[0].id).is_none()).await;
    assert!(members[0].has(&workers[0].id));
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_worker_passes_between_schedulers_but_what_clients_may_ask() {
    let Some((_nats, members)) = network(2).await else {
        return;
    };
    let workers = [members[0].worker(Terms::default()).await];
    know(&members, &workers).await;
    let member = Arc::clone(&members[1].scheduler.workers);
    let peers = Peers::new(member, &Key::parse(&"11".repeat(32)).unwrap()).unwrap();
    for (path, expected) in [
        ("/network/vouchers", StatusCode::NOT_FOUND),
        ("/network/offer", StatusCode::NOT_FOUND),
        // Without an envelope, or another worker's.
        ("/network/requests", StatusCode::BAD_REQUEST),
    ] {
        let request = Request::post(format!("http://worker{path}")).body(Body::empty());
        let answer = peers.send(workers[0].id, request.unwrap()).await.unwrap();
        assert_eq!(answer.status(), expected, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_a_member_makes_up_is_sealed_nothing_and_asked_once() {
    let Some((_nats, members)) = network(2).await else {
        return;
    };
    let workers = [members[0].worker(Terms::default()).await];
    know(&members, &workers).await;
    let known = &members[1].scheduler.workers;
    let announcement = members[0].scheduler.workers.announcement(&workers[0].id);
    let mut made_up = announcement.unwrap();
    let keyset = Keyset::new(&[1; 32], &[2; 1216], &Digest256::ZERO, 0).unwrap();
    let id = Digest256::of(&keyset.seal_key().unwrap());
    made_up.keyset = keyset.text().into();
    made_up.offer.worker = id;
    let at = members[0].at.to_string();
    assert!(known.announced(made_up, &at).unwrap());
    let asker = Asker::connect(members[1].clients).await.unwrap();
    let except = json!({"except": [workers[0].id]});
    let assignment = asker.assign(&except).await.unwrap();
    assert_eq!(assignment.worker, id);
    let refused = asker.begin(&assignment, texts(1)).await.unwrap_err();
    let gone = AskError::Refused(StatusCode::SERVICE_UNAVAILABLE, "worker_gone".into());
    assert_eq!(refused, gone);
    assert!(known.get(&id).is_none(), "until it is announced again");
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_that_say_nothing_take_no_schedulers_place() {
    let Some((_nats, members)) = network(2).await else {
        return;
    };
    let workers = [members[0].worker(Terms::default()).await];
    know(&members, &workers).await;
    let strangers = (0..300).map(|_| TcpStream::connect(members[0].at));
    let strangers = try_join_all(strangers).await.unwrap();
    let asker = Asker::connect(members[1].clients).await.unwrap();
    assert_eq!(asker.ask(texts(6)).await.unwrap().texts, texts(6));
    drop(strangers);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_an_old_connection_loses_nobody_who_came_with_a_newer_one() {
    let Some((nats, mut members)) = network(2).await else {
        return;
    };
    let old = members.remove(0);
    let (at, asking) = (old.at, &members[0]);
    let moving = old.worker(Terms::default()).await;
    know(&members, std::slice::from_ref(&moving)).await;
    let asker = Asker::connect(asking.clients).await.unwrap();
    moving.hold(true);
    let assignment = asker.assign(&json!({})).await.unwrap();
    let answer = asker.begin(&assignment, texts(7)).await.unwrap();

    drop(old);
    within(|| asking.scheduler.workers.get(&moving.id).is_none()).await;
    let next = Member::start_at(at, None, nats.url(), "11").await;
    let worker = next.worker(Terms::default()).await;
    know(&members, std::slice::from_ref(&worker)).await;
    assert_eq!(asker.ask(texts(8)).await.unwrap().worker, worker.id);

    let mut changes = asking.scheduler.workers.changes();
    moving.hold(false);
    assert_eq!(answer.whole().await.unwrap().texts, texts(7));
    let gone = until(&mut changes, |change| change == Change::Gone(worker.id));
    assert!(
        timeout(MOMENT, gone).await.is_err(),
        "it is there all the while"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn who_leaves_takes_back_what_it_said_and_not_what_the_next_one_at_its_address_said() {
    let Some((nats, members)) = network(1).await else {
        return;
    };
    let any = SocketAddr::new(LOCALHOST, 0);
    let said = Some("10.9.9.9:1".parse().unwrap());
    let [old, next] = [(); 2].map(|()| Member::start_at(any, said, nats.url(), "11"));
    let (old, next) = (old.await, next.await);
    // It says once what it offers, to the one and then to the other.
    let mut workers = [
        old.worker(Terms::of(Manner::Silent)).await,
        old.worker(Terms::default()).await,
    ];
    know(&members, &workers).await;
    let mut changes = members[0].scheduler.workers.changes();
    let [moving, staying] = [0, 1].map(|place| workers[place].id);
    workers[0].dial(next.workers);
    until(&mut changes, |change| change == Change::Elsewhere(moving)).await;
    drop(old);
    let mut gone = BTreeSet::new();
    let both = until(&mut changes, |change| {
        gone.extend(
            [moving, staying]
                .map(Change::Gone)
                .iter()
                .position(|it| *it == change),
        );
        gone.len() == 2
    });
    assert!(timeout(MOMENT, both).await.is_err(), "the next one has it");
    assert_eq!(gone, [1].into());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_take_back_what_it_said_says_so_in_time() {
    let Some((mut nats, members)) = network(2).await else {
        return;
    };
    know(&members, &[members[0].worker(Terms::default()).await]).await;
    let client = registry::connect(&[nats.url()], registry::options()).await;
    let known = Arc::clone(&members[0].scheduler.workers);
    let key = Key::parse(&"11".repeat(32)).unwrap();
    let registry = Registry::new(client.unwrap(), known, key, "10.9.9.9:1".into());
    assert!(registry.leave().await.is_ok());
    nats.kill();
    let left = timeout(PATIENCE, registry.leave()).await.unwrap();
    assert!(matches!(
        left,
        Err(RegistryError::Late | RegistryError::Bucket(_))
    ));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_three_nats_servers_dies_and_what_is_said_is_still_heard_and_taken_back() {
    let Some(mut cluster) = Nats::cluster(LOCALHOST) else {
        return;
    };
    let urls: Vec<_> = cluster.iter().map(Nats::url).collect();
    let urls = urls.join(",");
    let [here, there] = [(); 2].map(|()| Member::start(LOCALHOST, urls.clone(), "11"));
    let members = [here.await, there.await];
    let staying = members[0].worker(Terms::default()).await;
    let leaving = members[0].worker(Terms::default()).await;
    know(&members, &[leaving]).await;
    know(&members, std::slice::from_ref(&staying)).await;

    let watcher = cluster.iter().map(Nats::url).collect::<Vec<_>>();
    let watcher = registry::connect(&watcher, registry::options()).await;
    let context = async_nats::jetstream::new(watcher.unwrap());
    let stream = context.get_stream("KV_cocoon-workers").await.unwrap();
    let info = stream.cached_info();
    assert_eq!(info.config.num_replicas, 3);
    let leader = info.cluster.clone().unwrap().leader.unwrap();
    let leader: usize = leader.trim_start_matches('n').parse().unwrap();
    cluster[leader].kill();

    let asker = Asker::connect(members[0].clients).await.unwrap();
    assert_eq!(asker.ask(texts(3)).await.unwrap().texts, texts(3));
    let coming = members[0].worker(Terms::default()).await;
    know(&members, &[coming]).await;
    know(&members, std::slice::from_ref(&staying)).await;
    let id = staying.id;
    drop(staying);
    within(|| members[1].scheduler.workers.get(&id).is_none()).await;
}

/// Comes back once a change is told that is wanted.
async fn until(changes: &mut Receiver<Change>, mut wanted: impl FnMut(Change) -> bool) {
    while !wanted(changes.recv().await.unwrap()) {}
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

const PATIENCE: Duration = Duration::from_secs(60);

/// For what is not to happen.
const MOMENT: Duration = Duration::from_secs(1);
