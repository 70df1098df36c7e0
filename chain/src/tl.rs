//! What is said to a liteserver and what it answers, as `lite_api.tl` of the TON
//! repository spells it. Both ways, since the tests have a liteserver of their own.
//!
//! Nothing here is checked but the shape.

use tl_proto::{TlRead, TlWrite};
use tycho_types::cell::HashBytes;
use tycho_types::models::{BlockId, ShardIdent, StdAddr};

/// Reads a value that nothing follows.
pub fn read<'a, T: TlRead<'a>>(mut bytes: &'a [u8]) -> Result<T, ShapeError> {
    let value = T::read_from(&mut bytes).map_err(ShapeError::Bytes)?;
    match bytes.len() {
        0 => Ok(value),
        left => Err(ShapeError::Trailing { left }),
    }
}

/// Why bytes are not what they should be.
#[derive(Debug, thiserror::Error)]
pub enum ShapeError {
    /// Cut off, or something else.
    #[error("not a value of lite_api.tl: {0}")]
    Bytes(tl_proto::TlError),
    /// Something follows.
    #[error("{left} bytes after the value")]
    Trailing {
        /// So many.
        left: usize,
    },
}

/// `tonNode.blockIdExt workchain:int shard:long seqno:int root_hash:int256 file_hash:int256`
#[derive(Clone, Copy, Debug, Eq, PartialEq, TlRead, TlWrite)]
pub struct BlockIdExt {
    /// -1 for the masterchain.
    pub workchain: i32,
    /// Prefix with its end marked.
    pub shard: u64,
    /// In its shard.
    pub seqno: u32,
    /// Of the root cell.
    pub root_hash: [u8; 32],
    /// Of the file.
    pub file_hash: [u8; 32],
}

impl From<&BlockId> for BlockIdExt {
    fn from(id: &BlockId) -> Self {
        Self {
            workchain: id.shard.workchain(),
            shard: id.shard.prefix(),
            seqno: id.seqno,
            root_hash: id.root_hash.0,
            file_hash: id.file_hash.0,
        }
    }
}

impl BlockIdExt {
    /// The same, where the shard is one.
    #[must_use]
    pub fn id(&self) -> Option<BlockId> {
        Some(BlockId {
            shard: ShardIdent::new(self.workchain, self.shard)?,
            seqno: self.seqno,
            root_hash: HashBytes(self.root_hash),
            file_hash: HashBytes(self.file_hash),
        })
    }
}

/// `liteServer.accountId workchain:int id:int256`
#[derive(Clone, Copy, Debug, Eq, PartialEq, TlRead, TlWrite)]
pub struct AccountId {
    /// Of the account.
    pub workchain: i32,
    /// Its address there.
    pub id: [u8; 32],
}

impl From<&StdAddr> for AccountId {
    fn from(address: &StdAddr) -> Self {
        Self {
            workchain: address.workchain.into(),
            id: address.address.0,
        }
    }
}

/// Inside `liteServer.query data:bytes`.
#[derive(Clone, Debug, Eq, PartialEq, TlRead, TlWrite)]
#[tl(boxed)]
pub enum Request {
    /// `liteServer.getMasterchainInfo`
    #[tl(id = 0x89b5e62e)]
    GetMasterchainInfo,
    /// `liteServer.getBlockProof mode:# known_block:tonNode.blockIdExt
    /// target_block:mode.0?tonNode.blockIdExt`
    #[tl(id = 0x8aea9c44)]
    GetBlockProof {
        /// 1: there is a target.
        mode: u32,
        /// What is trusted.
        known: BlockIdExt,
        /// What should be.
        target: BlockIdExt,
    },
    /// `liteServer.lookupBlock mode:# id:tonNode.blockId lt:mode.1?long utime:mode.2?int`
    #[tl(id = 0xfac8f71e)]
    LookupBlock {
        /// 1: by number.
        mode: u32,
        /// -1 for the masterchain.
        workchain: i32,
        /// Prefix with its end marked.
        shard: u64,
        /// In its shard.
        seqno: u32,
    },
    /// `liteServer.getAccountState id:tonNode.blockIdExt account:liteServer.accountId`
    #[tl(id = 0x6b890e25)]
    GetAccountState {
        /// As of which block of the masterchain.
        block: BlockIdExt,
        /// Whose.
        account: AccountId,
    },
    /// `liteServer.getTransactions count:# account:liteServer.accountId lt:long hash:int256`
    #[tl(id = 0x1c40e7a1)]
    GetTransactions {
        /// At most so many.
        count: u32,
        /// Whose.
        account: AccountId,
        /// Of the newest.
        lt: u64,
        /// Of the newest.
        hash: [u8; 32],
    },
    /// `liteServer.sendMessage body:bytes`
    #[tl(id = 0x690ad482)]
    SendMessage {
        /// A bag of cells.
        body: Vec<u8>,
    },
}

