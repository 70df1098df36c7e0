//! A Channel as the newest block proves it, for the ledger to know.

use std::time::Duration;

use chain::client::{Client, ClientError};
use contracts::channel::{Channel, TermsError};
use contracts::code::Code;
use tycho_types::cell::HashBytes;
use tycho_types::error::Error;
use tycho_types::models::StdAddr;

use crate::ledger::{Failed, Ledger, ObserveError, Side};

/// What whoever asks needs to know of it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Looked {
    pub(crate) side: Side,
    /// Signs its vouchers.
    pub(crate) key: HashBytes,
    /// What can still be paid out of it, in nanotons.
    pub(crate) left: u64,
}

/// Has the ledger know it, as of the block, which may be older than the question.
pub(crate) async fn look(
    client: &Client,
    ledger: &Ledger,
    address: &StdAddr,
) -> Result<Looked, LookError> {
    let state = client.account(address).await?;
    let code = state.code().map(|code| *code.repr_hash());
    let expected = Code::CHANNEL.cell().map_err(|_| Error::InvalidCell)?;
    let data = state.data();
    let data = data.filter(|_| code == Some(*expected.repr_hash()));
    let data = data.ok_or_else(|| LookError::None(address.clone()))?;
    let channel = Channel::load(address, data)?;
    let balance = u64::try_from(state.balance()).unwrap_or(u64::MAX);
    let (key, left) = (channel.terms.key, channel.funds(balance));
    let observed = ledger.observe(channel, balance, state.block.generated());
    let side = observed.await?;
    Ok(Looked { side, key, left })
}

/// Why it cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum LookError {
    /// Our own code.
    #[error("the code of a Channel cannot be read")]
    Cells(#[from] Error),
    /// It does not answer, or not with proofs.
    #[error("the chain cannot be asked")]
    Chain(#[from] ClientError),
    /// Nothing there, or something else.
    #[error("there is no Channel at {0}")]
    None(StdAddr),
    /// Others are looked at first.
    #[error("too many unknown Channels are named")]
    Often {
        /// When one more may be.
        wait: Duration,
    },
    /// Not one that the scheduler can use.
    #[error("the ledger does not take the Channel")]
    Observe(#[from] Failed<ObserveError>),
    /// Not what a Channel keeps.
    #[error("the Channel's terms cannot be read")]
    Terms(#[from] TermsError),
}
