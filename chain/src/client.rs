//! Several liteservers as one: the next is asked where one is silent, refuses, or lies.

use std::time::{Duration, SystemTime};

use tokio::sync::Mutex;
use tokio::time::{Instant, sleep, timeout};
use tycho_types::cell::{Cell, HashBytes};
use tycho_types::models::{self, MsgInfo, StdAddr, Transaction};

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
        self.each(&Newest).await
    }

    /// The block of the masterchain that has a number.
    pub async fn block(&self, seqno: u32) -> Result<Final, ClientError> {
        self.each(&Numbered(seqno)).await
    }

    /// An account, as it is now.
    pub async fn account(&self, address: &StdAddr) -> Result<State, ClientError> {
        self.each(&Account(address)).await
    }

    /// The newest transactions of an account, the newest first.
    pub async fn transactions(&self, address: &StdAddr) -> Result<Vec<Proved>, ClientError> {
        self.each(&Transactions(address)).await
    }

    /// Hands in a message from outside. That it was taken says nothing yet.
    pub async fn send(&self, message: &Cell) -> Result<(), ClientError> {
        self.each(&Message(message)).await
    }

    /// Waits for the transaction of a message that was sent to an account, and for all that
    /// follow from it. Of each account the newest sixteen transactions are looked at.
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

    async fn each<Q: Question>(&self, question: &Q) -> Result<Q::Answer, ClientError> {
        let mut inner = self.inner.lock().await;
        let mut failures = Vec::new();
        for _ in 0..self.servers.len() {
            let first = inner.next;
            let Some(server) = self.servers.get(first) else {
                break;
            };
            let answer = timeout(LONGEST, self.once(server, question, &mut inner)).await;
            let answer = answer.unwrap_or(Err(ServerError::Silent));
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

    /// Asks one server, over the connection that there is if it still holds.
    async fn once<Q: Question>(
        &self,
        server: &Server,
        question: &Q,
        inner: &mut Inner,
    ) -> Result<Q::Answer, ServerError> {
        let mut answer = None;
        if let Some(mut connected) = inner.connected.take() {
            let found = question.ask(self, &mut connected, inner).await;
            if !matches!(found, Err(ServerError::Connection(_))) {
                answer = Some((connected, found));
            }
        }
        let (connected, answer) = match answer {
            Some(answer) => answer,
            None => {
                let mut connected = Liteserver::connect(server).await?;
                let answer = question.ask(self, &mut connected, inner).await;
                (connected, answer)
            }
        };
        if answer.is_ok() {
            inner.connected = Some(connected);
        }
        answer
    }
}

/// What any server may be asked. A trait, for an async closure's future could not be sent to
/// another thread.
trait Question: Sync {
    type Answer;

    fn ask(
        &self,
        client: &Client,
        server: &mut Liteserver,
        inner: &mut Inner,
    ) -> impl Future<Output = Result<Self::Answer, ServerError>> + Send;
}

struct Newest;

impl Question for Newest {
    type Answer = Final;

    async fn ask(
        &self,
        client: &Client,
        server: &mut Liteserver,
        inner: &mut Inner,
    ) -> Result<Final, ServerError> {
        client.fresh(server, inner).await
    }
}

struct Numbered(u32);

impl Question for Numbered {
    type Answer = Final;

    async fn ask(
        &self,
        _: &Client,
        server: &mut Liteserver,
        inner: &mut Inner,
    ) -> Result<Final, ServerError> {
        server.block(&mut inner.anchors, self.0).await
    }
}

struct Account<'a>(&'a StdAddr);

impl Question for Account<'_> {
    type Answer = State;

    async fn ask(
        &self,
        client: &Client,
        server: &mut Liteserver,
        inner: &mut Inner,
    ) -> Result<State, ServerError> {
        let block = client.fresh(server, inner).await?;
        server.account(&block, self.0).await
    }
}

struct Transactions<'a>(&'a StdAddr);

impl Question for Transactions<'_> {
    type Answer = Vec<Proved>;

    async fn ask(
        &self,
        client: &Client,
        server: &mut Liteserver,
        inner: &mut Inner,
    ) -> Result<Vec<Proved>, ServerError> {
        let block = client.fresh(server, inner).await?;
        let state = server.account(&block, self.0).await?;
        server.transactions(&state, self.0).await
    }
}

struct Message<'a>(&'a Cell);

impl Question for Message<'_> {
    type Answer = ();

    async fn ask(
        &self,
        _: &Client,
        server: &mut Liteserver,
        _: &mut Inner,
    ) -> Result<(), ServerError> {
        server.send(self.0).await
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
            let message: models::Message<'_> = cell.parse().ok()?;
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

/// For one question: a server that answers slowly, each time just in time, is left too.
const LONGEST: Duration = Duration::from_secs(120);

#[cfg(test)]
mod tests {
    use super::*;

    /// Compiles, or not.
    fn can_be_spawned<T: Send>(_: T) {}

    #[test]
    fn questions_can_be_asked_from_any_thread() {
        let ask = |client: &'static Client, address: &'static StdAddr, message: &'static Cell| {
            can_be_spawned(client.newest());
            can_be_spawned(client.block(1));
            can_be_spawned(client.account(address));
            can_be_spawned(client.send(message));
            can_be_spawned(client.trace(address, message.repr_hash(), PAUSE));
        };
        can_be_spawned(ask);
    }
}
