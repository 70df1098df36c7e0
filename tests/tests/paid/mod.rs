//! A network in which everything is paid for, on a chain of its own.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "for tests"
)]
#![allow(dead_code, reason = "not every test needs all of it")]

pub(crate) mod process;
mod takes;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use agent::network::Purse as Till;
use attestation::config;
use attestation::register::Digest256;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use chain::client::Client;
use clap::Parser;
use client::network::agreed::Agreed;
use client::network::prices::Prices;
use client::network::probe::{ProbeArgs, Prober};
use client::network::purse::{ChannelFile, Purse};
use client::network::scheduler::Scheduler as Way;
use client::network::secret::Secret;
use client::network::{Network, Options};
use contracts::channel::{Channel, Claim};
use futures_util::future::join_all;
use http_body_util::BodyExt as _;
use scheduler::books::{Books as Paying, Kept};
use scheduler::desk::Desk;
use scheduler::fee::Fee;
use scheduler::ledger::{Costs, Identity, Ledger};
use scheduler::onchain::Onchain;
use scheduler::pass::Pass;
use scheduler::scheduler::Scheduler;
use scheduler::settler::Settler;
use scheduler::workers::Workers;
use scheduler::{api, serve};
use serde_json::json;
use tempfile::TempDir;
use tests::chain::{GLOBAL_ID, Town, key, now};
use tests::stand_in::{StandIn, Terms};
use tests::td::Td;
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::task::spawn_blocking;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;
use tycho_types::boc::Boc;
use tycho_types::cell::{CellBuilder, HashBytes};
use tycho_types::models::StdAddr;

use self::takes::Takes;

const SCHEDULER: u8 = 1;
const CLIENT: u8 = 2;
const PROBER: u8 = 6;
pub(crate) const OWNERS: [u8; 3] = [3, 4, 5];

const COIN: u64 = 1_000_000_000;
const DEPOSIT: u64 = 60 * COIN;

/// Nanotons for a million tokens: a request costs some thousandths of a coin.
pub(crate) const PRICE: u64 = COIN;

/// Tokens of an answer.
const ANSWER: u64 = 4000;

const OPTIONS: Options = Options {
    max_price: PRICE,
    tip: 0,
    prices: None,
    answer: ANSWER,
    deadline: Duration::from_secs(60),
    hedge: false,
};

/// The chain, and one client's Channel.
pub(crate) struct World {
    folder: TempDir,
    pub(crate) town: Town,
    client: Channel,
    pub(crate) purse: Arc<Purse>,
    /// Counts what owners are paid, if anyone does.
    pub(crate) market: Option<StdAddr>,
}

impl World {
    pub(crate) async fn start() -> Option<Self> {
        let folder = TempDir::new().unwrap();
        let people = [&[SCHEDULER, CLIENT, PROBER][..], &OWNERS].concat();
        let town = Town::start(folder.path(), &people).await?;
        let (client, path) = channel(&town, folder.path(), CLIENT).await;
        Some(Self {
            purse: Arc::new(Purse::open(&path, None).unwrap()),
            folder,
            town,
            client,
            market: None,
        })
    }

    /// With a Market.
    pub(crate) async fn counted(self) -> Self {
        let market = self.town.market(OWNERS[0], PRICE).await;
        Self {
            market: Some(market),
            ..self
        }
    }

    fn identity(&self) -> Identity {
        Identity {
            key: key(SCHEDULER),
            payee: self.town.wallet(SCHEDULER),
            global_id: GLOBAL_ID,
        }
    }

    /// The one scheduler, on its books.
    pub(crate) async fn scheduler(&self) -> Running {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        self.scheduler_at(any, any).await
    }

    pub(crate) async fn scheduler_at(&self, clients: SocketAddr, workers: SocketAddr) -> Running {
        self.keeping(Fee::NONE, clients, workers).await
    }

    /// The same, which keeps something for itself.
    pub(crate) async fn scheduler_with(&self, fee: Fee) -> Running {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        self.keeping(fee, any, any).await
    }

