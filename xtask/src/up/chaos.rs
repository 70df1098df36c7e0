//! The network on one machine while its parts are killed, stopped, drained and cut off.
//!
//! Applications ask without end meanwhile. Each request has to be answered as it would be
//! if nobody else asked, to be refused by a name, or to break off so that the application
//! can tell why; afterwards all is served again, nothing is under way any more, and what
//! the client has spent is what the scheduler has earned, what it owes to the owners of
//! workers, and what the chain pays for it.

mod link;
mod load;
mod report;

use std::collections::BTreeSet;
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
use self::load::Load;
use self::report::{Done, Report};
use super::money::{Money, Sums, agreed};
use super::process::Process;
use super::site::{Site, dials};
use super::{Through, build, scheduler};
use crate::cocoon::{Cocoon, Gateway};
use crate::image::Builder;
use crate::vm::free_address;

/// Builds, and disturbs for so many seconds, in the order that `seed` gives.
pub fn run(builder: &Builder, seconds: u32, seed: u64) -> Result<()> {
    build(builder, Through::Scheduler)?;
    println!("seed {seed}\n{}", disturb(builder, seconds, seed)?);
    Ok(())
}

/// What was built, until each disturbance has come once.
pub(crate) fn check(builder: &Builder) -> Result<()> {
    disturb(builder, 0, NOTHING_LEFT).map(drop)
}

/// What was built, for so long, or until each disturbance has come once.
fn disturb(builder: &Builder, seconds: u32, seed: u64) -> Result<Report> {
    let mut network = Network::start(builder)?;
    let load = Load::learn(&network.base())?;
    let step = builder.progress.step("chaos");
    let (stop, until) = (AtomicBool::new(false), Duration::from_secs(seconds.into()));
    let (mut asked, done) = thread::scope(|scope| {
        let asked = scope.spawn(|| load.run(&stop));
        let done = network.suffer(until, seed);
        stop.store(true, Ordering::Relaxed);
        let asked = asked.join().ok().context("the applications failed")?;
        Ok::<_, anyhow::Error>((asked, done?))
    })?;
    asked.push(load.again(RECOVERY));
    let report = Report::new(&asked, &done);
    let settle = || network.settle(&load, report::may_leave(&done));
    let sums = report.judge().and_then(|()| settle());
    let Sums {
        spent, reserved, ..
    } = sums.with_context(|| format!("not as it has to be\n{report}"))?;
    network.check()?;
    let disturbed = done.len();
    step.done(format!(
        "{disturbed} disturbances, {spent} nanotons, {reserved} reserved"
    ));
    Ok(report)
}

/// Three workers, each with its link to the scheduler, and a gateway with another.
struct Network<'a> {
    builder: &'a Builder,
    cocoon: Cocoon,
    gateway: Option<Gateway>,
    workers: Vec<Option<(SocketAddr, Process)>>,
    scheduler: Option<Process>,
    links: Vec<Link>,
    front: Link,
    /// Where the gateway, the scheduler for clients, and the one for workers listen.
    applications: SocketAddr,
    clients: SocketAddr,
    dialled: SocketAddr,
    site: Site,
    money: Money,
    started: usize,
    _runtime: Runtime,
}

impl<'a> Network<'a> {
    fn start(builder: &'a Builder) -> Result<Self> {
        let runtime = Runtime::new().context("no runtime for the links")?;
        let site = Site::start(builder, None)?;
        let step = builder.progress.step("start the network");
        let (clients, dialled) = (free_address()?, free_address()?);
        let link = |target| Link::to(target, runtime.handle());
        let links = [dialled; WORKERS.len()].into_iter().map(link);
        let mut network = Self {
            builder,
            cocoon: Cocoon::with_test_root(&builder.place),
            gateway: None,
            workers: WORKERS.map(|_| None).into(),
            scheduler: None,
            links: links.collect::<Result<_>>()?,
            front: link(clients)?,
            applications: free_address()?,
            clients,
            dialled,
            money: Money::start(&builder.place, &site, &WORKERS)?,
            site,
            started: 0,
            _runtime: runtime,
        };
        network.schedule()?;
        network.serve()?;
        for worker in 0..WORKERS.len() {
            network.work(worker)?;
        }
        step.done(network.base());
        Ok(network)
    }

    fn base(&self) -> String {
        format!("http://{}", self.applications)
    }

    /// One disturbance after the other, each once before any comes again.
    fn suffer(&mut self, until: Duration, seed: u64) -> Result<Vec<Done>> {
        let (start, mut done, mut left) = (Instant::now(), Vec::new(), Vec::new());
        while done.len() < Disturbance::ALL.len() || start.elapsed() < until {
            let chance = Digest256::of(format!("{seed}/{}", done.len()).as_bytes());
            let [kind, worker, ..] = *chance.as_bytes();
            if left.is_empty() {
                left.extend(Disturbance::ALL);
            }
            let place = usize::from(kind).checked_rem(left.len());
            let kind = left.swap_remove(place.unwrap_or_default());
            let began = Instant::now();
            let worker = usize::from(worker).checked_rem(WORKERS.len());
            self.disturb(kind, worker.unwrap_or_default())
                .with_context(|| format!("{kind} failed"))?;
            let ended = Instant::now();
            done.push(Done { kind, began, ended });
            thread::sleep(BETWEEN);
        }
        Ok(done)
    }

