//! Requests that are admitted and settled, each durably, one after another, 8 and 64 at once,
//! beside plain rows of as many bytes in the same database: SQLite in a file, flushed at
//! every commit, and a PostgreSQL of its own. Then what the file's books take to be opened
//! again, all of them audited.
//!
//!     cargo bench -p scheduler --bench ledger

#![allow(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    dead_code,
    reason = "a program for who measures"
)]

#[path = "../src/ledger/cluster.rs"]
mod cluster;
#[path = "../src/ledger/fixture.rs"]
mod fixture;

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use contracts::voucher::Signed;
use criterion::Criterion;
use scheduler::ledger::account::Order;
use scheduler::ledger::receipts::Served;
use scheduler::ledger::{Asked, Identity, Ledger, RequestKey, account, receipts};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tycho_types::boc::BocRepr;
use tycho_types::cell::HashBytes;

use cluster::Cluster;
use fixture::{NOW, PRICE, client, holding, identity, served, sign, voucher, worker};

fn main() {
    let mut criterion = Criterion::default().configure_from_args().sample_size(10);
    let runtime = Runtime::new().unwrap();
    let folder = tempfile::TempDir::new().unwrap();
    let file = folder.path().join("ledger");
    let sqlite = format!("sqlite:{}", file.display());
    let mut rows = Vec::new();
    for at_once in [1, 8, 64] {
        let plain = PlainFile::open(&folder.path().join(format!("plain{at_once}")));
        let books = Books::open(&runtime, &sqlite);
        let name = |what: &str| format!("{what}, SQLite, {at_once} at once");
        let kept = measure(&mut criterion, &name("requests"), |count| {
            books.serve(&runtime, count, at_once)
        });
        let plain = measure(&mut criterion, &name("plain rows"), |count| {
            plain.insert(count, at_once, books.bytes)
        });
        rows.push(("SQLite", at_once, kept, plain));
    }
    if let Some(cluster) = Cluster::start(&[]) {
        for at_once in [1, 8, 64] {
            let books = Books::open(&runtime, &cluster.url());
            let name = |what: &str| format!("{what}, PostgreSQL, {at_once} at once");
            let kept = measure(&mut criterion, &name("requests"), |count| {
                books.serve(&runtime, count, at_once)
            });
            let plain = measure(&mut criterion, &name("plain rows"), |count| {
                plain_server(&cluster.url(), count, at_once, books.bytes)
            });
            rows.push(("PostgreSQL", at_once, kept, plain));
        }
    }
    println!(
        "requests admitted and settled in a second, in a second of one core; plain rows; ratio"
    );
    for (name, at_once, kept, plain) in rows {
        println!(
            "{name:>10}, {at_once:>2} at once: {:>7.0} {:>7.0}; {:>7.0}; {:.2}",
            kept.0,
            kept.1,
            plain.0,
            kept.0 / plain.0
        );
    }
    let (receipts, opened) = open_again(&runtime, &file);
    println!(
        "opened with {receipts} receipts: {:.2} s, {:.0} us each",
        opened.as_secs_f64(),
        opened.as_secs_f64() / f64::from(receipts) * 1e6
    );
}

/// Of that many receipts, each of which is checked.
fn open_again(runtime: &Runtime, file: &Path) -> (u32, Duration) {
    let books = rusqlite::Connection::open(file).unwrap();
    let count = "SELECT COUNT(*) FROM receipts";
    let receipts = books.query_row(count, (), |row| row.get(0)).unwrap();
    let url = format!("sqlite:{}", file.display());
    let start = Instant::now();
    runtime.block_on(Ledger::open(&url, identity())).unwrap();
    (receipts, start.elapsed())
}

/// The most in a second, and in a second of the processor's.
fn measure(
    criterion: &mut Criterion,
    name: &str,
    mut work: impl FnMut(u64) -> Duration,
) -> (f64, f64) {
    let mut best = (0.0_f64, 0.0_f64);
    criterion.bench_function(name, |bencher| {
        bencher.iter_custom(|count| {
            let before = processor();
            let taken = work(count);
            let core = processor() - before;
            best.0 = best.0.max(count as f64 / taken.as_secs_f64());
            if core > 0.05 {
                best.1 = best.1.max(count as f64 / core);
            }
            taken
        });
    });
    best
}

/// Seconds that this process has had of all cores.
fn processor() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let fields: Vec<_> = stat
        .rsplit(')')
        .next()
        .unwrap()
        .split_whitespace()
        .collect();
    let ticks: f64 = fields[11].parse::<f64>().unwrap() + fields[12].parse::<f64>().unwrap();
    ticks / 100.0
}

/// Clients and workers with Channels, and how far each client has signed.
struct Books {
    ledger: Ledger,
    turn: std::cell::Cell<u64>,
    /// What a request leaves in a database.
    bytes: usize,
}

