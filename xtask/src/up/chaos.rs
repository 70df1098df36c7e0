//! The network on one machine while its parts are killed, stopped, drained and cut off.
//!
//! Applications ask without end meanwhile. Each request has to be answered as always, to
//! be refused by a name, or to break off so that the application can tell; and afterwards
//! all is served again.

mod link;
mod load;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use attestation::register::Digest256;
use nix::sys::signal::Signal;
use tokio::runtime::Runtime;

use self::link::{Link, Weather};
use self::load::{Asked, Count, Ending, Load};
use super::process::Process;
use super::site::{Site, dials};
use super::{build, scheduler};
use crate::cocoon::{Cocoon, Gateway};
use crate::image::Builder;
use crate::vm::free_address;

/// Builds, and disturbs for so many seconds, in the order that `seed` gives.
pub fn run(builder: &Builder, seconds: u32, seed: u64) -> Result<()> {
    build(builder)?;
    let report = disturb(builder, seconds, seed)?;
    println!("seed {seed}\n{report}");
    report.count.judge()
}

/// What was built, for so long.
fn disturb(builder: &Builder, seconds: u32, seed: u64) -> Result<Report> {
    let mut network = Network::start(builder)?;
    let load = Load::learn(&network.gateway.base)?;
    let step = builder.progress.step("chaos");
    let (stop, until) = (AtomicBool::new(false), Duration::from_secs(seconds.into()));
    let (asked, done) = thread::scope(|scope| {
        let asked = scope.spawn(|| load.run(&stop));
        let done = network.suffer(until, seed);
        stop.store(true, Ordering::Relaxed);
        let asked = asked.join().ok().context("the applications failed")?;
        Ok::<_, anyhow::Error>((asked, done?))
    })?;
    let calm = Instant::now();
    while load.once().ending != Ending::Answered {
        ensure!(calm.elapsed() < RECOVERY, "nothing is served afterwards");
        thread::sleep(load::PAUSE);
    }
    network.check()?;
    let report = Report::new(&asked, &done);
    step.done(format!("{} disturbances", done.len()));
    Ok(report)
}

/// Three workers, each with its link to the scheduler, and a gateway with another.
struct Network<'a> {
    builder: &'a Builder,
    cocoon: Cocoon,
    gateway: Gateway,
    workers: Vec<Option<Process>>,
    scheduler: Option<Process>,
    links: Vec<Link>,
    front: Link,
    clients: SocketAddr,
    dialled: SocketAddr,
    site: Site,
    started: usize,
    _runtime: Runtime,
}

impl<'a> Network<'a> {
    fn start(builder: &'a Builder) -> Result<Self> {
        let runtime = Runtime::new().context("no runtime for the links")?;
        let site = Site::start(builder, None)?;
        let step = builder.progress.step("start the network");
        let cocoon = Cocoon::with_test_root(&builder.place);
        let (clients, dialled) = (free_address()?, free_address()?);
        let link = |target| Link::to(target, runtime.handle());
        let links = [dialled; WORKERS].into_iter().map(link);
        let links = links.collect::<Result<_>>()?;
        let front = link(clients)?;
        let url = format!("http://{}", front.address);
        let network = ["--network", &url, "--max-price", "0", "--deadline", "20"];
        let gateway = cocoon.gateway_to(&network, &site.trust())?;
        let mut network = Self {
            builder,
            cocoon,
            gateway,
            workers: (0..WORKERS).map(|_| None).collect(),
            scheduler: None,
            links,
            front,
            clients,
            dialled,
            site,
            started: 0,
            _runtime: runtime,
        };
        network.schedule()?;
        for worker in 0..WORKERS {
            network.work(worker)?;
        }
        step.done(&network.gateway.base);
        Ok(network)
    }

    /// One disturbance after the other.
    fn suffer(&mut self, until: Duration, seed: u64) -> Result<Vec<(Disturbance, Instant)>> {
        let (began, mut done) = (Instant::now(), Vec::new());
        let mut left = Vec::new();
        while began.elapsed() < until {
            let chance = Digest256::of(format!("{seed}/{}", done.len()).as_bytes());
            let [kind, worker, ..] = *chance.as_bytes();
            // Each once, before any comes again.
            if left.is_empty() {
                left.extend(Disturbance::ALL);
            }
            let place = usize::from(kind).checked_rem(left.len());
            let kind = left.swap_remove(place.unwrap_or_default());
            done.push((kind, Instant::now()));
            self.disturb(kind, usize::from(worker) % WORKERS)
                .with_context(|| format!("{kind} failed"))?;
            thread::sleep(BETWEEN);
        }
        Ok(done)
    }

    fn disturb(&mut self, kind: Disturbance, worker: usize) -> Result<()> {
        match kind {
            Disturbance::KillWorker => {
                signal(self.workers.get(worker), Signal::SIGKILL)?;
                self.work(worker)
            }
            Disturbance::StopWorker => pause(self.workers.get(worker)),
            // Dropping it drains it.
            Disturbance::DrainWorker => self.work(worker),
            Disturbance::CutWorker => self.weather(worker, Weather::Cut),
            Disturbance::SlowWorker => self.weather(worker, SLOW),
            Disturbance::KillScheduler => {
                signal(Some(&self.scheduler), Signal::SIGKILL)?;
                self.schedule()
            }
            Disturbance::StopScheduler => pause(Some(&self.scheduler)),
            Disturbance::DrainScheduler => self.schedule(),
            Disturbance::CutGateway => {
                self.front.set(Weather::Cut);
                thread::sleep(WHILE);
                self.front.set(Weather::Fair);
                Ok(())
            }
        }
    }

