//! Every transaction of a test that is the same each time, once more, on a TVM that shares
//! no code with the reference: tycho-vm, of version 12 too, and tycho-executor for what is
//! around it.
//!
//! Compared is all that it did: exit code, gas, steps, actions, messages to the bit, fees,
//! data, code, balance. Not compared are: a Node's or Collateral's transaction that comes
//! to P-256, which tycho-vm does not have; one that freezes an account for its debt, in
//! which tycho-executor runs the code all the same; get-methods; exit codes 9 and 12 with
//! each other, as tycho-vm has 12 for some data that have not the form they are read as;
//! and what tycho-executor writes differently of a transaction and its account: that the
//! account was made by it, that the action which failed was the first, what those before it
//! would have cost, what was lacking for a bounce that could not be paid for, the size of
//! an account without code, and the hash of the dictionary of many cells.

use contracts::code::Code;
use serde::Deserialize;
use tycho_executor::{Executor, ExecutorParams, ParsedConfig};
use tycho_types::cell::{Cell, HashBytes, Lazy};
use tycho_types::dict::Dict;
use tycho_types::models::{
    Account, AccountState, AccountStatusChange, BlockchainConfig, BlockchainConfigParams,
    BouncePhase, ComputePhase, HashUpdate, OrdinaryTxInfo, ShardAccount, StdAddr, StorageExtra,
    StorageUsed, Transaction, TxInfo, WorkchainDescription, WorkchainFormat, WorkchainFormatBasic,
};
use tycho_types::num::Tokens;

use super::{from_cell, load};

/// What the reference made a transaction from, and what it made.
#[derive(Clone, Debug, Deserialize)]
pub struct Ran {
    #[serde(deserialize_with = "from_cell")]
    account: Cell,
    #[serde(deserialize_with = "from_cell")]
    message: Cell,
    pub now: u32,
    #[serde(deserialize_with = "from_cell")]
    transaction: Cell,
    #[serde(deserialize_with = "from_cell")]
    after: Cell,
}

impl Ran {
    /// Where there was any.
    fn code(&self) -> Option<Cell> {
        [&self.account, &self.after]
            .into_iter()
            .find_map(|account| {
                match load::<ShardAccount>(account).load_account().unwrap()?.state {
                    AccountState::Active(state) => state.code,
                    AccountState::Uninit | AccountState::Frozen(_) => None,
                }
            })
    }
}

/// Of one configuration.
#[derive(Debug)]
pub struct Second {
    config: ParsedConfig,
}

impl Second {
    pub fn new(config: Cell) -> Self {
        let mut params = BlockchainConfigParams::from_raw(config);
        // It does not read the form that this parameter has today.
        let mut workchains = Dict::new();
        workchains.set(0, BASECHAIN).unwrap();
        params.set_workchains(&workchains).unwrap();
        let address = HashBytes([0x55; 32]);
        let config = BlockchainConfig { address, params };
        let config = ParsedConfig::parse(config, u32::MAX).unwrap();
        Self { config }
    }

    /// Panics with both outcomes where they are not the same.
    pub fn agrees(&self, ran: &Ran) {
        let (expected, found) = self.outcomes(ran);
        let without_p256 = ran.code().is_some_and(|code| {
            [Code::APP, Code::CHANNEL, Code::MARKET, Code::REGISTRY]
                .iter()
                .any(|of| of.cell().unwrap() == code)
        });
        let p256 = !without_p256 && found.exit() == Some(INVALID_OPCODE);
        if !(p256 || expected.freezes()) {
            assert_eq!(expected, found, "the reference is left");
        }
    }

    /// The reference's, and this one's.
    pub fn outcomes(&self, ran: &Ran) -> (Outcome, Outcome) {
        let before: ShardAccount = load(&ran.account);
        let expected: Transaction = load(&ran.transaction);
        let params = ExecutorParams {
            block_unixtime: ran.now,
            block_lt: expected.lt,
            ..ExecutorParams::default()
        };
        let executor = Executor::new(&params, &self.config).with_min_lt(expected.lt);
        let address = StdAddr::new(0, expected.account);
        // int_msg_info$0, ext_in_msg_info$10
        let external = ran.message.as_slice_allow_exotic().get_bit(0).unwrap();
        let found = executor
            .begin_ordinary(&address, external, ran.message.clone(), &before)
            .and_then(|found| Ok(found.commit()?))
            .unwrap();
        (
            Outcome::new(expected, &load(&ran.after)),
            Outcome::new(found.transaction.load().unwrap(), &found.new_state),
        )
    }
}

/// What a transaction did.
#[derive(Debug, PartialEq)]
pub struct Outcome {
    pub account: Option<Account>,
    pub info: OrdinaryTxInfo,
    transaction: Transaction,
}

impl Outcome {
    /// Without what the two do not write alike.
    fn new(transaction: Transaction, after: &ShardAccount) -> Self {
        let mut account = after.load_account().unwrap();
        if let Some(account) = &mut account {
            account.storage_stat.storage_extra = StorageExtra::None;
            if !matches!(account.state, AccountState::Active(_)) {
                account.storage_stat.used = StorageUsed::ZERO;
            }
        }
        let TxInfo::Ordinary(mut info) = transaction.load_info().unwrap() else {
            panic!("nothing ticks here");
        };
        if let ComputePhase::Executed(phase) = &mut info.compute_phase {
            (phase.msg_state_used, phase.account_activated) = (false, false);
            if phase.exit_code == FATAL {
                phase.exit_code = CELL_UNDERFLOW;
            }
        }
        if let Some(BouncePhase::NoFunds(phase)) = &mut info.bounce_phase {
            phase.req_fwd_fees = Tokens::ZERO;
        }
        if let Some(phase) = &mut info.action_phase {
            phase.result_arg = phase.result_arg.filter(|index| *index != 0);
            phase.total_fwd_fees = phase.total_fwd_fees.filter(|_| phase.success);
        }
        let update = HashUpdate {
            old: HashBytes::ZERO,
            new: HashBytes::ZERO,
        };
        let transaction = Transaction {
            state_update: Lazy::new(&update).unwrap(),
            info: Lazy::new(&TxInfo::Ordinary(info.clone())).unwrap(),
            ..transaction
        };
        Self {
            account,
            info,
            transaction,
        }
    }

    fn freezes(&self) -> bool {
        let phase = self.info.storage_phase.as_ref();
        phase.is_some_and(|phase| phase.status_change != AccountStatusChange::Unchanged)
    }

    pub fn exit(&self) -> Option<i32> {
        match &self.info.compute_phase {
            ComputePhase::Executed(phase) => Some(phase.exit_code),
            ComputePhase::Skipped(_) => None,
        }
    }
}

const INVALID_OPCODE: i32 = 6;
const CELL_UNDERFLOW: i32 = 9;
const FATAL: i32 = 12;

const BASECHAIN: WorkchainDescription = WorkchainDescription {
    enabled_since: 0,
    actual_min_split: 0,
    min_split: 0,
    max_split: 4,
    active: true,
    accept_msgs: true,
    zerostate_root_hash: HashBytes::ZERO,
    zerostate_file_hash: HashBytes::ZERO,
    version: 0,
    format: WorkchainFormat::Basic(WorkchainFormatBasic {
        vm_version: -1,
        vm_mode: 0,
    }),
};