impl Books {
    fn open(runtime: &Runtime, url: &str) -> Self {
        let ledger = runtime.block_on(async {
            let ledger = Ledger::open(url, identity()).await.unwrap();
            for number in 0..PARTIES {
                for channel in [client(number), worker(number + 100)] {
                    let seen = ledger.observe(channel, holding(1 << 60), NOW);
                    seen.await.unwrap();
                }
            }
            ledger
        });
        let accounts = runtime.block_on(ledger.accounts()).unwrap();
        let requests: u64 = accounts
            .iter()
            .map(|(_, account)| account.voucher.tokens)
            .max()
            .unwrap();
        let (signed, served, _) = request(0);
        let bytes = 2 * BocRepr::encode(&signed).unwrap().len()
            + BocRepr::encode(&served.receipt).unwrap().len()
            + 64
            + 5 * 32;
        Self {
            ledger,
            turn: std::cell::Cell::new(requests / LIMIT * u64::from(PARTIES)),
            bytes,
        }
    }

    /// What clients and workers sign is signed before.
    fn serve(&self, runtime: &Runtime, count: u64, at_once: usize) -> Duration {
        let first = self.turn.get();
        self.turn.set(first + count);
        let requests: Vec<_> = (first..first + count).map(request).collect();
        let order = Order {
            limit: LIMIT,
            price: PRICE,
            ask: PRICE,
            exposure: 1 << 60,
            unseen: 0,
        };
        runtime.block_on(async {
            let start = Instant::now();
            let mut serving = JoinSet::new();
            for (signed, served, asked) in requests {
                if serving.len() == at_once {
                    serving.join_next().await;
                }
                let ledger = self.ledger.clone();
                serving.spawn(async move {
                    let admitted = ledger.admit(asked, order, Some(signed), NOW);
                    admitted.await.unwrap();
                    ledger.settle(asked.key, served, NOW).await.unwrap();
                });
            }
            serving.join_all().await;
            start.elapsed()
        })
    }
}

/// One of all requests: its client has signed for as many as there were before.
fn request(number: u64) -> (Signed, Served, Asked) {
    let party = u8::try_from(number % u64::from(PARTIES)).unwrap();
    let (client, worker) = (client(party), worker(party + 100));
    let turns = number / u64::from(PARTIES) + 1;
    let mut id = [party; 16];
    id[8..].copy_from_slice(&number.to_be_bytes());
    let mut receipt = fixture::receipt(&worker, party, 500);
    receipt.request.0[..8].copy_from_slice(&number.to_be_bytes());
    let key = RequestKey {
        client: client.address.address,
        id,
    };
    let signed = sign(party, &voucher(&client, turns * LIMIT));
    let asked = Asked {
        key,
        channel: worker.address.address,
        worker: HashBytes([party; 32]),
        deadline: 20,
        attempt: id,
    };
    (signed, served(receipt), asked)
}

/// A row for each admission and for each settlement, flushed as the ledger's are.
struct PlainFile(rusqlite::Connection);

impl PlainFile {
    fn open(path: &Path) -> Self {
        let open = rusqlite::Connection::open(path).unwrap();
        open.pragma_update(None, "journal_mode", "wal").unwrap();
        open.pragma_update(None, "synchronous", "full").unwrap();
        open.execute_batch("CREATE TABLE plain (number INTEGER PRIMARY KEY, bytes BYTEA)")
            .unwrap();
        Self(open)
    }

    fn insert(&self, count: u64, at_once: usize, bytes: usize) -> Duration {
        let row = vec![7_u8; bytes / 2];
        let start = Instant::now();
        let rows: Vec<_> = (0..count * 2).collect();
        for together in rows.chunks(at_once) {
            self.0.execute_batch("BEGIN IMMEDIATE").unwrap();
            for _ in together {
                let insert = "INSERT INTO plain (bytes) VALUES (?1)";
                self.0
                    .prepare_cached(insert)
                    .unwrap()
                    .execute([&row])
                    .unwrap();
            }
            self.0.execute_batch("COMMIT").unwrap();
        }
        start.elapsed()
    }
}

/// The same, by as many connections as the ledger has, where several requests wait.
fn plain_server(url: &str, count: u64, at_once: usize, bytes: usize) -> Duration {
    let row = Arc::new(vec![7_u8; bytes / 2]);
    let connections = at_once.min(4) as u64;
    let mut open: Vec<_> = (0..connections)
        .map(|_| postgres::Client::connect(url, postgres::NoTls).unwrap())
        .collect();
    let table = "CREATE TABLE IF NOT EXISTS plain (number BIGSERIAL PRIMARY KEY, bytes BYTEA)";
    open[0].batch_execute(table).unwrap();
    let start = Instant::now();
    std::thread::scope(|scope| {
        for mut connection in open.drain(..) {
            let row = Arc::clone(&row);
            scope.spawn(move || {
                let insert = connection
                    .prepare("INSERT INTO plain (bytes) VALUES ($1)")
                    .unwrap();
                for _ in 0..(count * 2).div_ceil(connections) {
                    connection.execute(&insert, &[&*row]).unwrap();
                }
            });
        }
    });
    start.elapsed()
}

const PARTIES: u8 = 50;

/// Tokens of a request.
const LIMIT: u64 = 1000;
