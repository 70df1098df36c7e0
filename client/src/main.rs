//! `cocoon`: verify workers, talk to them, and compute what they must report.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context;
use attestation::appraisal::Verdict;
use clap::{Args, Parser, Subcommand};
use client::address::Address;
use client::audit::AuditArgs;
use client::chain::ChainArgs;
use client::gateway::command::GatewayArgs;
use client::stored::Stored;
use client::trust::TrustArgs;
use client::{host, measure, model, receipt, release, scheduler, verify};
use tokio::runtime::Runtime;
use tokio::signal::unix::{SignalKind, signal};
use tracing::Level;

/// Talk to AI models on machines that proved what they run.
///
/// Exits with 0 for trusted or equal, 1 for refused or different, 2 if it could
/// not tell.
#[derive(Debug, Parser)]
#[command(name = "cocoon", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Check what a worker, or evidence in files, proves.
    Verify(VerifyArgs),
    /// Serve an OpenAI-compatible endpoint that forwards only to a verified worker.
    Gateway(GatewayArgs),
    /// Set up a server, and run machines on it.
    #[command(subcommand)]
    Host(host::Command),
    /// Speak to the contracts on TON.
    ///
    /// Exits with 1 where a contract refused.
    Chain(ChainArgs),
    /// Compute what a machine must report.
    #[command(subcommand)]
    Measure(measure::Measure),
    /// Make disks of models, and check them.
    #[command(subcommand)]
    Model(model::Command),
    /// Check what was signed for an answer.
    #[command(subcommand)]
    Receipt(receipt::Command),
    /// Make, sign and check a release.
    #[command(subcommand)]
    Release(release::Command),
    /// Bring sealed requests to many workers.
    #[command(subcommand)]
    Scheduler(scheduler::Command),
    /// Build a release again and compare everything: files, registers, signatures.
    ///
    /// Exits with 0 when the release is what was built, 1 when not, 2 when it could not tell.
    Audit(AuditArgs),
}

#[derive(Args, Debug)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
struct VerifyArgs {
    #[command(subcommand)]
    stored: Option<Stored>,
    /// The worker, https://HOST:PORT.
    #[arg(required = true, value_name = "URL")]
    worker: Option<Address>,
    #[command(flatten)]
    trust: TrustArgs,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    match start(Cli::parse().command) {
        Ok(verdict) => ExitCode::from(verdict.exit_code()),
        Err(error) => {
            eprintln!("cocoon: {error:#}");
            ExitCode::from(Verdict::Undecided.exit_code())
        }
    }
}

fn start(command: Command) -> anyhow::Result<Verdict> {
    let is_service = match &command {
        Command::Host(host::Command::Run(_)) | Command::Scheduler(_) => true,
        Command::Gateway(args) => args.is_service(),
        _ => false,
    };
    let level = match is_service {
        true => Level::INFO,
        false => Level::WARN,
    };
    client::log::start(level)?;
    run(command)
}

fn run(command: Command) -> anyhow::Result<Verdict> {
    match command {
        Command::Verify(VerifyArgs {
            stored: Some(stored),
            ..
        }) => stored.run(),
        Command::Verify(args) => {
            let worker = args.worker.context("which worker?")?;
            let policy = Arc::new(args.trust.policy()?);
            runtime()?.block_on(verify::run(worker, policy, args.json))
        }
        Command::Gateway(args) => runtime()?.block_on(async {
            let shutdown = shutdown()?;
            args.run(shutdown).await
        }),
        Command::Host(command) => runtime()?.block_on(host::run(command)),
        Command::Chain(args) => runtime()?.block_on(args.run()),
        Command::Measure(command) => measure::run(command),
        Command::Model(command) => runtime()?.block_on(async {
            let shutdown = shutdown()?;
            model::run(command, shutdown).await
        }),
        Command::Receipt(command) => command.run(),
        Command::Release(command) => release::run(command),
        Command::Scheduler(command) => runtime()?.block_on(async {
            let shutdown = shutdown()?;
            scheduler::run(command, shutdown).await
        }),
        Command::Audit(args) => args.run(),
    }
}

/// Ends with the first of SIGTERM and Ctrl-C from now on.
fn shutdown() -> anyhow::Result<impl Future<Output = ()> + Send + 'static> {
    let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
    Ok(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    })
}

fn runtime() -> anyhow::Result<Runtime> {
    Runtime::new().context("cannot start the runtime")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn no_two_options_of_a_command_have_one_name() {
        Cli::command().debug_assert();
    }
}
