//! From a block that is pinned to the newest one.
//!
//! A key block's configuration names the validators of what follows, up to and with the
//! next key block. So a chain of links, each from a key block to a later block that its
//! validators signed, leads from the pinned block to any later one. Links back are not
//! followed: nothing before the pinned block is of use.

use tycho_types::cell::{DynCell, HashBytes, Load as _};
use tycho_types::error::Error;
use tycho_types::merkle::MerkleUpdate;
use tycho_types::models::{BlockId, BlockInfo, BlockchainConfig, ShardFees, ShardHashes};

use crate::bag::{self, BagError};
use crate::signatures::{self, SignatureError, Validators};
use crate::tl::{BlockIdExt, Forward};

/// A key block whose validators are believed: pinned by the user, or signed by those of
/// one before.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Anchor(BlockId);

impl Anchor {
    /// Pins a block: whoever calls this answers for it.
    #[must_use]
    pub const fn pin(id: BlockId) -> Self {
        Self(id)
    }

    /// Which block it is.
    #[must_use]
    pub const fn id(&self) -> &BlockId {
        &self.0
    }

    /// The later block that a link leads to.
    pub fn follow(&self, link: &Forward) -> Result<Final, LinkError> {
        if link.from != BlockIdExt::from(&self.0) {
            return Err(LinkError::From {
                found: link.from.seqno,
                expected: self.0.seqno,
            });
        }
        let id = link.to.id().filter(BlockId::is_masterchain);
        let id = id.ok_or(LinkError::Shard)?;
        let (global_id, info) = header(&link.dest_proof, &id).map_err(LinkError::Header)?;
        if info.key_block != link.to_key_block {
            return Err(LinkError::Kind);
        }
        if info.prev_key_block_seqno != self.0.seqno {
            return Err(LinkError::Skips {
                found: info.prev_key_block_seqno,
                expected: self.0.seqno,
            });
        }
        let validators = self.validators(&link.config_proof, info.gen_catchain_seqno)?;
        signatures::check(&link.signatures, &id, &validators).map_err(LinkError::Signatures)?;
        Ok(Final {
            id,
            global_id,
            generated: info.gen_utime,
            is_key_block: info.key_block,
        })
    }

    fn validators(&self, proof: &[u8], session: u32) -> Result<Validators, LinkError> {
        let read = |error| LinkError::Configuration(ProofError::Read(error));
        let [proof] = bag::roots(proof)
            .map_err(ProofError::Bag)
            .map_err(LinkError::Configuration)?;
        let root = bag::proved(&proof, &self.0.root_hash)
            .map_err(ProofError::Bag)
            .map_err(LinkError::Configuration)?;
        let config = configuration(root.as_ref()).map_err(read)?;
        let config = config.ok_or(LinkError::NotKey {
            seqno: self.0.seqno,
        })?;
        let shuffle = config
            .get_catchain_config()
            .map_err(read)?
            .shuffle_mc_validators;
        let set = config.get_current_validator_set().map_err(read)?;
        let (list, hash) = set
            .compute_mc_subset(session, shuffle)
            .ok_or_else(|| read(Error::InvalidData))?;
        Ok(Validators {
            list,
            hash,
            session,
        })
    }
}

/// A block of the masterchain that can never be taken back.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Final {
    id: BlockId,
    global_id: i32,
    generated: u32,
    is_key_block: bool,
}

impl Final {
    /// Which block it is.
    #[must_use]
    pub const fn id(&self) -> &BlockId {
        &self.id
    }

    /// Which network it is of: -239 the main one, -3 the test one.
    #[must_use]
    pub const fn global_id(&self) -> i32 {
        self.global_id
    }

    /// When it was made, in seconds since 1970, by its makers' clocks.
    #[must_use]
    pub const fn generated(&self) -> u32 {
        self.generated
    }

    /// Where to go on from, if it is a key block.
    #[must_use]
    pub fn anchor(&self) -> Option<Anchor> {
        self.is_key_block.then_some(Anchor(self.id))
    }
}

/// The header of the block of the masterchain with an id, and its network.
fn header(proof: &[u8], id: &BlockId) -> Result<(i32, BlockInfo), ProofError> {
    let [proof] = bag::roots(proof).map_err(ProofError::Bag)?;
    let root = bag::proved(&proof, &id.root_hash).map_err(ProofError::Bag)?;
    let (global_id, info) = read_header(root.as_ref()).map_err(ProofError::Read)?;
    match (info.shard, info.seqno) == (id.shard, id.seqno) {
        true => Ok((global_id, info)),
        false => Err(ProofError::Number {
            found: info.seqno,
            expected: id.seqno,
        }),
    }
}

/// `block#11ef55aa global_id:int32 info:^BlockInfo value_flow:^ValueFlow
/// state_update:^(MERKLE_UPDATE ShardState) extra:^BlockExtra`: any of these may be pruned.
fn part(block: &DynCell, index: u8) -> Result<(i32, &DynCell), Error> {
    let mut slice = block.as_slice()?;
    if slice.load_u32()? != 0x11ef_55aa {
        return Err(Error::InvalidTag);
    }
    let global_id = i32::from_be_bytes(slice.load_u32()?.to_be_bytes());
    let part = block.reference(index).ok_or(Error::CellUnderflow)?;
    Ok((global_id, part))
}

fn read_header(block: &DynCell) -> Result<(i32, BlockInfo), Error> {
    let (global_id, info) = part(block, 0)?;
    Ok((global_id, info.parse()?))
}

