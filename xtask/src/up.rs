//! An emulated TD, the agent and a gateway as processes on loopback, for trying
//! an existing client in a minute; or with three workers and a scheduler between.
//!
//! The registers are those of the published release, and the root that vouches
//! for them is made up: what this shows is that everything works together, and
//! nothing about this machine.

mod chaos;
mod money;
mod process;
mod site;

use std::ffi::{OsStr, OsString};
use std::fmt;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::mpsc;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use crate::cocoon::{Cocoon, Gateway, build_doubles};
use crate::demo::chat::agent;
use crate::image::Builder;
use crate::vm::free_address;
use crate::{contracts, host};

pub(crate) use self::chaos::check as check_chaos;
pub use self::chaos::run as chaos;
use self::money::{Money, agreed};
pub(crate) use self::process::Process;
use self::site::{Site, dials};

/// Runs until Ctrl-C, SIGTERM, or the end of any part.
pub fn run(builder: &Builder, through: Through) -> Result<()> {
    let (stop, stopped) = mpsc::channel();
    ctrlc::set_handler(move || {
        // Nobody listens any more only once it stops already.
        stop.send(()).unwrap_or_default();
    })
    .context("cannot watch for Ctrl-C")?;
    build(builder, through)?;
    let mut up = Up::start(builder, through, None)?;
    println!("{up}");
    while stopped.recv_timeout(POLL).is_err() {
        up.check()?;
    }
    println!("stopping");
    Ok(())
}

/// Builds the parts.
fn build(builder: &Builder, through: Through) -> Result<()> {
    host::need(&NEEDED)?;
    if through == Through::Scheduler {
        // The chain that pays for it runs the contracts.
        contracts::prepare(&builder.place, &builder.progress)?;
    }
    build_doubles(&builder.place, &builder.progress, &["agent"])
}

/// What is between the gateway and a worker.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Through {
    /// Attested TLS.
    Session,
    /// A scheduler, of which there are three workers.
    Scheduler,
}

/// All parts; dropping it stops them, those that need others first.
#[derive(Debug)]
pub struct Up {
    /// What applications connect to.
    pub gateway: Gateway,
    workers: Vec<(SocketAddr, Process)>,
    scheduler: Option<Paid>,
    site: Site,
}

/// A scheduler, and what it is paid from.
#[derive(Debug)]
struct Paid {
    url: String,
    process: Process,
    money: Money,
}

impl Up {
    /// Starts everything that was built; `fault` is what `emulated-td --fault` takes.
    pub fn start(builder: &Builder, through: Through, fault: Option<&str>) -> Result<Self> {
        let cocoon = Cocoon::with_test_root(&builder.place);
        let site = Site::start(builder, fault)?;
        let step = builder.progress.step("start");
        let worker = |name, scheduler: &str| site.worker(&builder.place, name, scheduler);
        let (workers, scheduler, upstream) = match through {
            Through::Session => {
                let worker = worker("cocoon", "")?;
                let upstream = vec![format!("https://{}", worker.0)];
                (vec![worker], None, upstream)
            }
            Through::Scheduler => {
                let names = ["one", "two", "three"];
                let money = Money::start(&builder.place, &site, &names)?;
                let (at, clients) = (free_address()?, free_address()?);
                let paid = money.scheduler()?;
                let process = scheduler(&cocoon, clients, at, &site.trust(), &paid)?;
                let start = |name| worker(name, &dials(at, &money.terms(name)?));
                let workers = names.into_iter().map(start).collect::<Result<_>>()?;
                let url = format!("http://{clients}");
                let mut upstream = money.gateway();
                upstream.extend(["--network".into(), url.clone()]);
                (
                    workers,
                    Some(Paid {
                        url,
                        process,
                        money,
                    }),
                    upstream,
                )
            }
        };
        let upstream: Vec<&str> = upstream.iter().map(String::as_str).collect();
        let gateway = cocoon.gateway_to(&upstream, &site.trust())?;
        step.done(&gateway.base);
        Ok(Self {
            gateway,
            workers,
            scheduler,
            site,
        })
    }

    /// Where a worker is, and the arguments to trust it, a line each.
    pub fn worker(&self) -> Result<(SocketAddr, OsString)> {
        let (worker, _) = self.workers.first().context("no worker")?;
        Ok((*worker, self.site.trust().join("\n".as_ref())))
    }

