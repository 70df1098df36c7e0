//! The tables, and what is in a row of them.
//!
//! Vouchers, receipts and what the chain keeps of a Channel are there as they were signed
//! and proved, in bags of cells; beside them is only what follows from them.

use contracts::channel::{Channel, State};
use contracts::voucher::{Signed, Voucher};
use tycho_types::boc::BocRepr;
use tycho_types::cell::HashBytes;
use tycho_types::models::StdAddr;

use super::account::{Account, Sum};
use super::receipts::{Served, Tree};
use super::records;
use super::requests::{self, RequestKey};
use super::store::{Connection, Row, StoreError, Value};

/// Whether the scheduler is paid out of a Channel, or pays.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Side {
    /// A client pays the scheduler.
    Client,
    /// The scheduler pays the owner of a worker.
    Worker,
}

/// A Channel's row.
#[derive(Clone, Debug)]
pub(super) struct Book {
    pub(super) side: Side,
    pub(super) account: Account,
    /// The newest voucher, once there was one.
    pub(super) signed: Option<Signed>,
    /// Over what the Channel paid for; of a worker's only.
    pub(super) tree: Tree,
}

impl Book {
    /// Read and kept until the end of the transaction.
    pub(super) fn lock(
        connection: &mut dyn Connection,
        global_id: i32,
        address: &HashBytes,
    ) -> Result<Option<Self>, StoreError> {
        let rows = connection.run(LOCK, &[address.as_slice().into()])?;
        let row = rows.into_iter().next();
        row.map(|row| Self::read(row, global_id)).transpose()
    }

    /// All of them, as they are.
    pub(super) fn all(
        connection: &mut dyn Connection,
        global_id: i32,
    ) -> Result<Vec<Self>, StoreError> {
        let rows = connection.run(ALL, &[])?;
        let rows = rows.into_iter();
        rows.map(|row| Self::read(row, global_id)).collect()
    }

    fn read(mut row: Row, global_id: i32) -> Result<Self, StoreError> {
        let address = StdAddr::new(0, HashBytes(row.array()?));
        let side = match row.number()? {
            0_u8 => Side::Client,
            1 => Side::Worker,
            _ => return Err(StoreError::Column),
        };
        let state: State = decode(&row.bytes()?)?;
        let kept = tycho_types::cell::CellBuilder::build_from(&state);
        let kept = kept.map_err(|_| StoreError::Column)?;
        let channel = Channel::load(&address, &kept).map_err(|_| StoreError::Column)?;
        let (balance, seen) = (row.number()?, row.number()?);
        let voucher = row.bytes()?;
        let signed: Option<Signed> = match voucher.is_empty() {
            true => None,
            false => Some(decode(&voucher)?),
        };
        let voucher = match &signed {
            Some(signed) => signed.unverified().map_err(|_| StoreError::Column)?,
            None => Voucher::first(global_id, address),
        };
        Ok(Self {
            side,
            account: Account {
                channel,
                balance,
                seen,
                voucher,
                spent: sum(&mut row)?,
                reserved: sum(&mut row)?,
            },
            signed,
            tree: tree(&mut row)?,
        })
    }

    /// A Channel that nobody has shown before; if somebody did meanwhile, theirs stays.
    pub(super) fn insert(&self, connection: &mut dyn Connection) -> Result<(), StoreError> {
        let side = match self.side {
            Side::Client => 0_u32,
            Side::Worker => 1,
        };
        let values = [
            self.address().as_slice().into(),
            side.into(),
            encode(&self.account.channel.state)?,
            Value::number(self.account.balance)?,
            self.account.seen.into(),
            Value::Bytes(Vec::new()),
        ];
        connection.run(INSERT_CHANNEL, &values).map(drop)
    }

    /// What the chain says.
    pub(super) fn update_chain(&self, connection: &mut dyn Connection) -> Result<(), StoreError> {
        let values = [
            encode(&self.account.channel.state)?,
            Value::number(self.account.balance)?,
            self.account.seen.into(),
            self.address().as_slice().into(),
        ];
        connection.run(UPDATE_CHAIN, &values).map(drop)
    }

    /// All else.
    pub(super) fn update(&self, connection: &mut dyn Connection) -> Result<(), StoreError> {
        let voucher = self.signed.as_ref().map(encode).transpose()?;
        let values = [
            voucher.unwrap_or(Value::Bytes(Vec::new())),
            Value::number(self.account.spent.amount)?,
            Value::number(self.account.spent.tokens)?,
            Value::number(self.account.reserved.amount)?,
            Value::number(self.account.reserved.tokens)?,
            Value::number(self.tree.size)?,
            Value::Bytes(self.tree.peaks.concat()),
            self.address().as_slice().into(),
        ];
        connection.run(UPDATE_CHANNEL, &values).map(drop)
    }

    pub(super) fn address(&self) -> &HashBytes {
        &self.account.channel.address.address
    }
}

