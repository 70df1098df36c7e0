//! From a final block of the masterchain to an account.
//!
//! ```text
//! block of the masterchain ── its state ── newest block of the shard
//!                                          └── its state ── the account, or that there is none
//! ```
//!
//! Each arrow is a Merkle proof whose hash the one before names. The account itself comes
//! whole: in it nothing is pruned.

use tycho_types::cell::{Cell, DynCell, HashBytes, Load};
use tycho_types::dict::AugDict;
use tycho_types::error::Error;
use tycho_types::models::{
    Account, AccountState, BlockId, DepthBalanceInfo, OptionalAccount, ShardDescription,
    ShardHashes, ShardIdent, StateInit, StdAddr,
};

use crate::bag::{self, BagError};
use crate::block::{self, Final};
use crate::tl::{self, BlockIdExt};

/// What an account is, as of a block.
#[derive(Clone, Debug)]
pub struct State {
    /// Of the masterchain.
    pub block: Final,
    /// Nothing where nobody ever sent anything.
    pub account: Option<Account>,
    /// Logical time and hash of the newest transaction.
    pub last: Option<(u64, HashBytes)>,
}

impl State {
    /// What the contract keeps, where there is one.
    #[must_use]
    pub fn data(&self) -> Option<&Cell> {
        self.init()?.data.as_ref()
    }

    /// What the contract runs, where there is one.
    #[must_use]
    pub fn code(&self) -> Option<&Cell> {
        self.init()?.code.as_ref()
    }

    /// Nanotons.
    #[must_use]
    pub fn balance(&self) -> u128 {
        let account = self.account.as_ref();
        account.map_or(0, |account| account.balance.tokens.into_inner())
    }

    fn init(&self) -> Option<&StateInit> {
        match &self.account.as_ref()?.state {
            AccountState::Active(init) => Some(init),
            AccountState::Frozen(_) | AccountState::Uninit => None,
        }
    }
}

/// Follows what a server says of an account of the basechain.
pub fn check(
    block: &Final,
    address: &StdAddr,
    answer: &tl::AccountState,
) -> Result<State, AccountError> {
    if answer.id != BlockIdExt::from(block.id()) {
        return Err(AccountError::Block {
            found: answer.id.seqno,
            expected: block.id().seqno,
        });
    }
    if address.workchain != 0 {
        return Err(AccountError::Workchain {
            found: address.workchain,
        });
    }
    let shard_block = answer.shard_block.id().ok_or(AccountError::Shard)?;
    let master = state_of(&answer.shard_proof, block.id(), Part::Masterchain)?;
    let named = newest_block(master.as_ref(), address).map_err(|error| AccountError::Read {
        part: Part::Masterchain,
        error,
    })?;
    if named != Some(shard_block) {
        return Err(AccountError::Shard);
    }
    let shard = state_of(&answer.proof, &shard_block, Part::Shard)?;
    let read = |error| AccountError::Read {
        part: Part::Shard,
        error,
    };
    let Some(entry) = entry(shard.as_ref(), &address.address).map_err(read)? else {
        return match answer.state.is_empty() {
            true => Ok(State {
                block: *block,
                account: None,
                last: None,
            }),
            false => Err(AccountError::Unknown),
        };
    };
    let [state] = bag::roots(&answer.state).map_err(|error| AccountError::Bag {
        part: Part::Account,
        error,
    })?;
    let expected = *entry.account.hash(0);
    if state.level() != 0 || *state.repr_hash() != expected {
        return Err(AccountError::Other {
            found: *state.repr_hash(),
            expected,
        });
    }
    let account = state
        .parse::<OptionalAccount>()
        .map_err(|error| AccountError::Read {
            part: Part::Account,
            error,
        })?;
    Ok(State {
        block: *block,
        account: account.0,
        last: Some((entry.last_lt, entry.last_hash)),
    })
}

/// What is proved of the state after a block: the first root is of the block, the second
/// of the state that it names.
fn state_of(proof: &[u8], id: &BlockId, part: Part) -> Result<Cell, AccountError> {
    let bag = |error| AccountError::Bag { part, error };
    let [block, state] = bag::roots(proof).map_err(bag)?;
    let block = bag::proved(&block, &id.root_hash).map_err(bag)?;
    let hash =
        block::state_after(block.as_ref()).map_err(|error| AccountError::Read { part, error })?;
    bag::proved(&state, &hash).map_err(bag)
}

