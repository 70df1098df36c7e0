//! Serves the models of the measured configuration to clients that were shown
//! what this machine is.

use std::fs;
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::thread::available_parallelism;
use std::time::Duration;

use agent::api::{self, Model, Models};
use agent::capacity;
use agent::collateral::{INTEL, Service};
use agent::fleet::Fleet;
use agent::gpu::{Gpus, Machine};
use agent::keys;
use agent::manifests;
use agent::network::Network;
use agent::notify::Notifier;
use agent::ocsp;
use agent::platform::{Tdx, Vtpm};
use agent::secrecy;
use agent::serve::serve;
use agent::tsm::Tsm;
use agent::vtpm::Tpm;
use agent::wipe::Wiping;
use anyhow::{Context, ensure};
use attestation::appraisal::chain;
use attestation::config::{self, Measured, Unmeasured};
use clap::Parser;
use inference::{Engine, Limits, Quantise};
use session::identity::Identity;
use session::provider::Provider;
use session::server::Worker;
use tokio::net::TcpListener;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

#[global_allocator]
static MEMORY: Wiping = Wiping;

/// Everything is passed by PID 1; nothing is read from the environment but the
/// number of its pipe.
#[derive(Debug, Parser)]
struct Args {
    /// The configuration that the hardware reports.
    #[arg(long)]
    measured: PathBuf,
    /// The configuration that the host chose.
    #[arg(long)]
    unmeasured: PathBuf,
    /// Holds a directory for each model of the measured configuration.
    #[arg(long)]
    models: PathBuf,
    /// CCEL, or the TPM's log.
    #[arg(long)]
    event_log: PathBuf,
    /// What speaks for this machine.
    #[arg(long, value_enum)]
    platform: Platform,
    /// Report entry in configfs, for tdx.
    #[arg(long, required_if_eq("platform", "tdx"))]
    tsm_report: Option<PathBuf>,
    /// TCTI of the TPM, for vtpm.
    #[arg(long, required_if_eq("platform", "vtpm"))]
    tpm: Option<String>,
    /// Instead of serving, leave the keys of encrypted models here.
    #[arg(long)]
    fetch_keys: Option<PathBuf>,
    /// GPUs to compute on.
    #[arg(long, default_value_t = 0)]
    gpus: u32,
}

#[derive(Clone, Copy, Debug, clap::ValueEnum)]
enum Platform {
    Tdx,
    Vtpm,
}

fn main() -> ExitCode {
    tracing_subscriber::fmt()
        .with_ansi(false)
        .without_time()
        .init();
    match start(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: Args) -> anyhow::Result<()> {
    let runtime = Builder::new_multi_thread()
        .enable_all()
        .on_thread_park(inference::wipe_stack)
        .build();
    let runtime = runtime.context("cannot start threads")?;
    runtime.block_on(run(args))
}

async fn run(args: Args) -> anyhow::Result<()> {
    secrecy::keep().context("cannot close my memory")?;
    // Before anything that takes long, so that no signal is missed.
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    let measured = Measured::parse(&read(&args.measured)?)
        .with_context(|| format!("{} is refused", args.measured.display()))?;
    let unmeasured = Unmeasured::parse(&read(&args.unmeasured)?)
        .with_context(|| format!("{} is refused", args.unmeasured.display()))?;
    let worker = Worker::start(open(&args, &unmeasured)?)
        .await
        .context("the platform does not speak for this machine")?;
    if let Some(folder) = &args.fetch_keys {
        let server = unmeasured.keyserver.as_deref();
        return Ok(keys::fetch(&worker, &measured, server, folder).await?);
    }

    let notifier = Notifier::from_env()?;
    let listener = TcpListener::bind(unmeasured.listen)
        .await
        .with_context(|| format!("cannot listen on {}", unmeasured.listen))?;
    tokio::spawn(renew(Arc::clone(&worker)));
    let models = load(&args, &measured)?;
    let mut api = api::router(models.clone());
    let network = match unmeasured.schedulers.is_empty() {
        true => None,
        false => {
            let schedulers = unmeasured.schedulers.clone();
            let network = Network::start(Arc::clone(&worker), &models, schedulers);
            Some(network.await.context("cannot serve the network")?)
        }
    };
    if let Some(network) = &network {
        api = api.merge(network.vouchers());
    }

    let stop = CancellationToken::new();
    let watched = models.clone();
    let stopped = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = watched.stopped() => {}
        }
        stop.cancel();
    });
    let network = async {
        match network {
            Some(network) => network.run(stopped.clone().cancelled_owned()).await,
            None => Ok(()),
        }
    };
    let served = async {
        let served = serve(listener, worker, api, stopped.cancelled());
        tokio::try_join!(served, network)?;
        // It served to the end, or what it served is gone.
        models.check()
    };
    tracing::info!(
        "ready on {}, {} MiB resident",
        unmeasured.listen,
        resident()?
    );
    tokio::select! {
        served = served => served,
        notified = notifier.run() => notified,
    }
}

