//! Who pays for a request: nobody, or the client's Channel, out of which the worker's owner
//! is paid through another, and the scheduler keeps its fee.
//!
//! Channels are believed as the chain proves them, when they are first named and whenever
//! one does not cover what is asked. What nobody has paid for yet has the chain asked only so
//! often, for each address and in all. Vouchers and receipts are the ledger's to judge.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use attestation::appraisal::chain;
use attestation::register::Digest256;
use chain::client::Client;
use contracts::voucher::Signed;
use sealed::Envelope;
use serde_json::{Value, json};
use tokio::sync::{self, Semaphore, SemaphorePermit};
use tycho_types::boc::{Boc, de};
use tycho_types::cell::{CellBuilder, HashBytes};
use tycho_types::error::Error;
use tycho_types::models::StdAddr;

use crate::fee::Fee;
use crate::ledger::account::{AdmitError, MARGIN, Order, Standing, Sum, VoucherError};
use crate::ledger::receipts::{Served, SettleError};
use crate::ledger::{Asked, Failed, Identity, Ledger, ObserveError, RequestKey, Side, Told};
use crate::limits::Limit;
use crate::look::{LookError, Looked, look};
use crate::onchain::Onchain;
use crate::pass::{Pass, PassError};
use crate::payer::Payer;
use crate::scheduler::LONGEST;
use crate::unended::Requests;

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
    pub(crate) ledger: Ledger,
    pub(crate) requests: Requests,
    chain: Client,
    payee: StdAddr,
    global_id: i32,
    exposure: u64,
    fee: Fee,
    /// Nanotons that a Channel holds whose payer has a share of its own.
    deposit: u64,
    onchain: Option<Onchain>,
    seen: Mutex<HashMap<HashBytes, Arc<sync::Mutex<Option<Seen>>>>>,
    /// Looks at Channels that may be none of ours, by address and in all.
    looks: Limit,
    all_looks: Limit,
    /// Looks for strangers that may wait for the chain, which answers one after the other.
    strangers: Semaphore,
    /// What owners of workers have earned that the ledger does not show, as each worker says.
    unseen: Mutex<HashMap<Earner, u64>>,
}

/// A worker, and the Channel that its owner is paid through. What it says of that is believed
/// for requests to itself: others may name the Channel too.
pub(crate) type Earner = (HashBytes, Digest256);

#[derive(Clone, Copy, Debug)]
struct Seen {
    /// None where there is no Channel.
    found: Option<Result<Looked, ObserveError>>,
    at: Instant,
}

impl Seen {
    const fn is_ours(&self) -> bool {
        matches!(self.found, Some(Ok(_)))
    }
}

/// A request that is paid for.
#[derive(Debug)]
pub struct Admitted {
    /// As the ledger knows it.
    pub key: RequestKey,
    /// The Channel of the worker's owner.
    pub owner: HashBytes,
    /// For the worker: a bag of cells.
    pub voucher: Vec<u8>,
}

impl Kept {
    /// Over an open ledger of the same identity. A worker may hold so many nanotons that no
    /// receipt shows; one request at a time it always may. Nothing is kept of what is paid.
    #[must_use]
    pub fn new(ledger: Ledger, chain: Client, identity: &Identity, exposure: u64) -> Self {
        Self {
            ledger,
            requests: Requests::default(),
            chain,
            payee: identity.payee.clone(),
            global_id: identity.global_id,
            exposure,
            fee: Fee::NONE,
            deposit: DEPOSIT,
            onchain: None,
            seen: Mutex::default(),
            looks: Limit::new(LOOKS, LOOK_EVERY),
            all_looks: Limit::new(ALL_LOOKS, ALL_LOOK_EVERY),
            strangers: Semaphore::new(STRANGERS),
            unseen: Mutex::default(),
        }
    }

    /// Something is.
    #[must_use]
    pub fn keeping(self, fee: Fee) -> Self {
        Self { fee, ..self }
    }

