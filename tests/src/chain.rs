//! A small TON: one shard and the masterchain, in blocks and states as `block.tlb` has
//! them, executed by the reference TVM with the network's prices of 2026, kept in a file,
//! signed by validators of its own, and a liteserver in front of it.
//!
//! Proofs of blocks, accounts and transactions are as on the real network. What nobody
//! proves is left out: descriptions of messages, the flow of value, and fees of validators
//! are empty in its blocks, a message arrives in the block that it is sent in, and the
//! candidates of consensus have no parents.

mod collate;
mod executor;
mod file;
mod liteserver;
mod loopback;
mod proof;
mod validators;

use std::collections::{HashMap, VecDeque};
use std::path::Path;

use anyhow::{Context as _, Result};
use chain::block::Anchor;
use chain::wallet;
use tycho_types::cell::{Cell, CellBuilder, HashBytes, Lazy};
use tycho_types::dict::Dict;
use tycho_types::models::{
    Account, AccountState, BlockId, DepthBalanceInfo, IntAddr, MsgInfo, OptionalAccount,
    OwnedMessage, ShardAccount, ShardAccounts, StateInit, StdAddr, StorageInfo, Transaction,
};
use tycho_types::num::Tokens;

use self::collate::Side;
use self::executor::{Executor, Input, Outcome, Seen};
use self::file::BlockFile;

pub use self::executor::installed;
pub use self::liteserver::Tamper;
pub use self::loopback::{LOOPBACK, Town, key, now, serve_at};
pub use self::validators::{ALL, Consensus, Validators};

/// A chain that one process keeps.
#[derive(Debug)]
pub struct LocalChain {
    executor: Executor,
    file: BlockFile,
    master: Vec<Block>,
    shard: Vec<Block>,
    /// For each block of the masterchain, how many of the shard it knows.
    known: Vec<usize>,
    /// Numbers of key blocks.
    keys: Vec<usize>,
    validators: Validators,
    transactions: HashMap<(HashBytes, u64), Cell>,
    wallet_code: Cell,
    /// What becomes of the next messages that a liteserver is given; all others arrive.
    pub fates: VecDeque<Fate>,
    /// Messages that wait, each for so many questions for the newest block.
    late: Vec<(u32, Cell)>,
}

/// What a slow chain does with a message that a liteserver took.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Fate {
    /// It arrives after the newest block was asked for so many times.
    Late(u32),
    /// It does not, and this is the time in seconds since 1970 of the next block.
    Lost(u32),
    /// It arrives; that it does, nobody is told.
    Unanswered,
}

/// A block with the state after it; the first of each has a state only.
#[derive(Clone, Debug)]
struct Block {
    id: BlockId,
    root: Cell,
    state: Cell,
    end_lt: u64,
    generated: u32,
    epoch: u32,
}

/// Who has coins when everything begins.
#[derive(Clone, Copy, Debug)]
pub struct Faucet<'a> {
    /// Public keys, each with a wallet v5.
    pub wallets: &'a [HashBytes],
    /// Nanotons for each.
    pub coins: u128,
}

/// Why a message from outside was not taken.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("external message was not accepted: {reason}")]
pub struct NotAccepted {
    /// Of the contract.
    pub exit: Option<i32>,
    /// By the TVM.
    pub reason: String,
}

impl LocalChain {
    /// Goes on with the chain in a file, or begins one there: with the wallets, and as many
    /// blocks as contracts want to look back.
    pub fn open(path: &Path, faucet: Faucet<'_>, now: u32) -> Result<Self> {
        let mut executor = Executor::start()?;
        let genesis = executor.genesis()?;
        let (file, records) = BlockFile::open(path)?;
        let mut chain = Self {
            executor,
            file,
            master: Vec::new(),
            shard: Vec::new(),
            known: Vec::new(),
            keys: Vec::new(),
            validators: Validators { epoch: 1 },
            transactions: HashMap::new(),
            wallet_code: genesis.wallet,
            fates: VecDeque::new(),
            late: Vec::new(),
        };
        if records.is_empty() {
            chain.begin(&genesis.config, faucet, now)?;
        } else {
            for record in records {
                chain.replay(record)?;
            }
        }
        let config = chain.master_side().config()?;
        chain.executor.configure(&config)?;
        while chain.master.len() <= LOOK_BACK {
            chain.tick(now)?;
        }
        Ok(chain)
    }

    /// The first block: what a client pins.
    #[must_use]
    pub fn pinned(&self) -> Anchor {
        Anchor::pin(self.master[1].id)
    }

    /// The newest block of the masterchain.
    #[must_use]
    pub fn newest(&self) -> BlockId {
        self.last(&self.master).id
    }

    /// Where the wallet of a key is.
    pub fn wallet(&self, key: &HashBytes) -> Result<StdAddr> {
        let (address, _) = self.wallet_state(key)?;
        Ok(address)
    }