    /// Behind its scheduler's back.
    pub(crate) fn forget_requests(&self) {
        let books = rusqlite::Connection::open(self.books_path()).unwrap();
        books.execute("DELETE FROM requests", ()).unwrap();
    }

    fn books_path(&self) -> PathBuf {
        self.folder.path().join("books")
    }

    async fn keeping(&self, fee: Fee, clients: SocketAddr, workers: SocketAddr) -> Running {
        let plan = Plan {
            url: format!("sqlite:{}", self.books_path().display()),
            identity: self.identity(),
            chain: self.town.client(),
            fee,
            onchain: self.market.as_ref().map(|market| {
                let markets = vec![market.clone()];
                Onchain::new(self.town.client(), markets)
            }),
            at: (clients, workers),
        };
        let runtime = Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let started = runtime.spawn(plan.start());
        let ((clients, workers), ledger, scheduler) = started.await.unwrap();
        Running {
            clients,
            workers,
            ledger,
            scheduler,
            runtime: Some(runtime),
        }
    }

    /// What a scheduler beside that one asks to be paid, where a share costs so much.
    pub(crate) async fn paying(&self, least: u64) -> Paying {
        let ledger = {
            let path = self.folder.path().join("other");
            Ledger::open(&format!("sqlite:{}", path.display()), self.identity()).await
        };
        let kept = Kept::new(
            ledger.unwrap(),
            self.town.client(),
            &self.identity(),
            DEPOSIT,
        );
        Paying::Kept(Box::new(kept.expecting(least)))
    }

    /// A Channel of somebody's to the scheduler, and its pass.
    pub(crate) async fn pass(&self, payer: u8, deposit: u64) -> (HashBytes, Pass) {
        let opened = self.town.open(payer, SCHEDULER, None, deposit).await;
        let address = opened.address;
        let pass = Pass::new(&key(payer), GLOBAL_ID, address.clone(), now());
        (address.address, pass)
    }

    /// What shows that a request is the client's.
    pub(crate) fn shown(&self) -> String {
        let channel = self.client.address.clone();
        Pass::new(&key(CLIENT), GLOBAL_ID, channel, now()).to_string()
    }

    /// One for each owner.
    pub(crate) async fn workers(&self, scheduler: &Running, terms: Terms) -> Vec<Worker> {
        let mut workers = Vec::new();
        for owner in OWNERS {
            workers.push(scheduler.join(owner, self.till(owner).await, terms).await);
        }
        workers
    }

    /// Of an owner who has a Channel from the scheduler.
    pub(crate) async fn till(&self, owner: u8) -> Arc<Till> {
        let channel = self
            .town
            .open(SCHEDULER, owner, self.market.as_ref(), DEPOSIT + COIN / 50)
            .await;
        let state = Boc::encode(CellBuilder::build_from(&channel.state).unwrap());
        let till = Till::open(&config::Channel {
            state: BASE64_STANDARD.encode(state),
            network: GLOBAL_ID,
            deposit: DEPOSIT,
            paid: 0,
        });
        Arc::new(till.unwrap())
    }

    /// What the client signs for a request beside its gateway.
    pub(crate) fn voucher(&self, request: &str, limit: u64, price: u64) -> Vec<u8> {
        let agreed = Agreed {
            limit,
            price,
            request: Digest256::ZERO,
            receipt_key: Digest256::ZERO,
            until: u32::MAX,
        };
        let signed = self.purse.reserve(request, agreed).unwrap();
        Boc::encode(CellBuilder::build_from(signed.unwrap()).unwrap())
    }

    /// Of the client, which has one scheduler.
    pub(crate) fn gateway(&self, scheduler: &Running) -> Gateway {
        self.gateway_to(scheduler.clients, PRICE)
    }

    /// Of the client, which pays so much.
    pub(crate) fn gateway_to(&self, scheduler: SocketAddr, max_price: u64) -> Gateway {
        self.gateway_tipping(scheduler, max_price, 0)
    }

