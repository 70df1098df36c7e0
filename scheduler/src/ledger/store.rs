//! Where the books are kept: one SQL text, SQLite or PostgreSQL under it.
//!
//! Each operation is a function over a [`Connection`], carried out in one transaction by a
//! thread that has the connection. It may be carried out and its answer be lost, with the
//! connection or the process: whoever asked then asks again, so every operation is the same
//! done twice.
//!
//! SQLite has one thread, which commits what is waiting together: one write to the disk
//! lasts for all of it, and nobody is answered before. PostgreSQL has several, and rows are
//! locked `FOR UPDATE`, which SQLite neither knows nor needs.

use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::{thread, vec};

use tokio::sync::oneshot;

/// A database, in a transaction or about to begin one.
pub(super) trait Connection: Send {
    /// Does one statement, whose places are `$1`, `$2` and so on.
    fn run(&mut self, sql: &'static str, values: &[Value]) -> Result<Vec<Row>, StoreError>;
}

/// What is in a column.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Value {
    Null,
    Number(i64),
    Bytes(Vec<u8>),
}

/// What a statement found.
#[derive(Clone, Debug)]
pub(super) struct Row(pub(super) vec::IntoIter<Value>);

impl Row {
    /// The next column, which has no negative numbers.
    pub(super) fn number<T: TryFrom<i64>>(&mut self) -> Result<T, StoreError> {
        match self.0.next() {
            Some(Value::Number(number)) => T::try_from(number).map_err(|_| StoreError::Column),
            _ => Err(StoreError::Column),
        }
    }

    /// The next column, which may hold nothing.
    pub(super) fn maybe<T: TryFrom<i64>>(&mut self) -> Result<Option<T>, StoreError> {
        match self.0.next() {
            Some(Value::Null) => Ok(None),
            Some(Value::Number(number)) => {
                let number = T::try_from(number).map_err(|_| StoreError::Column)?;
                Ok(Some(number))
            }
            _ => Err(StoreError::Column),
        }
    }

    /// The next column.
    pub(super) fn bytes(&mut self) -> Result<Vec<u8>, StoreError> {
        match self.0.next() {
            Some(Value::Bytes(bytes)) => Ok(bytes),
            _ => Err(StoreError::Column),
        }
    }

    /// The next column, of so many bytes.
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], StoreError> {
        self.bytes()?.try_into().map_err(|_| StoreError::Column)
    }
}

impl From<&[u8]> for Value {
    fn from(bytes: &[u8]) -> Self {
        Self::Bytes(bytes.to_vec())
    }
}

impl From<u32> for Value {
    fn from(number: u32) -> Self {
        Self::Number(number.into())
    }
}

impl Value {
    /// Databases have one bit less.
    pub(super) fn number(number: u64) -> Result<Self, StoreError> {
        i64::try_from(number)
            .map(Self::Number)
            .map_err(|_| StoreError::Column)
    }
}

/// How connections are made.
pub(super) trait Engine: Send + Sync + 'static {
    /// Makes one.
    fn connect(&self) -> Result<Box<dyn Connection>, StoreError>;
    /// What begins a transaction that writes.
    fn begin(&self) -> &'static str;
    /// Connections at once.
    fn threads(&self) -> usize;
    /// Operations in one transaction.
    fn together(&self) -> usize;
}

/// Threads with connections.
#[derive(Clone, Debug)]
pub(super) struct Store(Sender<Box<dyn Task>>);

impl Store {
    /// The first connection is made before this returns.
    pub(super) fn new(engine: impl Engine) -> Result<Self, StoreError> {
        let (sender, tasks) = channel();
        let (engine, tasks) = (Arc::new(engine), Arc::new(Mutex::new(tasks)));
        let mut first = Some(engine.connect()?);
        for _ in 0..engine.threads() {
            let desk = Desk {
                engine: Arc::clone(&engine),
                tasks: Arc::clone(&tasks),
            };
            let first = first.take();
            thread::Builder::new()
                .name("ledger".into())
                .spawn(move || desk.serve(first))
                .map_err(|_| StoreError::Gone)?;
        }
        Ok(Self(sender))
    }