    /// Who has less than so many nanotons in a Channel has no share of its own.
    #[must_use]
    pub fn expecting(self, deposit: u64) -> Self {
        Self { deposit, ..self }
    }

    /// Prices are looked up on the chain.
    #[must_use]
    pub fn seeing(self, onchain: Onchain) -> Self {
        Self {
            onchain: Some(onchain),
            ..self
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

    /// On top of what workers ask.
    pub(crate) const fn fee(&self) -> Fee {
        match self {
            Self::Free => Fee::NONE,
            Self::Kept(kept) => kept.fee,
        }
    }

    /// What the chain says beside Channels, where that is looked up.
    pub(crate) const fn onchain(&self) -> Option<&Onchain> {
        match self {
            Self::Free => None,
            Self::Kept(kept) => kept.onchain.as_ref(),
        }
    }

    /// What a client needs to know to open its Channel, and what Markets say, which it can
    /// have proved to it.
    pub fn terms(&self) -> Value {
        match self {
            Self::Free => json!({ "free": true }),
            Self::Kept(kept) => json!({
                "global_id": kept.global_id,
                "payee": kept.payee.to_string(),
                "fee": kept.fee.share(),
                "deposit": kept.deposit,
                "delay": MARGIN.saturating_mul(2),
                "markets": kept.onchain.as_ref().map(Onchain::markets).unwrap_or_default(),
            }),
        }
    }

    /// Who asks, by the pass that came from an address.
    pub async fn payer(&self, pass: Option<&Pass>, client: IpAddr) -> Result<Payer, NotAdmitted> {
        let Self::Kept(kept) = self else {
            return Ok(Payer::at(client));
        };
        let Some(pass) = pass else {
            return Ok(Payer::Unpaid);
        };
        let channel = pass.channel();
        let looked = kept.find(channel, KNOWN, Some(client)).await??;
        pass.check(&looked.key, kept.global_id, now())?;
        Ok(match looked.side {
            Side::Client if looked.left >= kept.deposit => Payer::Channel(channel.address),
            Side::Client | Side::Worker => Payer::Unpaid,
        })
    }

    /// Reserves what a request may cost, before a worker that asks so much and has one of
    /// these Channels hears of it, for a client at that address whose pass was
    /// [looked at](Self::payer). Then it [ends](Self::release) or is [lost](Self::lose).
    pub async fn admit(
        &self,
        envelope: &Envelope,
        ask: u64,
        worker: &[StdAddr],
        (voucher, pass): (Option<&[u8]>, Option<&Pass>),
        client_at: IpAddr,
    ) -> Result<Option<Admitted>, NotAdmitted> {
        let Self::Kept(kept) = self else {
            return Ok(None);
        };
        let voucher = voucher.ok_or(NotAdmitted::NoVoucher)?;
        let (signed, client) = shown(voucher, pass)?;
        let owner = kept.owner(worker).await?;
        kept.find(&client, KNOWN, Some(client_at)).await??;
        let mut attempt = [0; 16];
        getrandom::fill(&mut attempt).map_err(|_| NotAdmitted::Random)?;
        let asked = Asked {
            key: RequestKey {
                client: client.address,
                id: envelope.id,
            },
            channel: owner.address,
            worker: HashBytes(*envelope.worker.as_bytes()),
            deadline: envelope.deadline_ms.div_ceil(1000),
            attempt,
        };
        let order = Order {
            limit: envelope.limit,
            price: envelope.price,
            ask,
            exposure: kept.exposure,
            unseen: kept.unseen(&(owner.address, envelope.worker)),
        };
        let is_new = kept.requests.begin(asked.key);
        let mut admitted = kept.admit(asked, order, &signed).await;
        if let Err(NotAdmitted::Ledger(Failed::Refused(error))) = &admitted
            && is_old(error)
        {
            // There may be more on the chain by now.
            admitted = match kept.look_at(&client, owner).await {
                Ok(()) => kept.admit(asked, order, &signed).await,
                Err(error) => Err(error),
            };
        }
        if is_new && admitted.is_err() {
            kept.requests.end(&asked.key);
        }
        let voucher = CellBuilder::build_from(admitted?).map_err(NotAdmitted::Voucher)?;
        Ok(Some(Admitted {
            key: asked.key,
            owner: owner.address,
            voucher: Boc::encode(voucher),
        }))
    }

    /// Charges and pays for an answer; says what the client is charged.
    pub async fn settle(
        &self,
        key: RequestKey,
        served: Served,
    ) -> Result<Sum, Failed<SettleError>> {
        let Self::Kept(kept) = self else {
            return Ok(Sum::default());
        };
        let settled = surely(|| kept.ledger.settle(key, served.clone(), now())).await;
        if !matches!(settled, Err(Failed::Refused(_))) {
            kept.requests.end(&key);
        }
        settled
    }

    /// The way to its worker broke, which may have finished it; it says so when it is there
    /// again, of the request whose hash that is.
    pub fn lose(&self, key: RequestKey, worker: Digest256, request: Option<Digest256>) {
        if let Self::Kept(kept) = self {
            let now = Instant::now();
            kept.requests.lose(key, worker, request, LONGEST, now);
        }
    }

    /// A worker says what its owner has earned in all: more than the ledger shows, where
    /// a scheduler died before it wrote a receipt down. The next voucher for this worker covers
    /// it too, up to the exposure.
    pub(crate) async fn earned(&self, earner: Earner, earned: u64) {
        let (owner, worker) = earner;
        let Self::Kept(kept) = self else {
            return;
        };
        let shown = match kept.ledger.account(owner).await {
            Ok(Some((_, account))) => account.spent.amount,
            Ok(None) => return,
            Err(error) => return tracing::warn!("what a worker earned is not known: {error}"),
        };
        let unseen = earned.saturating_sub(shown);
        tracing::warn!(%owner, %worker, unseen, "a worker has receipts that the ledger has not");
        if unseen <= kept.exposure {
            kept.set_unseen(earner, |_| unseen);
        }
    }

    /// A receipt of a worker's has come after all, for so much.
    pub(crate) fn seen(&self, earner: Earner, earned: u64) {
        if let Self::Kept(kept) = self {
            kept.set_unseen(earner, |unseen| unseen.saturating_sub(earned));
        }
    }

    /// Ends a request for which no receipt can come any more. Whether nothing is reserved for
    /// it now.
    pub async fn release(&self, key: RequestKey) -> bool {
        let Self::Kept(kept) = self else {
            return true;
        };
        let released = surely(|| kept.ledger.release(key)).await;
        if let Err(error) = &released {
            tracing::warn!("a request stays reserved: {error}");
        }
        kept.requests.end(&key);
        released.is_ok()
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

    /// Takes a client's newer voucher without a request, from that address; says how the client
    /// stands, and those of its requests that were admitted. Its pass was
    /// [looked at](Self::payer).
    pub async fn voucher(
        &self,
        (voucher, pass): (&[u8], Option<&Pass>),
        requests: Vec<[u8; 16]>,
        client_at: IpAddr,
    ) -> Result<(Standing, Vec<([u8; 16], Told)>), NotAdmitted> {
        let Self::Kept(kept) = self else {
            return Err(NotAdmitted::Free);
        };
        let (signed, client) = shown(voucher, pass)?;
        kept.find(&client, KNOWN, Some(client_at)).await??;
        let taken = kept.ledger.voucher(client.address, signed, now()).await;
        let standing = taken.map_err(NotAdmitted::Ledger)?;
        let told = kept.ledger.told(client.address, requests).await;
        let told = told.map_err(|error| NotAdmitted::Ledger(error.into()))?;
        Ok((standing, told))
    }
}

impl Kept {
    async fn admit(
        &self,
        asked: Asked,
        order: Order,
        signed: &Signed,
    ) -> Result<Signed, NotAdmitted> {
        let signed = Some(signed.clone());
        let admit = || self.ledger.admit(asked, order, signed.clone(), now());
        let admission = surely(admit).await.map_err(NotAdmitted::Ledger)?;
        Ok(admission.voucher)
    }

    async fn look_at(&self, client: &StdAddr, owner: &StdAddr) -> Result<(), NotAdmitted> {
        self.find(client, RECENT, None).await??;
        self.find(owner, RECENT, None).await??;
        Ok(())
    }

    fn unseen(&self, earner: &Earner) -> u64 {
        let unseen = self.unseen.lock().unwrap_or_else(PoisonError::into_inner);
        unseen.get(earner).copied().unwrap_or_default()
    }

    /// Only of Channels in the books, which are ours to begin with; nothing is nowhere.
    fn set_unseen(&self, earner: Earner, change: impl FnOnce(u64) -> u64) {
        let mut known = self.unseen.lock().unwrap_or_else(PoisonError::into_inner);
        match change(known.remove(&earner).unwrap_or_default()) {
            0 => {}
            unseen => drop(known.insert(earner, unseen)),
        }
    }

    /// The Channel out of which we pay, of those that a worker names: it may serve other
    /// schedulers too.
    async fn owner<'a>(&self, named: &'a [StdAddr]) -> Result<&'a StdAddr, NotAdmitted> {
        for channel in named {
            let found = self.find(channel, KNOWN, None).await;
            if matches!(found, Ok(Ok(looked)) if looked.side == Side::Worker) {
                return Ok(channel);
            }
        }
        Err(NotAdmitted::Owner)
    }

    /// A Channel as the chain had it at most `age` ago, or as long as the chain cannot be
    /// asked: the ledger knows how long that is good for. Many may ask at once; the chain is
    /// asked once, and not at all if one that may be nobody's is named too often from there.
    async fn find(
        &self,
        channel: &StdAddr,
        age: Duration,
        from: Option<IpAddr>,
    ) -> Result<Result<Looked, ObserveError>, LookError> {
        let entry = {
            let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
            if seen.len() >= MAX_SEEN {
                // Of Channels that are none there are as many as anybody names.
                seen.retain(|_, entry| {
                    entry
                        .try_lock()
                        .is_ok_and(|entry| entry.is_some_and(|known| known.is_ours()))
                });
            }
            if seen.len() >= MAX_SEEN {
                seen.clear();
            }
            Arc::clone(seen.entry(channel.address).or_default())
        };
        let mut entry = entry.lock().await;
        // It may be opened at any moment.
        let fresh = |known: &Seen| match known.found {
            Some(_) => age,
            None => age.min(RECENT),
        };
        if let Some(known) = entry.filter(|known| known.at.elapsed() < fresh(known)) {
            return known.found.ok_or_else(|| LookError::None(channel.clone()));
        }
        let is_stranger = !entry.is_some_and(|known| known.is_ours());
        let _place = match from.filter(|_| is_stranger) {
            Some(from) => Some(self.place_of(from)?),
            None => None,
        };
        let found = match (look(&self.chain, &self.ledger, channel).await, *entry) {
            (Ok(looked), _) => Some(Ok(looked)),
            (Err(LookError::Observe(Failed::Refused(refused))), _) => Some(Err(refused)),
            (Err(LookError::None(_) | LookError::Terms(_)), _) => None,
            (Err(error), None) => return Err(error),
            (Err(error), Some(known)) => {
                tracing::warn!(%channel, "not looked at: {}", chain(&error));
                known.found
            }
        };
        let at = Instant::now();
        *entry = Some(Seen { found, at });
        found.ok_or_else(|| LookError::None(channel.clone()))
    }

    /// A stranger's, for one look at the chain.
    fn place_of(&self, from: IpAddr) -> Result<SemaphorePermit<'_>, LookError> {
        let now = Instant::now();
        let own = self.looks.take(Payer::at(from), now);
        let taken = own.and_then(|()| self.all_looks.take(Payer::Unpaid, now));
        taken.map_err(|wait| LookError::Often { wait })?;
        let place = self.strangers.try_acquire();
        place.map_err(|_| LookError::Often { wait: SOON })
    }
}