/// What comes back.
#[derive(Clone, Debug, Eq, PartialEq, TlRead, TlWrite)]
#[tl(boxed)]
pub enum Answer {
    /// `liteServer.masterchainInfo last:tonNode.blockIdExt state_root_hash:int256
    /// init:tonNode.zeroStateIdExt`
    #[tl(id = 0x85832881)]
    MasterchainInfo {
        /// The newest block.
        last: BlockIdExt,
        /// Of its state.
        state_root_hash: [u8; 32],
        /// Where everything began.
        init: ZeroStateId,
    },
    /// `liteServer.partialBlockProof complete:Bool from:tonNode.blockIdExt
    /// to:tonNode.blockIdExt steps:(vector liteServer.BlockLink)`
    #[tl(id = 0x8ed0d2c1)]
    PartialBlockProof {
        /// Whether it leads to the target.
        complete: bool,
        /// Where it starts.
        from: BlockIdExt,
        /// Where it ends.
        to: BlockIdExt,
        /// In between.
        steps: Vec<BlockLink>,
    },
    /// `liteServer.blockHeader id:tonNode.blockIdExt mode:# header_proof:bytes`
    #[tl(id = 0x752d8219)]
    BlockHeader {
        /// Of the block.
        id: BlockIdExt,
        /// What is in the proof.
        mode: u32,
        /// A bag of cells.
        header_proof: Vec<u8>,
    },
    /// `liteServer.accountState id:tonNode.blockIdExt shardblk:tonNode.blockIdExt
    /// shard_proof:bytes proof:bytes state:bytes`
    #[tl(id = 0x7079c751)]
    AccountState(AccountState),
    /// `liteServer.transactionList ids:(vector tonNode.blockIdExt) transactions:bytes`
    #[tl(id = 0x6f26c60b)]
    TransactionList {
        /// Which block each is in.
        ids: Vec<BlockIdExt>,
        /// A bag of cells with a root for each, the newest first.
        transactions: Vec<u8>,
    },
    /// `liteServer.sendMsgStatus status:int`
    #[tl(id = 0x3950e597)]
    SendMsgStatus {
        /// 1: it goes on.
        status: u32,
    },
    /// `liteServer.error code:int message:string`
    #[tl(id = 0xbba9e148)]
    Error {
        /// Of the server's choice.
        code: i32,
        /// Text.
        message: Vec<u8>,
    },
}

/// `tonNode.zeroStateIdExt workchain:int root_hash:int256 file_hash:int256`
#[derive(Clone, Copy, Debug, Eq, PartialEq, TlRead, TlWrite)]
pub struct ZeroStateId {
    /// -1 for the masterchain.
    pub workchain: i32,
    /// Of the root cell.
    pub root_hash: [u8; 32],
    /// Of the file.
    pub file_hash: [u8; 32],
}

/// Proofs that lead from a block of the masterchain to an account.
#[derive(Clone, Debug, Eq, PartialEq, TlRead, TlWrite)]
pub struct AccountState {
    /// The block that was asked for.
    pub id: BlockIdExt,
    /// The newest block of the account's shard that it knows.
    pub shard_block: BlockIdExt,
    /// Two roots: the block of the masterchain, and its state as far as the shard.
    pub shard_proof: Vec<u8>,
    /// Two roots: the block of the shard, and its state as far as the account.
    pub proof: Vec<u8>,
    /// The account; nothing where there is none.
    pub state: Vec<u8>,
}

/// How one block leads to another.
#[derive(Clone, Debug, Eq, PartialEq, TlRead, TlWrite)]
#[tl(boxed)]
pub enum BlockLink {
    /// `liteServer.blockLinkForward to_key_block:Bool from:tonNode.blockIdExt
    /// to:tonNode.blockIdExt dest_proof:bytes config_proof:bytes
    /// signatures:liteServer.SignatureSet`
    #[tl(id = 0x520fce1c)]
    Forward(Forward),
    /// `liteServer.blockLinkBack to_key_block:Bool from:tonNode.blockIdExt
    /// to:tonNode.blockIdExt dest_proof:bytes proof:bytes state_proof:bytes`
    #[tl(id = 0xef7e1bef)]
    Back {
        /// Whether it ends at a key block.
        to_key_block: bool,
        /// The later one.
        from: BlockIdExt,
        /// The earlier one.
        to: BlockIdExt,
        /// Of its header.
        dest_proof: Vec<u8>,
        /// Of the later one's state.
        proof: Vec<u8>,
        /// What that knows of the earlier one.
        state_proof: Vec<u8>,
    },
}

