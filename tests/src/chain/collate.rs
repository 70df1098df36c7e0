//! How the next block and the next state are made.

use std::collections::{BTreeMap, HashSet};

use anyhow::{Context as _, Result};
use tycho_types::boc::Boc;
use tycho_types::cell::{Cell, CellBuilder, DynCell, HashBytes, Lazy, LazyExotic};
use tycho_types::dict::AugDict;
use tycho_types::merkle::MerkleUpdate;
use tycho_types::models::{
    AccountBlock, AccountBlocks, Block as Model, BlockExtra, BlockId, BlockInfo, BlockRef,
    BlockchainConfig, BlockchainConfigParams, CatchainConfig, CurrencyCollection, HashUpdate,
    KeyBlockRef, KeyMaxLt, McBlockExtra, McStateExtra, PrevBlockRef, ShardAccount, ShardAccounts,
    ShardDescription, ShardHashes, ShardIdent, ShardStateUnsplit, Transaction, ValidatorInfo,
    ValueFlow,
};

use super::{Block, GLOBAL_ID, Validators};

/// One of the two chains, with its newest block.
pub(super) struct Side {
    last: Block,
    validators: Validators,
}

/// A transaction, and the account before and after it.
pub(super) type Done = (Cell, ShardAccount, ShardAccount);

impl Side {
    pub(super) fn new(last: &Block, validators: Validators) -> Self {
        Self {
            last: last.clone(),
            validators,
        }
    }

    /// What the executor is configured with.
    pub(super) fn config(&self) -> Result<Cell> {
        let extra = self.state()?.load_custom()?.context("no masterchain")?;
        let root = extra.config.params.as_dict().root();
        root.clone().context("an empty configuration")
    }

    pub(super) fn accounts(&self) -> Result<ShardAccounts> {
        Ok(self.state()?.load_accounts()?)
    }

    pub(super) fn start_lt(&self) -> u64 {
        // As on the network, each block has a million of its own.
        let next = self.last.end_lt.saturating_add(1_000_000);
        next.saturating_sub(next % 1_000_000)
    }

    /// A block of the shard.
    pub(super) fn transacted(
        &self,
        accounts: &ShardAccounts,
        done: &[Done],
        end_lt: u64,
        now: u32,
        master: &BlockId,
    ) -> Result<Cell> {
        let mut state = self.state()?;
        state.accounts = Lazy::new(accounts)?;
        state.total_balance = accounts.root_extra().balance.clone();
        let mut info = self.info(&mut state, end_lt, now)?;
        info.master_ref = Some(Lazy::new(&BlockRef {
            end_lt: 0,
            seqno: master.seqno,
            root_hash: master.root_hash,
            file_hash: master.file_hash,
        })?);
        let extra = BlockExtra {
            account_blocks: Lazy::new(&account_blocks(done)?)?,
            ..BlockExtra::default()
        };
        self.block(&state, &info, &extra)
    }

    /// A block of the masterchain that knows a block of the shard, and names validators if
    /// there are others.
    pub(super) fn next(
        &self,
        key: Option<&Block>,
        shard: &BlockId,
        validators: Option<Validators>,
        now: u32,
    ) -> Result<Cell> {
        let mut state = self.state()?;
        let end_lt = self.start_lt().saturating_add(1);
        let mut info = self.info(&mut state, end_lt, now)?;
        info.key_block = validators.is_some();
        info.prev_key_block_seqno = key.map_or(0, |key| key.id.seqno);
        let shards = shards(shard, now)?;
        let mut extra = state.load_custom()?.context("no masterchain")?;
        extra.shards = shards.clone();
        self.remember(&mut extra)?;
        extra.after_key_block = info.key_block;
        extra.last_key_block = key.map(reference);
        if let Some(validators) = validators {
            name(&mut extra.config.params, validators)?;
            extra.validator_info = validator_info(validators);
        }
        state.set_custom(Some(&extra))?;
        let custom = McBlockExtra {
            shards,
            config: info.key_block.then(|| extra.config.clone()),
            ..McBlockExtra::default()
        };
        let extra = BlockExtra {
            custom: Some(Lazy::new(&custom)?),
            ..BlockExtra::default()
        };
        self.block(&state, &info, &extra)
    }

    /// Among the blocks that came before.
    fn remember(&self, extra: &mut McStateExtra) -> Result<()> {
        let is_key_block = extra.after_key_block;
        let entry = KeyBlockRef {
            is_key_block,
            block_ref: reference(&self.last),
        };
        let max = KeyMaxLt {
            has_key_block: is_key_block,
            max_end_lt: self.last.end_lt,
        };
        extra.prev_blocks.set(self.last.id.seqno, max, entry)?;
        Ok(extra.prev_blocks.update_root_extra()?)
    }

