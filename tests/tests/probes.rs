//! Workers with an engine, a scheduler, and a prober that asks them like any client.
#![cfg(test)]
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "helpers of tests"
)]

mod one_scheduler;

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use agent::api::{Model, Models};
use agent::network::Network as Dialling;
use attestation::config;
use clap::Parser;
use client::network::probe::{Finding, ProbeArgs, ProbeError, Prober};
use inference::{Engine, Limits};
use one_scheduler::{Network, PATIENCE, TICK};
use scheduler::books::Books;
use scheduler::desk::Desk;
use scheduler::fabric::key::Key;
use scheduler::fabric::peers::{self, Peers};
use scheduler::machine::Machine;
use scheduler::metrics::Ending;
use scheduler::reputation::Row;
use scheduler::scheduler::Scheduler;
use scheduler::workers::Workers;
use scheduler::{api, serve};
use session::server::Worker;
use tempfile::TempDir;
use tests::td::Td;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_with_another_model_under_the_same_name_is_found_and_asked_no_more() {
    let network = Network::start().await;
    let folder = TempDir::new().unwrap();
    let other = other_model(&folder);
    let mut machines = Vec::new();
    let mut running = Vec::new();
    for (number, model) in [(1, tiny()), (2, tiny()), (3, other)] {
        let (machine, guard) = dial(&network, number, &model).await;
        machines.push(machine);
        running.push(guard);
    }
    let prober = prober(&network, &folder, None);
    let found = async {
        loop {
            match prober.probe().await.unwrap() {
                Finding::Agreed => {}
                finding => break finding,
            }
        }
    };
    let found = timeout(6 * PATIENCE, found).await.unwrap();
    assert_eq!(found, Finding::Lied(machines[2]));
    let row = |machine| -> Row {
        let mut table = network.scheduler.workers.standings().table().into_iter();
        table.find(|row| row.machine == machine).unwrap()
    };
    assert_eq!(
        (row(machines[2]).counts.lied, row(machines[2]).standing),
        (1000, 0)
    );
    for honest in &machines[..2] {
        assert_eq!(row(*honest).counts.lied, 0);
        assert!(row(*honest).counts.agreed >= 1000);
    }
    // The two that are left say the same, and the liar is not asked.
    let before = row(machines[2]).counts.answered;
    for _ in 0..4 {
        assert_eq!(prober.probe().await.unwrap(), Finding::Agreed);
    }
    assert!(row(machines[2]).counts.answered <= before);
    assert_eq!(
        network.scheduler.metrics.count(Ending::Unsettled),
        0,
        "all of it was paid work"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_differ_nobody_is_blamed_and_one_alone_is_not_asked() {
    let network = Network::start().await;
    let folder = TempDir::new().unwrap();
    let prober = prober(&network, &folder, None);
    let (_, _honest) = dial(&network, 1, &tiny()).await;
    // Another worker on the same machine is no other opinion.
    let (_, _same) = dial(&network, 1, &tiny()).await;
    assert!(matches!(prober.probe().await, Err(ProbeError::Nobody)));
    let (_, _liar) = dial(&network, 2, &other_model(&folder)).await;
    assert_eq!(prober.probe().await.unwrap(), Finding::Undecided);
    let table = network.scheduler.workers.standings().table();
    assert!(
        table
            .iter()
            .all(|row| row.counts.lied == 0 && row.counts.agreed == 0)
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn two_that_lie_alike_outvote_an_honest_one_but_not_the_operators_own() {
    let network = Network::start().await;
    let folder = TempDir::new().unwrap();
    let other = other_model(&folder);
    let (own, _own) = dial(&network, 1, &tiny()).await;
    let (one, _one) = dial(&network, 2, &other).await;
    let (two, _two) = dial(&network, 3, &other).await;
    let prober = prober(&network, &folder, Some(own));
    let mut liars = Vec::new();
    for _ in 0..2 {
        liars.push(prober.probe().await.unwrap());
    }
    for liar in [one, two] {
        assert!(liars.contains(&Finding::Lied(liar)), "{liars:?}");
    }
    assert!(matches!(prober.probe().await, Err(ProbeError::Nobody)));

    let network = Network::start().await;
    let (honest, _honest) = dial(&network, 1, &tiny()).await;
    let (_, _one) = dial(&network, 2, &other).await;
    let (_, _two) = dial(&network, 3, &other).await;
    let prober = self::prober(&network, &folder, None);
    let found = async {
        loop {
            match prober.probe().await.unwrap() {
                Finding::Agreed => {}
                finding => break finding,
            }
        }
    };
    let found = timeout(6 * PATIENCE, found).await.unwrap();
    assert_eq!(found, Finding::Lied(honest));
}

#[tokio::test(flavor = "multi_thread")]
async fn where_another_scheduler_says_that_a_worker_is_counts_for_nothing() {
    let there = Network::start().await;
    let folder = TempDir::new().unwrap();
    let (_, _one) = dial(&there, 1, &tiny()).await;
    let (_, _two) = dial(&there, 2, &other_model(&folder)).await;
    let key = Key::parse(&"11".repeat(32)).unwrap();
    let known = Workers::new(Desk::new(key.seed()));
    let peers = Peers::new(Arc::clone(&known), &key).unwrap();
    let here = Scheduler::new(Arc::clone(&known), peers, Books::Free);
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0"));
    let [others, clients] = listeners.map(async |it| it.await.unwrap());
    let (others, clients) = (others.await, clients.await);
    let (at, address) = (others.local_addr().unwrap(), clients.local_addr().unwrap());
    let never = CancellationToken::new();
    let scheduler = Arc::clone(&there.scheduler);
    tokio::spawn(peers::listen(others, &key, scheduler, never.clone()).unwrap());
    let api = api::router(Arc::clone(&here));
    tokio::spawn(serve::clients(clients, None, api, never));

    for (id, _) in there.scheduler.workers.all() {
        let mut said = there.scheduler.workers.announcement(&id).unwrap();
        said.proof.machine = Machine(id);
        assert!(known.announced(said, &at.to_string()).unwrap());
    }
    let prober = prober_of(&here, address, &folder, None);
    let probed = prober.probe().await;
    assert!(
        matches!(probed, Err(ProbeError::Elsewhere { .. })),
        "{probed:?}"
    );
    assert!(known.standings().table().is_empty());
}

fn prober(network: &Network, folder: &TempDir, reference: Option<Machine>) -> Prober {
    prober_of(&network.scheduler, network.clients, folder, reference)
}

fn prober_of(
    judge: &Arc<Scheduler>,
    clients: SocketAddr,
    folder: &TempDir,
    reference: Option<Machine>,
) -> Prober {
    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        probes: ProbeArgs,
    }
    let prompts = folder.path().join("prompts");
    fs::write(&prompts, "What is the sea?\nWrite a line about rain.\n").unwrap();
    let reference = reference.map(|machine| format!("--probe-reference={machine}"));
    let run = ["run", "--probes", prompts.to_str().unwrap()];
    let cli = Cli::parse_from(run.into_iter().chain(reference.as_deref()));
    let policy = Arc::new(Td::new().policy());
    let prober = cli.probes.open(judge, &policy, clients);
    prober.unwrap().unwrap()
}

/// A worker on that machine, which says that it serves the small model.
async fn dial(network: &Network, machine: u8, model: &Path) -> (Machine, DropGuard) {
    let worker = Worker::start(Arc::new(Td::on_machine([machine; 16])))
        .await
        .unwrap();
    let id = worker.seal_id();
    let models = Models::new([Model {
        name: "cocoon-tiny".into(),
        root: Some("06".repeat(32)),
        engine: Engine::load_with(model, Limits::default()).unwrap(),
    }]);
    let scheduler = config::Scheduler {
        address: network.workers.to_string(),
        ask: 0,
        asks: [].into(),
        channel: None,
    };
    let dialling = Dialling::start(worker, &models, vec![scheduler])
        .await
        .unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(dialling.run(stop.clone().cancelled_owned()));
    let linked = async {
        loop {
            match network.scheduler.workers.get(&id) {
                Some(worker) => break worker.proof.machine,
                None => sleep(TICK).await,
            }
        }
    };
    let machine = timeout(PATIENCE, linked).await.unwrap();
    (machine, stop.drop_guard())
}

fn tiny() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../inference/models/cocoon-tiny")
}

/// The small model with other weights, and nothing that would tell its engine.
fn other_model(folder: &TempDir) -> PathBuf {
    let other = folder.path().join("other");
    fs::create_dir(&other).unwrap();
    for file in fs::read_dir(tiny()).unwrap() {
        let file = file.unwrap();
        let mut bytes = fs::read(file.path()).unwrap();
        if file.file_name() == "model.safetensors" {
            let half = bytes.len() / 2;
            bytes[half..]
                .chunks_exact_mut(2)
                .for_each(|number| number[0] ^= 0xff);
        }
        if file.file_name() != "selftest.json" {
            fs::write(other.join(file.file_name()), bytes).unwrap();
        }
    }
    other
}
