//! A Channel as the newest block proves it.

use chain::client::{Client, ClientError};
use contracts::channel::{Channel, TermsError};
use contracts::code::Code;
use tycho_types::error::Error;
use tycho_types::models::StdAddr;

/// What is there.
#[derive(Clone, Debug)]
pub(crate) struct Seen {
    pub(crate) channel: Channel,
    /// Nanotons.
    pub(crate) balance: u64,
    /// Unix seconds of the block, which may be older than the question.
    pub(crate) at: u32,
}

/// None where nothing is, or something else than a Channel.
pub(crate) async fn look(client: &Client, address: &StdAddr) -> Result<Option<Seen>, LookError> {
    let state = client.account(address).await?;
    let code = state.code().map(|code| *code.repr_hash());
    let expected = Code::CHANNEL.cell().map_err(|_| Error::InvalidCell)?;
    let Some(data) = state.data().filter(|_| code == Some(*expected.repr_hash())) else {
        return Ok(None);
    };
    Ok(Some(Seen {
        channel: Channel::load(address, data)?,
        balance: u64::try_from(state.balance()).unwrap_or(u64::MAX),
        at: state.block.generated(),
    }))
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
    /// Not what a Channel keeps.
    #[error("the Channel's terms cannot be read")]
    Terms(#[from] TermsError),
}
