//! Emulates a TD for processes on this machine: the kernel's report files, the
//! quotes in them, and the service that has Intel's word about the platform.
//!
//! All of it stands under a root certificate that is made up once for each state
//! directory. Its key lies there too: this is for tests, and protects nothing.

use std::fs::{self, File};
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::FileTypeExt;
use std::path::{self, Path, PathBuf};
use std::process::ExitCode;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::Context;
use attestation::register::{Digest384, TdRegisters};
use clap::{Args, Parser, ValueEnum};
use measurements::release::Release;
use serde_json::json;
use tests::collateral::Statements;
use tests::kernel::{Answer, Kernel, Linux};
use tests::pcs::Pcs;
use tests::pki::{Intel, Platform, Window};
use tests::quote::{DEBUG, QuotingEnclave, TdState};
use tests::tsm_fuse::TsmMount;
use tokio::runtime;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::oneshot;

/// Emulate a TD: report files, quotes, and Intel's collateral service.
///
/// Prints one line of JSON when all is ready. Ends, and cleans up, on SIGTERM,
/// on SIGINT, and when a pipe on its standard input is closed.
#[derive(Debug, Parser)]
#[command(name = "emulated-td", version)]
struct Cli {
    /// Keeps the made-up root from one run to the next.
    #[arg(long, value_name = "DIR")]
    state_dir: PathBuf,
    /// Where the report files appear: stands for /sys/kernel/config/tsm/report.
    #[arg(long, value_name = "DIR")]
    mount: PathBuf,
    /// Measured configuration: its digest is MRCONFIGID.
    #[arg(long, value_name = "FILE")]
    measured: PathBuf,
    #[command(flatten)]
    build: Build,
    /// Shape of the VM, with --release; the first one without.
    #[arg(long, requires = "release")]
    shape: Option<String>,
    /// Where to serve collateral.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0")]
    pcs_listen: SocketAddr,
    /// How long each quote takes; real ones take a second.
    #[arg(long, value_name = "MS", default_value_t = 1000)]
    quote_ms: u64,
    /// What is not as it should be; may be repeated.
    #[arg(long, value_enum)]
    fault: Vec<Fault>,
}

/// What the registers hold.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct Build {
    /// Release manifest, which predicts them.
    #[arg(long, value_name = "FILE")]
    release: Option<PathBuf>,
    /// Their values, JSON.
    #[arg(long, value_name = "FILE")]
    registers: Option<PathBuf>,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Fault {
    /// The host may debug the TD.
    Debug,
    /// Collateral that ended yesterday.
    Expired,
    /// Another kernel.
    OtherBuild,
    /// Another measured configuration.
    OtherConfig,
    /// A platform that misses an update.
    OutOfDate,
    /// A platform whose certificate was taken back.
    Revoked,
}

impl Fault {
    fn apply(self, td: &mut TdState, said: &mut Statements, now: i64) {
        match self {
            Self::Debug => td.attributes |= DEBUG,
            Self::Expired => {
                said.valid = Window {
                    from: now.saturating_sub(31 * DAY_S),
                    until: now.saturating_sub(DAY_S),
                };
            }
            Self::OtherBuild => td.registers.rtmr1 = Digest384::of(b"another kernel"),
            Self::OtherConfig => td.mrconfigid = Digest384::of(b"another configuration"),
            Self::OutOfDate => said.platform_status = "OutOfDate",
            Self::Revoked => said.revoked = true,
        }
    }
}

const DAY_S: i64 = 24 * 60 * 60;

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("emulated-td: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<()> {
    let runtime = runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        // Before there is anything to clean up.
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let _td = start(cli)?;
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            () = end_of_pipe()? => {}
        }
        Ok(())
    })
}

/// Everything that runs, until it is dropped.
fn start(cli: &Cli) -> anyhow::Result<(TsmMount, Pcs)> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let now = i64::try_from(now.as_secs())?;
    let mut td = TdState::new(registers(cli)?, Digest384::of(&read(&cli.measured)?));
    let mut said = Statements::good(&Platform::SAMPLE, now);
    for fault in &cli.fault {
        fault.apply(&mut td, &mut said, now);
    }

    let seed = seed(&cli.state_dir)?;
    let intel = Intel::new(&seed, &Platform::SAMPLE);
    let root = path::absolute(cli.state_dir.join("root.der"))?;
    fs::write(&root, intel.root()).with_context(|| format!("cannot write {}", root.display()))?;

    let pcs = Pcs::start(cli.pcs_listen, said.platform.fmspc, &said.sign(&intel))
        .with_context(|| format!("cannot serve on {}", cli.pcs_listen))?;
    let ready = json!({
        "mount": path::absolute(&cli.mount)?,
        "pcs": pcs.url(),
        "root": root,
        "registers": td.registers,
        "mrconfigid": td.mrconfigid,
    });
    let enclave = QuotingEnclave::new(&seed, &intel);
    let host = move |asked: &[u8; 64]| Answer::Quote(enclave.quote(&td, asked));
    let delay = Duration::from_millis(cli.quote_ms);
    let kernel = Kernel::new(Linux::V6_12, Box::new(host), delay);
    let mount = TsmMount::new(kernel, &cli.mount)
        .with_context(|| format!("cannot mount on {}", cli.mount.display()))?;
    println!("{ready}");
    Ok((mount, pcs))
}

fn registers(cli: &Cli) -> anyhow::Result<TdRegisters> {
    match (&cli.build.release, &cli.build.registers) {
        (Some(path), _) => {
            let release = Release::parse(&read(path)?)
                .with_context(|| format!("{} is refused", path.display()))?;
            let shape = match &cli.shape {
                Some(name) => release.shape(name)?,
                None => release.shapes.first().context("the release has no shape")?,
            };
            Ok(shape.tdx)
        }
        (None, Some(path)) => serde_json::from_slice(&read(path)?)
            .with_context(|| format!("{} is refused", path.display())),
        (None, None) => anyhow::bail!("--release or --registers is missing"),
    }
}

/// Made on the first run.
fn seed(state_dir: &Path) -> anyhow::Result<[u8; 32]> {
    fs::create_dir_all(state_dir)
        .with_context(|| format!("cannot make {}", state_dir.display()))?;
    let path = state_dir.join("seed");
    if !path.exists() {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed)?;
        fs::write(&path, seed).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let seed = read(&path)?;
    <[u8; 32]>::try_from(&seed[..])
        .with_context(|| format!("{} has {} bytes, expected 32", path.display(), seed.len()))
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Comes when whoever holds the other end of standard input is gone; never, if
/// that is no pipe.
fn end_of_pipe() -> io::Result<impl Future<Output = ()>> {
    let (ended, end) = oneshot::channel();
    let mut stdin = File::from(io::stdin().as_fd().try_clone_to_owned()?);
    if stdin.metadata()?.file_type().is_fifo() {
        thread::spawn(move || {
            while stdin.read(&mut [0; 64]).is_ok_and(|len| len > 0) {}
            ended.send(())
        });
    }
    Ok(async {
        if end.await.is_err() {
            std::future::pending().await
        }
    })
}
