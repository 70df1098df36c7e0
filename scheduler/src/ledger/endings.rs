//! How requests ended, for a client that did not hear of it.

use sealed::Settlement;
use tycho_types::boc::BocRepr;
use tycho_types::cell::HashBytes;

use super::Ledger;
use super::requests::{Request, RequestKey, Stage};
use super::rows::Kept;
use super::store::{Connection, StoreError};

/// How far a request is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Told {
    /// A receipt may come.
    Open,
    /// Charged for nothing, for good.
    Released,
    /// Charged for what its worker signed.
    Settled(Settlement),
}

impl Ledger {
    /// Those of a client's requests that were ever admitted.
    pub async fn told(
        &self,
        client: HashBytes,
        ids: Vec<[u8; 16]>,
    ) -> Result<Vec<([u8; 16], Told)>, StoreError> {
        self.store.ask(move |open| told(open, client, &ids)).await
    }
}

fn told(
    connection: &mut dyn Connection,
    client: HashBytes,
    ids: &[[u8; 16]],
) -> Result<Vec<([u8; 16], Told)>, StoreError> {
    let mut all = Vec::new();
    for id in ids {
        let key = RequestKey { client, id: *id };
        let Some(request) = Request::find(connection, &key)? else {
            continue;
        };
        let told = match request.stage {
            Stage::Open => Told::Open,
            Stage::Released => Told::Released,
            Stage::Settled => {
                let kept = Kept::find(connection, &key)?;
                Told::Settled(settlement(&kept.ok_or(StoreError::Column)?)?)
            }
        };
        all.push((*id, told));
    }
    Ok(all)
}

/// As it followed the answer.
fn settlement(kept: &Kept) -> Result<Settlement, StoreError> {
    let receipt = &kept.served.receipt;
    let work = receipt.work.load().map_err(|_| StoreError::Column)?;
    Ok(Settlement {
        receipt: BocRepr::encode(receipt).map_err(|_| StoreError::Column)?,
        signature: kept.served.signature,
        tokens: work.tokens(),
    })
}
