//! The HTTP interface for clients.
//!
//! ```text
//! GET  /network/v1/models                  what there is, and at what price
//! GET  /network/v1/terms                   how to pay
//! POST /network/v1/assignments             which worker to seal to
//! POST /network/v1/workers/{id}/evidence   what it proves, relayed
//! POST /network/v1/requests                a sealed request, relayed
//! POST /network/v1/vouchers                a newer voucher by itself; how requests ended
//! GET  /health, /metrics, /status; / for people
//! GET  /network/v1/standings               what is thought of workers' machines, and why
//! ```
//!
//! Whoever serves this sees ciphertext, envelopes and vouchers; it can refuse and delay,
//! not read or change. Errors are OpenAI's error objects, and come before the first byte
//! of an answer: a client that gets one seals anew, to another worker. Pages of any origin
//! may call it: there is no cookie to abuse.
//!
//! `deadline_ms` is what is left of one time, as long as the answer is of use, counted from
//! when it is read: in an assignment it ends the wait for a place (after two minutes at
//! most), in an envelope the answer has to be whole by then (after half an hour at most).
//! Who has waited says less in the envelope.

mod error;
mod requests;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use attestation::appraisal::chain;
use attestation::protocol;
use attestation::register::Digest256;
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, Extension, Path, Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{Html, IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http_body_util::{BodyExt as _, Limited};
use sealed::{Assignment, AssignmentRequest};
use serde_json::{Map, Value, json};
use tokio::time::timeout;

use crate::desk::{HOLD, Unassigned};
use crate::directory::NoPick;
use crate::ledger::Told;
use crate::limits::Limit;
use crate::pass::{PASS, Pass, PassError};
use crate::payer::Payer;
use crate::relay::{PROOFS, of_worker};
use crate::reputation::FULL;
use crate::scheduler::Scheduler;
use crate::serve::Client;
use crate::status::{self, Status};

use error::{ApiError, Code};

/// The whole of it.
pub fn router(scheduler: Arc<Scheduler>) -> Router {
    Router::new()
        .route("/network/v1/models", get(models))
        .route("/network/v1/terms", get(terms))
        .route("/network/v1/assignments", post(assign))
        .route("/network/v1/workers/{id}/evidence", post(evidence))
        .route("/network/v1/requests", post(requests::relay))
        .route("/network/v1/vouchers", post(voucher))
        .route("/network/v1/standings", get(standings))
        .route("/health", get(health))
        .route("/metrics", get(metrics))
        .route("/", get(page))
        .route("/status", get(status))
        .fallback(async || ApiError::new(Code::NotFound, "no such path"))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&scheduler),
            count,
        ))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .layer(middleware::from_fn(for_any_origin))
        .with_state(scheduler)
}

async fn models(State(scheduler): State<Arc<Scheduler>>) -> Json<Value> {
    let roots = scheduler.workers.roots();
    let models = scheduler.desk().look(|directory| {
        let models = directory.models().map(|model| {
            let price = model.least.map(|least| scheduler.books.fee().price(least));
            json!({
                "name": model.name,
                "root": roots.get(model.name).cloned().flatten(),
                "workers": model.workers,
                "price": price,
                "free": model.free,
            })
        });
        models.collect::<Vec<_>>()
    });
    Json(json!({ "models": models }))
}

/// Everything that the choice knows of them beside their offers.
async fn standings(State(scheduler): State<Arc<Scheduler>>) -> Json<Value> {
    let workers = scheduler.workers.all().into_iter().map(|(id, worker)| {
        let standing = scheduler.workers.standings().of(&worker.proof.machine);
        json!({ "worker": id, "machine": worker.proof.machine, "standing": standing })
    });
    Json(json!({
        "full": FULL,
        "workers": workers.collect::<Vec<_>>(),
        "machines": scheduler.workers.standings().table(),
    }))
}

async fn terms(State(scheduler): State<Arc<Scheduler>>) -> Json<Value> {
    Json(scheduler.books.terms())
}

