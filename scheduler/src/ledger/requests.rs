//! Requests: who is charged for each, who is paid, and how far it is.

use tycho_types::cell::HashBytes;

use super::store::{Connection, Row, StoreError, Value};

/// A request's row.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) struct Request {
    pub(super) key: RequestKey,
    /// Out of which Channel its worker is paid.
    pub(super) worker: HashBytes,
    pub(super) limit: u64,
    pub(super) price: u64,
    pub(super) ask: u64,
    pub(super) stage: Stage,
}

/// A request that is to be served.
#[derive(Clone, Copy, Debug)]
pub struct Asked {
    /// Which one.
    pub key: RequestKey,
    /// Out of which Channel its worker is paid.
    pub channel: HashBytes,
    /// Whom it is sealed to: SHA-256 of the seal key.
    pub worker: HashBytes,
    /// Seconds that it may take.
    pub deadline: u32,
    /// Known to nobody else: whoever cannot tell whether it was admitted asks again with it.
    pub attempt: [u8; 16],
}

impl Asked {
    /// Whether this is who asked first.
    pub(super) fn is_known(&self, connection: &mut dyn Connection) -> Result<bool, StoreError> {
        let [client, id] = self.key.values();
        let values = [client, id, self.attempt.as_slice().into()];
        Ok(!connection.run(ATTEMPT, &values)?.is_empty())
    }
}

/// A request that has not ended, as far as the books say.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Unended {
    /// Which one.
    pub key: RequestKey,
    /// Whom it is sealed to.
    pub worker: HashBytes,
    /// In unix seconds.
    pub opened: u32,
    /// Seconds that it may take; of what another version wrote nobody knows.
    pub deadline: Option<u32>,
}

impl Unended {
    /// Those that were admitted before a moment.
    pub(super) fn before(
        connection: &mut dyn Connection,
        before: u32,
    ) -> Result<Vec<Self>, StoreError> {
        let rows = connection.run(UNENDED, &[before.into()])?;
        let read = |mut row: Row| {
            Ok(Self {
                key: RequestKey {
                    client: HashBytes(row.array()?),
                    id: row.array()?,
                },
                worker: HashBytes(row.array()?),
                opened: row.number()?,
                deadline: row.maybe()?,
            })
        };
        rows.into_iter().map(read).collect()
    }
}

/// A client may choose what another has chosen.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub struct RequestKey {
    /// The client's Channel, in the basechain.
    pub client: HashBytes,
    /// Of the envelope.
    pub id: [u8; 16],
}

/// How far a request is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Stage {
    Open,
    Settled,
    Released,
}

impl Request {
    pub(super) fn find(
        connection: &mut dyn Connection,
        key: &RequestKey,
    ) -> Result<Option<Self>, StoreError> {
        let rows = connection.run(FIND, &key.values())?;
        rows.into_iter().next().map(Self::read).transpose()
    }

    /// Those of a client after an identifier, in order, some at a time.
    pub(super) fn after(
        connection: &mut dyn Connection,
        client: &HashBytes,
        id: Option<[u8; 16]>,
    ) -> Result<Vec<Self>, StoreError> {
        // Whatever has no bytes is before all identifiers.
        let after = id.map_or(Vec::new(), Vec::from);
        let values = [client.as_slice().into(), Value::Bytes(after)];
        let rows = connection.run(OF_CLIENT, &values)?;
        rows.into_iter().map(Self::read).collect()
    }

    /// Some of those that were admitted before a moment and are open.
    pub(super) fn old(
        connection: &mut dyn Connection,
        before: u32,
    ) -> Result<Vec<Self>, StoreError> {
        let rows = connection.run(OLD, &[before.into()])?;
        rows.into_iter().map(Self::read).collect()
    }

    /// What open requests reserve in a worker's Channel.
    pub(super) fn open_of_worker(
        connection: &mut dyn Connection,
        worker: &HashBytes,
    ) -> Result<Vec<Self>, StoreError> {
        let rows = connection.run(OPEN_OF_WORKER, &[worker.as_slice().into()])?;
        rows.into_iter().map(Self::read).collect()
    }

