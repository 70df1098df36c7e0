//! Who pays for a request: nobody, or the client's Channel, out of which the worker's owner
//! is paid through another.
//!
//! Channels are believed as the chain proves them, when they are first named and whenever
//! one does not cover what is asked. Vouchers and receipts are the ledger's to judge.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use chain::client::Client;
use contracts::voucher::Signed;
use sealed::Envelope;
use serde_json::{Value, json};
use tycho_types::boc::{Boc, de};
use tycho_types::cell::{CellBuilder, HashBytes};
use tycho_types::error::Error;
use tycho_types::models::StdAddr;

use crate::ledger::account::{AdmitError, Order, Standing};
use crate::ledger::receipts::{Served, SettleError};
use crate::ledger::{Failed, Identity, Ledger, ObserveError, RequestKey, Side};
use crate::look::{LookError, look};
use crate::relay::Ended;
use crate::settlement::Settled;

/// How requests are paid for.
#[derive(Debug)]
pub enum Books {
    /// Not at all.
    Free,
    /// As the ledger says.
    Kept(Box<Kept>),
}

/// A ledger, and the chain that its Channels are on.
#[derive(Debug)]
pub struct Kept {
    ledger: Ledger,
    chain: Client,
    payee: StdAddr,
    global_id: i32,
    seen: Mutex<HashMap<HashBytes, Seen>>,
}

#[derive(Clone, Copy, Debug)]
struct Seen {
    side: Option<Side>,
    at: Instant,
}

/// A request that is paid for.
#[derive(Clone, Debug)]
pub struct Admitted {
    /// As the ledger knows it.
    pub key: RequestKey,
    /// For the worker: a bag of cells.
    pub voucher: Vec<u8>,
}

impl Kept {
    /// Over an open ledger of the same identity.
    #[must_use]
    pub fn new(ledger: Ledger, chain: Client, identity: &Identity) -> Self {
        Self {
            ledger,
            chain,
            payee: identity.payee.clone(),
            global_id: identity.global_id,
            seen: Mutex::default(),
        }
    }
}

impl Books {
    /// Where records are kept.
    pub(crate) const fn ledger(&self) -> Option<&Ledger> {
        match self {
            Self::Free => None,
            Self::Kept(kept) => Some(&kept.ledger),
        }
    }

    /// What a client needs to know to open its Channel.
    pub fn terms(&self) -> Value {
        match self {
            Self::Free => json!({ "free": true }),
            Self::Kept(kept) => json!({
                "global_id": kept.global_id,
                "payee": kept.payee.to_string(),
            }),
        }
    }

    /// Reserves what a request may cost, before a worker with one of these Channels hears
    /// of it.
    pub async fn admit(
        &self,
        envelope: &Envelope,
        worker: &[StdAddr],
        voucher: Option<&[u8]>,
    ) -> Result<Option<Admitted>, NotAdmitted> {
        let Self::Kept(kept) = self else {
            return Ok(None);
        };
        let signed = parse(voucher.ok_or(NotAdmitted::NoVoucher)?)?;
        let client = signed.unverified().map_err(NotAdmitted::Voucher)?.channel;
        let mut owner = None;
        for channel in worker {
            if kept.side(channel, KNOWN).await? == Some(Side::Worker) {
                owner = Some(channel);
            }
        }
        let owner = owner.ok_or(NotAdmitted::Owner)?;
        kept.side(&client, KNOWN).await?;
        let key = RequestKey {
            client: client.address,
            id: envelope.id,
        };
        let admitted = match kept.admit(key, owner, envelope, &signed).await {
            Err(Failed::Refused(
                AdmitError::NotCovered { .. } | AdmitError::Unknown | AdmitError::Unfunded { .. },
            )) => {
                // There may be more on the chain by now.
                kept.side(&client, RECENT).await?;
                kept.side(owner, RECENT).await?;
                kept.admit(key, owner, envelope, &signed).await
            }
            decided => decided,
        };
        let voucher = admitted.map_err(NotAdmitted::Ledger)?;
        let voucher = CellBuilder::build_from(voucher).map_err(NotAdmitted::Voucher)?;
        Ok(Some(Admitted {
            key,
            voucher: Boc::encode(voucher),
        }))
    }

    /// Charges and pays for an answer that passed.
    pub async fn settle(
        &self,
        key: RequestKey,
        settled: &Settled,
        ended: &Ended,
        receipt_key: [u8; 32],
    ) -> Result<(), Failed<SettleError>> {
        let Self::Kept(kept) = self else {
            return Ok(());
        };
        let hash = |hash: &attestation::register::Digest256| HashBytes(*hash.as_bytes());
        let served = Served {
            receipt: settled.receipt.clone(),
            signature: settled.signature,
            key: HashBytes(receipt_key),
            request: ended.request.as_ref().map(hash).unwrap_or_default(),
            response: hash(&ended.response),
        };
        match kept.ledger.settle(key, served.clone(), now()).await {
            Err(Failed::Store(_)) => kept.ledger.settle(key, served, now()).await,
            decided => decided,
        }
        .map(drop)
    }