/// A bag of cells, as it is; in a header the requests that its client wants to hear of.
async fn voucher(
    State(scheduler): State<Arc<Scheduler>>,
    Extension(Client(client)): Extension<Client>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Value>, ApiError> {
    let (payer, pass) = payer(&scheduler, &headers, client).await?;
    often(&scheduler.vouchers, payer.or_at(client))?;
    let asked = requests::named(&headers)?;
    let shown = (body.as_ref(), pass.as_ref());
    let told = scheduler.books.voucher(shown, asked, client).await;
    let (standing, told) = told.map_err(|error| requests::uncovered(&error))?;
    let requests = told.iter().map(|(id, told)| {
        let told = match told {
            Told::Open => json!({ "stage": "open" }),
            Told::Released => json!({ "stage": "released" }),
            Told::Settled(settlement) => {
                let settlement = BASE64_STANDARD.encode(settlement.encode());
                json!({ "stage": "settled", "settlement": settlement })
            }
        };
        (hex::encode(id), told)
    });
    Ok(Json(json!({
        "free": standing.free,
        "spent": standing.spent,
        "reserved": standing.reserved,
        "requests": requests.collect::<Map<_, _>>(),
    })))
}

async fn assign(
    State(scheduler): State<Arc<Scheduler>>,
    Extension(Client(client)): Extension<Client>,
    headers: HeaderMap,
    body: Bytes,
) -> Result<Json<Assignment>, ApiError> {
    let (payer, _) = payer(&scheduler, &headers, client).await?;
    often(&scheduler.assignments, payer.or_at(client))?;
    let mut request: AssignmentRequest = serde_json::from_slice(&body)
        .map_err(|error| ApiError::new(Code::BadRequest, error.to_string()))?;
    if request.except.len() > MAX_EXCEPT {
        let message = format!("more than {MAX_EXCEPT} workers are excepted");
        return Err(ApiError::new(Code::BadRequest, message));
    }
    let fee = scheduler.books.fee();
    if scheduler.books.ledger().is_none() {
        // Nobody is paid.
        request.tip = 0;
    }
    let besides = request.max_price.checked_sub(request.tip);
    let besides = besides.ok_or_else(|| {
        let message = "the tip is more than the price may be";
        ApiError::new(Code::BadRequest, message)
    })?;
    request.max_price = fee.ask(besides);
    let chosen = tokio::select! {
        biased;
        () = scheduler.draining.cancelled() => return Err(draining()),
        chosen = scheduler.desk().assign(request, payer) => chosen,
    };
    let (worker, ask, tip) = chosen.map_err(|refused| unassigned(refused.with(fee)))?;
    let known = scheduler.workers.get(&worker);
    let known = known.ok_or_else(|| ApiError::new(Code::WorkerGone, "the worker is gone"))?;
    Ok(Json(Assignment {
        worker,
        price: fee.price(ask).saturating_add(tip),
        keyset: known.keyset.text().into(),
        expires_ms: u32::try_from(HOLD.as_millis()).unwrap_or(u32::MAX),
    }))
}

/// Who asks, and the pass that shows it, which holds.
async fn payer(
    scheduler: &Scheduler,
    headers: &HeaderMap,
    client: IpAddr,
) -> Result<(Payer, Option<Pass>), ApiError> {
    let bad = |error: PassError| ApiError::new(Code::BadVoucher, error.to_string());
    let pass = headers.get(PASS).map(|text| {
        let text = text.to_str().map_err(|_| PassError::Form);
        text.and_then(str::parse::<Pass>).map_err(bad)
    });
    let pass = pass.transpose()?;
    let payer = scheduler.books.payer(pass.as_ref(), client).await;
    Ok((payer.map_err(|error| requests::uncovered(&error))?, pass))
}

/// Another scheduler, or the next process of this one, takes it.
fn draining() -> ApiError {
    ApiError::new(Code::Draining, "the scheduler takes nothing new").after(SOON)
}

fn unassigned(refused: Unassigned) -> ApiError {
    let message = chain(&refused);
    match refused {
        Unassigned::Late => ApiError::new(Code::Full, message).after(SOON),
        Unassigned::NoPick(NoPick::Model) => ApiError::new(Code::ModelNotFound, message),
        Unassigned::NoPick(NoPick::Price { .. }) => ApiError::new(Code::PriceTooLow, message),
        Unassigned::NoPick(NoPick::Excepted | NoPick::Full) => {
            ApiError::new(Code::Full, message).after(SOON)
        }
        Unassigned::Refused(why) => ApiError::new(Code::Full, message).after(why.retry_after()),
    }
}

/// The worker answers for its own keys: nothing of it is looked at here.
async fn evidence(
    State(scheduler): State<Arc<Scheduler>>,
    Extension(Client(client)): Extension<Client>,
    Path(worker): Path<Digest256>,
    body: Bytes,
) -> Result<Response, ApiError> {
    often(&scheduler.evidence, Payer::at(client))?;
    if body.len() > protocol::Request::MAX {
        let message = format!("a challenge of {} bytes", body.len());
        return Err(ApiError::new(Code::BadRequest, message));
    }
    let mut request = Request::new(Body::from(body));
    *request.method_mut() = Method::POST;
    *request.uri_mut() = of_worker(PROOFS);
    let exchange = async {
        let sent = scheduler.fabric.send(worker, request).await;
        let response = sent.map_err(|error| requests::gone(&error))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, protocol::Response::MAX).collect().await;
        match body {
            Ok(body) if head.status == StatusCode::OK => Ok(body.to_bytes()),
            _ => Err(ApiError::new(
                Code::WorkerGone,
                "the worker shows no evidence",
            )),
        }
    };
    let evidence = timeout(EVIDENCE, exchange)
        .await
        .map_err(|_| ApiError::new(Code::Late, "the worker took too long"))??;
    Ok(([(header::CONTENT_TYPE, "application/cbor")], evidence).into_response())
}

