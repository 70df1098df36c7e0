//! What a TD claims of itself on the chain, and puts into its quote.
//!
//! ```text
//! claim#4e4f4431 global_id:int32 node:MsgAddressInt gpus:bits384 block:uint32
//!   block_root:uint256 keys:^Keys = Claim;
//! _ receipt:uint256 seal:uint256 tls:bits384 = Keys;
//!
//! REPORTDATA = SHA-512("cocoon/node/v1\0" || hash of the claim's cell)
//! ```
//!
//! The Node's address covers its owner. The block is one of the last sixteen of the
//! masterchain whose number is a multiple of 100, so that the quote is young. The first
//! bytes that are hashed differ from those of a session's binding, so neither value can
//! be taken for the other.

use attestation::binding::ReportData;
use sha2::{Digest as _, Sha512};
use tycho_types::cell::{CellBuilder, HashBytes, Lazy, Load, Store};
use tycho_types::error::Error;
use tycho_types::models::StdAddr;

use crate::cells::Bytes;

/// What a TD claims.
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
#[tlb(tag = "#4e4f4431")]
pub struct Claim {
    /// Which network: -239 the main one, -3 the test one.
    pub global_id: i32,
    /// For which Node.
    pub node: StdAddr,
    /// SHA-384 over the GPU evidence that the TD has verified.
    pub gpus: Bytes<48>,
    /// Number of a recent block of the masterchain.
    pub block: u32,
    /// Its root hash.
    pub block_root: HashBytes,
    /// Keys that exist nowhere but in the TD.
    pub keys: Lazy<Keys>,
}

/// Public keys of a TD.
#[derive(Clone, Debug, Eq, Load, PartialEq, Store)]
pub struct Keys {
    /// Ed25519, signs receipts.
    pub receipt: HashBytes,
    /// SHA-256 of the X-Wing key that requests are sealed to: under it the network knows
    /// this worker.
    pub seal: HashBytes,
    /// SHA-384 of the TLS key.
    pub tls: Bytes<48>,
}

impl Claim {
    /// What the TD has to put into its quote.
    pub fn report_data(&self) -> Result<ReportData, Error> {
        let cell = CellBuilder::build_from(self)?;
        let hash = Sha512::new()
            .chain_update(b"cocoon/node/v1\0")
            .chain_update(cell.repr_hash().0);
        Ok(ReportData(hash.finalize().into()))
    }
}
