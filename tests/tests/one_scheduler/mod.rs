//! A scheduler in this process, and workers without an engine that dial in.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    dead_code,
    reason = "for tests, none of which needs all of it"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use attestation::register::Digest256;
use scheduler::books::Books;
use scheduler::desk::Desk;
use scheduler::scheduler::Scheduler;
use scheduler::workers::Workers;
use scheduler::{api, serve};
use tests::asker::Asker;
use tests::stand_in::{StandIn, Terms};
use tests::td::Td;
use tokio::net::TcpListener;
use tokio::sync::{RwLock, RwLockReadGuard, RwLockWriteGuard};
use tokio::time::{sleep, timeout};
use tokio_util::sync::{CancellationToken, DropGuard};

/// A scheduler on ports of its own.
pub(crate) struct Network {
    pub(crate) scheduler: Arc<Scheduler>,
    pub(crate) workers: SocketAddr,
    pub(crate) clients: SocketAddr,
    _running: DropGuard,
    _turn: Turn,
}

/// Who measures memory is alone.
enum Turn {
    Shared {
        _guard: RwLockReadGuard<'static, ()>,
    },
    Alone {
        _guard: RwLockWriteGuard<'static, ()>,
    },
}

static TURNS: RwLock<()> = RwLock::const_new(());

impl Network {
    pub(crate) async fn start() -> Self {
        let _guard = TURNS.read().await;
        Self::with(Turn::Shared { _guard }).await
    }

    pub(crate) async fn alone() -> Self {
        let _guard = TURNS.write().await;
        Self::with(Turn::Alone { _guard }).await
    }

    async fn with(turn: Turn) -> Self {
        let known = Workers::new(Desk::new([7; 32]));
        let scheduler = Scheduler::new(Arc::clone(&known), known.clone(), Books::Free);
        let (workers, clients) = (bind().await, bind().await);
        let stop = CancellationToken::new();
        let network = Self {
            workers: workers.local_addr().unwrap(),
            clients: clients.local_addr().unwrap(),
            scheduler: Arc::clone(&scheduler),
            _running: stop.clone().drop_guard(),
            _turn: turn,
        };
        let policy = Arc::new(Td::new().policy());
        tokio::spawn(serve::workers(workers, policy, known, stop.clone()));
        let api = api::router(Arc::clone(&scheduler));
        tokio::spawn(serve::clients(clients, None, api, stop.clone()));
        tokio::spawn(async move { scheduler.keep(&stop).await });
        network
    }

    /// So many more, which have offered something.
    pub(crate) async fn workers(&self, count: usize, terms: Terms) -> Vec<StandIn> {
        let mut workers = Vec::new();
        for _ in 0..count {
            workers.push(self.link(StandIn::start(terms).await).await);
        }
        workers
    }

    /// One, once it has offered something.
    pub(crate) async fn link(&self, mut worker: StandIn) -> StandIn {
        worker.dial(self.workers);
        let linked = async {
            while self.scheduler.workers.get(&worker.id).is_none() {
                sleep(TICK).await;
            }
        };
        timeout(PATIENCE, linked).await.unwrap();
        worker
    }

    pub(crate) async fn asker(&self) -> Asker {
        Asker::connect(self.clients).await.unwrap()
    }

    /// Comes back once a worker is gone.
    pub(crate) async fn gone(&self, worker: Digest256) {
        let gone = async {
            while self.scheduler.workers.get(&worker).is_some() {
                sleep(TICK).await;
            }
        };
        timeout(PATIENCE, gone).await.unwrap();
    }
}

async fn bind() -> TcpListener {
    TcpListener::bind("127.0.0.1:0").await.unwrap()
}

pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) const TICK: Duration = Duration::from_millis(5);