/// A later block, signed by those whom a key block names.
#[derive(Clone, Debug, Eq, PartialEq, TlRead, TlWrite)]
pub struct Forward {
    /// Whether it ends at a key block.
    pub to_key_block: bool,
    /// A key block.
    pub from: BlockIdExt,
    /// The later one.
    pub to: BlockIdExt,
    /// Of its header.
    pub dest_proof: Vec<u8>,
    /// Of the key block's configuration.
    pub config_proof: Vec<u8>,
    /// By its validators.
    pub signatures: SignatureSet,
}

/// Who signed a block, and over what.
#[derive(Clone, Debug, Eq, PartialEq, TlRead, TlWrite)]
#[tl(boxed)]
pub enum SignatureSet {
    /// `liteServer.signatureSet validator_set_hash:int catchain_seqno:int
    /// signatures:(vector liteServer.signature)`: over the block.
    #[tl(id = 0xf644a6e6)]
    Ordinary {
        /// Of the validators.
        validator_set_hash: u32,
        /// Of their session.
        catchain_seqno: u32,
        /// One of each who signed.
        signatures: Vec<Signature>,
    },
    /// `liteServer.signatureSet.simplex cc_seqno:int validator_set_hash:int
    /// signatures:(vector liteServer.signature) session_id:int256 slot:int candidate:bytes`:
    /// over a vote for a candidate that names the block.
    #[tl(id = 0xac249800)]
    Simplex {
        /// Of their session.
        cc_seqno: u32,
        /// Of the validators.
        validator_set_hash: u32,
        /// One of each who signed.
        signatures: Vec<Signature>,
        /// Of consensus.
        session_id: [u8; 32],
        /// Of the candidate.
        slot: u32,
        /// See [`Candidate`].
        candidate: Vec<u8>,
    },
}

/// `liteServer.signature node_id_short:int256 signature:bytes`
#[derive(Clone, Debug, Eq, PartialEq, TlRead, TlWrite)]
pub struct Signature {
    /// SHA-256 of the key in [`PublicKey`]'s form.
    pub node_id_short: [u8; 32],
    /// Ed25519.
    pub signature: Vec<u8>,
}

/// What a vote of Simplex is about; its SHA-256 is in the vote.
#[derive(Clone, Debug, Eq, PartialEq, TlRead, TlWrite)]
#[tl(boxed)]
pub enum Candidate {
    /// `consensus.candidateHashDataOrdinary block:tonNode.blockIdExt
    /// collated_file_hash:int256 parent:consensus.CandidateParent`
    #[tl(id = 0xe8f9bcdc)]
    Ordinary {
        /// Proposed.
        block: BlockIdExt,
        /// Of what the proposer adds.
        collated_file_hash: [u8; 32],
        /// The one before.
        parent: CandidateParent,
    },
    /// `consensus.candidateHashDataEmpty block:tonNode.blockIdExt
    /// parent:consensus.candidateId`: nothing new after this block, which is then final too.
    #[tl(id = 0x72b4d933)]
    Empty {
        /// The newest.
        block: BlockIdExt,
        /// The one before.
        parent: CandidateId,
    },
}

impl Candidate {
    /// The block that is final if enough vote for it.
    #[must_use]
    pub const fn block(&self) -> &BlockIdExt {
        match self {
            Self::Ordinary { block, .. } | Self::Empty { block, .. } => block,
        }
    }
}

/// The candidate before.
#[derive(Clone, Debug, Eq, PartialEq, TlRead, TlWrite)]
#[tl(boxed)]
pub enum CandidateParent {
    /// `consensus.candidateParent id:consensus.candidateId`
    #[tl(id = 0x7d26c4dd)]
    Some(CandidateId),
    /// `consensus.candidateWithoutParents`
    #[tl(id = 0x22cbcca9)]
    None,
}

