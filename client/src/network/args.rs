//! What `cocoon gateway --network` takes.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use attestation::policy::Policy;
use clap::Args;

use super::prices::{MarketOf, Prices};
use super::purse::Purse;
use super::scheduler::{Scheduler, Url};
use super::secret::Secret;
use super::{Network, Options};
use crate::chain::client;

/// The schedulers, and what is paid.
#[derive(Args, Debug)]
pub struct NetworkArgs {
    /// Ask the network through these schedulers, https://HOST[:PORT],…
    #[arg(
        long,
        value_name = "URL",
        value_delimiter = ',',
        conflicts_with_all = ["worker", "receipts"]
    )]
    network: Vec<Url>,
    /// A channel to pay a scheduler from, as `cocoon chain channel open --out` wrote it;
    /// may be repeated.
    #[arg(long, value_name = "FILE", requires = "network")]
    channel: Vec<PathBuf>,
    /// Nanotons for a million tokens, at most.
    #[arg(long, value_name = "NANOTONS", requires = "network")]
    max_price: Option<u64>,
    /// Pay for this model at most what this Market says, by --chain, and a tenth more for
    /// fees; may be repeated: of a model's the dearest counts, and no other model is asked for.
    #[arg(long, value_name = "MODEL=ADDRESS", requires_all = ["network", "chain"])]
    market: Vec<MarketOf>,
    /// The description of the network that Markets are on: its liteservers, and the block that
    /// is pinned.
    #[arg(long, value_name = "FILE", requires = "market")]
    chain: Option<PathBuf>,
    /// Nanotons for a million tokens, of --max-price, that a scheduler gets for letting a
    /// request wait less; nothing where it does not have to wait. A request with the header
    /// cocoon-tip tips so much of it.
    #[arg(
        long,
        value_name = "NANOTONS",
        requires = "channel",
        default_value_t = 0
    )]
    tip: u64,
    /// Nanotons to spend of each channel, at most.
    #[arg(long, value_name = "NANOTONS", requires = "channel")]
    budget: Option<u64>,
    /// Tokens to pay for at most where a request says no maximum for its answer.
    #[arg(
        long,
        value_name = "TOKENS",
        default_value_t = 4096,
        requires = "network"
    )]
    answer_tokens: u64,
    /// Until an answer has to be at its end; what a chat has said by then is its answer.
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 300,
        requires = "network"
    )]
    deadline: u32,
    /// Ask a second worker where the first one's answer begins later than nineteen of
    /// twenty do; of five requests one at most. What the slower one did is paid for.
    #[arg(long, requires = "network")]
    hedge: bool,
    /// Keep here, across restarts, the secret by which conversations find their caches.
    #[arg(long, value_name = "DIR", requires = "network")]
    state: Option<PathBuf>,
}

impl NetworkArgs {
    /// Whether the network is asked, and not one worker.
    #[must_use]
    pub const fn is_asked(&self) -> bool {
        !self.network.is_empty()
    }

    /// Opens the channels.
    pub fn open(self, policy: Arc<Policy>) -> anyhow::Result<Arc<Network>> {
        let schedulers = self.network.into_iter().map(Scheduler::new);
        let budget = self.budget;
        let purses = self.channel.iter();
        let purses = purses.map(|path| Ok(Arc::new(Purse::open(path, budget)?)));
        let prices = self.chain.as_deref().map(client).transpose()?;
        let prices = prices.map(|chain| Arc::new(Prices::new(chain, self.market)));
        let max_price = match (self.max_price, &prices) {
            (Some(max_price), _) => max_price,
            (None, Some(_)) => u64::MAX,
            (None, None) => anyhow::bail!("--network needs --max-price, or --market"),
        };
        anyhow::ensure!(
            self.tip <= max_price,
            "--tip is {}, and --max-price {max_price}, which has it in it",
            self.tip
        );
        let options = Options {
            max_price,
            tip: self.tip,
            prices,
            answer: self.answer_tokens,
            deadline: Duration::from_secs(self.deadline.into()),
            hedge: self.hedge,
        };
        let secret = match &self.state {
            Some(folder) => Secret::kept(folder)?,
            None => Secret::random()?,
        };
        let purses = purses.collect::<anyhow::Result<_>>()?;
        let schedulers = schedulers.collect::<Result<_, _>>()?;
        Ok(Network::new(schedulers, policy, purses, options, &secret))
    }
}
