//! One liteserver: connected, asked, and checked.
//!
//! Whatever a method here gives is proved, except that a message was taken.

use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::timeout;
use tycho_types::boc::Boc;
use tycho_types::cell::Cell;
use tycho_types::models::{BlockId, ShardIdent, StdAddr};

use crate::account::{self, AccountError, State};
use crate::adnl::{AdnlError, Connection};
use crate::block::{Anchor, Final, LinkError};
use crate::network::Server;
use crate::tl::{self, Answer, BlockIdExt, BlockLink, Message, Query, Request, ShapeError};
use crate::transaction::{self, Proved, TransactionError};

/// A connection to one.
#[derive(Debug)]
pub struct Liteserver {
    connection: Connection<TcpStream>,
    asked: u64,
}

impl Liteserver {
    /// Connects.
    pub async fn connect(server: &Server) -> Result<Self, ServerError> {
        let connect = async {
            let stream = TcpStream::connect(server.address).await;
            let stream = stream.map_err(AdnlError::Io)?;
            Connection::connect(stream, &server.key).await
        };
        let connection = timeout(PATIENCE, connect)
            .await
            .map_err(|_| ServerError::Silent)?
            .map_err(ServerError::Connection)?;
        Ok(Self {
            connection,
            asked: 0,
        })
    }

    /// The newest block that it knows. Key blocks on the way become anchors.
    pub async fn newest(&mut self, anchors: &mut Vec<Anchor>) -> Result<Final, ServerError> {
        match self.ask(&Request::GetMasterchainInfo).await? {
            Answer::MasterchainInfo { last, .. } => self.reach(anchors, &last).await,
            other => Err(unexpected(&other)),
        }
    }

    /// The block of the masterchain that has a number.
    pub async fn block(
        &mut self,
        anchors: &mut Vec<Anchor>,
        seqno: u32,
    ) -> Result<Final, ServerError> {
        let request = Request::LookupBlock {
            mode: 1,
            workchain: ShardIdent::MASTERCHAIN.workchain(),
            shard: ShardIdent::MASTERCHAIN.prefix(),
            seqno,
        };
        match self.ask(&request).await? {
            Answer::BlockHeader { id, .. } if id.seqno == seqno => self.reach(anchors, &id).await,
            other => Err(unexpected(&other)),
        }
    }

