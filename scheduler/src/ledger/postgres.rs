//! Books of several schedulers, in PostgreSQL.
//!
//! Every operation locks the rows of its Channels, in the order of their addresses, before
//! it reads anything else, at the default level: what it then reads was committed by whoever
//! held them before. The server is reached by a Unix socket or over a network that
//! encrypts; the rows show by themselves that nobody changed them.
//!
//! Source: postgresql.org/docs/15/transaction-iso.html, 13.2.1; explicit-locking.html, 13.3.2.

use std::collections::HashMap;
use std::error::Error;

use postgres::types::private::BytesMut;
use postgres::types::{IsNull, ToSql, Type, to_sql_checked};
use postgres::{Client, Config, NoTls, Statement};

use super::store::{Connection, Engine, Row, StoreError, Value};

impl Engine for Config {
    fn connect(&self) -> Result<Box<dyn Connection>, StoreError> {
        let client = Self::connect(self, NoTls).map_err(StoreError::database)?;
        Ok(Box::new(Open {
            client,
            statements: HashMap::new(),
        }))
    }

    fn begin(&self) -> &'static str {
        "BEGIN"
    }

    fn threads(&self) -> usize {
        THREADS
    }

    fn together(&self) -> usize {
        1
    }
}

struct Open {
    client: Client,
    statements: HashMap<&'static str, Statement>,
}

impl Connection for Open {
    fn run(&mut self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>, StoreError> {
        let mut query = || {
            let statement = match self.statements.get(sql) {
                Some(statement) => statement.clone(),
                None => {
                    let statement = self.client.prepare(sql)?;
                    self.statements.insert(sql, statement.clone());
                    statement
                }
            };
            let values: Vec<&(dyn ToSql + Sync)> = values
                .iter()
                .map(|value| {
                    let value: &(dyn ToSql + Sync) = value;
                    value
                })
                .collect();
            let mut found = Vec::new();
            for row in self.client.query(&statement, &values)? {
                let values: Result<Vec<_>, _> = (0..row.len())
                    .map(
                        |column| match row.columns().get(column).map(|column| column.type_()) {
                            Some(&Type::INT8) => {
                                Ok(row.try_get::<_, Option<i64>>(column)?.map(Value::Number))
                            }
                            _ => Ok(row.try_get::<_, Option<Vec<u8>>>(column)?.map(Value::Bytes)),
                        },
                    )
                    .map(|value| value.map(|value| value.unwrap_or(Value::Null)))
                    .collect();
                found.push(Row(values?.into_iter()));
            }
            Ok::<_, postgres::Error>(found)
        };
        query().map_err(StoreError::database)
    }
}

impl ToSql for Value {
    fn to_sql(
        &self,
        kind: &Type,
        out: &mut BytesMut,
    ) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        match self {
            Self::Null => Ok(IsNull::Yes),
            Self::Number(number) => number.to_sql(kind, out),
            Self::Bytes(bytes) => bytes.to_sql(kind, out),
        }
    }

    fn accepts(kind: &Type) -> bool {
        matches!(*kind, Type::INT8 | Type::BYTEA)
    }

    to_sql_checked!();
}

/// Connections of one scheduler.
const THREADS: usize = 4;