async fn health(State(scheduler): State<Arc<Scheduler>>) -> (StatusCode, Json<Value>) {
    let (code, status) = match scheduler.draining.is_cancelled() {
        true => (StatusCode::SERVICE_UNAVAILABLE, "draining"),
        false => (StatusCode::OK, "ok"),
    };
    (code, Json(json!({ "status": status })))
}

async fn metrics(State(scheduler): State<Arc<Scheduler>>) -> Response {
    let text = scheduler.metrics.show(&scheduler.now());
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}

async fn status(
    scheduler: State<Arc<Scheduler>>,
    client: Extension<Client>,
) -> Result<Json<Status>, ApiError> {
    look(&scheduler, &client).await.map(Json)
}

async fn page(
    scheduler: State<Arc<Scheduler>>,
    client: Extension<Client>,
) -> Result<Response, ApiError> {
    let status = look(&scheduler, &client).await?;
    let headers = [
        (header::CONTENT_SECURITY_POLICY, status::policy()),
        (header::REFERRER_POLICY, "no-referrer".into()),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff".into()),
    ];
    Ok((headers, Html(status::page(&status))).into_response())
}

async fn look(scheduler: &Scheduler, client: &Client) -> Result<Status, ApiError> {
    often(&scheduler.looks, Payer::at(client.0))?;
    let status = Status::of(scheduler).await;
    status.map_err(|error| ApiError::new(Code::Unavailable, chain(&error)))
}

fn often(limit: &Limit, whose: Payer) -> Result<(), ApiError> {
    limit.take(whose, Instant::now()).map_err(too_often)
}

fn too_often(wait: Duration) -> ApiError {
    ApiError::new(Code::TooOften, "too often").after(wait)
}

async fn count(scheduler: State<Arc<Scheduler>>, request: Request, next: Next) -> Response {
    let response = next.run(request).await;
    if let Some(code) = response.extensions().get::<Code>() {
        scheduler.metrics.refused(code.name());
    }
    response
}

/// Answers what a browser asks before it lets a page ask (Fetch, section 3.3).
async fn for_any_origin(request: Request, next: Next) -> Response {
    let mut response = match *request.method() {
        Method::OPTIONS => StatusCode::NO_CONTENT.into_response(),
        _ => next.run(request).await,
    };
    for (name, value) in [
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (header::ACCESS_CONTROL_ALLOW_METHODS, "GET, POST"),
        (
            header::ACCESS_CONTROL_ALLOW_HEADERS,
            "content-type, cocoon-envelope, cocoon-pass, cocoon-voucher, cocoon-requests",
        ),
        (header::ACCESS_CONTROL_EXPOSE_HEADERS, "retry-after"),
        (header::ACCESS_CONTROL_MAX_AGE, "86400"),
    ] {
        response
            .headers_mut()
            .insert(name, HeaderValue::from_static(value));
    }
    response
}

/// The largest body that is read whole.
const MAX_BODY: usize = 16 << 10;

const MAX_EXCEPT: usize = 16;

/// A quote takes a second, and others may wait before this one.
const EVIDENCE: Duration = Duration::from_secs(90);

const SOON: Duration = Duration::from_secs(1);
