//! Several schedulers with the real NATS, all as processes; one of them is killed.

use std::fs;
use std::net::{IpAddr, Ipv4Addr};

use axum::http::StatusCode;
use nix::sys::signal::Signal;
use serde_json::json;
use tempfile::NamedTempFile;
use tests::asker::{AskError, Asker};
use tests::nats::Nats;
use tests::stand_in::{StandIn, Terms};
use tokio::time::{sleep, timeout};

use crate::program::{PATIENCE, Program, Site, Sockets};
use crate::{SLOW, TICK, text};

#[tokio::test(flavor = "multi_thread")]
async fn a_scheduler_that_is_killed_cuts_its_answers_and_the_others_go_on() {
    let Some(nats) = Nats::start(LOCALHOST) else {
        return;
    };
    let site = Site::new();
    let key = key(&"5a".repeat(32));
    let fabric = fabric(&nats, &key);
    let mut schedulers = Vec::new();
    for _ in 0..3 {
        schedulers.push(
            site.scheduler(None, &fabric.each_ref().map(|it| &**it))
                .await,
        );
    }
    let dying = schedulers.pop().unwrap();
    let mut moving = site.worker(SLOW, &dying).await;
    let staying = site.worker(Terms::default(), &schedulers[0]).await;
    let mut askers = Vec::new();
    for scheduler in &schedulers {
        know(&site.asker(scheduler).await, &[&moving, &staying]).await;
        askers.push(site.asker(scheduler).await);
    }
    let direct = site.asker(&dying).await;
    let except = json!({"except": [staying.id]});
    let mut answers = Vec::new();
    for asker in askers.iter().chain([&direct]) {
        let assignment = asker.assign(&except).await.unwrap();
        let mut answer = asker.begin(&assignment, vec![vec![7]; 1000]).await.unwrap();
        assert!(answer.next().await.unwrap().is_some());
        answers.push(answer);
    }
    let assignment = askers[0].assign(&except).await.unwrap();

    dying.program.send(Signal::SIGKILL);
    for answer in answers {
        let cut = timeout(PATIENCE, answer.whole()).await.unwrap();
        assert_eq!(cut.unwrap_err(), AskError::Broken);
    }
    let refused = askers[0].begin(&assignment, vec![vec![8]]).await;
    let gone = AskError::Refused(StatusCode::SERVICE_UNAVAILABLE, "worker_gone".into());
    assert_eq!(refused.unwrap_err(), gone);
    for asker in &askers {
        let said = async {
            loop {
                match asker.ask(vec![vec![9]]).await {
                    Ok(said) => return said,
                    Err(error) => assert_eq!(error, gone, "until it is noticed"),
                }
                sleep(TICK).await;
            }
        };
        let said = timeout(PATIENCE, said).await.unwrap();
        assert_eq!(said.worker, staying.id, "the others' workers are there");
    }

    moving.dial(schedulers[1].workers);
    know(&askers[0], &[&moving, &staying]).await;
    let assignment = askers[0].assign(&except).await.unwrap();
    let answer = askers[0]
        .begin(&assignment, vec![vec![1]; 3])
        .await
        .unwrap();
    assert_eq!(answer.whole().await.unwrap().worker, moving.id);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_next_process_takes_over_and_no_answer_of_another_schedulers_is_lost() {
    let Some(nats) = Nats::start(LOCALHOST) else {
        return;
    };
    let site = Site::new();
    let key = key(&"5a".repeat(32));
    let fabric = fabric(&nats, &key);
    let fabric = fabric.each_ref().map(|it| &**it);
    let other = site.scheduler(None, &fabric).await;
    let sockets = Sockets::bind(2);
    let old = site.scheduler(Some(&sockets), &fabric).await;
    let moving = site.worker(SLOW, &old).await;
    let staying = site.worker(Terms::default(), &other).await;
    let asker = site.asker(&other).await;
    know(&asker, &[&moving, &staying]).await;
    let except = json!({"except": [staying.id]});
    let mut answers = Vec::new();
    for asker in [&asker, &site.asker(&old).await] {
        let assignment = asker.assign(&except).await.unwrap();
        // It takes longer than connections by themselves are waited for.
        let mut answer = asker.begin(&assignment, vec![vec![7]; 350]).await.unwrap();
        assert!(answer.next().await.unwrap().is_some());
        answers.push(answer);
    }

    let next = site.scheduler(Some(&sockets), &fabric).await;
    old.program.send(Signal::SIGTERM);
    for answer in answers {
        let whole = timeout(PATIENCE, answer.whole()).await.unwrap();
        assert_eq!(whole.unwrap().worker, moving.id);
    }
    assert_eq!(old.program.end().await.0, 0);
    let moved = async {
        loop {
            if let Ok(assignment) = asker.assign(&except).await
                && let Ok(answer) = asker.begin(&assignment, vec![vec![1]; 3]).await
            {
                break answer.whole().await.unwrap().worker;
            }
            sleep(TICK).await;
        }
    };
    assert_eq!(timeout(PATIENCE, moved).await.unwrap(), moving.id);
    drop(next);
}

#[tokio::test]
async fn what_makes_no_member_is_refused_by_name() {
    let (key, half) = (key(&"5a".repeat(32)), key(&"5a".repeat(16)));
    let path = |file: &NamedTempFile| file.path().to_str().unwrap().to_owned();
    let (key, half) = (path(&key), path(&half));
    let nats = ["--nats", "nats://127.0.0.1:1"];
    let peers = ["--peers", "127.0.0.1:0"];
    for (arguments, said) in [
        (nats.to_vec(), "--fabric-key"),
        (peers.to_vec(), "--nats"),
        (
            [&nats[..], &peers, &["--fabric-key", &half]].concat(),
            "is not 64 hex digits",
        ),
        (
            [&nats[..], &["--fabric-key", &key, "--peers", "0.0.0.0:0"]].concat(),
            "--peers-as is needed",
        ),
        (
            [
                &nats[..],
                &peers,
                &["--fabric-key", &key, "--nats-credentials", &key],
            ]
            .concat(),
            "holds no credentials",
        ),
    ] {
        let start = ["scheduler", "run", "--workers", "127.0.0.1:0"];
        let listen = ["--listen", "127.0.0.1:0"];
        let arguments = [&start[..], &listen, &arguments].concat();
        let (code, logged) = Program::start(None, &arguments).end().await;
        assert_eq!(code, 2, "{arguments:?}: {logged}");
        assert!(logged.contains(said), "{arguments:?}: {logged}");
    }
}

/// Comes back once a scheduler shows all of them.
pub(crate) async fn know(asker: &Asker, workers: &[&StandIn]) {
    let known = async {
        loop {
            let page = asker.get("/network/v1/standings").await.unwrap();
            let page = text(&page);
            let shows = |worker: &&StandIn| page.contains(&worker.id.to_string());
            if workers.iter().all(shows) {
                return;
            }
            sleep(TICK).await;
        }
    };
    timeout(PATIENCE, known).await.unwrap();
}

pub(crate) fn fabric(nats: &Nats, key: &NamedTempFile) -> [String; 6] {
    let key = key.path().to_str().unwrap();
    let nats = nats.url();
    [
        "--nats",
        &nats,
        "--fabric-key",
        key,
        "--peers",
        "127.0.0.1:0",
    ]
    .map(str::to_owned)
}

pub(crate) fn key(digits: &str) -> NamedTempFile {
    let file = NamedTempFile::new().unwrap();
    fs::write(&file, digits).unwrap();
    file
}

pub(crate) const LOCALHOST: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
