//! Several liteservers as one: the next is asked where one is silent, refuses, or lies.

use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep};
use tycho_types::cell::{Cell, HashBytes};
use tycho_types::models::{MsgInfo, StdAddr, Transaction};

use crate::account::State;
use crate::block::{Anchor, Final};
use crate::liteserver::{Liteserver, ServerError};
use crate::network::{Network, Server};
use crate::transaction::Proved;

/// The chain, as far as it can be proved.
#[derive(Debug)]
pub struct Client {
    servers: Vec<Server>,
    max_age: Duration,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// Which server is asked first.
    next: usize,
    connected: Option<Liteserver>,
    /// In order of their numbers; the first one is pinned.
    anchors: Vec<Anchor>,
    /// Number of the newest block seen.
    seen: u32,
}

impl Client {
    /// Asks the servers of a network, for nothing that is older than `max_age`.
    #[must_use]
    pub fn new(network: &Network, max_age: Duration) -> Self {
        Self {
            servers: network.servers.clone(),
            max_age,
            inner: Mutex::new(Inner {
                next: 0,
                connected: None,
                anchors: vec![network.pinned],
                seen: 0,
            }),
        }
    }

    /// The newest block.
    pub async fn newest(&self) -> Result<Final, ClientError> {
        self.each(async |server, inner| self.fresh(server, inner).await)
            .await
    }

    /// The block of the masterchain that has a number.
    pub async fn block(&self, seqno: u32) -> Result<Final, ClientError> {
        self.each(async |server, inner| server.block(&mut inner.anchors, seqno).await)
            .await
    }

    /// An account, as it is now.
    pub async fn account(&self, address: &StdAddr) -> Result<State, ClientError> {
        self.each(async |server, inner| {
            let block = self.fresh(server, inner).await?;
            server.account(&block, address).await
        })
        .await
    }

    /// The newest transactions of an account, the newest first.
    pub async fn transactions(&self, address: &StdAddr) -> Result<Vec<Proved>, ClientError> {
        self.each(async |server, inner| {
            let block = self.fresh(server, inner).await?;
            let state = server.account(&block, address).await?;
            server.transactions(&state, address).await
        })
        .await
    }

    /// Hands in a message from outside. That it was taken says nothing yet.
    pub async fn send(&self, message: &Cell) -> Result<(), ClientError> {
        self.each(async |server, _| server.send(message).await)
            .await
    }

    /// Waits for the transaction of a message that was sent to an account, and for all that
    /// follow from it.
    pub async fn trace(
        &self,
        address: &StdAddr,
        message: &HashBytes,
        patience: Duration,
    ) -> Result<Vec<Step>, ClientError> {
        let deadline = Instant::now().checked_add(patience);
        let mut waiting = vec![(address.clone(), *message)];
        let mut found = Vec::new();
        while let Some((address, message)) = waiting.pop() {
            let transaction = loop {
                let newest = self.transactions(&address).await?;
                if let Some(proved) = newest.into_iter().find(|proved| proved.began(&message)) {
                    break proved.transaction;
                }
                if deadline.is_none_or(|deadline| Instant::now() >= deadline) {
                    return Err(ClientError::Lost { address, message });
                }
                sleep(PAUSE).await;
            };
            waiting.extend(sent(&transaction));
            found.push(Step {
                address,
                transaction,
            });
            if found.len() > MOST_STEPS {
                return Err(ClientError::Endless);
            }
        }
        Ok(found)
    }

    /// The newest block of a server, if it is young and not before what was seen.
    async fn fresh(
        &self,
        server: &mut Liteserver,
        inner: &mut Inner,
    ) -> Result<Final, ServerError> {
        let block = server.newest(&mut inner.anchors).await?;
        let found = block.id().seqno;
        if found < inner.seen {
            return Err(ServerError::Behind {
                found,
                seen: inner.seen,
            });
        }
        let age = age(&block);
        if age > self.max_age {
            return Err(ServerError::Stale {
                age,
                limit: self.max_age,
            });
        }
        inner.seen = found;
        Ok(block)
    }

    async fn each<T>(
        &self,
        ask: impl AsyncFn(&mut Liteserver, &mut Inner) -> Result<T, ServerError>,
    ) -> Result<T, ClientError> {
        let mut inner = self.inner.lock().await;
        let mut failures = Vec::new();
        for _ in 0..self.servers.len() {
            let first = inner.next;
            let Some(server) = self.servers.get(first) else {
                break;
            };
            let connected = match inner.connected.take() {
                Some(connected) => Ok(connected),
                None => Liteserver::connect(server).await,
            };
            let answer = match connected {
                Ok(mut connected) => {
                    let answer = ask(&mut connected, &mut inner).await;
                    if answer.is_ok() {
                        inner.connected = Some(connected);
                    }
                    answer
                }
                Err(error) => Err(error),
            };
            match answer {
                Ok(answer) => return Ok(answer),
                Err(error) => failures.push(Failure {
                    server: *server,
                    error,
                }),
            }
            inner.next = first
                .checked_add(1)
                .filter(|next| *next < self.servers.len())
                .unwrap_or(0);
        }
        Err(ClientError::Servers(failures))
    }
}

/// How long ago a block was made, by our clock.
#[must_use]
pub fn age(block: &Final) -> Duration {
    let made = Duration::from_secs(block.generated().into());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    now.map_or(Duration::MAX, |now| now.saturating_sub(made))
}

/// What one contract did with one message.
#[derive(Clone, Debug)]
pub struct Step {
    /// Of the contract.
    pub address: StdAddr,
    /// What it did.
    pub transaction: Transaction,
}

/// Messages to other accounts.
fn sent(transaction: &Transaction) -> Vec<(StdAddr, HashBytes)> {
    let messages = transaction.out_msgs.values().filter_map(Result::ok);
    messages
        .filter_map(|cell| {
            let message: tycho_types::models::Message<'_> = cell.parse().ok()?;
            match message.info {
                MsgInfo::Int(info) => {
                    let address = info.dst.as_std()?.clone();
                    Some((address, *cell.repr_hash()))
                }
                MsgInfo::ExtIn(_) | MsgInfo::ExtOut(_) => None,
            }
        })
        .collect()
}

/// Why the chain could not be asked.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// One message that makes others without end.
    #[error("more than {MOST_STEPS} transactions follow from the message")]
    Endless,
    /// The message never arrived.
    #[error("no transaction of {address} for message {message}")]
    Lost {
        /// Where it was sent.
        address: StdAddr,
        /// Which one.
        message: HashBytes,
    },
    /// Every server failed.
    #[error("no liteserver was of use:{}", list(.0))]
    Servers(Vec<Failure>),
}

/// What one server did.
#[derive(Debug)]
pub struct Failure {
    /// Which one.
    pub server: Server,
    /// Why it was of no use.
    pub error: ServerError,
}

fn list(failures: &[Failure]) -> String {
    let line = |failure: &Failure| {
        let mut line = format!("\n  {}: {}", failure.server.address, failure.error);
        let mut source = std::error::Error::source(&failure.error);
        while let Some(cause) = source {
            line += &format!(": {cause}");
            source = cause.source();
        }
        line
    };
    failures.iter().map(line).collect()
}

/// Between two questions for the same thing.
const PAUSE: Duration = Duration::from_millis(200);

const MOST_STEPS: usize = 64;
