//! Has the GPUs of this machine verified, and lets them work: what PID 1 runs before the agent.
//!
//! Two commands, so that the one that reads what the network delivers has no
//! privileges, and the one that needs them reads nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::SystemTime;

use agent::admission::admit;
use agent::gpu::Machine;
use agent::manifests::{NVIDIA, Service};
use agent::nvml::Library;
use anyhow::Context;
use attestation::batch;
use attestation::binding::{Binding, Nonce};
use attestation::config::Unmeasured;
use attestation::register::Digest384;
use attestation::time::UnixTime;
use clap::{Parser, Subcommand};

#[derive(Debug, Parser)]
struct Args {
    /// How many there have to be.
    #[arg(long)]
    count: u32,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Ask each for a report, and compare it with what NVIDIA released.
    Verify {
        /// Says where NVIDIA's manifests are.
        #[arg(long)]
        unmeasured: PathBuf,
    },
    /// Let programs use them. Wants root.
    AcceptWork,
}

fn main() -> ExitCode {
    match run(Args::parse()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("gpus: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: Args) -> anyhow::Result<()> {
    let library = Library::open().context("the GPUs cannot be used")?;
    let gpus = Machine::new(Box::new(library), args.count);
    match args.command {
        Command::Verify { unmeasured } => verify(&gpus, &unmeasured),
        Command::AcceptWork => Ok(gpus.accept_work()?),
    }
}

fn verify(gpus: &Machine, unmeasured: &Path) -> anyhow::Result<()> {
    let config = fs::read(unmeasured);
    let config = config.with_context(|| format!("cannot read {}", unmeasured.display()))?;
    let config = Unmeasured::parse(&config)
        .with_context(|| format!("{} is refused", unmeasured.display()))?;
    let service = Service::new(config.manifests.as_deref().unwrap_or(NVIDIA));

    // A question that nobody can have asked before; no session has it.
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).context("no randomness")?;
    let question = Binding::new(&Digest384::ZERO, &[0; 64], &Nonce(nonce));
    let (head, _) = batch::tree(&[question]);
    let (shown, _) = gpus.evidence(&head)?;

    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    for device in admit(&shown, &service, UnixTime(now.as_secs()))?.devices() {
        println!(
            "gpus: {} {}",
            device.device().architecture,
            device.device().serial
        );
    }
    Ok(())
}
