//! Builders' orders: one file, signed by one after the other, sent by the last.

use std::path::PathBuf;

use anyhow::{Context as _, Result, ensure};
use attestation::appraisal::Verdict;
use clap::Args;
use contracts::cells::{Bytes, Moment};
use contracts::registry::{Decide, Order, State};
use tycho_types::cell::Lazy;
use tycho_types::dict::Dict;
use tycho_types::models::StdAddr;

use super::counted::Counted;
use super::plan::{Plan, Rest, key};
use super::publish::REGISTRY;
use super::{COIN, Chain, cell, load, now, save};

/// An order, and who signs it.
#[derive(Args, Debug)]
pub(super) struct Propose {
    /// The contract; without one the change is only written to --out.
    #[arg(long, value_name = "ADDRESS")]
    registry: Option<StdAddr>,
    /// A builder's key, 64 hex digits; may be repeated.
    #[arg(long = "builder-key", value_name = "FILE")]
    keys: Vec<PathBuf>,
    /// An order that others have signed, instead of a new one.
    #[arg(long, value_name = "FILE")]
    order: Option<PathBuf>,
    /// Where the order goes while more have to sign.
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Hours until it is too late.
    #[arg(long, default_value_t = 24)]
    hours: u32,
    #[command(subcommand)]
    change: Option<Counted>,
}

impl Propose {
    pub(super) async fn run(self, chain: &Chain) -> Result<Verdict> {
        let Some(registry) = &self.registry else {
            let change = self.change.as_ref().context("which change?")?.change()?;
            save(self.out.as_ref().context("where to?")?, &change)?;
            return Ok(Verdict::Trusted);
        };
        let state: State = chain.contract(registry, REGISTRY).await?;
        let mut decide = match (&self.order, &self.change) {
            (Some(path), None) => load(path)?,
            (None, Some(change)) => self.new_order(chain, registry, &state, change).await?,
            _ => anyhow::bail!("either --order, or a change"),
        };
        let order = decide.order.load()?;
        ensure!(
            order.registry == *registry && order.turn == state.turn,
            "the order is for turn {} of {}, but it is turn {} of {registry}",
            order.turn,
            order.registry,
            state.turn
        );
        println!("order    {:?}", order.change.load()?);
        let governance = state.governance.load()?;
        for path in &self.keys {
            let key = key(path)?;
            let (number, _) = governance
                .builders
                .iter()
                .filter_map(Result::ok)
                .find(|(_, builder)| *builder == key.public())
                .with_context(|| format!("{} is no builder's", path.display()))?;
            let signature = Bytes(key.sign(decide.order.inner().repr_hash()));
            decide.signatures.set(number, signature)?;
        }
        let signed = decide.signatures.keys().count();
        println!(
            "signed   by {signed}, of which {} are needed",
            governance.threshold
        );
        if signed < usize::from(governance.threshold) {
            save(
                self.out.as_ref().context("where to, for the others?")?,
                &decide,
            )?;
            return Ok(Verdict::Trusted);
        }
        let plan = Plan {
            what: "Decide",
            to: registry.clone(),
            value: COIN / 10,
            rest: Rest::Back,
            body: cell(&decide)?,
            init: None,
            gas: &[],
        };
        plan.carry_out(chain).await
    }

    async fn new_order(
        &self,
        chain: &Chain,
        registry: &StdAddr,
        state: &State,
        change: &Counted,
    ) -> Result<Decide> {
        let valid = self.hours.saturating_mul(3600);
        let order = Order {
            global_id: chain.client.newest().await?.global_id(),
            registry: registry.clone(),
            turn: state.turn,
            valid_until: Moment(u64::from(now()?.saturating_add(valid))),
            change: Lazy::new(&change.change()?)?,
        };
        Ok(Decide {
            query_id: 0,
            order: Lazy::new(&order)?,
            signatures: Dict::new(),
        })
    }
}