    /// An account as of a block.
    pub async fn account(
        &mut self,
        block: &Final,
        address: &StdAddr,
    ) -> Result<State, ServerError> {
        let request = Request::GetAccountState {
            block: block.id().into(),
            account: address.into(),
        };
        match self.ask(&request).await? {
            Answer::AccountState(state) => {
                account::check(block, address, &state).map_err(ServerError::Account)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// The newest transactions of an account as of a block, the newest first.
    pub async fn transactions(
        &mut self,
        state: &State,
        address: &StdAddr,
    ) -> Result<Vec<Proved>, ServerError> {
        let Some(last) = state.last else {
            return Ok(Vec::new());
        };
        let request = Request::GetTransactions {
            count: u32::try_from(transaction::MOST).unwrap_or(1),
            account: address.into(),
            lt: last.0,
            hash: last.1.0,
        };
        match self.ask(&request).await? {
            Answer::TransactionList { transactions, .. } => {
                transaction::check(address, last, &transactions).map_err(ServerError::Transaction)
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Hands in a message from outside. That it was taken says nothing yet.
    pub async fn send(&mut self, message: &Cell) -> Result<(), ServerError> {
        let body = Boc::encode(message);
        match self.ask(&Request::SendMessage { body }).await? {
            Answer::SendMsgStatus { status: 1 } => Ok(()),
            other => Err(unexpected(&other)),
        }
    }

    /// Follows links until a block is reached.
    async fn reach(
        &mut self,
        anchors: &mut Vec<Anchor>,
        target: &BlockIdExt,
    ) -> Result<Final, ServerError> {
        let end = target.id().filter(BlockId::is_masterchain);
        let end = end.ok_or(ServerError::Masterchain)?;
        for _ in 0..ROUNDS {
            let before = |anchor: &&Anchor| anchor.id().seqno < end.seqno;
            let known = *anchors
                .iter()
                .rev()
                .find(before)
                .ok_or(ServerError::Before { seqno: end.seqno })?;
            let request = Request::GetBlockProof {
                mode: 1,
                known: known.id().into(),
                target: *target,
            };
            let steps = match self.ask(&request).await? {
                Answer::PartialBlockProof { steps, .. } => steps,
                other => return Err(unexpected(&other)),
            };
            let mut from = known;
            for step in &steps {
                let BlockLink::Forward(link) = step else {
                    return Err(ServerError::Back);
                };
                let found = from.follow(link).map_err(ServerError::Link)?;
                if *found.id() == end {
                    remember(anchors, found.anchor());
                    return Ok(found);
                }
                from = found.anchor().ok_or(ServerError::Elsewhere {
                    found: found.id().seqno,
                    expected: end.seqno,
                })?;
                if from.id().seqno >= end.seqno {
                    break;
                }
                remember(anchors, Some(from));
            }
            if from == known {
                break;
            }
        }
        Err(ServerError::Nowhere { seqno: end.seqno })
    }

    async fn ask(&mut self, request: &Request) -> Result<Answer, ServerError> {
        self.asked = self.asked.wrapping_add(1);
        let mut id = [0; 32];
        id.iter_mut()
            .zip(self.asked.to_le_bytes())
            .for_each(|(to, from)| *to = from);
        let query = tl_proto::serialize(Query {
            data: tl_proto::serialize(request),
        });
        let message = tl_proto::serialize(Message::Query { id, query });
        let exchange = async {
            self.connection.send(&message).await?;
            self.connection.receive().await
        };
        let bytes = timeout(PATIENCE, exchange)
            .await
            .map_err(|_| ServerError::Silent)?
            .map_err(ServerError::Connection)?;
        match tl::read(&bytes).map_err(ServerError::Shape)? {
            Message::Answer { id: found, answer } if found == id => {
                match tl::read(&answer).map_err(ServerError::Shape)? {
                    Answer::Error { code, message } => Err(ServerError::Refused {
                        code,
                        message: printable(&message),
                    }),
                    answer => Ok(answer),
                }
            }
            _ => Err(ServerError::Unasked),
        }
    }
}

/// Keeps anchors in order, each once.
fn remember(anchors: &mut Vec<Anchor>, anchor: Option<Anchor>) {
    let Some(anchor) = anchor else { return };
    let place = anchors.partition_point(|known| known.id().seqno < anchor.id().seqno);
    if anchors.get(place) != Some(&anchor) {
        anchors.insert(place, anchor);
    }
}

fn unexpected(answer: &Answer) -> ServerError {
    let found = match answer {
        Answer::MasterchainInfo { .. } => "masterchainInfo",
        Answer::PartialBlockProof { .. } => "partialBlockProof",
        Answer::BlockHeader { .. } => "blockHeader",
        Answer::AccountState(_) => "accountState",
        Answer::TransactionList { .. } => "transactionList",
        Answer::SendMsgStatus { .. } => "sendMsgStatus",
        Answer::Error { .. } => "error",
    };
    ServerError::Answer { found }
}

/// What a server says goes to a terminal.
fn printable(message: &[u8]) -> String {
    let text = String::from_utf8_lossy(message);
    text.chars()
        .filter(|char| !char.is_control())
        .take(300)
        .collect()
}

/// Why a server was of no use.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    /// The account is not proved.
    #[error("the account is not proved")]
    Account(#[source] AccountError),
    /// Something else than what was asked.
    #[error("the answer is {found}, not what was asked")]
    Answer {
        /// As read.
        found: &'static str,
    },
    /// A link to what was before.
    #[error("the proof leads back")]
    Back,
    /// A block from before the pinned one.
    #[error("block {seqno} is not after the pinned block")]
    Before {
        /// Its number.
        seqno: u32,
    },
    /// A block from before what was already seen.
    #[error("its newest block is {found}, but {seen} was seen already")]
    Behind {
        /// As proved.
        found: u32,
        /// As proved before.
        seen: u32,
    },
    /// Not reachable, or not who it should be.
    #[error("no connection")]
    Connection(#[source] AdnlError),
    /// The proof ends at another block.
    #[error("the proof leads to block {found}, expected {expected}")]
    Elsewhere {
        /// As read.
        found: u32,
        /// As asked.
        expected: u32,
    },
    /// A link of the proof does not hold.
    #[error("the block is not proved")]
    Link(#[source] LinkError),
    /// The newest block is none of the masterchain.
    #[error("the block is not of the masterchain")]
    Masterchain,
    /// The proof ends too soon.
    #[error("no proof leads to block {seqno}")]
    Nowhere {
        /// Its number.
        seqno: u32,
    },
    /// It says that it does not.
    #[error("it refuses: {message} (code {code})")]
    Refused {
        /// Of its choice.
        code: i32,
        /// Of its choice.
        message: String,
    },
    /// The answer cannot be read.
    #[error("the answer cannot be read")]
    Shape(#[source] ShapeError),
    /// No answer in time.
    #[error("no answer in time")]
    Silent,
    /// What it shows is too old.
    #[error("its newest block is {age:?} old, expected at most {limit:?}")]
    Stale {
        /// By our clock.
        age: Duration,
        /// By the user.
        limit: Duration,
    },
    /// The transactions are not proved.
    #[error("the transactions are not proved")]
    Transaction(#[source] TransactionError),
    /// An answer to another question.
    #[error("the answer is to another question")]
    Unasked,
}

/// For one answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// Proofs in a row for one block; liteservers put up to 16 links into one.
const ROUNDS: usize = 256;
