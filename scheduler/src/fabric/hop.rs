//! What another scheduler passes on to a worker that is linked here.
//!
//! ```text
//! cocoon-worker: ID            whom it is for; path, body, envelope and voucher are the worker's
//! cocoon-gone: 1               in an answer with status 503: it is not here, or broke off
//! ```
//!
//! The worker is judged here, where its evidence was verified and its own bytes pass: what
//! reaches the other scheduler may have been changed on the way. Nothing passes but what
//! clients may ask of a worker, and what it says of a request whose end was lost.

use std::sync::Arc;
use std::time::{Duration, Instant};

use attestation::appraisal::chain;
use attestation::register::Digest256;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderMap, Method, Response, StatusCode};
use axum::response::IntoResponse as _;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use sealed::Envelope;
use tokio_util::task::task_tracker::TaskTrackerToken;

use super::{Fabric as _, SendError};
use crate::directory::Outcome;
use crate::relay::{
    Blame, Download, ENVELOPE, Fate, LATE, PROOFS, REQUESTS, RelayError, SETTLEMENTS, Sieve,
    Upload, VOUCHER, of_worker, refusal,
};
use crate::reputation::Event;
use crate::scheduler::{MAX_DEADLINE, Scheduler};
use crate::settlement::Settled;
use crate::workers::Worker;

/// Passes one on.
pub(super) async fn take(
    State(scheduler): State<Arc<Scheduler>>,
    request: Request,
) -> Response<Body> {
    let (head, body) = request.into_parts();
    let worker = head.headers.get(WORKER);
    let Some(worker) = worker.and_then(|id| id.to_str().ok()?.parse().ok()) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let passed = match head.uri.path() {
        PROOFS => prove(&scheduler, worker, body).await,
        REQUESTS => ask(&scheduler, worker, &head.headers, body).await,
        path if path.starts_with(SETTLEMENTS) => settlement(&scheduler, worker, path).await,
        _ => return StatusCode::NOT_FOUND.into_response(),
    };
    match passed {
        Ok(mut response) => {
            // Ours to say.
            response.headers_mut().remove(GONE);
            response
        }
        Err(error) => {
            tracing::info!(%worker, "{}", chain(&error));
            (StatusCode::SERVICE_UNAVAILABLE, [(GONE, "1")]).into_response()
        }
    }
}

async fn prove(
    scheduler: &Scheduler,
    worker: Digest256,
    body: Body,
) -> Result<Response<Body>, SendError> {
    let sent = scheduler.workers.send(worker, post(PROOFS, body)).await?;
    Ok(sent.map(|body| Body::new(Sieve::new(body))))
}

async fn settlement(
    scheduler: &Scheduler,
    worker: Digest256,
    path: &str,
) -> Result<Response<Body>, SendError> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = of_worker(path);
    let sent = scheduler.workers.send(worker, request).await?;
    Ok(sent.map(|body| Body::new(Sieve::new(body))))
}

async fn ask(
    scheduler: &Arc<Scheduler>,
    worker: Digest256,
    headers: &HeaderMap,
    body: Body,
) -> Result<Response<Body>, SendError> {
    let envelope = envelope(headers).filter(|envelope| envelope.worker == worker);
    let Some(envelope) = envelope else {
        return Ok(StatusCode::BAD_REQUEST.into_response());
    };
    let known = scheduler.workers.get(&worker);
    let known = known.filter(|_| scheduler.passing.len() < MOST);
    let known = known.ok_or(SendError::Gone)?;
    let guest = Guest {
        ask: known.ask(&envelope.model).ok_or(SendError::Gone)?,
        worker: known,
        scheduler: Arc::clone(scheduler),
        started: Instant::now(),
        _passing: scheduler.passing.token(),
        envelope,
    };
    let (upload, passed) = Upload::new(body);
    let mut request = post(REQUESTS, Body::new(upload));
    for name in [ENVELOPE, VOUCHER] {
        let value = headers.get(name).cloned();
        value.map(|value| request.headers_mut().insert(name, value));
    }
    let response = match scheduler.workers.send(worker, request).await {
        Ok(response) => response,
        Err(error) => {
            if let Blame::Worker(_) = passed.blame() {
                guest.judge(&Outcome::Failed);
            }
            return Err(error);
        }
    };
    if response.status() != StatusCode::OK {
        guest.judge(&refusal(response.status()));
        return Ok(response.map(|body| Body::new(Sieve::new(body))));
    }
    let deadline = Duration::from_millis(guest.envelope.deadline_ms.into()).min(MAX_DEADLINE);
    let started = guest.started;
    Ok(response.map(|body| {
        let answer = Download {
            body,
            request: passed,
            started,
            // Whoever passes it on reads on for its client, and late.
            deadline: deadline.saturating_add(LATE),
            patience: Duration::ZERO,
            close: Box::new(move |fate| tokio::spawn(async move { guest.close(&fate) })),
        };
        answer.pass()
    }))
}

/// A request that is booked elsewhere.
struct Guest {
    scheduler: Arc<Scheduler>,
    worker: Worker,
    ask: u64,
    envelope: Envelope,
    started: Instant,
    _passing: TaskTrackerToken,
}

impl Guest {
    fn close(&self, fate: &Fate) {
        self.judge(&match fate {
            Fate::Left | Fate::Failed(RelayError::Late, _) => Outcome::Abandoned,
            Fate::Failed(..) => Outcome::Failed,
            Fate::Ended(ended) => {
                match Settled::of(ended, &self.envelope, self.ask, self.worker.receipt_key) {
                    Ok(settled) => Outcome::Answered {
                        first: ended.first,
                        rest: self.started.elapsed().saturating_sub(ended.first),
                        tokens: settled.tokens,
                    },
                    Err(error) => error.outcome(),
                }
            }
        });
    }

    fn judge(&self, outcome: &Outcome) {
        let machine = self.worker.proof.machine;
        for event in Event::of(outcome) {
            self.scheduler.judged(&self.envelope.worker, machine, event);
        }
    }
}

fn envelope(headers: &HeaderMap) -> Option<Envelope> {
    let envelope = BASE64_URL_SAFE_NO_PAD.decode(headers.get(ENVELOPE)?).ok()?;
    Envelope::parse(&envelope).ok()
}

fn post(path: &'static str, body: Body) -> Request {
    let mut request = Request::new(body);
    *request.method_mut() = Method::POST;
    *request.uri_mut() = of_worker(path);
    request
}

pub(super) const WORKER: &str = "cocoon-worker";
pub(super) const GONE: &str = "cocoon-gone";

/// Under way for all others together: of each, 64 KiB wait in either direction at most.
const MOST: usize = 16_384;
