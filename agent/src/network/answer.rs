//! The answer to a sealed request: what the API says, sealed as it comes, and then what
//! it came to, signed.
//!
//! The receipt's hashes are of what passes the scheduler: of the sealed request, and of
//! the sealed answer up to its last chunk. Tokens are those that the engine counted for
//! answers that came to their end; a refusal or a failure costs nothing.

use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use contracts::receipt::{Receipt, Work};
use contracts::voucher::cost;
use futures_util::{StreamExt as _, stream};
use sealed::{Envelope, Header, Responder, ResponseHead, SealError, Sealer, Settlement};
use session::receipts::SignError;
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout_at};
use tycho_types::boc::Boc;
use tycho_types::cell::{CellBuilder, HashBytes, Lazy};
use tycho_types::models::StdAddr;

use super::Desk;
use super::intake::Intake;
use super::purse::{Earned, Reservation};
use super::settlements::{Settled, UnderWay};
use crate::api::unix_time;
use crate::receipts::{Count, Ledger};

/// What was agreed for one request, until it is settled.
pub(super) struct Job {
    pub(super) desk: Desk,
    pub(super) envelope: Envelope,
    /// Root hash of the model.
    pub(super) root: HashBytes,
    pub(super) until: Instant,
    pub(super) intake: Arc<Mutex<Intake>>,
    pub(super) ledger: Ledger,
    pub(super) reservation: Option<Reservation>,
    pub(super) under_way: UnderWay,
}

impl Job {
    /// What is paid for a million tokens: of what its client pays, the scheduler keeps the
    /// rest.
    fn ask(&self) -> u64 {
        self.desk.link.ask(&self.envelope.model)
    }
}

impl Drop for Job {
    /// Somebody has left before the end.
    fn drop(&mut self) {
        if let Some(reservation) = self.reservation.take() {
            let worked = cost(self.ledger.worked(), self.ask());
            reservation.lose(worked.unwrap_or(u64::MAX));
        }
    }
}

/// One answer under way.
pub(super) struct Answer {
    job: Job,
    /// Salt and head.
    first: Option<Vec<u8>>,
    /// None once the last chunk is sealed.
    sealer: Option<Sealer>,
    hash: Sha256,
    success: bool,
    body: BodyDataStream,
    /// Once it is settled, where vouchers pay.
    earned: Option<Arc<Earned>>,
}

impl Drop for Answer {
    /// What was settled and not taken is lost, until somebody asks for it.
    fn drop(&mut self) {
        if let Some(earned) = &self.earned {
            earned.lose();
        }
    }
}

impl Answer {
    /// Begins with what the API said first.
    pub(super) fn new(job: Job, responder: Responder, response: Response) -> Result<Self, Broken> {
        let (head, body) = response.into_parts();
        let headers = head.headers.iter().filter_map(|(name, value)| {
            let value = value.to_str().ok()?;
            Some(Header(name.as_str().into(), value.into()))
        });
        let said = ResponseHead {
            status: head.status.as_u16(),
            headers: headers.collect(),
        };
        let mut salt = [0; 32];
        getrandom::fill(&mut salt).map_err(|_| Broken::Random)?;
        let mut first = Vec::new();
        let mut sealer = responder.start(salt, &mut first)?;
        sealer.chunk(&said.encode(), &mut first)?;
        Ok(Self {
            job,
            hash: Sha256::new_with_prefix(&first),
            first: Some(first),
            sealer: Some(sealer),
            success: head.status.is_success(),
            body: body.into_data_stream(),
            earned: None,
        })
    }

    /// The next bytes, as soon as there are any; none after the settlement. Who asks for
    /// more has it: only then is it counted, so that both ends count the same.
    async fn next(&mut self) -> Result<Option<Vec<u8>>, Broken> {
        if let Some(first) = self.first.take() {
            return Ok(Some(first));
        }
        loop {
            let Some(mut sealer) = self.sealer.take() else {
                if let Some(earned) = &self.earned {
                    earned.count();
                }
                return Ok(None);
            };
            let end = self.job.until.checked_add(GRACE).unwrap_or(self.job.until);
            let said = timeout_at(end, self.body.next()).await;
            let mut out = Vec::new();
            match said.map_err(|_| Broken::Late)? {
                Some(bytes) => {
                    sealer.chunk(&bytes.map_err(Broken::Api)?, &mut out)?;
                    self.sealer = Some(sealer);
                    self.hash.update(&out);
                    if !out.is_empty() {
                        return Ok(Some(out));
                    }
                }
                None => {
                    sealer.last(&[], &mut out)?;
                    self.hash.update(&out);
                    // Of a request that never ends there is no hash, and no settlement.
                    let settled = timeout_at(end, self.settle()).await;
                    out.extend(settled.map_err(|_| Broken::Late)??);
                    return Ok(Some(out));
                }
            }
        }
    }

    async fn settle(&mut self) -> Result<Vec<u8>, Broken> {
        let Job { desk, root, .. } = &self.job;
        let count = match self.success {
            true => self.job.ledger.count(),
            false => Count::default(),
        };
        let narrow = |tokens| u32::try_from(tokens).unwrap_or(u32::MAX);
        let work = Work {
            model: *root,
            build: desk.network.build,
            prompt_tokens: narrow(count.read),
            completion_tokens: narrow(count.made),
        };
        let free = StdAddr::new(0, HashBytes::ZERO);
        let purse = desk.link.purse.as_deref();
        let receipt = Receipt {
            global_id: purse.map_or(0, super::Purse::network),
            channel: purse.map_or(free, |purse| purse.address().clone()),
            request: HashBytes(self.job.intake.lock().await.hash().await),
            response: HashBytes(self.hash.clone().finalize().into()),
            price: self.job.ask(),
            time: narrow(unix_time()),
            work: Lazy::new(&work)?,
        };
        let cell = CellBuilder::build_from(&receipt)?;
        let settlement = Settlement {
            signature: desk.network.worker.sign_hash(&cell.repr_hash().0)?,
            receipt: Boc::encode(cell),
            tokens: work.tokens(),
        };
        let settlement = settlement.encode();
        let cost = receipt.cost().unwrap_or_default();
        let reservation = self.job.reservation.take();
        self.earned = reservation.map(|held| Arc::new(Earned::new(held, cost)));
        self.job.under_way.settle(Settled {
            settlement: settlement.clone(),
            earned: self.earned.clone(),
        });
        Ok(settlement)
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let bytes = stream::try_unfold(self, |mut answer| async {
            let next = answer.next().await;
            let next = next.inspect_err(|error| tracing::info!("an answer broke off: {error}"));
            Ok::<_, Broken>(next?.map(|bytes| (bytes, answer)))
        });
        let kind = [(CONTENT_TYPE, "application/cocoon-sealed")];
        (kind, Body::from_stream(bytes)).into_response()
    }
}

/// After the deadline the engine says itself that it has passed.
pub(super) const GRACE: Duration = Duration::from_secs(2);

/// Why an answer has no end.
#[derive(Debug, thiserror::Error)]
pub(super) enum Broken {
    #[error("the api failed")]
    Api(#[source] axum::Error),
    #[error("no cell for the receipt")]
    Cell(#[from] tycho_types::error::Error),
    #[error("the deadline has passed")]
    Late,
    #[error("no randomness")]
    Random,
    #[error("{0}")]
    Seal(#[from] SealError),
    #[error("the receipt is not signed")]
    Sign(#[from] SignError),
}