    fn weather(&self, worker: usize, weather: Weather) -> Result<()> {
        let link = self.links.get(worker).context("no such link")?;
        link.set(weather);
        thread::sleep(WHILE);
        link.set(Weather::Fair);
        Ok(())
    }

    /// The next process of a worker.
    fn work(&mut self, worker: usize) -> Result<()> {
        let link = self.links.get(worker).context("no such worker")?.address;
        let place = self.workers.get_mut(worker).context("no such worker")?;
        drop(place.take());
        self.started = self.started.saturating_add(1);
        // The kernel keeps the reports of who was killed.
        let name = format!("chaos-{}", self.started);
        let free = dials(link, "ask = 0\n");
        let (_, process) = self.site.worker(&self.builder.place, &name, &free)?;
        *place = Some(process);
        Ok(())
    }

    /// The scheduler's next process.
    fn schedule(&mut self) -> Result<()> {
        drop(self.scheduler.take());
        let trust = self.site.trust();
        let process = scheduler(&self.cocoon, self.clients, self.dialled, &trust, &[])?;
        self.scheduler = Some(process);
        Ok(())
    }

    fn check(&mut self) -> Result<()> {
        self.site.check()?;
        let workers = self.workers.iter_mut().flatten();
        workers
            .chain(&mut self.scheduler)
            .try_for_each(Process::check)
    }
}

fn signal(process: Option<&Option<Process>>, signal: Signal) -> Result<()> {
    let process = process.and_then(Option::as_ref);
    process.context("nobody is there")?.signal(signal)
}

fn pause(process: Option<&Option<Process>>) -> Result<()> {
    signal(process, Signal::SIGSTOP)?;
    thread::sleep(WHILE);
    signal(process, Signal::SIGCONT)
}

/// What is done to a part.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Disturbance {
    KillWorker,
    StopWorker,
    DrainWorker,
    CutWorker,
    SlowWorker,
    KillScheduler,
    StopScheduler,
    DrainScheduler,
    CutGateway,
}

impl Disturbance {
    const ALL: [Self; 9] = [
        Self::KillWorker,
        Self::StopWorker,
        Self::DrainWorker,
        Self::CutWorker,
        Self::SlowWorker,
        Self::KillScheduler,
        Self::StopScheduler,
        Self::DrainScheduler,
        Self::CutGateway,
    ];
}

impl fmt::Display for Disturbance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::KillWorker => "kill a worker",
            Self::StopWorker => "stop a worker",
            Self::DrainWorker => "drain a worker",
            Self::CutWorker => "cut a worker off",
            Self::SlowWorker => "slow a worker's link",
            Self::KillScheduler => "kill the scheduler",
            Self::StopScheduler => "stop the scheduler",
            Self::DrainScheduler => "drain the scheduler",
            Self::CutGateway => "cut the gateway off",
        })
    }
}

/// What came of it.
#[derive(Debug)]
struct Report {
    count: Count,
    /// From each disturbance to the end of the next answer that was asked for after it.
    again: BTreeMap<Disturbance, Vec<Duration>>,
}

impl Report {
    fn new(asked: &[Asked], done: &[(Disturbance, Instant)]) -> Self {
        let mut again = BTreeMap::<_, Vec<_>>::new();
        for (kind, at) in done {
            let answered = asked.iter().filter(|one| one.ending == Ending::Answered);
            let after = answered.filter(|one| one.began >= *at);
            let next = after.map(|one| one.ended.duration_since(*at)).min();
            again.entry(*kind).or_default().extend(next);
        }
        again.values_mut().for_each(|waits| waits.sort());
        Self {
            count: Count::of(asked),
            again,
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(
            f,
            "{:<22} {:>5} {:>20} {:>8}",
            "", "times", "served again: p50", "worst"
        )?;
        for (kind, waits) in &self.again {
            let seconds = |wait: Option<&Duration>| wait.map_or(f64::NAN, Duration::as_secs_f64);
            let middle = seconds(waits.get(waits.len() / 2));
            let worst = seconds(waits.last());
            writeln!(
                f,
                "{kind:<22} {:>5} {middle:>18.1} s {worst:>6.1} s",
                waits.len()
            )?;
        }
        let mut all: Vec<_> = self.again.values().flatten().collect();
        all.sort();
        let at = |share: usize| all.get(all.len().saturating_mul(share) / 100).copied();
        for (name, wait) in [("p50", at(50)), ("p99", at(99))] {
            let wait = wait.map_or(f64::NAN, Duration::as_secs_f64);
            writeln!(f, "{:<22} {name:>5} {wait:>18.1} s", "all")?;
        }
        write!(f, "{}", self.count)
    }
}

const WORKERS: usize = 3;

/// A cut, a stop or a slow link lasts so long.
const WHILE: Duration = Duration::from_millis(1500);

/// Between two disturbances.
const BETWEEN: Duration = Duration::from_millis(1500);

const SLOW: Weather = Weather::Slow(Duration::from_millis(100));

/// Workers pause the longer the more often they lost their scheduler.
const RECOVERY: Duration = Duration::from_secs(90);