/// Whether the chain may show more than the ledger has seen.
const fn is_old(error: &AdmitError) -> bool {
    matches!(
        error,
        AdmitError::NotCovered { .. }
            | AdmitError::Unknown
            | AdmitError::Unfunded { .. }
            | AdmitError::ClientEnds { .. }
            | AdmitError::Voucher(VoucherError::Funds { .. } | VoucherError::Ended { .. })
    )
}

/// Once more, where it is not known whether it was done: every call twice is as once.
async fn surely<T, E, F>(ask: impl Fn() -> F) -> Result<T, Failed<E>>
where
    E: std::error::Error + 'static,
    F: Future<Output = Result<T, Failed<E>>>,
{
    match ask().await {
        Err(Failed::Store(_)) => ask().await,
        decided => decided,
    }
}

/// A voucher, and whose it is. Anybody has vouchers, as the chain publishes those that were
/// claimed, but no pass of the same Channel.
fn shown(voucher: &[u8], pass: Option<&Pass>) -> Result<(Signed, StdAddr), NotAdmitted> {
    let cell = Boc::decode(voucher).map_err(NotAdmitted::Cells)?;
    let signed: Signed = cell.parse().map_err(NotAdmitted::Voucher)?;
    let client = signed.unverified().map_err(NotAdmitted::Voucher)?.channel;
    match pass.is_some_and(|pass| *pass.channel() == client) {
        true => Ok((signed, client)),
        false => Err(NotAdmitted::NoPass),
    }
}