    fn read(mut row: Row) -> Result<Self, StoreError> {
        Ok(Self {
            key: RequestKey {
                client: HashBytes(row.array()?),
                id: row.array()?,
            },
            worker: HashBytes(row.array()?),
            limit: row.number()?,
            price: row.number()?,
            ask: row.number()?,
            stage: match row.number()? {
                0_u8 => Stage::Open,
                1 => Stage::Settled,
                2 => Stage::Released,
                _ => return Err(StoreError::Column),
            },
        })
    }

    pub(super) fn insert(
        &self,
        connection: &mut dyn Connection,
        asked: &Asked,
        now: u32,
    ) -> Result<(), StoreError> {
        let [client, id] = self.key.values();
        let values = [
            client,
            id,
            self.worker.as_slice().into(),
            Value::number(self.limit)?,
            Value::number(self.price)?,
            now.into(),
            Value::number(self.ask)?,
            asked.worker.as_slice().into(),
            asked.attempt.as_slice().into(),
            asked.deadline.into(),
        ];
        connection.run(INSERT, &values).map(drop)
    }

    pub(super) fn end(&self, connection: &mut dyn Connection) -> Result<(), StoreError> {
        let stage = match self.stage {
            Stage::Open => 0_u32,
            Stage::Settled => 1,
            Stage::Released => 2,
        };
        let [client, id] = self.key.values();
        connection.run(END, &[stage.into(), client, id]).map(drop)
    }
}

impl RequestKey {
    pub(super) fn values(&self) -> [Value; 2] {
        [self.client.as_slice().into(), self.id.as_slice().into()]
    }
}

pub(super) const TABLE: &str = "CREATE TABLE IF NOT EXISTS requests (client BYTEA NOT NULL, \
     id BYTEA NOT NULL, worker BYTEA NOT NULL, most BIGINT NOT NULL, price BIGINT NOT NULL, \
     opened BIGINT NOT NULL, stage BIGINT NOT NULL, ask BIGINT, sealed_to BYTEA, \
     attempt BYTEA, deadline BIGINT, PRIMARY KEY (client, id))";
pub(super) const INDEX: &str =
    "CREATE INDEX IF NOT EXISTS open_requests ON requests (opened) WHERE stage = 0";

/// From the first version, whose processes go on beside those of the second.
pub(super) const SECOND: [&str; 4] = [
    "ALTER TABLE requests ADD COLUMN ask BIGINT",
    "ALTER TABLE requests ADD COLUMN sealed_to BYTEA",
    "ALTER TABLE requests ADD COLUMN attempt BYTEA",
    "UPDATE ledger SET version = 2",
];

/// From the second, likewise.
pub(super) const THIRD: [&str; 2] = [
    "ALTER TABLE requests ADD COLUMN deadline BIGINT",
    "UPDATE ledger SET version = 3",
];

const FIND: &str = "SELECT client, id, worker, most, price, COALESCE(ask, price), stage \
     FROM requests WHERE client = $1 AND id = $2";
const OF_CLIENT: &str = "SELECT client, id, worker, most, price, COALESCE(ask, price), stage \
     FROM requests WHERE client = $1 AND id > $2 ORDER BY id LIMIT 1000";
const OLD: &str = "SELECT client, id, worker, most, price, COALESCE(ask, price), stage \
     FROM requests WHERE stage = 0 AND opened < $1 ORDER BY opened LIMIT 1000";
const OPEN_OF_WORKER: &str = "SELECT client, id, worker, most, price, COALESCE(ask, price), \
     stage FROM requests WHERE stage = 0 AND worker = $1";
const ATTEMPT: &str = "SELECT id FROM requests WHERE client = $1 AND id = $2 AND attempt = $3";
const UNENDED: &str = "SELECT client, id, sealed_to, opened, deadline FROM requests \
     WHERE stage = 0 AND opened < $1 AND sealed_to IS NOT NULL ORDER BY opened LIMIT 65536";
const INSERT: &str = "INSERT INTO requests (client, id, worker, most, price, opened, stage, \
     ask, sealed_to, attempt, deadline) VALUES ($1, $2, $3, $4, $5, $6, 0, $7, $8, $9, $10)";
const END: &str = "UPDATE requests SET stage = $1 WHERE client = $2 AND id = $3";
