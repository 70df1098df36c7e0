//! A crash at every statement of a story: the process is killed, or the database goes away.
//!
//! Then the books are opened and audited, every voucher that had left is in them, and the
//! story is told again from its beginning: its end is the same.

use super::*;

use std::io::Write as _;
use std::process::{Command, abort};
use std::sync::atomic::{AtomicUsize, Ordering};

use contracts::voucher::Voucher;
use tempfile::TempDir;

use crate::ledger::cluster::{Cluster, HASTY};
use crate::ledger::store::{Row, Value};

/// What happens at a statement.
#[derive(Clone, Copy, Debug)]
enum Fault {
    /// The process ends before it.
    Die,
    /// The server ends the connection before it.
    Before,
    /// The server does it, and ends the connection before it says so.
    After,
}

/// Counts statements, and fails at one of them.
struct Faulty<E> {
    engine: E,
    fault: Fault,
    at: usize,
    done: Arc<AtomicUsize>,
    /// Ends a connection from outside, by its number.
    end: fn(&str, i64),
    url: String,
}

struct Counted {
    inner: Box<dyn Connection>,
    fault: Fault,
    at: usize,
    done: Arc<AtomicUsize>,
    end: fn(&str, i64),
    url: String,
}

impl<E: Engine> Engine for Faulty<E> {
    fn connect(&self) -> Result<Box<dyn Connection>, StoreError> {
        Ok(Box::new(Counted {
            inner: self.engine.connect()?,
            fault: self.fault,
            at: self.at,
            done: Arc::clone(&self.done),
            end: self.end,
            url: self.url.clone(),
        }))
    }

    fn begin(&self) -> &'static str {
        self.engine.begin()
    }

    fn threads(&self) -> usize {
        1
    }

    fn together(&self) -> usize {
        self.engine.together()
    }
}

impl Connection for Counted {
    fn run(&mut self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>, StoreError> {
        if self.done.fetch_add(1, Ordering::Relaxed) != self.at {
            return self.inner.run(sql, values);
        }
        match self.fault {
            Fault::Die => abort(),
            Fault::Before => {
                self.end()?;
                let failed = self.inner.run(sql, values);
                assert!(failed.is_err(), "the connection is gone");
                failed
            }
            Fault::After => {
                let mut who = self.inner.run(WHO, &[])?;
                self.inner.run(sql, values)?;
                (self.end)(&self.url, who[0].number()?);
                Err(StoreError::Gone)
            }
        }
    }
}

impl Counted {
    fn end(&mut self) -> Result<(), StoreError> {
        let mut who = self.inner.run(WHO, &[])?;
        (self.end)(&self.url, who[0].number()?);
        Ok(())
    }
}

const WHO: &str = "SELECT pg_backend_pid()::BIGINT";

#[test]
fn a_process_that_is_killed_at_any_statement_loses_nobodys_money() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let folder = TempDir::new().unwrap();
    let end = runtime.block_on(async {
        let ledger = Ledger::open(&file(&folder), identity()).await.unwrap();
        story(&ledger, &|_| {}).await;
        books(&ledger).await
    });
    let mut crashes = 0;
    loop {
        let folder = TempDir::new().unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "ledger::tests::faults::tells_a_story_until_it_dies",
                "--nocapture",
            ])
            .env(STORY, folder.path())
            .env(CRASH, crashes.to_string())
            .output()
            .unwrap();
        let told = String::from_utf8(child.stdout).unwrap();
        runtime.block_on(goes_on(&file(&folder), &told, &end));
        if child.status.success() {
            break;
        }
        crashes += 1;
    }
    println!("killed at each of {crashes} statements");
    assert!(crashes > 100, "{crashes}");
}

/// The books hold what had left, and the story can be told to its end.
async fn goes_on(url: &str, told: &str, end: &[String]) {
    let ledger = holds(url, told).await;
    story(&ledger, &|_| {}).await;
    assert_eq!(books(&ledger).await, end);
    assert_eq!(ledger.audit().await.unwrap(), []);
}

