//! What is thought of machines, beside the money: it follows from nothing that was signed,
//! and the audit does not look at it.

use std::time::Duration;

use attestation::register::Digest256;

use super::Ledger;
use super::store::{Connection, Row, StoreError, Value};
use crate::decay::Age;
use crate::machine::Machine;
use crate::reputation::{Counts, Record};

impl Ledger {
    /// Adds what came since, and says what there is by now. Unlike all else, this is not the
    /// same done twice.
    pub async fn remember(
        &self,
        mut news: Vec<(Machine, Record)>,
        now: Duration,
    ) -> Result<Vec<(Machine, Record)>, StoreError> {
        // Rows are locked in one order.
        news.sort_by_key(|(machine, _)| *machine);
        let work = move |open: &mut dyn Connection| {
            for (machine, record) in &news {
                add(open, machine, record, now)?;
            }
            all(open, now)
        };
        self.store.ask(work).await
    }
}

fn add(
    connection: &mut dyn Connection,
    machine: &Machine,
    news: &Record,
    now: Duration,
) -> Result<(), StoreError> {
    connection.run(INSERT, &values(machine, &Record::new(now))?)?;
    let rows = connection.run(LOCK, &[machine.0.as_bytes().as_slice().into()])?;
    let row = rows.into_iter().next().ok_or(StoreError::Column)?;
    let (_, known) = read(row)?;
    let record = known.with(news, now);
    connection.run(UPDATE, &values(machine, &record)?).map(drop)
}

fn all(
    connection: &mut dyn Connection,
    now: Duration,
) -> Result<Vec<(Machine, Record)>, StoreError> {
    let rows = connection.run(ALL, &[])?.into_iter();
    let mut left = Vec::new();
    for (machine, record) in rows.map(read).collect::<Result<Vec<_>, _>>()? {
        match record.at(now).is_blank() {
            // Unless somebody wrote meanwhile.
            true => drop(connection.run(DELETE, &values(&machine, &record)?[..3])?),
            false => left.push((machine, record)),
        }
    }
    Ok(left)
}

fn read(mut row: Row) -> Result<(Machine, Record), StoreError> {
    let machine = Machine(Digest256::from_bytes(row.array()?));
    let mut age = || Ok(Age::new(Duration::from_secs(row.number()?)));
    let (service, history) = (age()?, age()?);
    let counts = Counts {
        tokens: row.number()?,
        answered: row.number()?,
        late: row.number()?,
        failed: row.number()?,
        agreed: row.number()?,
        lied: row.number()?,
    };
    let record = Record {
        service,
        history,
        counts,
    };
    Ok((machine, record))
}

fn values(machine: &Machine, record: &Record) -> Result<[Value; 9], StoreError> {
    let counts = &record.counts;
    Ok([
        machine.0.as_bytes().as_slice().into(),
        Value::number(record.service.since().as_secs())?,
        Value::number(record.history.since().as_secs())?,
        Value::number(counts.tokens)?,
        Value::number(counts.answered)?,
        Value::number(counts.late)?,
        Value::number(counts.failed)?,
        Value::number(counts.agreed)?,
        Value::number(counts.lied)?,
    ])
}

/// Times in seconds since 1970.
pub(super) const TABLE: &str = "CREATE TABLE IF NOT EXISTS records (machine BYTEA PRIMARY KEY, \
     service BIGINT NOT NULL, history BIGINT NOT NULL, tokens BIGINT NOT NULL, \
     answered BIGINT NOT NULL, late BIGINT NOT NULL, failed BIGINT NOT NULL, \
     agreed BIGINT NOT NULL, lied BIGINT NOT NULL)";

const ALL: &str = "SELECT machine, service, history, tokens, answered, late, failed, agreed, lied \
     FROM records";
const LOCK: &str = "SELECT machine, service, history, tokens, answered, late, failed, agreed, lied \
     FROM records WHERE machine = $1 FOR UPDATE";
const INSERT: &str = "INSERT INTO records (machine, service, history, tokens, answered, late, \
     failed, agreed, lied) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9) \
     ON CONFLICT (machine) DO NOTHING";
const UPDATE: &str = "UPDATE records SET service = $2, history = $3, tokens = $4, answered = $5, \
     late = $6, failed = $7, agreed = $8, lied = $9 WHERE machine = $1";
const DELETE: &str = "DELETE FROM records WHERE machine = $1 AND service = $2 AND history = $3";

#[cfg(test)]
mod tests {
    use super::*;

    use crate::ledger::cluster::{Cluster, HASTY};
    use crate::ledger::fixture::identity;
    use crate::reputation::{Event, Reputation};

    const NOW: Duration = Duration::from_secs(1_800_000_000);
    const AGES: Duration = Duration::from_secs(1 << 32);

    fn machine(name: &[u8]) -> Machine {
        Machine(Digest256::of(name))
    }

    /// Two schedulers, one of which starts again.
    async fn story(url: &str) {
        let (mut one, mut two) = (Reputation::default(), Reputation::default());
        let ledger = Ledger::open(url, identity()).await.unwrap();
        one.record(machine(b"liar"), Event::Lied, NOW);
        one.record(machine(b"good"), Event::Settled { tokens: u64::MAX }, NOW);
        two.record(machine(b"liar"), Event::Failed, NOW);
        for reputation in [&mut one, &mut two] {
            let all = ledger.remember(reputation.news(), NOW).await.unwrap();
            reputation.learn(all, NOW);
        }
        one.learn(ledger.remember(Vec::new(), NOW).await.unwrap(), NOW);
        assert_eq!(one.table(NOW), two.table(NOW));
        drop(ledger);

        let ledger = Ledger::open(url, identity()).await.unwrap();
        let mut again = Reputation::default();
        again.learn(ledger.remember(Vec::new(), NOW).await.unwrap(), NOW);
        assert_eq!(again.table(NOW), one.table(NOW));
        assert_eq!(again.standing(&machine(b"liar"), NOW), 0);
        assert_eq!(ledger.audit().await.unwrap(), []);
        let late = NOW.saturating_add(AGES);
        assert_eq!(ledger.remember(Vec::new(), late).await.unwrap(), []);
        let empty = ledger.store.ask(|open| open.run(ALL, &[])).await;
        assert!(empty.unwrap().is_empty(), "nothing is left to be said");
    }

    #[tokio::test]
    async fn a_record_outlives_its_scheduler_and_is_one_for_several() {
        let folder = tempfile::TempDir::new().unwrap();
        story(&format!("sqlite:{}", folder.path().join("books").display())).await;
        if let Some(cluster) = Cluster::start(&HASTY) {
            story(&cluster.url()).await;
        }
    }
}
