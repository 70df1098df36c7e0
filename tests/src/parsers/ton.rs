//! What the readers of a liteserver's answers, and of a payer's signature, take.

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use chain::block::Anchor;
use chain::network::{Network, Server};
use chain::tl::{Answer, BlockIdExt, BlockLink, Forward, Signature, SignatureSet};
use contracts::voucher::{Signed, Voucher};
use tycho_types::boc::Boc;
use tycho_types::cell::{CellBuilder, HashBytes, Load as _};
use tycho_types::models::{BlockId, ShardIdent, StdAddr};

/// A block with so many signatures.
pub(super) fn proof(signatures: usize) -> Vec<u8> {
    let (from, to) = (BlockIdExt::from(&PINNED), BlockIdExt::from(&PINNED));
    let signature = Signature {
        node_id_short: [3; 32],
        signature: vec![4; 64],
    };
    let link = Forward {
        to_key_block: false,
        from,
        to,
        dest_proof: owed(),
        config_proof: owed(),
        signatures: SignatureSet::Simplex {
            cc_seqno: 1,
            validator_set_hash: 2,
            signatures: vec![signature; signatures],
            session_id: [5; 32],
            slot: 6,
            candidate: vec![7; 100],
        },
    };
    tl_proto::serialize(Answer::PartialBlockProof {
        complete: true,
        from,
        to,
        steps: vec![BlockLink::Forward(link)],
    })
}

/// A network of so many liteservers.
pub(super) fn network(servers: usize) -> Vec<u8> {
    let server = Server {
        address: "203.0.113.200:4924".parse().expect("is an address"),
        key: [8; 32],
    };
    let network = Network {
        servers: vec![server; servers],
        pinned: Anchor::pin(PINNED),
    };
    network.to_json().expect("is written").into()
}

const PINNED: BlockId = BlockId {
    shard: ShardIdent::MASTERCHAIN,
    seqno: 5,
    root_hash: HashBytes([1; 32]),
    file_hash: HashBytes([2; 32]),
};

/// A voucher that owes nothing, unsigned.
pub(super) fn owed() -> Vec<u8> {
    let voucher = Voucher::first(-239, StdAddr::new(0, HashBytes::ZERO));
    Boc::encode(CellBuilder::build_from(voucher).expect("fits"))
}

/// Whether a payer who signed this has signed a voucher.
pub(super) fn voucher(bytes: &[u8]) -> bool {
    let Ok(cell) = Boc::decode(bytes) else {
        return false;
    };
    let key = Ed25519KeyPair::from_seed_unchecked(&[1; 32]).expect("is a seed");
    let public = key.public_key().as_ref().try_into().expect("is 32 bytes");
    let signature = key.sign(&cell.repr_hash().0);
    let mut signed = CellBuilder::new();
    signed.store_raw(signature.as_ref(), 512).expect("fits");
    signed.store_reference(cell).expect("fits");
    let signed = signed.build().expect("is a cell");
    let signed = Signed::load_from(&mut signed.as_slice_allow_exotic()).expect("is one");
    signed.verify(&HashBytes(public)).is_ok()
}