/// A receipt's row.
#[derive(Clone, Debug)]
pub(super) struct Kept {
    pub(super) key: RequestKey,
    pub(super) worker: HashBytes,
    /// In the worker's tree.
    pub(super) position: u64,
    /// In which it was settled.
    pub(super) epoch: u32,
    pub(super) hash: [u8; 32],
    pub(super) served: Served,
}

impl Kept {
    /// By its request.
    pub(super) fn find(
        connection: &mut dyn Connection,
        key: &RequestKey,
    ) -> Result<Option<Self>, StoreError> {
        let rows = connection.run(FIND_RECEIPT, &key.values())?;
        rows.into_iter().next().map(Self::read).transpose()
    }

    /// Those of a worker's Channel from a place on, in order, some at a time.
    pub(super) fn from(
        connection: &mut dyn Connection,
        worker: &HashBytes,
        position: u64,
    ) -> Result<Vec<Self>, StoreError> {
        let values = [worker.as_slice().into(), Value::number(position)?];
        let rows = connection.run(RECEIPTS_OF_WORKER, &values)?;
        rows.into_iter().map(Self::read).collect()
    }

    /// Those of an epoch after a place, by their Channels and in order, some at a time.
    pub(super) fn of_epoch(
        connection: &mut dyn Connection,
        epoch: u32,
        after: Option<(HashBytes, u64)>,
    ) -> Result<Vec<Self>, StoreError> {
        // Whatever has no bytes is before all addresses.
        let (worker, position) = match after {
            Some((worker, position)) => (worker.as_slice().into(), position),
            None => (Value::Bytes(Vec::new()), 0),
        };
        let values = [epoch.into(), worker, Value::number(position)?];
        let rows = connection.run(RECEIPTS_OF_EPOCH, &values)?;
        rows.into_iter().map(Self::read).collect()
    }

    /// Whether a receipt was ever settled.
    pub(super) fn is_known(
        connection: &mut dyn Connection,
        hash: &[u8; 32],
    ) -> Result<bool, StoreError> {
        let rows = connection.run(KNOWN_RECEIPT, &[hash.as_slice().into()])?;
        Ok(!rows.is_empty())
    }

    fn read(mut row: Row) -> Result<Self, StoreError> {
        let hash = row.array()?;
        let worker = HashBytes(row.array()?);
        let position = row.number()?;
        let key = RequestKey {
            client: HashBytes(row.array()?),
            id: row.array()?,
        };
        let epoch = row.number()?;
        let receipt = decode(&row.bytes()?)?;
        Ok(Self {
            key,
            worker,
            position,
            epoch,
            hash,
            served: Served::told(receipt, row.array()?, HashBytes(row.array()?)),
        })
    }

    pub(super) fn insert(&self, connection: &mut dyn Connection) -> Result<(), StoreError> {
        let [client, id] = self.key.values();
        let values = [
            self.hash.as_slice().into(),
            self.worker.as_slice().into(),
            Value::number(self.position)?,
            client,
            id,
            self.epoch.into(),
            encode(&self.served.receipt)?,
            self.served.signature.as_slice().into(),
            self.served.key.as_slice().into(),
        ];
        connection.run(INSERT_RECEIPT, &values).map(drop)
    }
}

/// Hashes of a Channel's receipts, in their order.
pub(super) fn leaves(
    connection: &mut dyn Connection,
    worker: &HashBytes,
) -> Result<Vec<[u8; 32]>, StoreError> {
    let rows = connection.run(LEAVES_OF_WORKER, &[worker.as_slice().into()])?;
    rows.into_iter().map(|mut row| row.array()).collect()
}

/// Makes the tables, or makes sure that they are this scheduler's.
pub(super) fn prepare(
    connection: &mut dyn Connection,
    identity: &[u8],
) -> Result<bool, StoreError> {
    for sql in TABLES {
        connection.run(sql, &[])?;
    }
    connection.run(INSERT_LEDGER, &[VERSION.into(), identity.into()])?;
    let rows = connection.run(FIND_LEDGER, &[])?;
    let mut row = rows.into_iter().next().ok_or(StoreError::Column)?;
    let (version, owner) = (row.number::<u32>()?, row.bytes()?);
    if owner != identity {
        return Ok(false);
    }
    // Before there were fees.
    if version == 1 {
        for sql in requests::SECOND {
            connection.run(sql, &[])?;
        }
    }
    // Before a request's deadline was written down.
    if matches!(version, 1 | 2) {
        for sql in requests::THIRD {
            connection.run(sql, &[])?;
        }
    }
    Ok(matches!(version, 1..=VERSION))
}

fn sum(row: &mut Row) -> Result<Sum, StoreError> {
    Ok(Sum {
        amount: row.number()?,
        tokens: row.number()?,
    })
}

