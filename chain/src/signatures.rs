//! Whether enough validators signed a block.
//!
//! ```text
//! ordinary: Ed25519 over ton.blockId#c50b6e70 root_hash file_hash
//! Simplex:  Ed25519 over consensus.dataToSign#a8e33df8 session_id data:bytes, where data =
//!   consensus.simplex.finalizeVote#40a7e105 consensus.candidateId#b691cd3f slot
//!   SHA-256(candidate), and the candidate names the block
//! ```
//!
//! Enough is more than two thirds of the weight. Who the validators are is known from a key
//! block ([`crate::block`]); a signature counts for the one whose short id it names, once.
//!
//! Source: crypto/block/signature-set.cpp of the TON repository.

use std::collections::BTreeMap;

use sha2::{Digest as _, Sha256};
use tycho_crypto::ed25519::PublicKey;
use tycho_types::cell::HashBytes;
use tycho_types::models::{Block, BlockId, ValidatorDescription};

use crate::adnl::short_id;
use crate::tl::{self, BlockIdExt, Candidate, CandidateId, DataToSign, FinalizeVote, SignatureSet};

/// Those who may sign, in one session.
#[derive(Clone, Debug)]
pub struct Validators {
    pub(crate) list: Vec<ValidatorDescription>,
    pub(crate) hash: u32,
    pub(crate) session: u32,
}

/// Demands that more than two thirds of them signed the block.
pub fn check(
    set: &SignatureSet,
    block: &BlockId,
    validators: &Validators,
) -> Result<(), SignatureError> {
    let (hash, session, signatures) = match set {
        SignatureSet::Ordinary {
            validator_set_hash,
            catchain_seqno,
            signatures,
        } => (*validator_set_hash, *catchain_seqno, signatures),
        SignatureSet::Simplex {
            validator_set_hash,
            cc_seqno,
            signatures,
            ..
        } => (*validator_set_hash, *cc_seqno, signatures),
    };
    if (hash, session) != (validators.hash, validators.session) {
        return Err(SignatureError::Validators {
            found: hash,
            expected: validators.hash,
        });
    }
    let message = signed_bytes(set, block)?;
    let mut left: BTreeMap<_, _> = validators
        .list
        .iter()
        .map(|validator| (short_id(&validator.public_key.0), validator))
        .collect();
    let total: u128 = left
        .values()
        .map(|validator| u128::from(validator.weight))
        .sum();
    let mut signed: u128 = 0;
    for signature in signatures {
        let who = HashBytes(signature.node_id_short);
        let validator = left
            .remove(&signature.node_id_short)
            .ok_or(SignatureError::Signer { who })?;
        let valid = <&[u8; 64]>::try_from(signature.signature.as_slice())
            .ok()
            .zip(PublicKey::from_bytes(validator.public_key.0))
            .is_some_and(|(signature, key)| key.verify_raw(&message, signature));
        if !valid {
            return Err(SignatureError::Forged { who });
        }
        signed = signed.saturating_add(validator.weight.into());
    }
    match signed.saturating_mul(3) > total.saturating_mul(2) {
        true => Ok(()),
        false => Err(SignatureError::Weight { signed, total }),
    }
}

/// What a signature is over.
pub fn signed_bytes(set: &SignatureSet, block: &BlockId) -> Result<Vec<u8>, SignatureError> {
    match set {
        SignatureSet::Ordinary { .. } => Ok(Block::build_data_for_sign(block).to_vec()),
        SignatureSet::Simplex {
            session_id,
            slot,
            candidate,
            ..
        } => {
            let named: Candidate = tl::read(candidate).map_err(SignatureError::Candidate)?;
            if *named.block() != BlockIdExt::from(block) {
                return Err(SignatureError::Block {
                    found: HashBytes(named.block().root_hash),
                    expected: block.root_hash,
                });
            }
            let vote = FinalizeVote::new(CandidateId {
                slot: *slot,
                hash: Sha256::digest(candidate).into(),
            });
            Ok(tl_proto::serialize(DataToSign {
                session_id: *session_id,
                data: tl_proto::serialize(vote),
            }))
        }
    }
}

/// Why a block is not final.
#[derive(Debug, thiserror::Error)]
pub enum SignatureError {
    /// The votes are for another block.
    #[error("the votes are for block {found}, expected {expected}")]
    Block {
        /// As read.
        found: HashBytes,
        /// As asked.
        expected: HashBytes,
    },
    /// What was voted for cannot be read.
    #[error("the candidate of the votes cannot be read")]
    Candidate(#[source] tl::ShapeError),
    /// The signature is not that of its signer.
    #[error("the signature of {who} is forged")]
    Forged {
        /// Short id.
        who: HashBytes,
    },
    /// Nobody who may sign, or for the second time.
    #[error("{who} is no validator, or signs twice")]
    Signer {
        /// Short id.
        who: HashBytes,
    },
    /// Another set of validators, or another session.
    #[error("signed by validators {found:#x}, expected {expected:#x} in their session")]
    Validators {
        /// As read.
        found: u32,
        /// As computed.
        expected: u32,
    },
    /// Not more than two thirds.
    #[error("signed by a weight of {signed} of {total}, expected more than two thirds")]
    Weight {
        /// Of those who signed.
        signed: u128,
        /// Of all.
        total: u128,
    },
}
