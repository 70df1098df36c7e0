//! What the chain says, with proofs, and how old that is.

use anyhow::Result;
use attestation::appraisal::Verdict;
use chain::client::age;
use clap::Args;
use contracts::cells::Moment;
use contracts::code::Code;
use contracts::{collateral, market, node, registry};
use tycho_types::models::StdAddr;

use super::channel::known;
use super::publish::REGISTRY;
use super::{COLLATERAL, Chain, coins, now};

/// Of which contracts.
#[derive(Args, Debug)]
pub(super) struct Status {
    /// What Intel says of platforms.
    #[arg(long, value_name = "ADDRESS")]
    collateral: Option<StdAddr>,
    /// Which software counts.
    #[arg(long, value_name = "ADDRESS")]
    registry: Option<StdAddr>,
    /// One worker; refused if its attestation does not count now.
    #[arg(long, value_name = "ADDRESS")]
    node: Option<StdAddr>,
    /// What one model costs on one kind of GPU.
    #[arg(long, value_name = "ADDRESS")]
    market: Option<StdAddr>,
    /// A payer's deposit.
    #[arg(long, value_name = "ADDRESS")]
    channel: Option<StdAddr>,
}

impl Status {
    pub(super) async fn run(self, chain: &Chain) -> Result<Verdict> {
        let block = chain.client.newest().await?;
        println!(
            "block    {} of network {}, {} s old, {}",
            block.id().seqno,
            block.global_id(),
            age(&block).as_secs(),
            block.id().root_hash
        );
        if let Some(wallet) = chain.sender.address() {
            let state = chain.client.account(wallet).await?;
            println!("wallet   {wallet}: {}", coins(state.balance()));
        }
        if let Some(address) = &self.collateral {
            let state = chain.contract(address, COLLATERAL).await?;
            collateral_lines(&state)?;
        }
        if let Some(address) = &self.registry {
            let state = chain.contract(address, REGISTRY).await?;
            registry_lines(&state)?;
        }
        if let Some(address) = &self.channel {
            let (channel, at, _) = known(chain, address).await?;
            println!(
                "channel  {} paid, {} left, ends {}",
                coins(channel.state.paid.into()),
                coins(channel.funds(at.balance).into()),
                channel.state.ends
            );
        }
        if let Some(address) = &self.market {
            let state: market::State = chain.contract(address, &[Code::MARKET]).await?;
            println!(
                "market   epoch {}: {} for a million tokens, {} workers, {} tokens used for {}, \
                 in {} reports",
                state.epoch,
                coins(state.price.into()),
                state.workers,
                state.tokens,
                coins(state.amount.into()),
                state.reports
            );
            if let Some(last) = &state.last {
                println!("before   {:?}", last.load()?);
            }
        }
        match &self.node {
            Some(address) => {
                let state = chain.contract(address, &[Code::NODE]).await?;
                node_lines(&state)
            }
            None => Ok(Verdict::Trusted),
        }
    }
}

fn collateral_lines(state: &collateral::State) -> Result<()> {
    let authorities = state.authorities.load()?;
    let has = |there: bool| if there { "there" } else { "missing" };
    println!("root list {}", has(authorities.root_list.is_some()));
    println!("QE identity {}", has(state.qe_identity.is_some()));
    for entry in state.tcb_infos.iter() {
        let (family, info) = entry?;
        let info = info.load()?;
        let family: String = family.0.iter().map(|byte| format!("{byte:02x}")).collect();
        println!(
            "family   {family}: TCB recovery {}, until {}",
            info.evaluation, info.window.until.0
        );
    }
    Ok(())
}

fn registry_lines(state: &registry::State) -> Result<()> {
    let published = state.published.load()?;
    for entry in published.builds.iter() {
        let (key, build) = entry?;
        println!(
            "build    {key}: version {}, until {}",
            build.version,
            until(build.until)
        );
    }
    for entry in published.configurations.iter() {
        let (key, record) = entry?;
        println!(
            "config   {key}: model {}, until {}",
            record.model,
            until(record.until)
        );
    }
    for entry in published.models.iter() {
        let (key, model) = entry?;
        let name = String::from_utf8_lossy(&model.name.0);
        let name: String = name.chars().filter(char::is_ascii_graphic).collect();
        println!("model    {key}: {name}, price class {}", model.price_class);
    }
    for entry in state.waiting.iter() {
        let (turn, waiting) = entry?;
        let change: registry::Change = waiting.change.parse()?;
        println!("waiting  turn {turn}, from {}: {change:?}", waiting.from.0);
    }
    Ok(())
}

/// A moment, or none.
fn until(moment: Moment) -> String {
    match moment {
        Moment::FOREVER => "further notice".into(),
        Moment(seconds) => seconds.to_string(),
    }
}

fn node_lines(state: &node::State) -> Result<Verdict> {
    println!("owner    {}", state.owner);
    let Some(attestation) = &state.attestation else {
        println!("attested no");
        return Ok(Verdict::Rejected);
    };
    let attestation = attestation.load()?;
    let claim = attestation.claim.load()?;
    println!(
        "attested build {} with model {}, as of block {}, until {}",
        attestation.build, attestation.model, claim.block, attestation.until.0
    );
    match u64::from(now()?) < attestation.until.0 && state.leaves_at == 0 {
        true => Ok(Verdict::Trusted),
        false => Ok(Verdict::Rejected),
    }
}
