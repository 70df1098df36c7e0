//! `cocoon chain`: what is said to the contracts, and what they say.
//!
//! Everything that is shown of the chain is proved from the block that the network's
//! description pins. What is sent, and what it costs, is shown before it is sent.

mod attest;
mod channel;
mod counted;
mod deploy;
mod plan;
mod propose;
mod publish;
mod redeem;
mod status;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use attestation::appraisal::Verdict;
use chain::account::State;
use chain::client::Client;
use chain::network::Network;
use clap::{Args, Subcommand};
use contracts::code::Code;
use tycho_types::boc::Boc;
use tycho_types::cell::{Cell, CellBuilder, Load, Store};
use tycho_types::models::StdAddr;

use crate::artefacts::read;

use self::plan::Sender;

pub(crate) use self::plan::key;

/// The network, who sends, and what.
#[derive(Args, Debug)]
pub struct ChainArgs {
    /// The network's description: its liteservers, and the block that is pinned.
    #[arg(long, value_name = "FILE")]
    network: PathBuf,
    /// The oldest state that is taken, in seconds.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    max_age: u64,
    #[command(flatten)]
    sender: Sender,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Make a contract.
    #[command(subcommand)]
    Deploy(deploy::Deploy),
    /// Bring what others have signed: Intel's documents, or a change whose delay is over.
    #[command(subcommand)]
    Publish(publish::Publish),
    /// Sign a builders' order, and send it once enough have signed.
    Propose(propose::Propose),
    /// Let a machine prove on the chain what it runs.
    #[command(subcommand)]
    Attest(attest::Attest),
    /// Pay a worker's owner through a channel.
    #[command(subcommand)]
    Channel(channel::Command),
    /// Have vouchers paid to the payee.
    Redeem(redeem::Redeem),
    /// Show what the chain says, with proofs.
    Status(status::Status),
}

impl ChainArgs {
    /// Does it.
    pub async fn run(self) -> Result<Verdict> {
        let network = described(&self.network)?;
        let chain = Chain {
            client: Client::new(&network, Duration::from_secs(self.max_age)),
            sender: self.sender,
        };
        match self.command {
            Command::Deploy(command) => command.run(&chain).await,
            Command::Publish(command) => command.run(&chain).await,
            Command::Propose(command) => command.run(&chain).await,
            Command::Attest(command) => command.run(&chain).await,
            Command::Channel(command) => command.run(&chain).await,
            Command::Redeem(command) => command.run(&chain).await,
            Command::Status(command) => command.run(&chain).await,
        }
    }
}

/// Asks the chain that a file describes, for nothing that is older than a minute.
pub(crate) fn client(path: &Path) -> Result<Client> {
    Ok(Client::new(&described(path)?, Duration::from_secs(60)))
}

fn described(path: &Path) -> Result<Network> {
    let text = String::from_utf8(read(path)?).context("not text")?;
    Network::parse(&text).with_context(|| format!("{} describes no network", path.display()))
}

/// The chain, and who speaks to it.
struct Chain {
    client: Client,
    sender: Sender,
}

impl Chain {
    /// What a contract keeps, if it is that contract.
    async fn contract<T: for<'a> Load<'a>>(&self, address: &StdAddr, codes: &[Code]) -> Result<T> {
        let state = self.client.account(address).await?;
        kept(address, &state, codes)
    }
}

/// What a contract keeps, if its code is one of these.
fn kept<T: for<'a> Load<'a>>(address: &StdAddr, state: &State, codes: &[Code]) -> Result<T> {
    expect(address, state, codes)?;
    let data = state.data().context("a contract without data")?;
    data.parse()
        .map_err(|error| anyhow::anyhow!("what {address} keeps cannot be read: {error}"))
}

/// Demands that a contract's code is one of these.
fn expect(address: &StdAddr, state: &State, codes: &[Code]) -> Result<()> {
    let code = state
        .code()
        .with_context(|| format!("no contract at {address}"))?;
    let known = codes
        .iter()
        .any(|known| known.cell().is_ok_and(|known| known == *code));
    let names: Vec<_> = codes.iter().map(Code::name).collect();
    anyhow::ensure!(known, "{address} is no {}", names.join(" or "));
    Ok(())
}

/// Hardware is believed under Intel's root; in a test build, under a made-up one too.
const COLLATERAL: &[Code] = if cfg!(feature = "test-root") {
    &[Code::COLLATERAL, Code::COLLATERAL_TEST]
} else {
    &[Code::COLLATERAL]
};

fn cell(value: &dyn Store) -> Result<Cell> {
    CellBuilder::build_from(value).context("it does not fit into cells")
}

/// Reads a cell from a file.
fn load<T: for<'a> Load<'a>>(path: &Path) -> Result<T> {
    let cell = Boc::decode(read(path)?);
    let cell = cell.with_context(|| format!("{} is no bag of cells", path.display()))?;
    let value = cell.parse();
    value.with_context(|| format!("{} is something else", path.display()))
}

fn save(path: &Path, value: &dyn Store) -> Result<()> {
    let bytes = Boc::encode(cell(value)?);
    std::fs::write(path, bytes).with_context(|| format!("cannot write {}", path.display()))
}

fn now() -> Result<u32> {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH)?;
    Ok(u32::try_from(now.as_secs())?)
}

/// Nanotons as people say them.
fn coins(nanotons: u128) -> String {
    let (whole, part) = (nanotons / COIN, nanotons % COIN);
    format!("{whole}.{part:09} GRAM")
}

const COIN: u128 = 1_000_000_000;