    /// Where a code lives.
    pub fn contracts(&self, code: &Cell) -> Result<Vec<StdAddr>> {
        let mut found = Vec::new();
        for entry in self.shard_side().accounts()?.iter() {
            let (id, _, entry) = entry?;
            let account = entry.load_account()?;
            if let Some(AccountState::Active(init)) = account.map(|account| account.state)
                && init.code.as_ref() == Some(code)
            {
                found.push(StdAddr::new(0, id));
            }
        }
        Ok(found)
    }

    /// What a contract keeps.
    pub fn data(&self, address: &StdAddr) -> Result<Cell> {
        let entry = self.shard_side().accounts()?.get(address.address)?;
        let account = entry.context("no account")?.1.load_account()?;
        match account.map(|account| account.state) {
            Some(AccountState::Active(init)) => init.data.context("no data"),
            _ => anyhow::bail!("no contract"),
        }
    }

    /// A block of the masterchain in which nothing happens.
    pub fn tick(&mut self, now: u32) -> Result<()> {
        self.append(None, None, now)
    }

    /// A block of the masterchain from which on others sign.
    pub fn rotate(&mut self, now: u32) -> Result<()> {
        let next = Validators {
            epoch: self.validators.epoch.saturating_add(1),
        };
        self.append(None, Some(next), now)
    }

    /// Takes a message from outside, and does all that follows from it.
    pub fn send(&mut self, message: &Cell, now: u32) -> Result<Result<(), NotAccepted>> {
        let seen = self.seen()?;
        let side = self.shard_side();
        let mut accounts = side.accounts()?;
        let mut lt = side.start_lt();
        let mut queue = VecDeque::from([message.clone()]);
        let mut done = Vec::new();
        while let Some(message) = queue.pop_front() {
            let Some(to) = destination(&message)? else {
                continue;
            };
            let before = match accounts.get(to)? {
                Some((_, account)) => account,
                None => nobody()?,
            };
            let input = Input {
                account: &CellBuilder::build_from(&before)?,
                message: &message,
                now,
                lt,
            };
            let (transaction, after) = match self.executor.transact(&input, &seen)? {
                Outcome::Done {
                    transaction,
                    account,
                } => (transaction, account.parse::<ShardAccount>()?),
                Outcome::Refused { exit, reason } if done.is_empty() => {
                    return Ok(Err(NotAccepted { exit, reason }));
                }
                Outcome::Refused { reason, .. } => anyhow::bail!("an internal message: {reason}"),
            };
            put(&mut accounts, to, &after)?;
            let parsed: Transaction = transaction.parse()?;
            let sent = parsed.out_msgs.values().collect::<Result<Vec<_>, _>>()?;
            lt = parsed.lt.saturating_add(1);
            lt = lt.saturating_add(u64::try_from(sent.len())?);
            queue.extend(sent);
            done.push((transaction, before, after));
            anyhow::ensure!(done.len() < MOST, "messages without end");
        }
        accounts.update_root_extra()?;
        let block = side.transacted(&accounts, &done, lt, now, &self.last(&self.master).id)?;
        self.append(Some(block), None, now)?;
        Ok(Ok(()))
    }

    /// Takes a message as its fate has it.
    fn take(&mut self, message: Cell, now: u32) -> Result<()> {
        match self.fates.pop_front() {
            None => self.send(&message, now)??,
            Some(Fate::Late(questions)) => self.late.push((questions, message)),
            Some(Fate::Lost(time)) => self.tick(time)?,
            Some(Fate::Unanswered) => {
                self.send(&message, now)??;
                anyhow::bail!("no answer");
            }
        }
        Ok(())
    }

    /// The newest block is asked for: messages that are late may come. One that is refused
    /// by then is gone.
    fn pass(&mut self, now: u32) -> Result<()> {
        for (questions, message) in std::mem::take(&mut self.late) {
            match questions.checked_sub(1) {
                Some(left) => self.late.push((left, message)),
                None => self.send(&message, now)?.unwrap_or_default(),
            }
        }
        Ok(())
    }

    fn begin(&mut self, config: &Cell, faucet: Faucet<'_>, now: u32) -> Result<()> {
        let mut accounts = ShardAccounts::new();
        for key in faucet.wallets {
            let (address, init) = self.wallet_state(key)?;
            let account = Account {
                address: IntAddr::Std(address.clone()),
                storage_stat: StorageInfo {
                    last_paid: now,
                    ..StorageInfo::default()
                },
                last_trans_lt: 0,
                balance: Tokens::new(faucet.coins).into(),
                state: AccountState::Active(init),
            };
            let entry = ShardAccount {
                account: Lazy::new(&OptionalAccount(Some(account)))?,
                last_trans_hash: HashBytes::ZERO,
                last_trans_lt: 0,
            };
            put(&mut accounts, address.address, &entry)?;
        }
        accounts.update_root_extra()?;
        let master = collate::first_master(config, self.validators, now)?;
        let shard = collate::first_shard(&accounts, now)?;
        let record = vec![master, shard];
        self.file.append(&record)?;
        self.replay(record)?;
        let (zero, epoch) = (self.last(&self.master).id, self.validators);
        let block = self
            .shard_side()
            .transacted(&accounts, &[], 0, now, &zero)?;
        self.append(Some(block), Some(epoch), now)
    }

