//! A scheduler in a process of its own: this very program, told by its environment to serve
//! until it is killed.

use std::env;
use std::net::SocketAddr;
use std::process::{Command, Stdio};
use std::time::Duration;

use chain::client::Client;
use chain::network::Network;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use scheduler::fee::Fee;
use scheduler::ledger::Identity;
use tests::chain::{GLOBAL_ID, key};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{self, Child};

use super::{OWNERS, Plan, SCHEDULER, Worker, World};
use tests::stand_in::Terms;

/// One that runs.
pub(crate) struct Process {
    child: Child,
    pub(crate) clients: SocketAddr,
    pub(crate) workers: SocketAddr,
}

impl World {
    /// On the books of the one scheduler.
    pub(crate) async fn process(&self) -> Process {
        let mut command = Command::new(env::current_exe().unwrap());
        command
            .args(["--exact", "serves_until_it_is_killed", "--nocapture"])
            .env(BOOKS, self.folder.path().join("books"))
            .env(NETWORK, self.town.network.to_json().unwrap())
            .env(PAYEE, self.town.wallet(SCHEDULER).to_string())
            .stdout(Stdio::piped());
        let mut child = process::Command::from(command)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        loop {
            let line = lines.next_line().await.unwrap().unwrap();
            if let Some(at) = line.strip_prefix(AT) {
                let (clients, workers) = at.split_once(' ').unwrap();
                return Process {
                    child,
                    clients: clients.parse().unwrap(),
                    workers: workers.parse().unwrap(),
                };
            }
        }
    }

    /// One for each owner.
    pub(crate) async fn workers_of(&self, process: &Process, terms: Terms) -> Vec<Worker> {
        let mut workers = Vec::new();
        for owner in OWNERS {
            let till = self.till(owner).await;
            workers.push(Worker::start(owner, till, terms, process.workers).await);
        }
        workers
    }
}

impl Process {
    /// It does nothing any more, and its connections stay.
    pub(crate) fn freeze(&self) {
        self.signal(Signal::SIGSTOP);
    }

    /// In the middle of what it does; comes back once it is gone.
    pub(crate) async fn kill(mut self) -> (SocketAddr, SocketAddr) {
        self.signal(Signal::SIGKILL);
        self.child.wait().await.unwrap();
        (self.clients, self.workers)
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.id().unwrap();
        kill(Pid::from_raw(i32::try_from(id).unwrap()), signal).unwrap();
    }
}

/// If this is such a process.
pub(crate) async fn serve() {
    let Some(books) = env::var_os(BOOKS) else {
        return;
    };
    let network = Network::parse(&env::var(NETWORK).unwrap()).unwrap();
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let plan = Plan {
        url: format!("sqlite:{}", books.display()),
        identity: Identity {
            key: key(SCHEDULER),
            payee: env::var(PAYEE).unwrap().parse().unwrap(),
            global_id: GLOBAL_ID,
        },
        chain: Client::new(&network, Duration::from_secs(60)),
        fee: Fee::NONE,
        onchain: None,
        at: (any, any),
    };
    let ((clients, workers), ..) = plan.start().await;
    println!("\n{AT}{clients} {workers}");
    std::future::pending().await
}

const BOOKS: &str = "COCOON_TEST_BOOKS";
const NETWORK: &str = "COCOON_TEST_NETWORK";
const PAYEE: &str = "COCOON_TEST_PAYEE";

/// Before its addresses.
const AT: &str = "it serves at ";
