//! What anyone may bring, because others have signed it.

use std::path::PathBuf;

use anyhow::{Context as _, Result};
use attestation::appraisal::Verdict;
use attestation::pem;
use attestation::tdx::Quote;
use clap::Subcommand;
use contracts::code::Code;
use contracts::collateral::{
    PostAuthority, PostAuthorityList, PostQeIdentity, PostRootList, PostTcbInfo, State,
};
use contracts::registry::Apply;
use tycho_types::models::StdAddr;

use crate::artefacts::read;
use crate::stored::collateral_in;

use super::plan::{Plan, Rest};
use super::{COIN, COLLATERAL, Chain, cell};

/// What others have signed.
#[derive(Debug, Subcommand)]
pub(super) enum Publish {
    /// Intel's documents on the platform under a quote.
    Collateral {
        /// The contract.
        #[arg(long, value_name = "ADDRESS")]
        to: StdAddr,
        /// A folder with the documents, as `cocoon verify` takes it.
        #[arg(long, value_name = "FOLDER")]
        files: PathBuf,
        /// The quote.
        #[arg(long, value_name = "FILE")]
        quote: PathBuf,
    },
    /// A builders' change whose delay is over.
    Change {
        /// The contract.
        #[arg(long, value_name = "ADDRESS")]
        registry: StdAddr,
        /// Of the change, as `status` shows it.
        #[arg(long)]
        turn: u32,
    },
}

impl Publish {
    pub(super) async fn run(self, chain: &Chain) -> Result<Verdict> {
        match self {
            Self::Collateral { to, files, quote } => collateral(chain, to, files, quote).await,
            Self::Change { registry, turn } => {
                let plan = Plan {
                    what: "Apply",
                    to: registry,
                    value: COIN / 10,
                    rest: Rest::Back,
                    body: cell(&Apply { query_id: 0, turn })?,
                    init: None,
                    gas: &[],
                };
                plan.carry_out(chain).await
            }
        }
    }
}

/// In the only order that is taken: each document by one that is there already.
async fn collateral(chain: &Chain, to: StdAddr, files: PathBuf, quote: PathBuf) -> Result<Verdict> {
    chain.contract::<State>(&to, COLLATERAL).await?;
    let bytes = read(&quote)?;
    let quote = Quote::parse(&bytes).context("not a quote")?;
    let files = collateral_in(&files)?;
    let parts = files.parts(&quote);
    let [authority, root]: [Vec<u8>; 2] =
        pem::certificates(parts.pck_crl_issuer_chain).context("not the PCK CA's chain")?;
    let tcb = pem::certificates(parts.tcb_info_issuer_chain).context("not the TCB's chain")?;
    let qe = pem::certificates(parts.qe_identity_issuer_chain).context("not the QE's chain")?;
    let messages: [(_, _, &'static [&'static str]); 5] = [
        (
            "PostRootList",
            cell(&PostRootList::new(0, parts.root_crl, &root)?)?,
            &["collateral_root_list"],
        ),
        (
            "PostAuthority",
            cell(&PostAuthority::new(0, &authority, &root)?)?,
            &["collateral_authority"],
        ),
        (
            "PostAuthorityList",
            cell(&PostAuthorityList::new(0, parts.pck_crl, &authority)?)?,
            &["collateral_authority_list"],
        ),
        (
            "PostTcbInfo",
            cell(&PostTcbInfo::new(0, parts.tcb_info, &tcb)?)?,
            &["collateral_tcb_info"],
        ),
        (
            "PostQeIdentity",
            cell(&PostQeIdentity::new(0, parts.qe_identity, &qe)?)?,
            &["collateral_qe_identity"],
        ),
    ];
    for (what, body, gas) in messages {
        let plan = Plan {
            what,
            to: to.clone(),
            value: COIN / 10,
            rest: Rest::Back,
            body,
            init: None,
            gas,
        };
        match plan.carry_out(chain).await? {
            Verdict::Trusted => {}
            other => return Ok(other),
        }
    }
    Ok(Verdict::Trusted)
}

/// Of a change: which contract it is for.
pub(super) const REGISTRY: &[Code] = &[Code::REGISTRY];
