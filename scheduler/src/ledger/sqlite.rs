//! Books of one scheduler, in a file.
//!
//! A commit is on the disk when it returns: a write-ahead log, which is flushed each time.
//!
//! Source: sqlite.org/pragma.html, `synchronous`.

use std::path::PathBuf;
use std::time::Duration;

use rusqlite::types::{ToSqlOutput, ValueRef};
use rusqlite::{ToSql, params_from_iter};

use super::store::{Connection, Engine, Row, StoreError, Value};

/// Where the file is.
#[derive(Debug)]
pub(super) struct Sqlite(pub(super) PathBuf);

impl Engine for Sqlite {
    fn connect(&self) -> Result<Box<dyn Connection>, StoreError> {
        // Without a name, or with one of its own, SQLite would forget all of it.
        let path = std::path::absolute(&self.0).map_err(StoreError::database)?;
        let open = || {
            let connection = rusqlite::Connection::open(path)?;
            connection.busy_timeout(PATIENCE)?;
            connection.pragma_update(None, "journal_mode", "wal")?;
            connection.pragma_update(None, "synchronous", "full")?;
            connection.set_prepared_statement_cache_capacity(STATEMENTS);
            Ok::<_, rusqlite::Error>(connection)
        };
        Ok(Box::new(open().map_err(StoreError::database)?))
    }

    fn begin(&self) -> &'static str {
        "BEGIN IMMEDIATE"
    }

    fn threads(&self) -> usize {
        1
    }

    fn together(&self) -> usize {
        TOGETHER
    }
}

impl Connection for rusqlite::Connection {
    fn run(&mut self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>, StoreError> {
        let ours = sql.replace('$', "?");
        let ours = ours.trim_end_matches(" FOR UPDATE");
        let query = || {
            let mut statement = self.prepare_cached(ours)?;
            let columns = statement.column_count();
            let mut rows = statement.query(params_from_iter(values))?;
            let mut found = Vec::new();
            while let Some(row) = rows.next()? {
                let values: Result<Vec<_>, _> = (0..columns)
                    .map(|column| row.get_ref(column).map(value))
                    .collect();
                found.push(Row(values?.into_iter()));
            }
            Ok::<_, rusqlite::Error>(found)
        };
        query().map_err(StoreError::database)
    }
}

/// What else may be in a file is nothing of ours.
fn value(found: ValueRef<'_>) -> Value {
    match found {
        ValueRef::Integer(number) => Value::Number(number),
        ValueRef::Blob(bytes) => Value::Bytes(bytes.to_vec()),
        _ => Value::Null,
    }
}

impl ToSql for Value {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(ToSqlOutput::Borrowed(match self {
            Self::Null => ValueRef::Null,
            Self::Number(number) => ValueRef::Integer(*number),
            Self::Bytes(bytes) => ValueRef::Blob(bytes),
        }))
    }
}

/// For whoever else has the file open.
const PATIENCE: Duration = Duration::from_secs(5);

/// More than there are.
const STATEMENTS: usize = 64;

/// Operations that wait for one write to the disk at most.
const TOGETHER: usize = 256;
