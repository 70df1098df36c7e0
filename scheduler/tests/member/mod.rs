//! One scheduler of several, in this process, on ports of its own.

#![allow(clippy::panic, clippy::unwrap_used, reason = "helpers of tests")]

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use attestation::register::Digest256;
use scheduler::books::Books;
use scheduler::desk::Desk;
use scheduler::fabric::key::Key;
use scheduler::fabric::peers::{self, Peers};
use scheduler::fabric::registry::{self, Registry};
use scheduler::scheduler::Scheduler;
use scheduler::workers::Workers;
use scheduler::{api, serve};
use tests::stand_in::{StandIn, Terms};
use tests::td::Td;
use tokio::net::TcpListener;
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Dropping it is its end.
pub(crate) struct Member {
    pub(crate) scheduler: Arc<Scheduler>,
    pub(crate) workers: SocketAddr,
    pub(crate) clients: SocketAddr,
    pub(crate) at: SocketAddr,
    _running: DropGuard,
}

impl Member {
    /// Listens on `address`, with the servers of NATS behind a comma; its key is a pair of digits, over and over.
    pub(crate) async fn start(address: IpAddr, nats: String, key: &str) -> Self {
        Self::start_at(SocketAddr::new(address, 0), None, nats, key).await
    }

    /// The others reach it at that port, or as it says.
    pub(crate) async fn start_at(
        others: SocketAddr,
        said: Option<SocketAddr>,
        nats: String,
        key: &str,
    ) -> Self {
        let any = SocketAddr::new(others.ip(), 0);
        let key = || Key::parse(&key.repeat(32)).unwrap();
        let known = Workers::new(Desk::new(key().seed()));
        let fabric = Peers::new(Arc::clone(&known), &key()).unwrap();
        let scheduler = Scheduler::new(Arc::clone(&known), fabric, Books::Free);
        let [workers, clients, others] = [bind(any).await, bind(any).await, bind(others).await];
        let stop = CancellationToken::new();
        let member = Self {
            workers: workers.local_addr().unwrap(),
            clients: clients.local_addr().unwrap(),
            at: said.unwrap_or(others.local_addr().unwrap()),
            scheduler: Arc::clone(&scheduler),
            _running: stop.clone().drop_guard(),
        };
        let urls: Vec<_> = nats.split(',').map(str::to_owned).collect();
        let nats = registry::connect(&urls, registry::options()).await;
        let at = member.at.to_string();
        let registry =
            Registry::new(nats.unwrap(), Arc::clone(&known), key(), at).replicated(urls.len());
        let policy = Arc::new(Td::new().policy());
        let listening =
            peers::listen(others, &key(), Arc::clone(&scheduler), stop.clone()).unwrap();
        tokio::spawn(listening);
        tokio::spawn(serve::workers(workers, policy, known, stop.clone()));
        let api = api::router(Arc::clone(&scheduler));
        tokio::spawn(serve::clients(clients, None, api, stop.clone()));
        let kept = stop.clone();
        tokio::spawn(async move { scheduler.keep(&kept).await });
        tokio::spawn(async move {
            stop.run_until_cancelled(registry.keep()).await;
            registry.leave().await.unwrap_or_default();
        });
        member
    }

    /// One more that is linked here.
    pub(crate) async fn worker(&self, terms: Terms) -> StandIn {
        let mut worker = StandIn::start(terms).await;
        worker.dial(self.workers);
        within(|| self.has(&worker.id)).await;
        worker
    }

    /// Whether a worker is linked here.
    pub(crate) fn has(&self, worker: &Digest256) -> bool {
        let known = self.scheduler.workers.get(worker);
        known.is_some_and(|worker| worker.requests.is_some())
    }
}

/// Comes back once something holds.
pub(crate) async fn within(mut holds: impl FnMut() -> bool) {
    let held = async {
        while !holds() {
            sleep(TICK).await;
        }
    };
    timeout(PATIENCE, held).await.unwrap();
}

async fn bind(address: SocketAddr) -> TcpListener {
    TcpListener::bind(address).await.unwrap()
}

const PATIENCE: Duration = Duration::from_secs(60);

const TICK: Duration = Duration::from_millis(5);