    /// Ends a request for which no receipt can come any more.
    pub async fn release(&self, key: RequestKey) {
        if let Self::Kept(kept) = self
            && let Err(error) = kept.ledger.release(key).await
        {
            tracing::warn!("a request stays reserved: {error}");
        }
    }

    /// Releases what a scheduler that died left reserved, after the longest deadline.
    pub async fn expire(&self, longest: Duration) {
        let longest = u32::try_from(longest.as_secs()).unwrap_or(u32::MAX);
        if let Self::Kept(kept) = self
            && let Err(error) = kept.ledger.expire(now().saturating_sub(longest)).await
        {
            tracing::warn!("old requests stay reserved: {error}");
        }
    }

    /// Takes a client's newer voucher without a request; says how the client stands.
    pub async fn voucher(&self, voucher: &[u8]) -> Result<Standing, NotAdmitted> {
        let Self::Kept(kept) = self else {
            return Err(NotAdmitted::Free);
        };
        let signed = parse(voucher)?;
        let client = signed.unverified().map_err(NotAdmitted::Voucher)?.channel;
        kept.side(&client, KNOWN).await?;
        let taken = kept.ledger.voucher(client.address, signed, now()).await;
        taken.map_err(NotAdmitted::Ledger)
    }
}

impl Kept {
    async fn admit(
        &self,
        key: RequestKey,
        worker: &StdAddr,
        envelope: &Envelope,
        signed: &Signed,
    ) -> Result<Signed, Failed<AdmitError>> {
        let order = Order {
            limit: envelope.limit,
            price: envelope.price,
            exposure: EXPOSURE,
            claimed: 0,
        };
        let signed = Some(signed.clone());
        let admit = || {
            self.ledger
                .admit(key, worker.address, order, signed.clone(), now())
        };
        match admit().await {
            Err(Failed::Store(_)) => admit().await,
            decided => decided,
        }
        .map(|admission| admission.voucher)
    }

    /// Which side of us a Channel is on, as the chain had it at most `age` ago.
    async fn side(&self, channel: &StdAddr, age: Duration) -> Result<Option<Side>, NotAdmitted> {
        let known = self.lock().get(&channel.address).copied();
        if let Some(known) = known.filter(|known| known.at.elapsed() < age) {
            return Ok(known.side);
        }
        let side = self.observe(channel).await?;
        let mut seen = self.lock();
        if seen.len() >= MAX_SEEN {
            seen.clear();
        }
        let at = Instant::now();
        seen.insert(channel.address, Seen { side, at });
        Ok(side)
    }

    async fn observe(&self, address: &StdAddr) -> Result<Option<Side>, NotAdmitted> {
        let Some(seen) = look(&self.chain, address).await? else {
            return Ok(None);
        };
        let observed = self.ledger.observe(seen.channel, seen.balance, seen.at);
        match observed.await {
            Ok(side) => Ok(Some(side)),
            Err(Failed::Refused(refused)) => Err(NotAdmitted::Channel(refused)),
            Err(Failed::Store(_)) => Ok(None),
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<HashBytes, Seen>> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn parse(voucher: &[u8]) -> Result<Signed, NotAdmitted> {
    let cell = Boc::decode(voucher).map_err(NotAdmitted::Cells)?;
    cell.parse().map_err(NotAdmitted::Voucher)
}

/// Unix seconds.
fn now() -> u32 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs().try_into().unwrap_or(u32::MAX))
}

/// What a worker may hold that no receipt shows: one request at a time is always allowed,
/// and so is this.
const EXPOSURE: u64 = 1_000_000_000;

/// A Channel changes by what is put in and taken out.
const KNOWN: Duration = Duration::from_secs(300);

/// The chain is not asked about one Channel more often.
const RECENT: Duration = Duration::from_secs(10);

const MAX_SEEN: usize = 1 << 16;

/// Why a request is not paid for.
#[derive(Debug, thiserror::Error)]
pub enum NotAdmitted {
    /// Not a bag of cells.
    #[error("the voucher is no bag of cells")]
    Cells(#[source] de::Error),
    /// What the chain has cannot be told.
    #[error(transparent)]
    Chain(#[from] LookError),
    /// On neither side of ours.
    #[error("the Channel is not taken")]
    Channel(#[source] ObserveError),
    /// Nothing is paid here.
    #[error("this scheduler takes no vouchers")]
    Free,
    /// What is signed does not suffice, or not for this.
    #[error("the request is not covered")]
    Ledger(#[source] Failed<AdmitError>),
    /// Nothing to pay with.
    #[error("no voucher came with the request")]
    NoVoucher,
    /// Nobody to pay.
    #[error("no Channel leads from this scheduler to the worker's owner")]
    Owner,
    /// Cells of something else.
    #[error("the voucher is malformed")]
    Voucher(#[source] Error),
}