/// The hash of the state that a block leads to.
pub(crate) fn state_after(block: &DynCell) -> Result<HashBytes, Error> {
    let (_, update) = part(block, 2)?;
    Ok(update.parse_exotic::<MerkleUpdate>()?.new_hash)
}

/// What a key block says of the network.
///
/// `block_extra in_msg_descr:^InMsgDescr out_msg_descr:^OutMsgDescr
/// account_blocks:^ShardAccountBlocks rand_seed:bits256 created_by:bits256
/// custom:(Maybe ^McBlockExtra)`, and there `masterchain_block_extra#cca5 key_block:Bool
/// shard_hashes:ShardHashes shard_fees:ShardFees ^[...] config:key_block?ConfigParams`
fn configuration(block: &DynCell) -> Result<Option<BlockchainConfig>, Error> {
    let (_, extra) = part(block, 3)?;
    let custom = extra.as_slice()?.get_reference(3)?;
    let mut slice = custom.as_slice()?;
    if slice.load_u16()? != 0xcca5 {
        return Err(Error::InvalidTag);
    }
    if !slice.load_bit()? {
        return Ok(None);
    }
    ShardHashes::load_from(&mut slice)?;
    ShardFees::load_from(&mut slice)?;
    slice.load_reference()?;
    BlockchainConfig::load_from(&mut slice).map(Some)
}

/// Why a proof does not show what it should.
#[derive(Debug, thiserror::Error)]
pub enum ProofError {
    /// The cells are not a proof, or of something else.
    #[error("the proof does not hold")]
    Bag(#[source] BagError),
    /// A header with another number than its block.
    #[error("the header is of block {found}, expected {expected}")]
    Number {
        /// As read.
        found: u32,
        /// As named.
        expected: u32,
    },
    /// What is needed is pruned, or not what it should be.
    #[error("what is needed is not in the proof: {0}")]
    Read(Error),
}

/// Why a link leads nowhere.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// The configuration of the earlier block.
    #[error("the configuration is not proved")]
    Configuration(#[source] ProofError),
    /// It starts elsewhere.
    #[error("the link starts at block {found}, expected {expected}")]
    From {
        /// As read.
        found: u32,
        /// As asked.
        expected: u32,
    },
    /// The header of the later block.
    #[error("the block's header is not proved")]
    Header(#[source] ProofError),
    /// A key block and none.
    #[error("the link and its block differ on whether it is a key block")]
    Kind,
    /// It starts where no validators are named.
    #[error("block {seqno} is not a key block")]
    NotKey {
        /// Its number.
        seqno: u32,
    },
    /// The later block is not of the masterchain.
    #[error("the link leads out of the masterchain")]
    Shard,
    /// Not enough validators signed.
    #[error("the block is not final")]
    Signatures(#[source] SignatureError),
    /// There is a key block in between, or the link leads back.
    #[error("the key block before is {found}, expected {expected}")]
    Skips {
        /// As read.
        found: u32,
        /// Where the link starts.
        expected: u32,
    },
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    use tycho_types::boc::Boc;
    use tycho_types::cell::{Cell, CellBuilder, Lazy, LazyExotic};
    use tycho_types::merkle::MerkleProof;
    use tycho_types::models::{
        Block, BlockExtra, BlockRef, McBlockExtra, PrevBlockRef, ShardIdent, ValueFlow,
    };

    use crate::tl::SignatureSet;

    #[test]
    fn a_link_from_a_block_that_names_no_validators_leads_nowhere() {
        let (from, from_proof) = block(7, 0);
        let (to, to_proof) = block(9, 7);
        let link = Forward {
            to_key_block: false,
            from: (&from).into(),
            to: (&to).into(),
            dest_proof: to_proof,
            config_proof: from_proof,
            signatures: SignatureSet::Ordinary {
                validator_set_hash: 0,
                catchain_seqno: 0,
                signatures: Vec::new(),
            },
        };
        let error = Anchor::pin(from).follow(&link).unwrap_err();
        assert!(matches!(error, LinkError::NotKey { seqno: 7 }), "{error}");
    }

    /// Of the masterchain, and no key block; with a proof in which nothing is pruned.
    fn block(seqno: u32, prev_key_block_seqno: u32) -> (BlockId, Vec<u8>) {
        let mut info = BlockInfo {
            shard: ShardIdent::MASTERCHAIN,
            seqno,
            prev_key_block_seqno,
            ..BlockInfo::default()
        };
        info.set_prev_ref(&PrevBlockRef::Single(BlockRef {
            end_lt: 0,
            seqno: 0,
            root_hash: HashBytes::ZERO,
            file_hash: HashBytes::ZERO,
        }));
        let extra = BlockExtra {
            custom: Some(Lazy::new(&McBlockExtra::default()).unwrap()),
            ..BlockExtra::default()
        };
        let root = CellBuilder::build_from(Block {
            global_id: -777,
            info: Lazy::new(&info).unwrap(),
            value_flow: Lazy::new(&ValueFlow::default()).unwrap(),
            state_update: LazyExotic::new(&MerkleUpdate::default()).unwrap(),
            out_msg_queue_updates: None,
            extra: Lazy::new(&extra).unwrap(),
        })
        .unwrap();
        let id = BlockId {
            shard: ShardIdent::MASTERCHAIN,
            seqno,
            root_hash: *root.repr_hash(),
            file_hash: HashBytes::ZERO,
        };
        (id, Boc::encode(proof(root)))
    }

    fn proof(root: Cell) -> Cell {
        let proof = MerkleProof {
            hash: *root.repr_hash(),
            depth: root.repr_depth(),
            cell: root,
        };
        CellBuilder::build_from(proof).unwrap()
    }
}