    /// Of the client, which pays what that Market says.
    pub(crate) fn gateway_by(&self, scheduler: &Running, model: &str, market: &StdAddr) -> Gateway {
        let market = format!("{model}={market}").parse().unwrap();
        let prices = Prices::new(self.town.client(), vec![market]);
        let options = Options {
            max_price: u64::MAX,
            prices: Some(Arc::new(prices)),
            ..OPTIONS
        };
        self.gateway_with(scheduler.clients, options)
    }

    /// Of the client, which gives each request so long.
    pub(crate) fn gateway_within(&self, scheduler: &Running, deadline: Duration) -> Gateway {
        let options = Options {
            deadline,
            ..OPTIONS
        };
        self.gateway_with(scheduler.clients, options)
    }

    /// The same, of it so much for not having to wait.
    pub(crate) fn gateway_tipping(
        &self,
        scheduler: SocketAddr,
        max_price: u64,
        tip: u64,
    ) -> Gateway {
        let options = Options {
            max_price,
            tip,
            ..OPTIONS
        };
        self.gateway_with(scheduler, options)
    }

    fn gateway_with(&self, scheduler: SocketAddr, options: Options) -> Gateway {
        let url = format!("http://{scheduler}");
        let way = Way::new(url.parse().unwrap()).unwrap();
        let policy = Arc::new(Td::new().policy());
        let purses = vec![Arc::clone(&self.purse)];
        let secret = Secret::random().unwrap();
        Gateway {
            network: Network::new(vec![way], policy, purses, options, &secret),
        }
    }

    /// Asks for a sea, out of a Channel of the operator's, in that file.
    pub(crate) async fn prober(&self, scheduler: &Running) -> (Prober, Channel, PathBuf) {
        #[derive(Parser)]
        struct Cli {
            #[command(flatten)]
            probes: ProbeArgs,
        }
        let (opened, path) = channel(&self.town, self.folder.path(), PROBER).await;
        let prompts = self.folder.path().join("prompts");
        std::fs::write(&prompts, "What is the sea?").unwrap();
        let cli = Cli::parse_from([
            "run",
            &format!("--probes={}", prompts.display()),
            &format!("--probe-channel={}", path.display()),
            &format!("--probe-max-price={}", scheduler.scheduler.price(PRICE)),
        ]);
        let policy = Arc::new(Td::new().policy());
        let clients = scheduler.clients;
        let prober = cli.probes.open(&scheduler.scheduler, &policy, clients);
        (prober.unwrap().unwrap(), opened, path)
    }

    /// Comes back once the client's purse has each request as settled or in doubt.
    pub(crate) async fn is_written_down(&self) {
        let written = async {
            while self.purse.balance().reserved > 0 {
                sleep(TICK).await;
            }
        };
        timeout(PATIENCE, written).await.unwrap();
    }

    /// What everyone has written down.
    pub(crate) async fn books(&self, scheduler: &Running, workers: &[Worker]) -> Books {
        let account = async |channel: &StdAddr| {
            let known = scheduler.ledger.account(channel.address).await.unwrap();
            known.map(|(_, account)| account)
        };
        let client = self.purse.balance();
        let book = account(&self.client.address).await.unwrap();
        let mut owners = Vec::new();
        for worker in workers {
            // Who was never asked is in no book.
            let book = account(worker.till.address()).await;
            owners.push(Owner {
                earned: worker.till.spent(),
                shown: book.as_ref().map_or(0, |book| book.spent.amount),
                reserved: book.as_ref().map_or(0, |book| book.reserved.amount),
            });
        }
        Books {
            spent: client.spent,
            reserved: client.reserved,
            charged: book.spent.amount,
            held: book.reserved.amount,
            signed: book.voucher.amount,
            owners,
        }
    }

