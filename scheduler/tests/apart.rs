//! Two schedulers in network namespaces of their own, and the cable between them pulled:
//! each goes on with its workers, no money is spent twice, and they find each other again.
#![cfg(test)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    dead_code,
    reason = "helpers of tests"
)]

#[path = "../src/ledger/cluster.rs"]
mod cluster;
#[path = "../src/ledger/fixture.rs"]
mod fixture;
mod member;

use std::net::{IpAddr, Ipv4Addr};
use std::process::Command;
use std::sync::{Arc, mpsc};
use std::thread;
use std::time::Duration;

use cluster::{Cluster, HASTY};
use futures_util::future::join_all;
use member::{Member, within};
use nix::sched::{CloneFlags, unshare};
use scheduler::ledger::account::{AdmitError, Order};
use scheduler::ledger::{Asked, Failed, Identity, Ledger, RequestKey, account, receipts};
use serde_json::json;
use tests::asker::{Answer, AskError, Asker};
use tests::nats::Nats;
use tests::stand_in::{StandIn, Terms};
use tokio::runtime::{Builder, Handle};
use tokio::time::timeout;
use tokio_util::sync::{CancellationToken, DropGuard};
use tycho_types::cell::HashBytes;

#[tokio::test]
async fn who_is_cut_off_goes_on_with_its_workers_and_heals_and_nothing_is_spent_twice() {
    let (Some(east), Some(west)) = (Place::new(), Place::new()) else {
        return;
    };
    east.ip(&format!(
        "link add cable type veth peer name cable netns {}",
        west.id
    ));
    for (place, address) in [(&east, EAST), (&west, WEST)] {
        place.ip(&format!("addr add {address}/24 dev cable"));
        place.ip("link set cable up");
    }
    let nats = east.run(async { Nats::start(Ipv4Addr::UNSPECIFIED.into()) });
    let (Some(nats), Some(books)) = (nats.await, Cluster::start(&HASTY)) else {
        return;
    };
    let url = format!("nats://{EAST}:{}", nats.at.port());
    let here = Side::start(east, EAST, url.clone(), &books).await;
    let there = Side::start(west, WEST, url, &books).await;
    within(|| here.knows(&there) && there.knows(&here)).await;
    let answer = here.ask_of(&there, 1000).await;

    there.place.ip("link set cable down");
    let cut = timeout(PATIENCE, answer.whole()).await.unwrap();
    assert_eq!(cut.unwrap_err(), AskError::Broken);
    let judged = here.metrics().await;
    let nobody = "cocoon_scheduler_judged_total{event=\"failed\"} 0";
    assert!(judged.contains(nobody), "no worker's fault: {judged}");
    within(|| !here.knows(&there) && !there.knows(&here)).await;
    for side in [&here, &there] {
        let answer = side.ask_of(side, 3).await.whole().await.unwrap();
        assert_eq!(answer.texts.len(), 3);
    }
    let (one, other) = tokio::join!(here.spend(1), there.spend(2));
    assert_eq!(one + other, COVERED, "{one} here, {other} there");
    let accounts = here.ledger.accounts().await.unwrap();
    for (_, account) in accounts {
        assert_eq!(account.spent.tokens, COVERED * LIMIT);
        assert_eq!(account.reserved.tokens, 0);
    }

    there.place.ip("link set cable up");
    within(|| here.knows(&there) && there.knows(&here)).await;
    for (one, other) in [(&here, &there), (&there, &here)] {
        let answer = one.ask_of(other, 3).await.whole().await.unwrap();
        assert_eq!(answer.texts.len(), 3);
    }
}

/// A scheduler, its worker, its client and its books.
struct Side {
    place: Place,
    member: Arc<Member>,
    worker: StandIn,
    ledger: Ledger,
}

impl Side {
    async fn start(place: Place, address: Ipv4Addr, nats: String, books: &Cluster) -> Self {
        let url = books.url();
        let started = place.run(async move {
            let member = Arc::new(Member::start(IpAddr::V4(address), nats, "11").await);
            let worker = member.worker(SLOW).await;
            let ledger = Ledger::open(&url, fixture::identity()).await.unwrap();
            for channel in [fixture::client(1), fixture::worker(2)] {
                let seen = ledger.observe(channel, fixture::holding(1 << 60), fixture::NOW);
                seen.await.unwrap();
            }
            (member, worker, ledger)
        });
        let (member, worker, ledger) = started.await;
        Self {
            place,
            member,
            worker,
            ledger,
        }
    }

    fn knows(&self, other: &Self) -> bool {
        self.member
            .scheduler
            .workers
            .get(&other.worker.id)
            .is_some()
    }