    /// Does it in a transaction, and answers once that lasts.
    pub(super) async fn ask<T: Send + 'static>(
        &self,
        work: impl FnMut(&mut dyn Connection) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let (answer, answered) = oneshot::channel();
        let task = Box::new(Asked {
            work,
            answer,
            done: None,
        });
        self.0.send(task).map_err(|_| StoreError::Gone)?;
        answered.await.map_err(|_| StoreError::Gone)?
    }
}

/// One thread's.
struct Desk<E> {
    engine: Arc<E>,
    tasks: Arc<Mutex<Receiver<Box<dyn Task>>>>,
}

impl<E: Engine> Desk<E> {
    fn serve(&self, mut connection: Option<Box<dyn Connection>>) {
        while let Some(mut tasks) = self.wait() {
            let outcome = self.carry_out(&mut connection, &mut tasks);
            if outcome.is_err() {
                connection = None;
            }
            for task in tasks {
                task.answer(outcome.clone());
            }
        }
    }

    /// What waits, or `None` when nobody can ask any more.
    fn wait(&self) -> Option<Vec<Box<dyn Task>>> {
        let queue = self.tasks.lock().unwrap_or_else(PoisonError::into_inner);
        let mut tasks = vec![queue.recv().ok()?];
        while tasks.len() < self.engine.together()
            && let Ok(task) = queue.try_recv()
        {
            tasks.push(task);
        }
        Some(tasks)
    }

    /// All tasks in one transaction; what one of them did wrong is undone alone.
    fn carry_out(
        &self,
        connection: &mut Option<Box<dyn Connection>>,
        tasks: &mut [Box<dyn Task>],
    ) -> Result<(), StoreError> {
        let connection = match connection {
            Some(connection) => connection,
            none => none.insert(self.engine.connect()?),
        };
        connection.run(self.engine.begin(), &[])?;
        if let [task] = tasks {
            let end = match task.run(connection.as_mut()) {
                true => "COMMIT",
                false => "ROLLBACK",
            };
            return connection.run(end, &[]).map(drop);
        }
        for task in tasks {
            connection.run("SAVEPOINT task", &[])?;
            if !task.run(connection.as_mut()) {
                connection.run("ROLLBACK TO SAVEPOINT task", &[])?;
            }
            connection.run("RELEASE SAVEPOINT task", &[])?;
        }
        connection.run("COMMIT", &[]).map(drop)
    }
}

trait Task: Send {
    /// Whether it could be done.
    fn run(&mut self, connection: &mut dyn Connection) -> bool;
    /// What came of it, if the transaction did not fail.
    fn answer(self: Box<Self>, transaction: Result<(), StoreError>);
}

struct Asked<T, W> {
    work: W,
    done: Option<Result<T, StoreError>>,
    answer: oneshot::Sender<Result<T, StoreError>>,
}

impl<T, W> Task for Asked<T, W>
where
    T: Send,
    W: FnMut(&mut dyn Connection) -> Result<T, StoreError> + Send,
{
    fn run(&mut self, connection: &mut dyn Connection) -> bool {
        let done = (self.work)(connection);
        let is_done = done.is_ok();
        self.done = Some(done);
        is_done
    }

    fn answer(self: Box<Self>, transaction: Result<(), StoreError>) {
        let done = self.done.unwrap_or(Err(StoreError::Gone));
        // Whoever asked may have gone away.
        self.answer.send(transaction.and(done)).ok();
    }
}

/// Why it is not known what is in the books.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// A number or a cell that was not written by this program.
    #[error("a column of the ledger holds what is never written there")]
    Column,
    /// Nothing was written, or it is not known what was.
    #[error("the database failed")]
    Database(#[source] Arc<dyn std::error::Error + Send + Sync>),
    /// The thread with the connection ended.
    #[error("the ledger is closed")]
    Gone,
}

impl StoreError {
    pub(super) fn database(error: impl std::error::Error + Send + Sync + 'static) -> Self {
        Self::Database(Arc::new(error))
    }
}