    fn info(&self, state: &mut ShardStateUnsplit, end_lt: u64, now: u32) -> Result<BlockInfo> {
        state.seqno = state.seqno.saturating_add(1);
        state.gen_utime = now.max(self.last.generated);
        state.gen_lt = end_lt;
        let mut info = BlockInfo {
            seqno: state.seqno,
            shard: state.shard_ident,
            gen_utime: state.gen_utime,
            start_lt: self.start_lt(),
            end_lt,
            gen_validator_list_hash_short: self.validators.hash(),
            gen_catchain_seqno: self.validators.epoch,
            ..BlockInfo::default()
        };
        info.set_prev_ref(&PrevBlockRef::Single(reference(&self.last)));
        Ok(info)
    }

    fn block(
        &self,
        state: &ShardStateUnsplit,
        info: &BlockInfo,
        extra: &BlockExtra,
    ) -> Result<Cell> {
        let state = CellBuilder::build_from(state)?;
        let mut old = HashSet::new();
        collect(self.last.state.as_ref(), &mut old);
        let update = MerkleUpdate::create(self.last.state.as_ref(), state.as_ref(), old).build()?;
        Ok(CellBuilder::build_from(Model {
            global_id: GLOBAL_ID,
            info: Lazy::new(info)?,
            value_flow: Lazy::new(&ValueFlow::default())?,
            state_update: LazyExotic::new(&update)?,
            out_msg_queue_updates: None,
            extra: Lazy::new(extra)?,
        })?)
    }

    fn state(&self) -> Result<ShardStateUnsplit> {
        Ok(self.last.state.parse()?)
    }
}

/// The state that the masterchain begins with.
pub(super) fn first_master(config: &Cell, validators: Validators, now: u32) -> Result<Cell> {
    let mut params = BlockchainConfigParams::from_raw(config.clone());
    let address = params
        .get_raw_cell(0)?
        .context("no address of the configuration")?;
    params.set_global_id(GLOBAL_ID)?;
    params.set_catchain_config(&CatchainConfig {
        isolate_mc_validators: false,
        shuffle_mc_validators: false,
        mc_catchain_lifetime: 250,
        shard_catchain_lifetime: 250,
        shard_validators_lifetime: 1000,
        shard_validators_num: 4,
    })?;
    name(&mut params, validators)?;
    let extra = McStateExtra {
        shards: ShardHashes::default(),
        config: BlockchainConfig {
            address: address.parse()?,
            params,
        },
        validator_info: validator_info(validators),
        prev_blocks: AugDict::new(),
        after_key_block: false,
        last_key_block: None,
        block_create_stats: None,
        global_balance: CurrencyCollection::ZERO,
    };
    Ok(CellBuilder::build_from(ShardStateUnsplit {
        global_id: GLOBAL_ID,
        shard_ident: ShardIdent::MASTERCHAIN,
        gen_utime: now,
        custom: Some(Lazy::new(&extra)?),
        ..ShardStateUnsplit::default()
    })?)
}

/// The state that the shard begins with.
pub(super) fn first_shard(accounts: &ShardAccounts, now: u32) -> Result<Cell> {
    Ok(CellBuilder::build_from(ShardStateUnsplit {
        global_id: GLOBAL_ID,
        shard_ident: ShardIdent::BASECHAIN,
        gen_utime: now,
        total_balance: accounts.root_extra().balance.clone(),
        accounts: Lazy::new(accounts)?,
        ..ShardStateUnsplit::default()
    })?)
}

/// Before every block.
pub(super) fn zero(state: Cell) -> Result<Block> {
    let parsed: ShardStateUnsplit = state.parse()?;
    Ok(Block {
        id: BlockId {
            shard: parsed.shard_ident,
            seqno: 0,
            root_hash: *state.repr_hash(),
            file_hash: Boc::file_hash(Boc::encode(&state)),
        },
        root: Cell::default(),
        state,
        end_lt: 0,
        generated: parsed.gen_utime,
        epoch: 0,
    })
}

/// A block, whose state is what it makes of the one before.
pub(super) fn after(last: &Block, root: Cell) -> Result<Block> {
    let block: Model = root.parse()?;
    let info = block.load_info()?;
    Ok(Block {
        id: id_of(&root)?,
        state: block.load_state_update()?.apply(&last.state)?,
        end_lt: info.end_lt,
        generated: info.gen_utime,
        epoch: info.gen_catchain_seqno,
        root,
    })
}

