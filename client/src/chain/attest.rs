//! A machine proves on the chain what it runs: it claims something, puts the claim's hash
//! into a quote, and anyone brings both.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use attestation::appraisal::Verdict;
use attestation::register::{Digest256, Digest384};
use attestation::tdx::Quote;
use clap::{Args, Subcommand};
use contracts::cells::Bytes;
use contracts::claim::{Claim, Keys};
use contracts::code::Code;
use contracts::node;
use tycho_types::cell::{HashBytes, Lazy};
use tycho_types::models::StdAddr;

use crate::artefacts::read;

use super::plan::{Plan, Rest};
use super::{COIN, Chain, cell, load, save};

/// First what is claimed, then the quote over it.
#[derive(Debug, Subcommand)]
pub(super) enum Attest {
    /// Writes a claim about a recent block, and prints the REPORTDATA that it needs.
    Claim(ClaimArgs),
    /// Brings a quote over a claim.
    Send {
        /// The claim.
        #[arg(long, value_name = "FILE")]
        claim: PathBuf,
        /// The quote.
        #[arg(long, value_name = "FILE")]
        quote: PathBuf,
    },
}

#[derive(Args, Debug)]
pub(super) struct ClaimArgs {
    /// The worker's contract.
    #[arg(long, value_name = "ADDRESS")]
    node: StdAddr,
    /// The machine's key that signs receipts, Ed25519.
    #[arg(long, value_name = "HEX")]
    receipt_key: Digest256,
    /// SHA-256 of the machine's key that requests are sealed to: its id in the network.
    #[arg(long, value_name = "HEX")]
    seal_key: Digest256,
    /// SHA-384 of the machine's TLS key.
    #[arg(long, value_name = "HEX")]
    tls_key: Digest384,
    /// SHA-384 over the GPU evidence that the machine has verified.
    #[arg(long, value_name = "HEX")]
    gpus: Digest384,
    /// Where the claim goes.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

impl Attest {
    pub(super) async fn run(self, chain: &Chain) -> Result<Verdict> {
        match self {
            Self::Claim(args) => args.run(chain).await,
            Self::Send { claim, quote } => {
                let claim: Claim = load(&claim)?;
                let bytes = read(&quote)?;
                let quote = Quote::parse(&bytes).context("not a quote")?;
                let plan = Plan {
                    what: "Attest",
                    to: claim.node.clone(),
                    value: COIN / 20,
                    rest: Rest::Owner,
                    body: cell(&node::Attest::new(0, &quote, &claim)?)?,
                    init: None,
                    gas: &["attest_cached_ca"],
                };
                plan.carry_out(chain).await
            }
        }
    }
}

impl ClaimArgs {
    async fn run(self, chain: &Chain) -> Result<Verdict> {
        let _: node::State = chain.contract(&self.node, &[Code::NODE]).await?;
        let newest = chain.client.newest().await?;
        // Contracts know every hundredth of the last 1600 blocks.
        let seqno = newest.id().seqno;
        let hundred = seqno.saturating_sub(seqno % 100);
        let block = chain.client.block(hundred).await?;
        let keys = Keys {
            receipt: HashBytes(*self.receipt_key.as_bytes()),
            seal: HashBytes(*self.seal_key.as_bytes()),
            tls: Bytes(*self.tls_key.as_bytes()),
        };
        let claim = Claim {
            global_id: newest.global_id(),
            node: self.node,
            gpus: Bytes(*self.gpus.as_bytes()),
            block: hundred,
            block_root: block.id().root_hash,
            keys: Lazy::new(&keys)?,
        };
        save(&self.out, &claim)?;
        let data = claim.report_data()?;
        let hex: String = data.0.iter().map(|byte| format!("{byte:02x}")).collect();
        println!("REPORTDATA {hex}");
        Ok(Verdict::Trusted)
    }
}
