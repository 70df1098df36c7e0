//! A liteserver in front of the local chain: real ADNL, real proofs.

use std::sync::{Arc, Mutex};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, bail};
use chain::adnl::Connection;
use chain::tl::{
    self, AccountId, AccountState, Answer, BlockIdExt, BlockLink, Forward, Message, Query, Request,
    ZeroStateId,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::spawn_blocking;
use tycho_crypto::ed25519::KeyPair;
use tycho_types::boc::Boc;
use tycho_types::cell::HashBytes;

use super::file::bag_of;
use super::{ALL, Block, Consensus, LocalChain, Validators, proof};

/// What a hostile server makes of an answer before it is sent.
pub type Tamper = Arc<dyn Fn(&Request, Answer) -> Answer + Send + Sync>;

/// Serves until it is dropped.
pub(super) async fn serve(
    listener: TcpListener,
    key: KeyPair,
    chain: Arc<Mutex<LocalChain>>,
    tamper: Option<Tamper>,
) -> Result<()> {
    loop {
        let (stream, _) = listener.accept().await.context("cannot accept")?;
        let (chain, tamper) = (Arc::clone(&chain), tamper.clone());
        tokio::spawn(async move {
            // A client that goes away, or that is none.
            talk(stream, key, chain, tamper).await.ok();
        });
    }
}

async fn talk(
    stream: TcpStream,
    key: KeyPair,
    chain: Arc<Mutex<LocalChain>>,
    tamper: Option<Tamper>,
) -> Result<()> {
    let mut connection = Connection::accept(stream, &key).await?;
    loop {
        let Message::Query { id, query } = tl::read(&connection.receive().await?)? else {
            bail!("not a query");
        };
        let query: Query = tl::read(&query)?;
        let request: Request = tl::read(&query.data)?;
        let chain = Arc::clone(&chain);
        let (request, answer) = spawn_blocking(move || {
            let answer = chain.lock().expect("no panics").answer(&request);
            (request, answer)
        })
        .await?;
        let answer = answer.unwrap_or_else(|error| Answer::Error {
            code: 651,
            message: format!("{error:#}").into_bytes(),
        });
        let answer = match &tamper {
            Some(tamper) => tamper(&request, answer),
            None => answer,
        };
        let answer = tl_proto::serialize(answer);
        let message = tl_proto::serialize(Message::Answer { id, answer });
        connection.send(&message).await?;
    }
}

/// Bytes of a message from outside, as validators have it (config parameter 43).
const LONGEST: usize = 65_535;

impl LocalChain {
    /// Answers as a liteserver does.
    pub fn answer(&mut self, request: &Request) -> Result<Answer> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let now = u32::try_from(now)?;
        match request {
            Request::GetMasterchainInfo => {
                self.pass(now)?;
                self.masterchain_info()
            }
            Request::GetBlockProof {
                mode: 1,
                known,
                target,
            } => self.block_proof(known, target),
            Request::LookupBlock {
                mode: 1,
                workchain: -1,
                seqno,
                ..
            } => {
                let found = self.master.get(usize::try_from(*seqno)?);
                let block = found.filter(|block| block.id.seqno != 0);
                let block = block.context("no such block")?;
                Ok(Answer::BlockHeader {
                    id: (&block.id).into(),
                    mode: 1,
                    header_proof: Boc::encode(proof::header(&block.root)?),
                })
            }
            Request::GetAccountState { block, account } => self.account_state(block, account),
            Request::GetTransactions {
                count,
                account,
                lt,
                hash,
            } => self.transaction_list(*count, account, *lt, hash),
            Request::SendMessage { body } => {
                anyhow::ensure!(body.len() <= LONGEST, "a message of {} bytes", body.len());
                self.take(Boc::decode(body)?, now)?;
                Ok(Answer::SendMsgStatus { status: 1 })
            }
            Request::GetBlockProof { .. } | Request::LookupBlock { .. } => {
                bail!("not in this mode")
            }
        }
    }

    fn masterchain_info(&self) -> Result<Answer> {
        let (zero, last) = (&self.master[0].id, self.last(&self.master));
        Ok(Answer::MasterchainInfo {
            last: (&last.id).into(),
            state_root_hash: last.state.repr_hash().0,
            init: ZeroStateId {
                workchain: -1,
                root_hash: zero.root_hash.0,
                file_hash: zero.file_hash.0,
            },
        })
    }

    fn block_proof(&self, known: &BlockIdExt, target: &BlockIdExt) -> Result<Answer> {
        let from = self.number(known)?;
        let to = self.number(target)?;
        let mut at = from;
        let mut steps = Vec::new();
        let later = self.keys.iter().filter(|key| (from..to).contains(*key));
        for next in later.skip(1).chain([&to]) {
            if steps.len() == MOST_STEPS {
                break;
            }
            steps.push(BlockLink::Forward(self.link(at, *next)?));
            at = *next;
        }
        Ok(Answer::PartialBlockProof {
            complete: at == to,
            from: *known,
            to: (&self.master[at].id).into(),
            steps,
        })
    }

    fn link(&self, from: usize, to: usize) -> Result<Forward> {
        let (key, block) = (&self.master[from], &self.master[to]);
        let signers = Validators { epoch: block.epoch };
        Ok(Forward {
            to_key_block: self.keys.contains(&to),
            from: (&key.id).into(),
            to: (&block.id).into(),
            dest_proof: Boc::encode(proof::header(&block.root)?),
            config_proof: Boc::encode(proof::validators(&key.root)?),
            signatures: signers.sign(Consensus::Simplex, &block.id, ALL),
        })
    }

    fn account_state(&self, block: &BlockIdExt, account: &AccountId) -> Result<Answer> {
        let number = self.number(block)?;
        let master = &self.master[number];
        let shard = &self.shard[self.known[number].saturating_sub(1)];
        let id = HashBytes(account.id);
        let accounts = shard
            .state
            .parse::<tycho_types::models::ShardStateUnsplit>()?
            .load_accounts()?;
        let state = match accounts.get(id)? {
            Some((_, entry)) => Boc::encode(entry.account.inner()),
            None => Vec::new(),
        };
        Ok(Answer::AccountState(AccountState {
            id: *block,
            shard_block: (&shard.id).into(),
            shard_proof: bag_of(&[header(master)?, proof::shards(&master.state)?]),
            proof: bag_of(&[header(shard)?, proof::account(&shard.state, &id)?]),
            state,
        }))
    }

    fn transaction_list(
        &self,
        count: u32,
        account: &AccountId,
        lt: u64,
        hash: &[u8; 32],
    ) -> Result<Answer> {
        let mut next = (lt, HashBytes(*hash));
        let mut found = Vec::new();
        for _ in 0..count.min(16) {
            let Some(cell) = self.transactions.get(&(HashBytes(account.id), next.0)) else {
                break;
            };
            anyhow::ensure!(*cell.repr_hash() == next.1, "another transaction");
            let transaction: tycho_types::models::Transaction = cell.parse()?;
            next = (transaction.prev_trans_lt, transaction.prev_trans_hash);
            found.push(cell.clone());
        }
        anyhow::ensure!(!found.is_empty(), "no such transaction");
        Ok(Answer::TransactionList {
            ids: Vec::new(),
            transactions: bag_of(&found),
        })
    }

    fn number(&self, id: &BlockIdExt) -> Result<usize> {
        let number = usize::try_from(id.seqno)?;
        let found = self
            .master
            .get(number)
            .map(|block| BlockIdExt::from(&block.id));
        anyhow::ensure!(found.as_ref() == Some(id), "no such block");
        Ok(number)
    }
}

fn header(block: &Block) -> Result<tycho_types::cell::Cell> {
    proof::header(&block.root)
}

/// In one answer, as other liteservers.
const MOST_STEPS: usize = 16;