fn open(args: &Args, unmeasured: &Unmeasured) -> anyhow::Result<Arc<dyn Provider>> {
    let event_log = read(&args.event_log)?;
    Ok(match args.platform {
        Platform::Tdx => {
            let path = args.tsm_report.clone().context("--tsm-report is missing")?;
            let tsm = Tsm::open(path).context("the kernel gives no TDX quotes")?;
            let service = unmeasured.collateral.as_deref().unwrap_or(INTEL);
            Arc::new(Tdx {
                tsm,
                collateral: Service::new(service),
                event_log,
                gpus: fleet(args.gpus, unmeasured)?,
            })
        }
        Platform::Vtpm => {
            let tcti = args.tpm.as_deref().context("--tpm is missing")?;
            let tpm = Tpm::open(tcti).context("the TPM cannot be used")?;
            ensure!(args.gpus == 0, "no client takes GPUs but those of a TD");
            Arc::new(Vtpm { tpm, event_log })
        }
    })
}

fn fleet(gpus: u32, unmeasured: &Unmeasured) -> anyhow::Result<Option<Fleet>> {
    if gpus == 0 {
        return Ok(None);
    }
    let manifests = unmeasured.manifests.as_deref().unwrap_or(manifests::NVIDIA);
    let responder = unmeasured.ocsp.as_deref().unwrap_or(ocsp::NVIDIA);
    Ok(Some(Fleet::new(
        Machine::new(driver()?, gpus),
        Box::new(manifests::Service::new(manifests)),
        Box::new(ocsp::Service::new(responder)),
    )))
}

#[cfg(feature = "nvidia")]
fn driver() -> anyhow::Result<Box<dyn Gpus>> {
    let library = agent::nvml::Library::open().context("the GPUs cannot be used")?;
    Ok(Box::new(library))
}

#[cfg(not(feature = "nvidia"))]
fn driver() -> anyhow::Result<Box<dyn Gpus>> {
    anyhow::bail!("this agent computes on no GPU")
}

fn load(args: &Args, measured: &Measured) -> anyhow::Result<Models> {
    let limits = limits(args, measured)?;
    let mut models = Vec::new();
    for model in &measured.models {
        let name = model.name.as_str();
        let limits = Limits {
            exact: model.exact,
            quantise: model.quantise.map(|to| match to {
                config::Quantise::Q4K => Quantise::Q4K,
                config::Quantise::Q8_0 => Quantise::Q8_0,
            }),
            ..limits
        };
        let engine = Engine::load_with(&args.models.join(name), limits)
            .with_context(|| format!("model {name} cannot be served"))?;
        let info = engine.info();
        tracing::info!(
            "model {name}: {}, {} parameters, self-test {}",
            info.architecture,
            info.parameters,
            match engine.card().self_test {
                Some(_) => "passed",
                None => "not there",
            },
        );
        models.push(Model {
            name: name.into(),
            root: Some(model.verity.root_hash.to_string()),
            engine,
        });
    }
    Ok(Models::new(models))
}

/// What is there for all models, before any is loaded.
fn limits(args: &Args, measured: &Measured) -> anyhow::Result<Limits> {
    let mut weights = 0_u64;
    for model in &measured.models {
        let folder = args.models.join(model.name.as_str());
        let size = capacity::size(&folder).with_context(|| folder.display().to_string())?;
        weights = weights.saturating_add(size);
    }
    let machine = capacity::Machine {
        available: kib("/proc/meminfo", "MemAvailable:")?.saturating_mul(1024),
        weights,
        models: measured.models.len(),
        gpus: args.gpus,
        cores: available_parallelism().map_or(1, NonZero::get),
    };
    Ok(machine.limits())
}

/// Half a lifetime before the old certificate ends there is a new one.
async fn renew(worker: Arc<Worker>) {
    loop {
        sleep(RENEWAL).await;
        if let Err(error) = worker.renew().await {
            tracing::warn!("the identity was not renewed: {}", chain(&error));
        }
    }
}

const RENEWAL: Duration = Duration::from_secs(Identity::LIFETIME.as_secs() >> 1);

/// Memory that this process occupies, in MiB.
fn resident() -> anyhow::Result<u64> {
    Ok(kib("/proc/self/status", "VmRSS:")? / 1024)
}

/// What the kernel says of memory.
fn kib(file: &str, name: &str) -> anyhow::Result<u64> {
    let text = fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    let kib = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.trim().strip_suffix(" kB"))
        .with_context(|| format!("{file} has no {name}"))?;
    kib.trim().parse().context("the kernel tells no number")
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
