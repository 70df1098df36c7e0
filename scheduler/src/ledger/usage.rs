//! What was used in an hour, and how anyone sees that an answer is in it.
//!
//! The receipts that were settled in an epoch, by their Channels and in their order, are the
//! leaves of a tree (`contracts::receipt`); whoever has its head can be shown each. A
//! worker's voucher has the head over all receipts of its Channel, and is what the chain
//! gets to see.

use attestation::merkle::Path;
use contracts::voucher::Signed;
use tycho_types::cell::HashBytes;

use super::Ledger;
use super::account::Sum;
use super::receipts::{Served, Tree, paths};
use super::requests::RequestKey;
use super::rows::{Book, Kept, leaves};
use super::store::{Connection, StoreError};

/// Of one epoch.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Requests that were paid for.
    pub requests: u64,
    /// What they cost, and for how many tokens.
    pub sum: Sum,
    /// Over their receipts; zero where there are none.
    pub receipts: HashBytes,
}

/// That a request was paid for.
#[derive(Clone, Debug)]
pub struct Proof {
    /// The worker's receipt.
    pub served: Served,
    /// When it was settled.
    pub epoch: u32,
    /// Its place under the head of that epoch.
    pub in_epoch: Path,
    /// The newest voucher of the worker's Channel, and the receipt's place under the head in
    /// it. A receipt that is newer than the voucher is in none yet.
    pub in_voucher: Option<(Signed, Path)>,
}

impl Ledger {
    /// What was used in an epoch.
    pub async fn usage(&self, epoch: u32) -> Result<Usage, StoreError> {
        self.store.ask(move |open| Ok(used(open, epoch)?.0)).await
    }

    /// How a request was paid for, if it was.
    pub async fn proof(&self, key: RequestKey) -> Result<Option<Proof>, StoreError> {
        let global_id = self.identity.global_id;
        self.store
            .ask(move |open| proof(open, global_id, &key))
            .await
    }
}

fn used(connection: &mut dyn Connection, epoch: u32) -> Result<(Usage, Vec<[u8; 32]>), StoreError> {
    let (mut usage, mut hashes) = (Usage::default(), Vec::new());
    let mut last = None;
    loop {
        let receipts = Kept::of_epoch(connection, epoch, last)?;
        let Some(newest) = receipts.last() else {
            break;
        };
        last = Some((newest.worker, newest.position));
        for kept in receipts {
            let receipt = &kept.served.receipt;
            let work = receipt.work.load().map_err(|_| StoreError::Column)?;
            let sum = Sum {
                amount: receipt.cost().ok_or(StoreError::Column)?,
                tokens: work.tokens(),
            };
            usage.sum = usage.sum.plus(sum).ok_or(StoreError::Column)?;
            usage.requests = usage.requests.saturating_add(1);
            hashes.push(kept.hash);
        }
    }
    if usage.requests > 0 {
        usage.receipts = paths(&hashes).0;
    }
    Ok((usage, hashes))
}

fn proof(
    connection: &mut dyn Connection,
    global_id: i32,
    key: &RequestKey,
) -> Result<Option<Proof>, StoreError> {
    let Some(kept) = Kept::find(connection, key)? else {
        return Ok(None);
    };
    let (_, hashes) = used(connection, kept.epoch)?;
    let place = hashes.iter().position(|hash| *hash == kept.hash);
    let path = place.and_then(|place| paths(&hashes).1.into_iter().nth(place));
    let book = Book::lock(connection, global_id, &kept.worker)?;
    let in_voucher = match book.and_then(|book| book.signed) {
        Some(signed) => under(&signed, &leaves(connection, &kept.worker)?, kept.position)?
            .map(|path| (signed, path)),
        None => None,
    };
    Ok(Some(Proof {
        served: kept.served,
        epoch: kept.epoch,
        in_epoch: path.ok_or(StoreError::Column)?,
        in_voucher,
    }))
}

/// The path of a receipt to the head in a voucher, which is over the first of them.
fn under(signed: &Signed, hashes: &[[u8; 32]], position: u64) -> Result<Option<Path>, StoreError> {
    let head = signed
        .unverified()
        .map_err(|_| StoreError::Column)?
        .receipts;
    let mut tree = Tree::default();
    for (count, hash) in (1..).zip(hashes) {
        tree = tree.with(hash);
        if tree.head() == head {
            let paths = paths(hashes.get(..count).unwrap_or_default()).1;
            let place = usize::try_from(position).map_err(|_| StoreError::Column)?;
            return Ok(paths.into_iter().nth(place));
        }
    }
    Ok(None)
}
