//! `cocoon host`: from a server with GPUs to a machine that clients trust.
//!
//! Nothing here is trusted by anybody else: a host that lies to itself only
//! starts machines that clients refuse.

use attestation::appraisal::Verdict;
use clap::Subcommand;

pub mod accelerator;
pub mod check;
pub mod gpu;
pub mod programs;
pub mod qmp;
pub mod server;
pub mod setup;
pub mod tpm;
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
}

/// Does it.
pub fn run(command: Command) -> anyhow::Result<Verdict> {
    match command {
        Command::Check(args) => args.run(),
        Command::SetupGpu(args) => args.run(),
    }
}

/// Of Intel's quote generation service, on vsock.
pub const QGS_PORT: u32 = 4050;
/// The same on a socket in the file system.
const QGS_SOCKET: &str = "/var/run/tdx-qgs/qgs.socket";