    /// So many chunks of the other's worker, of which the first has come.
    async fn ask_of(&self, other: &Self, chunks: usize) -> Answer {
        let (clients, wanted) = (self.member.clients, other.worker.id);
        let answer = self.place.run(async move {
            let asker = Asker::connect(clients).await.unwrap();
            let mut assignment = asker.assign(&json!({})).await.unwrap();
            while assignment.worker != wanted {
                let except = json!({"except": [assignment.worker]});
                assignment = asker.assign(&except).await.unwrap();
            }
            let texts = vec![vec![7]; chunks];
            asker.begin(&assignment, texts).await.unwrap()
        });
        answer.await
    }

    async fn metrics(&self) -> String {
        let clients = self.member.clients;
        let said = self.place.run(async move {
            let asker = Asker::connect(clients).await.unwrap();
            asker.get("/metrics").await.unwrap()
        });
        String::from_utf8(said.await.to_vec()).unwrap()
    }

    /// How many requests of one client's are admitted here, of all that its voucher covers;
    /// each is then served and settled.
    async fn spend(&self, side: u8) -> u64 {
        let (client, worker) = (fixture::client(1), fixture::worker(2));
        let signed = fixture::sign(1, &fixture::voucher(&client, COVERED * LIMIT));
        let order = Order {
            limit: LIMIT,
            price: fixture::PRICE,
            ask: fixture::PRICE,
            exposure: 1 << 60,
            unseen: 0,
        };
        let ledger = self.ledger.clone();
        let spent = self.place.run(async move {
            let requests = (0..u8::try_from(COVERED).unwrap()).map(async |number| {
                let key = RequestKey {
                    client: client.address.address,
                    id: [side * 100 + number; 16],
                };
                let asked = Asked {
                    key,
                    channel: worker.address.address,
                    worker: HashBytes([2; 32]),
                    deadline: 20,
                    attempt: key.id,
                };
                let admit = ledger.admit(asked, order, Some(signed.clone()), fixture::NOW);
                match admit.await {
                    Ok(_) => {}
                    // It is the newest, and covers no more.
                    Err(Failed::Refused(AdmitError::Stale { .. })) => return 0,
                    Err(error) => panic!("{error:?}"),
                }
                let tokens = u32::try_from(LIMIT).unwrap();
                let receipt = fixture::receipt(&worker, side * 100 + number, tokens);
                let served = fixture::served(receipt);
                ledger.settle(key, served, fixture::NOW).await.unwrap();
                1
            });
            join_all(requests).await.into_iter().sum()
        });
        spent.await
    }
}

/// A network namespace with a thread in it; both are gone with this.
struct Place {
    /// Of the thread, as `ip` takes it.
    id: String,
    handle: Handle,
    _stop: DropGuard,
}

impl Place {
    /// `None` where that is not allowed, which CI has to.
    fn new() -> Option<Self> {
        let (tell, told) = mpsc::channel();
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        thread::spawn(move || {
            let apart = unshare(CloneFlags::CLONE_NEWNET);
            let id = std::fs::read_link("/proc/thread-self").unwrap();
            let id = id.file_name().unwrap().to_str().unwrap().to_owned();
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            let handle = runtime.handle().clone();
            tell.send(apart.map(|()| (id, handle))).unwrap();
            runtime.block_on(stopped.cancelled());
        });
        let Ok((id, handle)) = told.recv().unwrap() else {
            assert!(std::env::var_os("CI").is_none(), "no namespaces in CI");
            println!("skipped: network namespaces are root's");
            return None;
        };
        let place = Self {
            id,
            handle,
            _stop: stop.drop_guard(),
        };
        place.ip("link set lo up");
        Some(place)
    }

    /// Has `ip` do something in there.
    fn ip(&self, arguments: &str) {
        let arguments: Vec<_> = arguments.split(' ').map(str::to_owned).collect();
        let (tell, told) = mpsc::channel();
        self.handle.spawn(async move {
            let status = Command::new("ip").args(&arguments).status();
            tell.send((arguments, status)).unwrap();
        });
        let (arguments, status) = told.recv().unwrap();
        assert!(status.unwrap().success(), "ip {arguments:?}");
    }

    async fn run<T: Send + 'static>(&self, what: impl Future<Output = T> + Send + 'static) -> T {
        self.handle.spawn(what).await.unwrap()
    }
}

const EAST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 1);
const WEST: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);

/// Requests that the client's one voucher covers.
const COVERED: u64 = 8;

/// Tokens of each.
const LIMIT: u64 = 1000;

const SLOW: Terms = Terms {
    slots: 512,
    ask: 1_000_000,
    pause: Duration::from_millis(20),
    manner: tests::stand_in::Manner::Honest,
    answer: None,
};

const PATIENCE: Duration = Duration::from_secs(60);
