//! Who signs the blocks of the local chain: four, with weights of 3, 3, 2 and 2, and other
//! keys in each epoch. The keys are computed from nothing secret.

use sha2::{Digest as _, Sha256};
use std::num::NonZeroU16;

use chain::adnl::short_id;
use chain::signatures::signed_bytes;
use chain::tl::{BlockIdExt, Candidate, CandidateParent, Signature, SignatureSet};
use tycho_crypto::ed25519::{KeyPair, SecretKey};
use tycho_types::cell::HashBytes;
use tycho_types::models::{BlockId, ValidatorDescription, ValidatorSet};

/// Those of one epoch.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Validators {
    /// Also the number of their session.
    pub epoch: u32,
}

/// How votes are cast.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Consensus {
    /// As until 2026: over the block.
    Catchain,
    /// As since: over a vote for a candidate.
    Simplex,
}

impl Validators {
    /// As the configuration names them.
    #[must_use]
    pub fn set(self) -> ValidatorSet {
        let mut prev_total_weight: u64 = 0;
        let list = (0..).zip(WEIGHTS).map(|(number, weight)| {
            let description = ValidatorDescription {
                public_key: HashBytes(self.key(number).public_key.to_bytes()),
                weight,
                adnl_addr: None,
                mc_seqno_since: 0,
                prev_total_weight,
            };
            prev_total_weight = prev_total_weight.saturating_add(weight);
            description
        });
        ValidatorSet {
            utime_since: 0,
            utime_until: u32::MAX,
            list: list.collect(),
            main: NonZeroU16::MIN.saturating_add(3),
            total_weight: WEIGHTS.iter().sum(),
        }
    }

    /// Checksum of the set in its session.
    #[must_use]
    pub fn hash(self) -> u32 {
        ValidatorSet::compute_subset_hash_short(&self.set().list, self.epoch)
    }

    /// Signatures of some of them.
    #[must_use]
    pub fn sign(self, consensus: Consensus, block: &BlockId, who: &[u8]) -> SignatureSet {
        let candidate = Candidate::Ordinary {
            block: BlockIdExt::from(block),
            collated_file_hash: [0; 32],
            parent: CandidateParent::None,
        };
        let set = |signatures| match consensus {
            Consensus::Catchain => SignatureSet::Ordinary {
                validator_set_hash: self.hash(),
                catchain_seqno: self.epoch,
                signatures,
            },
            Consensus::Simplex => SignatureSet::Simplex {
                cc_seqno: self.epoch,
                validator_set_hash: self.hash(),
                signatures,
                session_id: Sha256::digest(self.epoch.to_be_bytes()).into(),
                slot: block.seqno,
                candidate: tl_proto::serialize(&candidate),
            },
        };
        let message = signed_bytes(&set(Vec::new()), block).unwrap_or_default();
        let sign = |number: &u8| {
            let key = self.key(*number);
            Signature {
                node_id_short: short_id(key.public_key.as_bytes()),
                signature: key.sign_raw(&message).to_vec(),
            }
        };
        set(who.iter().map(sign).collect())
    }

    fn key(self, number: u8) -> KeyPair {
        let seed = Sha256::new()
            .chain_update("local validator")
            .chain_update(self.epoch.to_be_bytes())
            .chain_update([number]);
        KeyPair::from(&SecretKey::from_bytes(seed.finalize().into()))
    }
}

/// Everyone.
pub const ALL: &[u8] = &[0, 1, 2, 3];

const WEIGHTS: [u64; 4] = [3, 3, 2, 2];