    /// The scheduler claims what the client has signed for, however little that is worth, and
    /// each owner what the scheduler has.
    pub(crate) async fn settle(&self, scheduler: &Running, workers: &[Worker]) {
        let mut settler = self.settler(scheduler);
        settler.costs.claim = 0;
        for done in settler.round(now()).await.unwrap() {
            done.outcome.unwrap();
        }
        for worker in workers {
            let Some(voucher) = worker.till.newest() else {
                continue;
            };
            let claim = Claim {
                query_id: 0,
                voucher,
            };
            let to = worker.till.address();
            self.town
                .send(worker.owner, to, COIN / 100, &claim, None)
                .await;
        }
    }

    /// What owners were paid is reported to the Market, however little that is worth.
    pub(crate) async fn report(&self, scheduler: &Running, workers: &[Worker]) {
        let mut settler = self.settler(scheduler);
        settler.costs.report = 0;
        for worker in workers {
            settler.look(worker.till.address()).await.unwrap();
        }
        for done in settler.round(now()).await.unwrap() {
            done.outcome.unwrap();
        }
    }

    fn settler(&self, scheduler: &Running) -> Settler {
        Settler {
            ledger: scheduler.ledger.clone(),
            client: self.town.client(),
            wallet: self.town.wallet(SCHEDULER),
            key: key(SCHEDULER),
            costs: Costs::default(),
        }
    }

    /// The chain pays the scheduler all that the client has signed for, and each owner all that
    /// was earned, whoever knows of it.
    pub(crate) async fn assert_settles(
        &self,
        books: &Books,
        scheduler: &Running,
        workers: &[Worker],
    ) {
        self.settle(scheduler, workers).await;
        assert_eq!(self.paid_by_client().await, books.signed);
        assert!(books.signed >= books.charged);
        for (worker, owner) in workers.iter().zip(&books.owners) {
            let channel = self.town.channel(worker.till.address()).await;
            assert!(channel.state.paid >= owner.earned, "{books:?}");
            let newest = worker.till.newest();
            let newest = newest.map_or(0, |newest| newest.unverified().unwrap().amount);
            assert_eq!(channel.state.paid, newest);
        }
        assert_eq!(scheduler.ledger.audit().await.unwrap(), []);
    }

    /// By the chain, in all.
    pub(crate) async fn paid_by_client(&self) -> u64 {
        self.town.channel(&self.client.address).await.state.paid
    }
}

/// In nanotons.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Books {
    /// By the client's purse.
    pub(crate) spent: u64,
    pub(crate) reserved: u64,
    /// By the scheduler's ledger, and what its client has signed for.
    pub(crate) charged: u64,
    pub(crate) held: u64,
    pub(crate) signed: u64,
    pub(crate) owners: Vec<Owner>,
}

impl Books {
    /// What the ledger shows that owners have earned, and what they count.
    pub(crate) fn to_owners(&self) -> (u64, u64) {
        let owners = self.owners.iter();
        owners.fold((0, 0), |(shown, earned), owner| {
            (shown + owner.shown, earned + owner.earned)
        })
    }

    /// Nothing is under way. What a client has spent its scheduler has charged and its workers
    /// are owed, to the nano; they may know of what was cut off on the way back: of so many
    /// streams.
    pub(crate) fn assert_agree(&self, cut: u32) {
        assert_eq!((self.reserved, self.held), (0, 0), "{self:?}");
        assert_eq!(self.spent, self.charged, "{self:?}");
        let (shown, earned) = self.to_owners();
        assert_eq!(self.charged, shown, "{self:?}");
        for owner in &self.owners {
            assert!(
                owner.earned >= owner.shown && owner.reserved == 0,
                "{self:?}"
            );
        }
        assert!(earned - shown <= u64::from(cut) * Gateway::MOST, "{self:?}");
    }
}

/// What the owner of a worker has.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Owner {
    /// By the worker's purse.
    pub(crate) earned: u64,
    /// By the scheduler's ledger.
    pub(crate) shown: u64,
    pub(crate) reserved: u64,
}

