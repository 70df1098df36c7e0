//! `cocoon host`: from a server with GPUs to a machine that clients trust.
//!
//! Nothing here is trusted by anybody else: a host that lies to itself only
//! starts machines that clients refuse.

use attestation::appraisal::Verdict;
use clap::Subcommand;

pub mod accelerator;
pub mod check;
pub mod gpu;
pub mod instance;
pub mod libvirt;
pub mod models;
pub mod plan;
pub mod programs;
pub mod qmp;
pub mod run;
pub mod server;
pub mod setup;
pub mod shell;
pub mod status;
pub mod tpm;
pub mod unit;
pub mod vm;

/// What the owner of a server does.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// What this server lacks, and the command that mends it.
    ///
    /// Exits with 0 when nothing is missing, 1 when something is, 2 when it could not tell.
    Check(check::CheckArgs),
    /// Put GPUs into confidential mode and hand them to VMs; shows the steps unless told to act.
    SetupGpu(setup::SetupArgs),
    /// Run a machine of a release until told to stop, by SIGTERM or Ctrl-C.
    ///
    /// Exits with 0 when it was stopped, 1 when it was refused before it started, 2 when
    /// it ended by itself.
    Run(Box<run::RunArgs>),
    /// What the machines of this server prove, compared with their releases.
    ///
    /// Exits with 0 when all are trusted, 1 when one is not, 2 when it could not tell.
    Status(status::StatusArgs),
    /// Print or install what makes instances services of systemd.
    Unit(unit::UnitArgs),
}

/// Does it.
pub async fn run(command: Command) -> anyhow::Result<Verdict> {
    match command {
        Command::Check(args) => args.run(),
        Command::SetupGpu(args) => args.run(),
        Command::Run(args) => args.run().await,
        Command::Status(args) => args.run().await,
        Command::Unit(args) => args.run(),
    }
}

/// Where instances have their folders.
const STATE: &str = "/run/cocoon";
/// Of Intel's quote generation service, on vsock.
pub const QGS_PORT: u32 = 4050;
/// The same on a socket in the file system.
const QGS_SOCKET: &str = "/var/run/tdx-qgs/qgs.socket";