/// `shard_state#9023afe2 ... out_msg_queue_info:^OutMsgQueueInfo before_split:(## 1)
/// accounts:^ShardAccounts ^[...] custom:(Maybe ^McStateExtra)`: any of these may be pruned.
fn part_of(state: &DynCell, index: u8) -> Result<&DynCell, Error> {
    match state.as_slice()?.load_u32()? {
        0x9023_afe2 => state.reference(index).ok_or(Error::CellUnderflow),
        _ => Err(Error::InvalidTag),
    }
}

/// `account_descr$_ account:^Account last_trans_hash:bits256 last_trans_lt:uint64`, where
/// the account is pruned.
#[derive(Load)]
struct Entry {
    account: Cell,
    last_hash: HashBytes,
    last_lt: u64,
}

fn entry(shard: &DynCell, id: &HashBytes) -> Result<Option<Entry>, Error> {
    let accounts = part_of(shard, 1)?;
    let accounts: AugDict<HashBytes, DepthBalanceInfo, Entry> = accounts.parse()?;
    Ok(accounts.get(id)?.map(|(_, entry)| entry))
}

/// The newest block of the shard that has an address.
fn newest_block(master: &DynCell, address: &StdAddr) -> Result<Option<BlockId>, Error> {
    // masterchain_state_extra#cc26 shard_hashes:ShardHashes ...
    let mut extra = part_of(master, 3)?.as_slice()?;
    if extra.load_u16()? != 0xcc26 {
        return Err(Error::InvalidTag);
    }
    let shards = ShardHashes::load_from(&mut extra)?;
    let Some(shards) = shards.get_workchain_shards(address.workchain.into())? else {
        return Ok(None);
    };
    // Other shards may be pruned.
    let mut node = shards.root();
    let mut shard = ShardIdent::new_full(address.workchain.into());
    loop {
        let mut slice = node.as_slice()?;
        // bt_leaf$0 {X:Type} leaf:X, bt_fork$1 {X:Type} left:^(BinTree X) right:^(BinTree X)
        if !slice.load_bit()? {
            let found = ShardDescription::load_from(&mut slice)?;
            return Ok(Some(found.as_block_id(shard)));
        }
        let (left, right) = shard.split().ok_or(Error::InvalidData)?;
        let is_left = left.contains_account(&address.address);
        node = match is_left {
            true => node.reference(0).ok_or(Error::CellUnderflow)?,
            false => node.reference(1).ok_or(Error::CellUnderflow)?,
        };
        shard = if is_left { left } else { right };
    }
}

/// Which proof.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Part {
    /// From the block of the masterchain to the shard.
    Masterchain,
    /// From the block of the shard to the account.
    Shard,
    /// The account itself.
    Account,
}

impl core::fmt::Display for Part {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str(match self {
            Self::Masterchain => "the proof of the shard",
            Self::Shard => "the proof of the account",
            Self::Account => "the account",
        })
    }
}

/// Why an account is not proved.
#[derive(Debug, thiserror::Error)]
pub enum AccountError {
    /// Cells that are no proof, or of something else.
    #[error("{part} does not hold")]
    Bag {
        /// Where.
        part: Part,
        /// Why.
        #[source]
        error: BagError,
    },
    /// As of another block.
    #[error("the state is that after block {found}, expected {expected}")]
    Block {
        /// As read.
        found: u32,
        /// As asked.
        expected: u32,
    },
    /// Another account, or another state of it.
    #[error("the account is {found}, expected {expected}, with nothing pruned")]
    Other {
        /// As read.
        found: HashBytes,
        /// As proved.
        expected: HashBytes,
    },
    /// What is needed is pruned, or not what it should be.
    #[error("{part} lacks what is needed: {error}")]
    Read {
        /// Where.
        part: Part,
        /// Why.
        error: Error,
    },
    /// The block of the shard is not the one that the masterchain names.
    #[error("the shard's block is not the one that the masterchain names")]
    Shard,
    /// A state for an account that is proved not to exist.
    #[error("a state of an account that does not exist")]
    Unknown,
    /// Only accounts of the basechain are asked for.
    #[error("the account is of workchain {found}, expected 0")]
    Workchain {
        /// As asked.
        found: i8,
    },
}