/// Opened, the books pass the audit and have every voucher that has left.
async fn holds(url: &str, told: &str) -> Ledger {
    let ledger = Ledger::open(url, identity()).await.unwrap();
    for line in told.lines() {
        let Some(voucher) = line.strip_prefix("voucher ") else {
            continue;
        };
        let (channel, amount) = voucher.split_once(' ').unwrap();
        let books = rows(&ledger).await;
        let book = books
            .iter()
            .find(|book| book.address().to_string() == channel);
        let kept = book.unwrap().account.voucher.amount;
        assert!(
            kept >= amount.parse().unwrap(),
            "a voucher left that is not written"
        );
    }
    ledger
}

/// Not a test of its own: what is killed above.
#[test]
fn tells_a_story_until_it_dies() {
    let Some(folder) = std::env::var_os(STORY) else {
        return;
    };
    let at = std::env::var(CRASH).unwrap().parse().unwrap();
    let engine = Faulty {
        engine: sqlite::Sqlite(std::path::Path::new(&folder).join("ledger")),
        fault: Fault::Die,
        at,
        done: Arc::default(),
        end: |_, _| {},
        url: String::new(),
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    runtime.block_on(async {
        let ledger = Ledger::over(engine, identity()).await.unwrap();
        story(&ledger, &|signed| {
            let Voucher {
                channel, amount, ..
            } = signed.unverified().unwrap();
            let mut out = std::io::stdout().lock();
            writeln!(out, "\nvoucher {} {amount}", channel.address).unwrap();
            out.flush().unwrap();
        })
        .await;
    });
}

#[test]
fn a_database_that_goes_away_before_any_statement_loses_nobodys_money() {
    at_each_statement(Fault::Before);
}

#[test]
fn a_database_that_goes_away_after_any_statement_loses_nobodys_money() {
    at_each_statement(Fault::After);
}

fn at_each_statement(fault: Fault) {
    let Some(cluster) = Cluster::start(&HASTY) else {
        return;
    };
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let (folder, url) = (TempDir::new().unwrap(), cluster.url());
    let end = runtime.block_on(async {
        let ledger = Ledger::open(&file(&folder), identity()).await.unwrap();
        story(&ledger, &|_| {}).await;
        books(&ledger).await
    });
    let mut crashes = 0;
    loop {
        let mut fresh = ::postgres::Client::connect(&url, ::postgres::NoTls).unwrap();
        fresh
            .batch_execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
            .unwrap();
        let done = Arc::new(AtomicUsize::new(0));
        let engine = || Faulty {
            engine: url.parse::<::postgres::Config>().unwrap(),
            fault,
            at: crashes,
            done: Arc::clone(&done),
            end: |url, who| {
                let mut other = ::postgres::Client::connect(url, ::postgres::NoTls).unwrap();
                let ended = "SELECT pg_terminate_backend($1::BIGINT::INTEGER, 5000)";
                let ended: bool = other.query_one(ended, &[&who]).unwrap().get(0);
                assert!(ended);
            },
            url: url.clone(),
        };
        let told = std::sync::Mutex::new(String::new());
        runtime.block_on(async {
            // A scheduler that cannot open its books is started again.
            let ledger = match Ledger::over(engine(), identity()).await {
                Ok(ledger) => ledger,
                Err(OpenError::Store(_)) => Ledger::over(engine(), identity()).await.unwrap(),
                Err(error) => panic!("{error}"),
            };
            story(&ledger, &|signed| {
                let Voucher {
                    channel, amount, ..
                } = signed.unverified().unwrap();
                let line = format!("voucher {} {amount}\n", channel.address);
                told.lock().unwrap().push_str(&line);
            })
            .await;
            assert_eq!(books(&ledger).await, end, "{fault:?} {crashes}");
        });
        runtime.block_on(holds(&url, &told.into_inner().unwrap()));
        if done.load(Ordering::Relaxed) <= crashes {
            break;
        }
        crashes += 1;
    }
    println!("{fault:?} each of {crashes} statements");
    assert!(crashes > 100, "{crashes}");
}

const STORY: &str = "COCOON_LEDGER_STORY";
const CRASH: &str = "COCOON_LEDGER_CRASH";
