//! `POST /network/v1/requests`: from the envelope to the settlement.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use attestation::appraisal::chain;
use attestation::register::Digest256;
use axum::body::Body;
use axum::extract::{Extension, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use contracts::voucher::cost;
use http_body_util::{BodyExt as _, Limited};
use sealed::Envelope;
use serde::Deserialize;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::timeout;

use super::error::{ApiError, Code};
use crate::books::{Admitted, NotAdmitted};
use crate::desk::Unassigned;
use crate::directory::{Outcome, Pick};
use crate::fabric::SendError;
use crate::ledger::Failed;
use crate::ledger::account::AdmitError;
use crate::limits::Share;
use crate::look::LookError;
use crate::metrics::Ending;
use crate::pass::Pass;
use crate::payer::Payer;
use crate::relay::{
    Blame, Download, ENVELOPE, Ended, Fate, READ_ON, REQUESTS, RelayError, Upload, VOUCHER,
    of_worker, refusal,
};
use crate::reputation::Event;
use crate::scheduler::{MAX_DEADLINE, Scheduler};
use crate::serve::Client;
use crate::settlement::{Settled, outcome};
use crate::workers::Worker;

/// Passes a sealed request on to the worker of its envelope.
pub(super) async fn relay(
    State(scheduler): State<Arc<Scheduler>>,
    Extension(Client(client)): Extension<Client>,
    request: Request,
) -> Result<Response, ApiError> {
    let started = Instant::now();
    if scheduler.draining.is_cancelled() {
        return Err(super::draining());
    }
    let (payer, pass) = super::payer(&scheduler, request.headers(), client).await?;
    // Who is refused by the books may have had them ask the chain.
    let (refusals, whose) = (&scheduler.vouchers, payer.or_at(client));
    refusals.check(whose, started).map_err(super::too_often)?;
    let (head, body) = request.into_parts();
    let envelope = bytes_of(&head.headers, ENVELOPE, Code::BadEnvelope)?;
    let envelope = envelope.ok_or_else(|| ApiError::new(Code::BadEnvelope, "no envelope"))?;
    let sealed = Envelope::parse(&envelope)
        .map_err(|error| ApiError::new(Code::BadEnvelope, chain(&error)))?;
    let voucher = bytes_of(&head.headers, VOUCHER, Code::BadVoucher)?;
    let mut order = Order::of(&scheduler, sealed, payer, client)?;
    let voucher = match order.admit(voucher, pass, client).await {
        Ok(voucher) => voucher,
        Err(error) => {
            if error.is_of_the_client() {
                refusals.take(whose, started).unwrap_or_default();
            }
            order.end(Ending::Unsent, &Outcome::Abandoned).await?;
            return Err(error);
        }
    };

    let deadline = Duration::from_millis(order.envelope.deadline_ms.into()).min(MAX_DEADLINE);
    let (upload, passed) = Upload::new(body);
    let mut request = Request::new(Body::new(upload));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = of_worker(REQUESTS);
    if let Some(envelope) = head.headers.get(ENVELOPE) {
        request.headers_mut().insert(ENVELOPE, envelope.clone());
    }
    if let Some(voucher) = voucher {
        request.headers_mut().insert(VOUCHER, voucher);
    }
    // What its admission took is not its worker's.
    let started = Instant::now();
    let sent = scheduler.fabric.send(order.envelope.worker, request);
    let response = match timeout(deadline, sent).await {
        Ok(Ok(response)) => response,
        Ok(Err(error)) => {
            let mut refused = gone(&error);
            match passed.blame() {
                Blame::Worker(request) => {
                    if request.is_some() && order.lose(request) {
                        refused = ApiError::new(Code::WorkerLost, chain(&error));
                    }
                    order.end(Ending::Failed, &Outcome::Failed).await?;
                }
                Blame::Client => order.end(Ending::Left, &Outcome::Abandoned).await?,
            }
            return Err(refused);
        }
        Err(_) => {
            let outcome = match passed.whole() {
                Some(_) if deadline >= AMPLE => Outcome::Silent,
                _ => Outcome::Abandoned,
            };
            order.end(Ending::Late, &outcome).await?;
            return Err(ApiError::new(Code::Late, "the deadline has passed"));
        }
    };
    if response.status() != StatusCode::OK {
        return refused(order, response).await;
    }
    // What is paid for is not had for nothing by hanging up.
    let patience = order.paid.as_ref().map_or(READ_ON, |_| deadline);
    let answer = Download {
        body: response.into_body(),
        request: passed,
        started,
        deadline,
        patience,
        close: Box::new(move |fate| tokio::spawn(order.close(fate))),
    };
    let headers = [
        (header::CONTENT_TYPE, "application/cocoon-sealed"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, answer.pass()).into_response())
}

/// Why a worker did not answer.
pub(super) fn gone(error: &SendError) -> ApiError {
    ApiError::new(Code::WorkerGone, chain(error))
}

/// Why a request is not paid for.
pub(super) fn uncovered(error: &NotAdmitted) -> ApiError {
    let code = match error {
        NotAdmitted::Chain(LookError::Often { wait }) => return super::too_often(*wait),
        NotAdmitted::Cells(_)
        | NotAdmitted::Free
        | NotAdmitted::NoPass
        | NotAdmitted::Pass(_)
        | NotAdmitted::Voucher(_) => Code::BadVoucher,
        NotAdmitted::Chain(LookError::Cells(_) | LookError::Chain(_))
        | NotAdmitted::Ledger(Failed::Store(_)) => Code::Unavailable,
        NotAdmitted::Ledger(Failed::Refused(AdmitError::Repeated)) => Code::Replayed,
        // Another worker may be chosen.
        NotAdmitted::Owner
        | NotAdmitted::Ledger(Failed::Refused(
            AdmitError::Exposed { .. }
            | AdmitError::Loss { .. }
            | AdmitError::Unfunded { .. }
            | AdmitError::WorkerEnds { .. },
        )) => Code::Full,
        _ => Code::NotCovered,
    };
    let refused = ApiError::new(code, chain(error));
    match error {
        NotAdmitted::Ledger(Failed::Refused(
            AdmitError::NotCovered { standing, .. } | AdmitError::Stale { standing, .. },
        )) => refused.of(*standing),
        _ => refused,
    }
}

/// A request under way. It ends once; dropped before, its client went away.
struct Order {
    scheduler: Arc<Scheduler>,
    envelope: Envelope,
    worker: Worker,
    /// What its owner asks for a million tokens.
    ask: u64,
    pick: Option<Pick>,
    paid: Option<Paid>,
    started: Instant,
    is_open: bool,
    /// Of what may be under way.
    _share: Share,
}

impl Order {
    /// Of a worker that is there, takes that price, and has room.
    fn of(
        scheduler: &Arc<Scheduler>,
        envelope: Envelope,
        payer: Payer,
        client: IpAddr,
    ) -> Result<Self, ApiError> {
        let worker = scheduler.workers.get(&envelope.worker);
        let worker = worker.ok_or_else(|| gone(&SendError::Gone))?;
        let ask = worker.ask(&envelope.model).ok_or_else(|| {
            ApiError::new(Code::ModelNotFound, "the worker does not serve this model")
        })?;
        let price = scheduler.books.fee().price(ask);
        let Some(tip) = envelope.price.checked_sub(price) else {
            let message = format!("the price is {price} nanotons for a million tokens");
            return Err(ApiError::new(Code::PriceTooLow, message));
        };
        let share = scheduler.open.take(payer.or_at(client)).ok_or_else(|| {
            let message = "too many requests are under way";
            ApiError::new(Code::Unavailable, message).after(SOON)
        })?;
        let pick = scheduler.desk().take(&envelope, tip, payer);
        let pick = pick.map_err(|why| super::unassigned(Unassigned::NoPick(why)))?;
        scheduler.metrics.began();
        Ok(Self {
            pick: Some(pick),
            scheduler: Arc::clone(scheduler),
            envelope,
            worker,
            ask,
            paid: None,
            started: Instant::now(),
            is_open: true,
            _share: share,
        })
    }

    /// Has it paid for, and gives the worker's voucher.
    async fn admit(
        &mut self,
        voucher: Option<Vec<u8>>,
        pass: Option<Pass>,
        client: IpAddr,
    ) -> Result<Option<HeaderValue>, ApiError> {
        let (tell, told) = oneshot::channel();
        let (scheduler, envelope) = (Arc::clone(&self.scheduler), self.envelope.clone());
        let (channels, ask) = (Arc::clone(&self.worker.channels), self.ask);
        tokio::spawn(async move {
            let shown = (voucher.as_deref(), pass.as_ref());
            let books = &scheduler.books;
            let admitting = books.admit(&envelope, ask, &channels, shown, client);
            let admitted = admitting.await;
            let paid = admitted.map(|admitted| admitted.map(|it| Paid::new(&scheduler, it)));
            // Whoever does not wait for it has it let go.
            drop(tell.send(paid));
        });
        let unavailable = |error: String| ApiError::new(Code::Unavailable, error);
        let paid = told.await.map_err(|error| unavailable(error.to_string()))?;
        let Some(paid) = paid.map_err(|error| uncovered(&error))? else {
            return Ok(None);
        };
        let voucher = BASE64_URL_SAFE_NO_PAD.encode(&paid.admitted.voucher);
        self.paid = Some(paid);
        let voucher = HeaderValue::try_from(voucher);
        voucher
            .map(Some)
            .map_err(|error| unavailable(error.to_string()))
    }

    async fn close(mut self, fate: Fate) {
        let ended = match fate {
            Fate::Left => self.end(Ending::Left, &Outcome::Abandoned).await,
            Fate::Failed(RelayError::Late, _) => self.end(Ending::Late, &Outcome::Abandoned).await,
            Fate::Failed(error, request) => {
                tracing::info!(worker = %self.envelope.worker, "{}", chain(&error));
                if let RelayError::Broken(_) = error {
                    self.lose(request);
                }
                self.end(Ending::Failed, &Outcome::Failed).await
            }
            Fate::Ended(ended) => self.settle(&ended).await,
        };
        // The client has no settlement, and asks.
        ended.unwrap_or_default();
    }

    async fn settle(mut self, ended: &Ended) -> Result<(), ApiError> {
        let (ask, key) = (self.ask, self.worker.receipt_key);
        let settled = match Settled::of(ended, &self.envelope, ask, key) {
            Ok(settled) => settled,
            Err(error) => {
                tracing::warn!(worker = %self.envelope.worker, "not paid: {}", chain(&error));
                return self.end(Ending::Unsettled, &error.outcome()).await;
            }
        };
        let books = &self.scheduler.books;
        if let Some(paid) = self.paid.take() {
            let booked = books.settle(paid.admitted.key, settled.served).await;
            if let Err(error) = booked {
                tracing::warn!(worker = %self.envelope.worker, "not paid: {}", chain(&error));
                match &error {
                    // Its receipt can be had again.
                    Failed::Store(_) => paid.keep(),
                    Failed::Refused(_) => self.paid = Some(paid),
                }
                return self.end(Ending::Unsettled, &outcome(&error)).await;
            }
            paid.keep();
        }
        let outcome = Outcome::Answered {
            first: ended.first,
            rest: self.started.elapsed().saturating_sub(ended.first),
            tokens: settled.tokens,
        };
        let paid = cost(settled.tokens, self.envelope.price).unwrap_or_default();
        let metrics = &self.scheduler.metrics;
        metrics.settled(settled.tokens, paid, Some(ended.first));
        self.end(Ending::Settled, &outcome).await
    }

    /// Its worker may have finished it: then it says so once it is there again. Whether
    /// anything is paid for it.
    fn lose(&mut self, request: Option<Digest256>) -> bool {
        let Some(paid) = self.paid.take() else {
            return false;
        };
        let books = &self.scheduler.books;
        books.lose(paid.admitted.key, self.envelope.worker, request);
        paid.keep();
        true
    }

    /// Comes back once nothing is reserved for it any more: whoever is told may use that. Where
    /// that is not known, no reason why it was refused is worth as much.
    async fn end(mut self, ending: Ending, outcome: &Outcome) -> Result<(), ApiError> {
        self.is_open = false;
        let released = match self.count(ending, outcome) {
            Some(released) => released.await,
            None => Ok(true),
        };
        match released {
            Ok(true) => Ok(()),
            Ok(false) | Err(_) => {
                let message = "what was reserved for the request may stay so";
                Err(ApiError::new(Code::Unavailable, message))
            }
        }
    }

    /// What is still reserved is let go of, whether or not anyone waits for it.
    fn count(&mut self, ending: Ending, outcome: &Outcome) -> Option<JoinHandle<bool>> {
        tracing::debug!(
            worker = %self.envelope.worker,
            class = ?self.envelope.class,
            took_ms = self.started.elapsed().as_millis(),
            ?ending,
        );
        self.scheduler.metrics.ended(ending);
        // Who is linked elsewhere is judged there: what comes from there may have been changed.
        let is_seen = self.worker.at.is_none();
        for event in Event::of(outcome).filter(|_| is_seen) {
            let machine = self.worker.proof.machine;
            self.scheduler.judged(&self.envelope.worker, machine, event);
        }
        if let Some(pick) = self.pick.take() {
            self.scheduler.desk().done(pick, outcome);
        }
        self.paid.take().map(|mut paid| paid.release())
    }
}

impl Drop for Order {
    fn drop(&mut self) {
        if self.is_open {
            drop(self.count(Ending::Left, &Outcome::Abandoned));
        }
    }
}

/// What is reserved for a request; let go of when it is dropped.
struct Paid {
    scheduler: Arc<Scheduler>,
    admitted: Admitted,
    is_kept: bool,
}

impl Paid {
    fn new(scheduler: &Arc<Scheduler>, admitted: Admitted) -> Self {
        Self {
            scheduler: Arc::clone(scheduler),
            admitted,
            is_kept: false,
        }
    }

    /// It is settled, or will be.
    fn keep(mut self) {
        self.is_kept = true;
    }

    fn release(&mut self) -> JoinHandle<bool> {
        self.is_kept = true;
        let (scheduler, key) = (Arc::clone(&self.scheduler), self.admitted.key);
        tokio::spawn(async move { scheduler.books.release(key).await })
    }
}

impl Drop for Paid {
    fn drop(&mut self) {
        if !self.is_kept {
            drop(self.release());
        }
    }
}

/// The worker's no, word for word as far as it is short.
async fn refused(order: Order, response: Response) -> Result<Response, ApiError> {
    let (mut head, body) = response.into_parts();
    let text = timeout(REFUSAL, Limited::new(body, MAX_REFUSAL).collect()).await;
    let Ok(Ok(text)) = text else {
        order.end(Ending::Failed, &Outcome::Failed).await?;
        return Err(ApiError::new(Code::WorkerGone, "the worker broke off"));
    };
    let text = text.to_bytes();
    if let (StatusCode::PAYMENT_REQUIRED, Some(paid)) = (head.status, &order.paid) {
        if let Ok(Refused { error }) = serde_json::from_slice(&text) {
            let books = &order.scheduler.books;
            let earner = (paid.admitted.owner, order.envelope.worker);
            books.earned(earner, error.spent).await;
        }
        // Between the worker and us: the client has paid, and may try another.
        order.end(Ending::Refused, &Outcome::Full).await?;
        let message = "the worker waits for a voucher";
        return Err(ApiError::new(Code::Full, message).after(SOON));
    }
    order.end(Ending::Refused, &refusal(head.status)).await?;
    let retry = head.headers.remove(header::RETRY_AFTER);
    let mut refused = (head.status, text).into_response();
    let headers = refused.headers_mut();
    headers.insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    retry.map(|retry| headers.insert(header::RETRY_AFTER, retry));
    Ok(refused)
}

/// What a worker says that it has earned, where our voucher does not cover it.
#[derive(Deserialize)]
struct Refused {
    error: Earned,
}

#[derive(Deserialize)]
struct Earned {
    spent: u64,
}

/// A header's bytes, in base64url.
fn bytes_of(headers: &HeaderMap, name: &str, code: Code) -> Result<Option<Vec<u8>>, ApiError> {
    let Some(value) = headers.get(name) else {
        return Ok(None);
    };
    let bytes = BASE64_URL_SAFE_NO_PAD.decode(value);
    let bytes = bytes.map_err(|error| ApiError::new(code, format!("{name}: {error}")))?;
    Ok(Some(bytes))
}

/// The identifiers that a header names, each 32 hex digits; none without it.
pub(super) fn named(headers: &HeaderMap) -> Result<Vec<[u8; 16]>, ApiError> {
    let bad = |message: String| ApiError::new(Code::BadRequest, message);
    let Some(value) = headers.get(ASKED) else {
        return Ok(Vec::new());
    };
    let text = value.to_str().map_err(|error| bad(error.to_string()))?;
    let mut ids = Vec::new();
    for one in text.split(',') {
        let mut id = [0; 16];
        hex::decode_to_slice(one, &mut id)
            .map_err(|_| bad(format!("{ASKED}: {one:?} is no identifier")))?;
        ids.push(id);
    }
    match ids.len() > MAX_NAMED {
        true => Err(bad(format!("{ASKED}: more than {MAX_NAMED}"))),
        false => Ok(ids),
    }
}

const ASKED: &str = "cocoon-requests";

/// Requests that a client asks about at a time.
const MAX_NAMED: usize = 64;

/// Who does not begin to answer for so long rests.
const AMPLE: Duration = Duration::from_secs(30);

const SOON: Duration = Duration::from_secs(1);

/// For an error in clear, from its status to its end.
const REFUSAL: Duration = Duration::from_secs(5);

const MAX_REFUSAL: usize = 16 << 10;