fn tree(row: &mut Row) -> Result<Tree, StoreError> {
    let (size, peaks) = (row.number()?, row.bytes()?);
    let (peaks, rest) = peaks.as_chunks();
    match rest.is_empty() {
        true => Ok(Tree {
            size,
            peaks: peaks.to_vec(),
        }),
        false => Err(StoreError::Column),
    }
}

fn encode(value: &impl tycho_types::cell::Store) -> Result<Value, StoreError> {
    BocRepr::encode(value)
        .map(Value::Bytes)
        .map_err(|_| StoreError::Column)
}

fn decode<T: for<'a> tycho_types::cell::Load<'a>>(bytes: &[u8]) -> Result<T, StoreError> {
    BocRepr::decode(bytes).map_err(|_| StoreError::Column)
}

const VERSION: u32 = 3;

const TABLES: [&str; 7] = [
    records::TABLE,
    "CREATE TABLE IF NOT EXISTS ledger (one BIGINT PRIMARY KEY CHECK (one = 1), \
     version BIGINT NOT NULL, identity BYTEA NOT NULL)",
    "CREATE TABLE IF NOT EXISTS channels (address BYTEA PRIMARY KEY, side BIGINT NOT NULL, \
     kept BYTEA NOT NULL, balance BIGINT NOT NULL, seen BIGINT NOT NULL, \
     voucher BYTEA NOT NULL, spent BIGINT NOT NULL, spent_tokens BIGINT NOT NULL, \
     reserved BIGINT NOT NULL, reserved_tokens BIGINT NOT NULL, receipts BIGINT NOT NULL, \
     peaks BYTEA NOT NULL)",
    requests::TABLE,
    "CREATE TABLE IF NOT EXISTS receipts (hash BYTEA PRIMARY KEY, worker BYTEA NOT NULL, \
     position BIGINT NOT NULL, client BYTEA NOT NULL, id BYTEA NOT NULL, \
     epoch BIGINT NOT NULL, receipt BYTEA NOT NULL, signature BYTEA NOT NULL, \
     receipt_key BYTEA NOT NULL, UNIQUE (worker, position), UNIQUE (client, id), \
     UNIQUE (epoch, worker, position))",
    requests::INDEX,
    "CREATE TABLE IF NOT EXISTS turns (one BIGINT PRIMARY KEY CHECK (one = 1), \
     who BYTEA NOT NULL, until BIGINT NOT NULL)",
];

const INSERT_LEDGER: &str =
    "INSERT INTO ledger (one, version, identity) VALUES (1, $1, $2) ON CONFLICT (one) DO NOTHING";
const FIND_LEDGER: &str = "SELECT version, identity FROM ledger FOR UPDATE";

const ALL: &str = "SELECT address, side, kept, balance, seen, voucher, spent, spent_tokens, \
     reserved, reserved_tokens, receipts, peaks FROM channels ORDER BY address";
const LOCK: &str = "SELECT address, side, kept, balance, seen, voucher, spent, spent_tokens, \
     reserved, reserved_tokens, receipts, peaks FROM channels WHERE address = $1 FOR UPDATE";
const INSERT_CHANNEL: &str = "INSERT INTO channels (address, side, kept, balance, seen, voucher, \
     spent, spent_tokens, reserved, reserved_tokens, receipts, peaks) \
     VALUES ($1, $2, $3, $4, $5, $6, 0, 0, 0, 0, 0, $6) ON CONFLICT (address) DO NOTHING";
const UPDATE_CHAIN: &str =
    "UPDATE channels SET kept = $1, balance = $2, seen = $3 WHERE address = $4";
const UPDATE_CHANNEL: &str = "UPDATE channels SET voucher = $1, spent = $2, spent_tokens = $3, \
     reserved = $4, reserved_tokens = $5, receipts = $6, peaks = $7 WHERE address = $8";

const FIND_RECEIPT: &str = "SELECT hash, worker, position, client, id, epoch, receipt, \
     signature, receipt_key FROM receipts WHERE client = $1 AND id = $2";
const RECEIPTS_OF_WORKER: &str = "SELECT hash, worker, position, client, id, epoch, receipt, \
     signature, receipt_key FROM receipts WHERE worker = $1 AND position >= $2 \
     ORDER BY position LIMIT 1000";
const KNOWN_RECEIPT: &str = "SELECT hash FROM receipts WHERE hash = $1";
const LEAVES_OF_WORKER: &str = "SELECT hash FROM receipts WHERE worker = $1 ORDER BY position";
const RECEIPTS_OF_EPOCH: &str = "SELECT hash, worker, position, client, id, epoch, receipt, \
     signature, receipt_key FROM receipts WHERE epoch = $1 AND (worker, position) > ($2, $3) \
     ORDER BY worker, position LIMIT 1000";
const INSERT_RECEIPT: &str = "INSERT INTO receipts (hash, worker, position, client, id, epoch, \
     receipt, signature, receipt_key) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)";
