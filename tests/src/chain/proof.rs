//! What a liteserver shows of blocks and states: the cells that were read to find it.

use anyhow::{Context as _, Result};
use tycho_types::cell::{Cell, CellBuilder, HashBytes, UsageTree, UsageTreeMode};
use tycho_types::merkle::MerkleProof;
use tycho_types::models::{Block, ShardStateUnsplit};

/// The header of a block, and which state it leads to.
pub(super) fn header(root: &Cell) -> Result<Cell> {
    prove(root, |tracked| {
        let block: Block = tracked.parse()?;
        block.load_info()?;
        block.load_state_update()?;
        Ok(())
    })
}

/// Who signs after a key block.
pub(super) fn validators(root: &Cell) -> Result<Cell> {
    prove(root, |tracked| {
        let extra = tracked.parse::<Block>()?.load_extra()?.load_custom()?;
        let config = extra.and_then(|extra| extra.config);
        let config = config.context("not a key block")?;
        config.get_current_validator_set()?;
        config.get_catchain_config()?;
        Ok(())
    })
}

/// Which blocks the shards have.
pub(super) fn shards(state: &Cell) -> Result<Cell> {
    prove(state, |tracked| {
        let extra = tracked.parse::<ShardStateUnsplit>()?.load_custom()?;
        let shards = extra.context("no masterchain")?.shards;
        shards.iter().try_for_each(|shard| shard.map(drop))?;
        Ok(())
    })
}

/// The state of an account, or that there is none.
pub(super) fn account(state: &Cell, id: &HashBytes) -> Result<Cell> {
    prove(state, |tracked| {
        let accounts = tracked.parse::<ShardStateUnsplit>()?.load_accounts()?;
        accounts.get(id)?;
        Ok(())
    })
}

fn prove(root: &Cell, read: impl FnOnce(&Cell) -> Result<()>) -> Result<Cell> {
    let usage = UsageTree::new(UsageTreeMode::OnDataAccess);
    read(&usage.track(root))?;
    let proof = MerkleProof::create(root.as_ref(), usage).build()?;
    Ok(CellBuilder::build_from(proof)?)
}