/// `consensus.candidateId slot:int hash:int256`
#[derive(Clone, Copy, Debug, Eq, PartialEq, TlRead, TlWrite)]
pub struct CandidateId {
    /// When.
    pub slot: u32,
    /// SHA-256 of a [`Candidate`].
    pub hash: [u8; 32],
}

/// `consensus.simplex.finalizeVote id:consensus.CandidateId`
#[derive(Clone, Debug, TlWrite)]
#[tl(boxed, id = 0x40a7e105)]
pub struct FinalizeVote {
    id_kind: u32,
    id: CandidateId,
}

impl FinalizeVote {
    /// For a candidate.
    #[must_use]
    pub const fn new(id: CandidateId) -> Self {
        Self {
            id_kind: 0xb691_cd3f,
            id,
        }
    }
}

/// `consensus.dataToSign session_id:int256 data:bytes`
#[derive(Clone, Debug, Eq, PartialEq, TlWrite)]
#[tl(boxed, id = 0xa8e33df8)]
pub struct DataToSign {
    /// Of consensus.
    pub session_id: [u8; 32],
    /// A vote.
    pub data: Vec<u8>,
}

/// `pub.ed25519 key:int256`: what the short id of a node or validator is the SHA-256 of.
#[derive(Clone, Copy, Debug, Eq, PartialEq, TlWrite)]
#[tl(boxed, id = 0x4813b4c6)]
pub struct PublicKey {
    /// Ed25519.
    pub key: [u8; 32],
}

/// Around a request: `adnl.message.query query_id:int256 query:bytes`, and in it
/// `liteServer.query data:bytes`.
#[derive(Clone, Debug, Eq, PartialEq, TlRead, TlWrite)]
#[tl(boxed)]
pub enum Message {
    /// `adnl.message.query query_id:int256 query:bytes`
    #[tl(id = 0xb48bf97a)]
    Query {
        /// Of the sender's choice.
        id: [u8; 32],
        /// A [`Query`].
        query: Vec<u8>,
    },
    /// `adnl.message.answer query_id:int256 answer:bytes`
    #[tl(id = 0x0fac8416)]
    Answer {
        /// Of the query.
        id: [u8; 32],
        /// An [`Answer`].
        answer: Vec<u8>,
    },
}

/// `liteServer.query data:bytes`
#[derive(Clone, Debug, Eq, PartialEq, TlRead, TlWrite)]
#[tl(boxed, id = 0x798c06df)]
pub struct Query {
    /// A [`Request`].
    pub data: Vec<u8>,
}

#[cfg(test)]
mod tests {
    use super::*;

    use proptest::prelude::*;

    #[test]
    fn what_was_written_is_read_and_nothing_less_or_more() {
        let id = BlockIdExt {
            workchain: -1,
            shard: 1 << 63,
            seqno: 7,
            root_hash: [1; 32],
            file_hash: [2; 32],
        };
        let link = Forward {
            to_key_block: true,
            from: id,
            to: id,
            dest_proof: vec![1; 300],
            config_proof: vec![2; 3],
            signatures: SignatureSet::Simplex {
                cc_seqno: 1,
                validator_set_hash: 2,
                signatures: vec![Signature {
                    node_id_short: [3; 32],
                    signature: vec![4; 64],
                }],
                session_id: [5; 32],
                slot: 6,
                candidate: vec![7; 9],
            },
        };
        let answer = Answer::PartialBlockProof {
            complete: true,
            from: id,
            to: id,
            steps: vec![BlockLink::Forward(link)],
        };
        let bytes = tl_proto::serialize(&answer);
        assert_eq!(read::<Answer>(&bytes).ok(), Some(answer));
        for end in 0..bytes.len() {
            assert!(read::<Answer>(bytes.get(..end).unwrap_or_default()).is_err());
        }
        let longer = [bytes, vec![0; 4]].concat();
        let error = read::<Answer>(&longer).err().map(|error| error.to_string());
        assert_eq!(error.as_deref(), Some("4 bytes after the value"));
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>, kind in 0..7_usize) {
            let kinds: [u32; 7] = [
                0x85832881, 0x8ed0d2c1, 0x752d8219, 0x7079c751, 0x6f26c60b, 0xbba9e148, 0xe8f9bcdc,
            ];
            let tag = kinds.get(kind).copied().unwrap_or_default();
            let bytes = [&tag.to_le_bytes()[..], &bytes].concat();
            read::<Answer>(&bytes).ok();
            read::<Candidate>(&bytes).ok();
        }
    }
}