pub(super) fn id_of(root: &Cell) -> Result<BlockId> {
    let info = root.parse::<Model>()?.load_info()?;
    Ok(BlockId {
        shard: info.shard,
        seqno: info.seqno,
        root_hash: *root.repr_hash(),
        file_hash: Boc::file_hash(Boc::encode(root)),
    })
}

/// The epoch that a key block begins.
pub(super) fn epoch_after(block: &Block) -> Result<Option<u32>> {
    let extra = block.root.parse::<Model>()?.load_extra()?.load_custom()?;
    if extra.and_then(|extra| extra.config).is_none() {
        return Ok(None);
    }
    let state: ShardStateUnsplit = block.state.parse()?;
    let extra = state.load_custom()?.context("no masterchain")?;
    Ok(Some(extra.validator_info.catchain_seqno))
}

/// What happened in a block of the shard.
pub(super) fn transactions(root: &Cell) -> Result<Vec<((HashBytes, u64), Cell)>> {
    let extra = root.parse::<Model>()?.load_extra()?;
    let mut found = Vec::new();
    for entry in extra.account_blocks.load()?.iter() {
        let (account, _, block) = entry?;
        for entry in block.transactions.iter() {
            let (lt, _, transaction) = entry?;
            found.push(((account, lt), transaction.inner().clone()));
        }
    }
    Ok(found)
}

fn account_blocks(done: &[Done]) -> Result<AccountBlocks> {
    let mut by_account: BTreeMap<HashBytes, Vec<&Done>> = BTreeMap::new();
    for entry in done {
        let account = entry.0.parse::<Transaction>()?.account;
        by_account.entry(account).or_default().push(entry);
    }
    let mut blocks = AccountBlocks::new();
    for (account, entries) in by_account {
        let mut transactions = AugDict::new();
        for (cell, ..) in &entries {
            let transaction: Transaction = cell.parse()?;
            let lazy = Lazy::<Transaction>::from_raw(cell.clone())?;
            transactions.set(transaction.lt, transaction.total_fees, lazy)?;
        }
        transactions.update_root_extra()?;
        let fees: CurrencyCollection = transactions.root_extra().clone();
        let (first, last) = (entries.first(), entries.last());
        let hash = |entry: &ShardAccount| *entry.account.inner().repr_hash();
        let block = AccountBlock {
            account,
            transactions,
            state_update: Lazy::new(&HashUpdate {
                old: first.map_or(HashBytes::ZERO, |(_, before, _)| hash(before)),
                new: last.map_or(HashBytes::ZERO, |(_, _, after)| hash(after)),
            })?,
        };
        blocks.set(account, fees, block)?;
    }
    blocks.update_root_extra()?;
    Ok(blocks)
}

fn shards(id: &BlockId, now: u32) -> Result<ShardHashes> {
    let description = ShardDescription {
        seqno: id.seqno,
        reg_mc_seqno: 0,
        start_lt: 0,
        end_lt: 0,
        root_hash: id.root_hash,
        file_hash: id.file_hash,
        before_split: false,
        before_merge: false,
        want_split: false,
        want_merge: false,
        nx_cc_updated: false,
        next_catchain_seqno: 0,
        next_validator_shard: ShardIdent::BASECHAIN.prefix(),
        min_ref_mc_seqno: 0,
        gen_utime: now,
        split_merge_at: None,
        fees_collected: CurrencyCollection::ZERO,
        funds_created: CurrencyCollection::ZERO,
    };
    Ok(ShardHashes::from_shards([(
        &ShardIdent::BASECHAIN,
        &description,
    )])?)
}

fn name(params: &mut BlockchainConfigParams, validators: Validators) -> Result<()> {
    params.set_raw(34, CellBuilder::build_from(validators.set())?)?;
    Ok(())
}

fn validator_info(validators: Validators) -> ValidatorInfo {
    ValidatorInfo {
        validator_list_hash_short: validators.hash(),
        catchain_seqno: validators.epoch,
        nx_cc_updated: false,
    }
}

fn reference(block: &Block) -> BlockRef {
    BlockRef {
        end_lt: block.end_lt,
        seqno: block.id.seqno,
        root_hash: block.id.root_hash,
        file_hash: block.id.file_hash,
    }
}

fn collect(cell: &DynCell, into: &mut HashSet<HashBytes>) {
    if into.insert(*cell.repr_hash()) {
        cell.references().for_each(|child| collect(child, into));
    }
}
