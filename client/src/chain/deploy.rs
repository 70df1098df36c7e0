//! Contracts are made by their first message; their code and first state are their address.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use attestation::appraisal::Verdict;
use attestation::register::Digest256;
use clap::{Args, Subcommand};
use contracts::code::{self, Code};
use contracts::market::{self, Children, Terms};
use contracts::registry::{Change, Governance, Policy};
use contracts::reports::epoch;
use contracts::{collateral, node, registry};
use tycho_types::cell::{Cell, HashBytes, Lazy, Store};
use tycho_types::dict::Dict;
use tycho_types::models::{StateInit, StdAddr};

use super::counted::{letters, published};
use super::plan::{Plan, Rest};
use super::{COIN, COLLATERAL, Chain, cell, load, now};

/// A contract.
#[derive(Debug, Subcommand)]
pub(super) enum Deploy {
    /// What Intel says of platforms: one for all.
    Collateral(Collateral),
    /// Which software counts.
    Registry(Registry),
    /// One worker.
    Node(Node),
    /// What one model costs on one kind of GPU, and how much of it is used.
    Market(Market),
}

#[derive(Args, Debug)]
pub(super) struct Collateral {
    /// Under the made-up root of emulated machines: never to be trusted.
    #[cfg(feature = "test-root")]
    #[arg(long)]
    test_build: bool,
}

#[derive(Args, Debug)]
pub(super) struct Registry {
    /// Whose word on hardware counts.
    #[arg(long, value_name = "ADDRESS")]
    collateral: StdAddr,
    /// Public keys of those who decide, in order.
    #[arg(long = "builder", value_name = "HEX", required = true)]
    builders: Vec<Digest256>,
    /// So many of them have to sign.
    #[arg(long)]
    threshold: u8,
    /// Seconds for which a change can be watched; a day at least.
    #[arg(long, default_value_t = 24 * 3600)]
    delay: u32,
    /// Seconds for which an attestation counts at most.
    #[arg(long, default_value_t = 7 * 24 * 3600)]
    lifetime: u32,
    /// What counts from the beginning, from `propose --out`; may be repeated.
    #[arg(long = "counts", value_name = "FILE")]
    counts: Vec<PathBuf>,
}

#[derive(Args, Debug)]
pub(super) struct Node {
    /// Whose word on hardware counts.
    #[arg(long, value_name = "ADDRESS")]
    collateral: StdAddr,
    /// Whose word on software counts.
    #[arg(long, value_name = "ADDRESS")]
    registry: StdAddr,
    /// The wallet that is paid, and that alone may leave.
    #[arg(long, value_name = "ADDRESS")]
    owner: StdAddr,
}

#[derive(Args, Debug)]
pub(super) struct Market {
    /// Whose word on hardware counts.
    #[arg(long, value_name = "ADDRESS")]
    collateral: StdAddr,
    /// Whose word on software counts.
    #[arg(long, value_name = "ADDRESS")]
    registry: StdAddr,
    /// Root hash of the model.
    #[arg(long, value_name = "HEX")]
    model: Digest256,
    /// As owners offer it, like H100; at most 16 letters.
    #[arg(long)]
    gpu: String,
    /// Tokens that one of them serves in an hour.
    #[arg(long)]
    capacity: u32,
    /// The least stake of a worker, in nanotons.
    #[arg(long)]
    stake: u64,
    /// The first price, in nanotons for a million tokens.
    #[arg(long)]
    price: u64,
    /// The highest price.
    #[arg(long)]
    ceiling: u64,
}

impl Deploy {
    pub(super) async fn run(self, chain: &Chain) -> Result<Verdict> {
        match self {
            Self::Collateral(args) => {
                let state = collateral::State::new()?;
                make(chain, args.code(), &state, COIN).await
            }
            Self::Registry(args) => {
                known(chain, &args.collateral, COLLATERAL).await?;
                make(chain, Code::REGISTRY, &args.state()?, COIN / 2).await
            }
            Self::Node(args) => {
                known(chain, &args.collateral, COLLATERAL).await?;
                known(chain, &args.registry, &[Code::REGISTRY]).await?;
                let state = node::State::new(args.owner, args.collateral, args.registry);
                make(chain, Code::NODE, &state, COIN / 10).await
            }
            Self::Market(args) => {
                known(chain, &args.collateral, COLLATERAL).await?;
                known(chain, &args.registry, &[Code::REGISTRY]).await?;
                make(chain, Code::MARKET, &args.state()?, COIN / 2).await
            }
        }
    }
}

impl Collateral {
    fn code(&self) -> Code {
        #[cfg(feature = "test-root")]
        if self.test_build {
            return Code::COLLATERAL_TEST;
        }
        Code::COLLATERAL
    }
}

impl Registry {
    fn state(&self) -> Result<registry::State> {
        let count = u8::try_from(self.builders.len()).context("too many builders")?;
        ensure!(
            (1..=count).contains(&self.threshold),
            "{} of {count} builders can never sign",
            self.threshold
        );
        let mut builders = Dict::new();
        for (number, key) in (0..count).zip(&self.builders) {
            builders.set(number, HashBytes(*key.as_bytes()))?;
        }
        let governance = Governance {
            threshold: self.threshold,
            delay: self.delay,
            builders,
        };
        let policy = Policy {
            lifetime: self.lifetime,
            tolerated: Default::default(),
            min_evaluation: 0,
            min_version: 0,
        };
        let changes = self.counts.iter().map(|path| load::<Change>(path));
        let changes: Vec<_> = changes.collect::<Result<_>>()?;
        let state = registry::State::new(self.collateral.clone(), &governance, policy)?;
        Ok(registry::State {
            published: Lazy::new(&published(&changes)?)?,
            ..state
        })
    }
}

impl Market {
    fn state(&self) -> Result<market::State> {
        let children = Children::new(self.collateral.clone(), self.registry.clone())?;
        let terms = Terms {
            model: HashBytes(*self.model.as_bytes()),
            gpu: letters(&self.gpu)?,
            capacity: self.capacity,
            stake: self.stake,
            ceiling: self.ceiling,
            children: Lazy::new(&children)?,
        };
        Ok(market::State::new(epoch(now()?), self.price, &terms)?)
    }
}

async fn known(chain: &Chain, address: &StdAddr, codes: &[Code]) -> Result<()> {
    let state = chain.client.account(address).await?;
    super::expect(address, &state, codes)
}

async fn make(chain: &Chain, code: Code, state: &dyn Store, value: u128) -> Result<Verdict> {
    let address = code::address(code, state)?;
    println!("contract {} at {address}", code.name());
    if chain.client.account(&address).await?.code().is_some() {
        println!("it is there already");
        return Ok(Verdict::Trusted);
    }
    let plan = Plan {
        what: "the first state",
        to: address,
        value,
        rest: Rest::Stays(value),
        body: Cell::default(),
        init: Some(StateInit {
            code: Some(code.cell()?),
            data: Some(cell(state)?),
            ..StateInit::default()
        }),
        gas: &[],
    };
    plan.carry_out(chain).await
}