/// A Channel to the scheduler, in a file.
async fn channel(town: &Town, folder: &Path, payer: u8) -> (Channel, PathBuf) {
    let opened = town.open(payer, SCHEDULER, None, DEPOSIT + COIN / 50).await;
    let (path, key) = (format!("channel{payer}.json"), format!("key{payer}"));
    let file = ChannelFile {
        channel: opened.address.to_string(),
        global_id: GLOBAL_ID,
        payee: opened.terms.payee.to_string(),
        deposit: DEPOSIT,
        until: opened.terms.until,
        voucher_key: key.clone().into(),
    };
    let path = folder.join(path);
    std::fs::write(&path, serde_json::to_vec(&file).unwrap()).unwrap();
    std::fs::write(folder.join(key), hex::encode([payer; 32])).unwrap();
    (opened, path)
}

/// What a scheduler is started with.
struct Plan {
    url: String,
    identity: Identity,
    chain: Client,
    fee: Fee,
    onchain: Option<Onchain>,
    /// Where clients and workers find it.
    at: (SocketAddr, SocketAddr),
}

impl Plan {
    /// Says where it is.
    async fn start(self) -> ((SocketAddr, SocketAddr), Ledger, Arc<Scheduler>) {
        let ledger = Ledger::open(&self.url, self.identity.clone())
            .await
            .unwrap();
        let books = Kept::new(ledger.clone(), self.chain, &self.identity, DEPOSIT);
        let known = Workers::new(Desk::new([7; 32]));
        let books = books.keeping(self.fee);
        let books = match self.onchain {
            Some(onchain) => books.seeing(onchain),
            None => books,
        };
        let books = Paying::Kept(Box::new(books));
        let scheduler = Scheduler::new(Arc::clone(&known), known.clone(), books);
        let workers = TcpListener::bind(self.at.1).await.unwrap();
        let clients = TcpListener::bind(self.at.0).await.unwrap();
        let at = (clients.local_addr().unwrap(), workers.local_addr().unwrap());
        let policy = Arc::new(Td::new().policy());
        let never = CancellationToken::new();
        tokio::spawn(serve::workers(workers, policy, known, never.clone()));
        let api = api::router(Arc::clone(&scheduler));
        tokio::spawn(serve::clients(clients, None, api, never));
        let kept = Arc::clone(&scheduler);
        tokio::spawn(async move { kept.keep(&CancellationToken::new()).await });
        (at, ledger, scheduler)
    }
}

/// A scheduler in a runtime of its own.
pub(crate) struct Running {
    pub(crate) clients: SocketAddr,
    workers: SocketAddr,
    pub(crate) ledger: Ledger,
    pub(crate) scheduler: Arc<Scheduler>,
    runtime: Option<Runtime>,
}

impl Running {
    /// In the middle of what it does; comes back once nothing of it runs any more.
    pub(crate) async fn kill(mut self) -> (SocketAddr, SocketAddr) {
        let runtime = self.runtime.take().unwrap();
        let killed = spawn_blocking(move || runtime.shutdown_timeout(PATIENCE));
        killed.await.unwrap();
        (self.clients, self.workers)
    }

    /// A worker, or another one of the same owner.
    pub(crate) async fn join(&self, owner: u8, till: Arc<Till>, terms: Terms) -> Worker {
        let worker = Worker::start(owner, till, terms, self.workers).await;
        self.linked(&worker).await;
        worker
    }

    /// Comes back once nothing is reserved for the client any more.
    pub(crate) async fn ends(&self, world: &World) {
        let channel = world.client.address.address;
        let ended = async {
            loop {
                let known = self.ledger.account(channel).await.unwrap();
                if known.unwrap().1.reserved.amount == 0 {
                    return;
                }
                sleep(TICK).await;
            }
        };
        timeout(PATIENCE, ended).await.unwrap();
    }

    /// Comes back once so many requests are under way.
    pub(crate) async fn is_asked(&self, count: usize) {
        let asked = async {
            while self.scheduler.metrics.open() < u64::try_from(count).unwrap() {
                sleep(TICK).await;
            }
        };
        timeout(2 * PATIENCE, asked).await.unwrap();
    }

