//! A Market as a block proves it: the price of this hour, and what was used in the last one.

use chain::account::State;
use chain::client::{Client, ClientError};
use contracts::code::Code;
use contracts::market::{self, Totals};
use serde::Serialize;
use tycho_types::cell::Load;
use tycho_types::error::Error;
use tycho_types::models::StdAddr;

use super::Block;

/// One of them. Prices are nanotons for a million tokens, as workers are paid, amounts
/// nanotons.
#[derive(Clone, Debug, Serialize)]
pub struct Market {
    /// Where.
    pub address: String,
    /// Root of the model's files.
    pub model: String,
    /// Kind of GPU.
    pub gpu: String,
    /// The hour since 1970.
    pub epoch: u32,
    /// In it, as the next message would find it.
    pub price: u64,
    /// In it, so far.
    pub used: Used,
    /// The last hour of which there are totals.
    pub last: Option<Ended>,
    /// What proves it.
    pub block: Block,
    /// Whose word on builds and Nodes it takes.
    #[serde(skip)]
    pub authority: Authority,
}

/// In one hour.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
pub struct Used {
    /// Attested workers that could serve.
    pub workers: u32,
    /// That were paid for.
    pub tokens: u64,
    /// What was paid.
    pub amount: u64,
    /// How often that was reported.
    pub reports: u32,
}

/// An hour that is over.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Ended {
    /// Which.
    pub epoch: u32,
    /// In it.
    pub price: u64,
    /// In it.
    pub used: Used,
    /// Over its reports, in hex.
    pub head: String,
}

/// Who knows what hardware and software are worth.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Authority {
    /// Of hardware.
    pub collateral: StdAddr,
    /// Of software.
    pub registry: StdAddr,
}

impl Market {
    /// Asks the chain.
    pub async fn read(client: &Client, address: &StdAddr) -> Result<Self, ReadError> {
        let state = client.account(address).await?;
        let mut kept: market::State = kept(&state, Code::MARKET)?;
        let block = Block::of(&state);
        // The contract does this before it does anything else.
        kept.turn(block.made)?;
        let terms = kept.terms.load()?;
        let children = terms.children.load()?;
        let last = kept.last.as_ref().map(|last| last.load()).transpose()?;
        let gpu = terms.gpu.0.iter().take_while(|byte| **byte != 0);
        Ok(Self {
            address: address.to_string(),
            model: format!("verity-sha256:{}", terms.model),
            gpu: gpu.map(|byte| char::from(*byte)).collect(),
            epoch: kept.epoch,
            price: kept.price,
            used: Used {
                workers: kept.workers,
                tokens: kept.tokens,
                amount: kept.amount,
                reports: kept.reports,
            },
            last: last.map(Ended::of),
            block,
            authority: Authority {
                collateral: children.collateral,
                registry: children.registry,
            },
        })
    }
}

impl Ended {
    fn of(totals: Totals) -> Self {
        Self {
            epoch: totals.epoch,
            price: totals.price,
            used: Used {
                workers: totals.workers,
                tokens: totals.tokens,
                amount: totals.amount,
                reports: totals.reports,
            },
            head: totals.head.to_string(),
        }
    }
}

/// What a contract of that code keeps.
pub(super) fn kept<T: for<'a> Load<'a>>(state: &State, code: Code) -> Result<T, ReadError> {
    let expected = code.cell().map_err(|_| Error::InvalidCell)?;
    let data = state.data().filter(|_| state.code() == Some(&expected));
    let data = data.ok_or(ReadError::Other { code: code.name() })?;
    Ok(data.parse()?)
}

/// Why a contract is not read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// Not what such a contract keeps.
    #[error("what the contract keeps cannot be read")]
    Cells(#[from] Error),
    /// It does not answer, or not with proofs.
    #[error("the chain cannot be asked")]
    Chain(#[from] ClientError),
    /// Nothing there, or something else.
    #[error("there is no {code} at this address")]
    Other {
        /// By its name.
        code: &'static str,
    },
}