    fn disturb(&mut self, kind: Disturbance, worker: usize) -> Result<()> {
        match kind {
            Disturbance::KillWorker => {
                self.worker(worker)?.signal(Signal::SIGKILL)?;
                self.work(worker)
            }
            Disturbance::StopWorker => pause(self.worker(worker)?),
            // Dropping it drains it.
            Disturbance::DrainWorker => self.work(worker),
            Disturbance::CutWorker => pass(self.link(worker)?, Weather::Cut),
            Disturbance::SlowWorker => pass(self.link(worker)?, SLOW),
            Disturbance::KillScheduler => {
                self.scheduler()?.signal(Signal::SIGKILL)?;
                self.schedule()
            }
            Disturbance::StopScheduler => pause(self.scheduler()?),
            Disturbance::DrainScheduler => self.schedule(),
            // Dropping it kills it.
            Disturbance::KillGateway => self.serve(),
            Disturbance::CutGateway => pass(&self.front, Weather::Cut),
        }
    }

    fn worker(&self, worker: usize) -> Result<&Process> {
        let place = self.workers.get(worker).and_then(Option::as_ref);
        place.map(|(_, process)| process).context("no such worker")
    }

    fn scheduler(&self) -> Result<&Process> {
        self.scheduler.as_ref().context("no scheduler")
    }

    fn link(&self, worker: usize) -> Result<&Link> {
        self.links.get(worker).context("no such link")
    }

    /// The next process of a worker, whose purse begins anew.
    fn work(&mut self, worker: usize) -> Result<()> {
        let link = self.link(worker)?.address;
        let name = WORKERS.get(worker).context("no such worker")?;
        let place = self.workers.get_mut(worker).context("no such worker")?;
        drop(place.take());
        self.started = self.started.saturating_add(1);
        let dials = dials(link, &self.money.terms(name)?);
        // The kernel keeps the reports of who was killed.
        let name = format!("chaos-{}", self.started);
        *place = Some(self.site.worker(&self.builder.place, &name, &dials)?);
        Ok(())
    }

    /// The scheduler's next process, on the same books.
    fn schedule(&mut self) -> Result<()> {
        drop(self.scheduler.take());
        let (trust, paid) = (self.site.trust(), self.money.scheduler()?);
        let process = scheduler(&self.cocoon, self.clients, self.dialled, &trust, &paid)?;
        self.scheduler = Some(process);
        Ok(())
    }

    /// The gateway's next process, with the same purse.
    fn serve(&mut self) -> Result<()> {
        drop(self.gateway.take());
        let url = format!("http://{}", self.front.address);
        let paid = self.money.gateway();
        let mut upstream = vec!["--network", &url, "--deadline", "20"];
        upstream.extend(paid.iter().map(String::as_str));
        let gateway = self
            .cocoon
            .gateway_at(self.applications, &upstream, &self.site.trust())?;
        self.gateway = Some(gateway);
        Ok(())
    }

    /// Once all workers serve again, and nothing is under way or in doubt: what was spent,
    /// and is reserved, if any of that `may_stay`. The owners' vouchers and the client's are
    /// claimed, and the chain asked.
    fn settle(&self, load: &Load, may_stay: bool) -> Result<Sums> {
        let (began, mut served) = (Instant::now(), BTreeSet::new());
        for number in 0.. {
            served.extend(load.other(number).ok());
            if served.len() == WORKERS.len() {
                break;
            }
            let late = || {
                format!(
                    "of {} workers, these serve afterwards: {served:?}",
                    WORKERS.len()
                )
            };
            ensure!(began.elapsed() < RECOVERY, late());
            thread::sleep(BETWEEN);
        }
        let scheduler = format!("http://{}", self.clients);
        let left = if may_stay { LEFT } else { 0 };
        let sums = agreed(&self.base(), &scheduler, left)?;
        let workers = self.workers.iter().flatten().map(|(address, _)| *address);
        let paid = self
            .money
            .claim(&workers.collect::<Vec<_>>(), &self.site.trust())?;
        ensure!(
            paid == sums.signed(),
            "the chain paid {paid:?}, and the books say {sums:?}"
        );
        Ok(sums)
    }

    fn check(&mut self) -> Result<()> {
        self.site.check()?;
        let workers = self.workers.iter_mut().flatten();
        workers
            .map(|(_, worker)| worker)
            .chain(&mut self.scheduler)
            .try_for_each(Process::check)
    }
}

fn pass(link: &Link, weather: Weather) -> Result<()> {
    link.set(weather);
    thread::sleep(WHILE);
    link.set(Weather::Fair);
    Ok(())
}

fn pause(process: &Process) -> Result<()> {
    process.signal(Signal::SIGSTOP)?;
    thread::sleep(WHILE);
    process.signal(Signal::SIGCONT)
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
    KillGateway,
    CutGateway,
}

impl Disturbance {
    const ALL: [Self; 10] = [
        Self::KillWorker,
        Self::StopWorker,
        Self::DrainWorker,
        Self::CutWorker,
        Self::SlowWorker,
        Self::KillScheduler,
        Self::StopScheduler,
        Self::DrainScheduler,
        Self::KillGateway,
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
            Self::KillGateway => "kill the gateway",
            Self::CutGateway => "cut the gateway off",
        })
    }
}

const WORKERS: [&str; 3] = ["one", "two", "three"];

/// A cut, a stop or a slow link lasts so long.
const WHILE: Duration = Duration::from_secs(1);

/// Between two disturbances.
const BETWEEN: Duration = Duration::from_millis(500);

const SLOW: Weather = Weather::Slow(Duration::from_millis(100));

/// Workers pause the longer the more often they lost their scheduler.
const RECOVERY: Duration = Duration::from_secs(90);

/// What a scheduler leaves reserved, in nanotons, until no receipt can come, if it ended while
/// it waited for a worker that had.
const LEFT: u64 = 10_000_000;

/// The seed of an order in which no scheduler ends soon after a worker.
const NOTHING_LEFT: u64 = 0;