    /// What Prometheus would be told: by the gateway, and by the scheduler or the worker.
    pub(crate) fn counts(&self) -> Result<Vec<String>> {
        let gateway = self.gateway.base.trim_end_matches("/v1");
        let behind = match &self.scheduler {
            Some(scheduler) => scheduler.url.as_str(),
            None => gateway,
        };
        let urls = [
            format!("{gateway}/cocoon/metrics"),
            format!("{behind}/metrics"),
        ];
        urls.iter().map(|url| get(url)).collect()
    }

    /// What the gateway has paid, once everyone's books agree: how many nanotons.
    pub(crate) fn paid(&self) -> Result<u64> {
        let gateway = self.gateway.base.trim_end_matches("/v1");
        let scheduler = self.scheduler.as_ref().context("nobody is paid")?;
        Ok(agreed(gateway, &scheduler.url, 0)?.spent)
    }

    /// Makes sure that the scheduler shows what the chain says of each model's price, and of
    /// the build that all workers run.
    pub(crate) fn check_shown(&self) -> Result<()> {
        let scheduler = self.scheduler.as_ref().context("nobody asks the chain")?;
        let status: Value = get(&format!("{}/status", scheduler.url))?.parse()?;
        let markets = status.get("markets").and_then(Value::as_array);
        let prices = markets
            .into_iter()
            .flatten()
            .map(|market| market.get("price"));
        let prices: Vec<_> = prices.map(|price| price?.as_u64()).collect();
        let build = status.pointer("/builds/0/registry/word");
        ensure!(
            prices == vec![Some(Money::PRICE); scheduler.money.markets.len()]
                && build.and_then(Value::as_str) == Some("counts"),
            "the chain's word is not shown: {status}"
        );
        Ok(())
    }

    /// Makes sure that all parts still run.
    fn check(&mut self) -> Result<()> {
        self.site.check()?;
        let workers = self.workers.iter_mut().map(|(_, worker)| worker);
        let scheduler = self.scheduler.iter_mut().map(|paid| &mut paid.process);
        workers.chain(scheduler).try_for_each(Process::check)
    }
}

/// A scheduler that asks for nothing, unless it is told what it is paid from.
fn scheduler(
    cocoon: &Cocoon,
    clients: SocketAddr,
    workers: SocketAddr,
    trust: &[&OsStr],
    paid: &[OsString],
) -> Result<Process> {
    let (clients, workers) = (clients.to_string(), workers.to_string());
    let fixed = [
        "scheduler",
        "run",
        "--listen",
        &clients,
        "--workers",
        &workers,
    ];
    let mut command = cocoon.command(fixed.iter().map(OsStr::new).chain(trust.iter().copied()));
    command.args(paid);
    command.stdout(Stdio::piped());
    let mut process = Process::start("the scheduler", command)?;
    process.line()?;
    Ok(process)
}

fn get(url: &str) -> Result<String> {
    Ok(agent().get(url).call()?.body_mut().read_to_string()?)
}

impl fmt::Display for Up {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let base = &self.gateway.base;
        writeln!(
            f,
            "gateway   {base}   (set it as base URL; any API key will do)"
        )?;
        if let Some(Paid { url, money, .. }) = &self.scheduler {
            writeln!(
                f,
                "scheduler {url}/   sees only ciphertext, and is paid on a chain of its own"
            )?;
            for (model, market) in &money.markets {
                writeln!(f, "market    {market}   has the price of {model}")?;
            }
        }
        for (worker, _) in &self.workers {
            writeln!(
                f,
                "worker    https://{worker}, an emulated TD: nothing here is confidential"
            )?;
        }
        let [_, release, _, root] = self.site.trust().map(|path| path.display());
        writeln!(f, "trusts    release {}, {release}", self.site.version)?;
        writeln!(f, "          under the made-up root {root}")?;
        write!(
            f,
            "try       curl {base}/chat/completions -H 'content-type: application/json' \
             -d '{{\"model\": \"cocoon-tiny\", \"messages\": [{{\"role\": \"user\", \"content\": \"Recite Psalm 23:4.\"}}]}}'"
        )
    }
}

const POLL: Duration = Duration::from_millis(50);

/// What the agent links.
const NEEDED: [(&str, &str); 3] = [
    ("gcc", "gcc"),
    ("pkg-config", "pkg-config"),
    ("/usr/include/tss2/tss2_esys.h", "libtss2-dev"),
];