    /// Comes back once somebody waits for a worker to have room.
    pub(crate) async fn is_waited_for(&self) {
        let waiting = async {
            while self.scheduler.workers.desk().waiting() == 0 {
                sleep(TICK).await;
            }
        };
        timeout(PATIENCE, waiting).await.unwrap();
    }

    /// Comes back once a worker is there.
    pub(crate) async fn linked(&self, worker: &Worker) {
        let linked = async {
            while self.scheduler.workers.get(&worker.stand_in.id).is_none() {
                sleep(TICK).await;
            }
        };
        timeout(PATIENCE, linked).await.unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Has all of them say nothing but heads, or go on.
pub(crate) fn hold(workers: &[Worker], is_held: bool) {
    for worker in workers {
        worker.stand_in.hold(is_held);
    }
}

/// A worker with the agent's purse, and nothing else of the agent.
pub(crate) struct Worker {
    pub(crate) owner: u8,
    pub(crate) till: Arc<Till>,
    pub(crate) stand_in: StandIn,
}

impl Worker {
    async fn start(owner: u8, till: Arc<Till>, terms: Terms, scheduler: SocketAddr) -> Self {
        let takes = Arc::new(Takes(Arc::clone(&till)));
        let mut stand_in = StandIn::paid(Td::on_machine([owner; 16]), terms, Some(takes)).await;
        stand_in.dial(scheduler);
        Self {
            owner,
            till,
            stand_in,
        }
    }
}

/// Comes back once so many requests are at the workers.
pub(crate) async fn are_busy(workers: &[Worker], count: u32) {
    let busy = async {
        while workers
            .iter()
            .map(|worker| worker.stand_in.busy())
            .sum::<u32>()
            != count
        {
            sleep(TICK).await;
        }
    };
    timeout(PATIENCE, busy).await.unwrap();
}

/// What applications talk to.
pub(crate) struct Gateway {
    pub(crate) network: Arc<Network>,
}

/// What one of them got.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) said: String,
    /// In nanotons, once it is settled.
    pub(crate) cost: Option<u64>,
    /// What is wrong with its settlement.
    pub(crate) problem: Option<String>,
}

impl Gateway {
    /// More than any of its requests costs.
    pub(crate) const MOST: u64 = 6000 * PRICE / 1_000_000;

    /// What nobody else asks, and a stand-in says again.
    pub(crate) fn body(index: usize) -> String {
        let text = format!("{index} ").repeat(index % 90 + 1);
        let messages = [json!({ "role": "user", "content": text })];
        json!({ "model": StandIn::MODEL, "messages": messages, "max_tokens": ANSWER }).to_string()
    }

    /// So many at once; what is answered is the answer to what was asked.
    pub(crate) async fn ask_all(&self, count: usize) -> Vec<Answer> {
        join_all((0..count).map(|index| self.ask(index))).await
    }

    async fn ask(&self, index: usize) -> Answer {
        let answer = self.say(Self::body(index)).await;
        if answer.status == StatusCode::OK {
            assert_eq!(answer.said, Self::body(index), "nothing is mixed");
        }
        answer
    }

    /// An answer, of which nothing but its head has been read.
    pub(crate) async fn begin(&self, body: String) -> Response<Body> {
        let request = Request::post("/v1/chat/completions")
            .header("content-type", "application/json")
            .body(Body::from(body));
        let router = Arc::clone(&self.network).router();
        router.oneshot(request.unwrap()).await.unwrap()
    }

    pub(crate) async fn say(&self, body: String) -> Answer {
        let (head, body) = self.begin(body).await.into_parts();
        let cost = head.headers.get("cocoon-cost");
        let cost = cost.map(|cost| cost.to_str().unwrap().parse().unwrap());
        let problem = head.headers.get("cocoon-problem");
        let problem = problem.map(|problem| problem.to_str().unwrap().into());
        let said = body.collect().await.unwrap().to_bytes();
        Answer {
            status: head.status,
            said: String::from_utf8_lossy(&said).into(),
            cost,
            problem,
        }
    }
}

const TICK: Duration = Duration::from_millis(10);

const PATIENCE: Duration = Duration::from_secs(60);