/// Unix seconds.
pub(crate) fn now() -> u32 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs().try_into().unwrap_or(u32::MAX))
}

/// What a worker may hold that no receipt shows, unless its scheduler says otherwise.
pub const EXPOSURE: u64 = 1_000_000_000;

/// What a Channel holds whose payer has a share of its own, unless its scheduler says
/// otherwise: fifty times what it takes to open and close one.
pub const DEPOSIT: u64 = 100_000_000;

/// At Channels that are not known: each is some work of a liteserver.
const LOOKS: u32 = 32;
const LOOK_EVERY: Duration = Duration::from_secs(1);
const ALL_LOOKS: u32 = 256;
const ALL_LOOK_EVERY: Duration = Duration::from_millis(50);

/// Each takes some answers of a liteserver: who is known waits for so many at most.
const STRANGERS: usize = 16;

/// Until fewer wait.
const SOON: Duration = Duration::from_secs(1);

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
    Channel(#[from] ObserveError),
    /// Nothing is paid here.
    #[error("this scheduler takes no vouchers")]
    Free,
    /// What is signed does not suffice, or not for this.
    #[error("the request is not covered")]
    Ledger(#[source] Failed<AdmitError>),
    /// Whoever has this voucher need not be who signed it.
    #[error("no pass of the voucher's Channel came with it")]
    NoPass,
    /// Nothing to pay with.
    #[error("no voucher came with the request")]
    NoVoucher,
    /// Nobody to pay.
    #[error("no Channel leads from this scheduler to the worker's owner")]
    Owner,
    /// Whoever asks is not its payer.
    #[error("the pass is not taken")]
    Pass(#[from] PassError),
    /// Nothing to tell our own attempts by.
    #[error("the system has no randomness")]
    Random,
    /// Cells of something else.
    #[error("the voucher is malformed")]
    Voucher(#[source] Error),
}