    fn append(
        &mut self,
        shard: Option<Cell>,
        validators: Option<Validators>,
        now: u32,
    ) -> Result<()> {
        let shard_id = match &shard {
            Some(root) => collate::id_of(root)?,
            None => self.last(&self.shard).id,
        };
        let key = self.keys.last().and_then(|key| self.master.get(*key));
        let master = self.master_side().next(key, &shard_id, validators, now)?;
        let record: Vec<_> = [Some(master), shard].into_iter().flatten().collect();
        self.file.append(&record)?;
        self.replay(record)
    }

    /// Takes a record of the file for what happened.
    fn replay(&mut self, record: Vec<Cell>) -> Result<()> {
        let mut record = record.into_iter();
        let first = record.next().context("an empty record")?;
        if self.master.is_empty() {
            let second = record.next().context("no state of the shard")?;
            self.master.push(collate::zero(first)?);
            self.shard.push(collate::zero(second)?);
            self.known.push(1);
            return Ok(());
        }
        if let Some(shard) = record.next() {
            let block = collate::after(self.last(&self.shard), shard)?;
            for (key, transaction) in collate::transactions(&block.root)? {
                self.transactions.insert(key, transaction);
            }
            self.shard.push(block);
        }
        let block = collate::after(self.last(&self.master), first)?;
        if let Some(epoch) = collate::epoch_after(&block)? {
            self.keys.push(self.master.len());
            self.validators = Validators { epoch };
        }
        self.master.push(block);
        self.known.push(self.shard.len());
        Ok(())
    }

    fn seen(&self) -> Result<Seen> {
        let hundreds = self.master.iter().rev();
        let key = self.keys.last().context("no key block")?;
        Ok(Seen {
            last: self
                .master
                .iter()
                .rev()
                .take(16)
                .map(|block| block.id)
                .collect(),
            key: self.master[*key].id,
            hundreds: hundreds
                .filter(|block| block.id.seqno % 100 == 0)
                .take(16)
                .map(|block| block.id)
                .collect(),
        })
    }

    fn master_side(&self) -> Side {
        Side::new(self.last(&self.master), self.validators)
    }

    fn shard_side(&self) -> Side {
        Side::new(self.last(&self.shard), self.validators)
    }

    fn last<'a>(&self, blocks: &'a [Block]) -> &'a Block {
        blocks.last().expect("a chain that has begun")
    }

    fn wallet_state(&self, key: &HashBytes) -> Result<(StdAddr, StateInit)> {
        let data = wallet::Data {
            is_signature_allowed: true,
            seqno: 0,
            wallet_id: WALLET_ID,
            public_key: *key,
            extensions: Dict::new(),
        };
        let init = StateInit {
            code: Some(self.wallet_code.clone()),
            data: Some(CellBuilder::build_from(&data)?),
            ..StateInit::default()
        };
        let hash = *CellBuilder::build_from(&init)?.repr_hash();
        Ok((StdAddr::new(0, hash), init))
    }
}

fn destination(message: &Cell) -> Result<Option<HashBytes>> {
    let message: OwnedMessage = message.parse()?;
    let address = match message.info {
        MsgInfo::Int(info) => info.dst,
        MsgInfo::ExtIn(info) => info.dst,
        MsgInfo::ExtOut(_) => return Ok(None),
    };
    let here = address.as_std().filter(|address| address.workchain == 0);
    Ok(here.map(|address| address.address))
}

fn nobody() -> Result<ShardAccount> {
    Ok(ShardAccount {
        account: Lazy::new(&OptionalAccount(None))?,
        last_trans_hash: HashBytes::ZERO,
        last_trans_lt: 0,
    })
}

fn put(accounts: &mut ShardAccounts, id: HashBytes, entry: &ShardAccount) -> Result<()> {
    match entry.load_account()? {
        Some(account) => {
            let info = DepthBalanceInfo {
                split_depth: 0,
                balance: account.balance,
            };
            accounts.set(id, info, entry)?;
        }
        None => {
            accounts.remove(id)?;
        }
    }
    Ok(())
}

/// Which network this is: none that has coins.
pub const GLOBAL_ID: i32 = -777;

/// `global_id XOR (1 || workchain:int8 || version:uint8 || number:uint15)`.
const WALLET_ID: u32 = 0x7fff_fcf7;

/// Blocks that every chain has: PREVMCBLOCKS_100 shows sixteen in steps of a hundred.
const LOOK_BACK: usize = 101;

/// Transactions in a block.
const MOST: usize = 1024;
