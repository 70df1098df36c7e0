//! The network as an OpenAI-compatible endpoint.
//!
//! ```text
//! POST /v1/…            sealed, relayed, streamed back, settled
//! GET  /v1/models       what all schedulers list
//! GET  /cocoon/trust    what was verified of each worker
//! GET  /cocoon/usage    what was spent, in nanotons, and one's newest requests
//! GET  /metrics         counts for Prometheus
//! ```
//!
//! A request may have `cocoon-tip`, in nanotons for a million tokens: of what the gateway
//! tips no more than that. An answer has `cocoon-request` and `cocoon-worker`; one that is no stream of events
//! has `cocoon-cost` too, and is held back until it is settled.

use std::collections::BTreeMap;
use std::sync::Arc;

use attestation::appraisal::chain;
use attestation::register::Digest256;
use axum::body::{Body, Bytes};
use axum::extract::{Path, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header, response};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Extension, Json, Router};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use super::answer::{Answer, AnswerError};
use super::deal::{Most, Paid};
use super::exchange::{self, Begun};
use super::purse::Balance;
use super::{Network, Place, scheduler};
use crate::gateway::asked::Asked;
use crate::gateway::bill::Bill;
use crate::gateway::front;
use crate::gateway::problem::Problem;
use crate::gateway::remove_hop_by_hop;

impl Network {
    /// Its endpoint.
    pub fn router(self: Arc<Self>) -> Router {
        Router::new()
            .route("/v1/models", get(models))
            .route("/v1/models/{*id}", get(model))
            .route("/v1/{*path}", post(ask))
            .route("/health", get(async || Json(json!({ "status": "ok" }))))
            .route("/metrics", get(metrics))
            .route("/cocoon/trust", get(trust))
            .route("/cocoon/usage", get(spent))
            .fallback(async || Problem::new(StatusCode::NOT_FOUND, "not_found", "no such path"))
            .with_state(self)
    }
}

async fn ask(State(network): State<Arc<Network>>, request: Request) -> Response {
    let (mut head, body) = request.into_parts();
    // Where keys are asked for, it was read for them.
    let asked = head.extensions.remove::<Asked>();
    let bill = head.extensions.remove::<Arc<Bill>>();
    let user = bill.as_ref().map_or("", |bill| bill.name());
    let body = match front::read(body).await {
        Ok(body) => body,
        Err(problem) => return problem.into_response(),
    };
    let asked = match asked {
        Some(asked) => Some(asked),
        None => Asked::read(&head.headers, &body).await,
    };
    let Some(asked) = asked else {
        let message = "the body is neither JSON nor a form";
        return Problem::new(StatusCode::BAD_REQUEST, "invalid_body", message).into_response();
    };
    let tip = match tip(&head.headers, network.options.tip) {
        Ok(tip) => tip,
        Err(problem) => return problem.into_response(),
    };
    let path = head.uri.path_and_query();
    let request = exchange::Request {
        path: path.map_or_else(String::new, ToString::to_string),
        headers: head.headers.clone(),
        most: most(&asked, body.len(), network.options.answer),
        tip,
        affinity: Digest256::from_bytes(network.secret_of("affinity", user, &asked)),
        tenant: network.secret_of("tenant", user, &asked),
        model: asked.model,
        body,
    };
    if let Some(bill) = &bill {
        // Of who leaves before an answer begins nobody else will know.
        bill.pays(request.most.limit());
    }
    match network.exchange(&request).await {
        Ok(begun) => pass(network, begun, bill).await,
        Err(problem) => {
            bill.inspect(|bill| bill.pays(0));
            problem.into_response()
        }
    }
}

fn most(asked: &Asked, body: usize, answer: u64) -> Most {
    let body = u64::try_from(body).unwrap_or(u64::MAX);
    let images = asked.images.saturating_mul(IMAGE);
    Most {
        prompt: body.saturating_add(TEMPLATE).saturating_add(images),
        answer: asked.answer.unwrap_or(answer),
    }
}

fn tip(headers: &HeaderMap, most: u64) -> Result<u64, Problem> {
    let Some(tip) = headers.get(&TIP) else {
        return Ok(most);
    };
    let tip = tip.to_str().ok().and_then(|tip| tip.parse().ok());
    tip.filter(|tip| *tip <= most).ok_or_else(|| {
        let message = format!("cocoon-tip is not of nanotons, {most} at most");
        Problem::new(StatusCode::BAD_REQUEST, "invalid_tip", message)
    })
}

/// Passes an answer on: as it comes, or, where it is one document, once it is settled.
async fn pass(network: Arc<Network>, begun: Begun, bill: Option<Arc<Bill>>) -> Response {
    let Begun {
        mut head,
        answer,
        scheduler,
    } = begun;
    let envelope = &answer.deal().envelope;
    let place = Place {
        request: hex::encode(envelope.id),
        user: bill.as_ref().map_or("", |bill| bill.name()).into(),
        worker: envelope.worker,
        model: envelope.model.clone(),
        scheduler,
        price: envelope.price,
    };
    remove_hop_by_hop(&mut head.headers);
    name(&mut head, &REQUEST, &place.request);
    name(&mut head, &WORKER, &place.worker.to_string());
    let (send, mut receive) = mpsc::channel(1);
    // It goes on without the application, to the settlement.
    let end = tokio::spawn(async move {
        let end = forward(answer, &send).await;
        if let Some(bill) = bill {
            match &end {
                Ok(paid) => bill.pays(paid.tokens),
                // What it came to is told to the purse some day.
                Err(AnswerError::Left) => {}
                Err(_) => bill.pays(0),
            }
        }
        network.ended(place, &end);
        match end {
            Ok(paid) => Some(Ok(paid)),
            Err(AnswerError::Settlement(error)) => Some(Err(error)),
            Err(error) => {
                // The application sees a body that breaks off, not one that is over.
                send.send(Err(error)).await.unwrap_or_default();
                None
            }
        }
    });
    let kind = head.headers.get(header::CONTENT_TYPE);
    if kind.is_some_and(|kind| kind.as_bytes().starts_with(b"text/event-stream")) {
        return Response::from_parts(head, Body::from_stream(stream(receive)));
    }
    let mut body = Vec::new();
    while let Some(bytes) = receive.recv().await {
        let bytes = match bytes {
            Ok(bytes) if bytes.len() <= MAX_ANSWER.saturating_sub(body.len()) => bytes,
            bytes => return broken(&bytes.err().unwrap_or(AnswerError::Long)),
        };
        body.extend_from_slice(&bytes);
    }
    match end.await {
        Ok(Some(Ok(paid))) => name(&mut head, &COST, &paid.cost.to_string()),
        // It is the worker's all the same, and whole.
        Ok(Some(Err(error))) => name(&mut head, &PROBLEM, &chain(&error)),
        Ok(None) | Err(_) => return broken(&AnswerError::Left),
    }
    Response::from_parts(head, body.into())
}

fn broken(error: &AnswerError) -> Response {
    Problem::new(StatusCode::BAD_GATEWAY, "answer_broken", chain(error)).into_response()
}

/// To the end, with the application or without: one that takes nothing is waited for until
/// the deadline, and sees then a body that breaks off.
async fn forward(
    mut answer: Answer,
    send: &mpsc::Sender<Result<Bytes, AnswerError>>,
) -> Result<Paid, AnswerError> {
    loop {
        let next = tokio::select! {
            next = answer.next() => next?,
            () = send.closed() => return answer.read_on().await,
        };
        let Some(bytes) = next else {
            return answer.settle().await;
        };
        // Who has left is noticed above.
        if timeout(answer.left(), send.send(Ok(bytes))).await.is_err() {
            let send = send.clone();
            tokio::spawn(async move { send.send(Err(AnswerError::Late)).await });
            return answer.read_on().await;
        }
    }
}

fn stream<T: Send + 'static>(
    receive: mpsc::Receiver<T>,
) -> impl futures_util::Stream<Item = T> + Send {
    futures_util::stream::unfold(receive, async |mut receive| {
        let next = receive.recv().await?;
        Some((next, receive))
    })
}

fn name(head: &mut response::Parts, name: &HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::try_from(value) {
        head.headers.insert(name, value);
    }
}

/// What every scheduler lists, as one list: the lowest price, all workers.
async fn listed(network: &Network) -> Result<BTreeMap<String, Value>, Problem> {
    let mut all: BTreeMap<String, scheduler::Model> = BTreeMap::new();
    let mut failed = None;
    for route in network.routes() {
        match route.scheduler().models().await {
            Ok(models) => {
                for model in models {
                    let known = all
                        .entry(model.name.clone())
                        .or_insert_with(|| model.clone());
                    known.workers = known.workers.max(model.workers);
                    known.price = [known.price, model.price].into_iter().flatten().min();
                }
            }
            Err(error) => failed = Some(error),
        }
    }
    match failed {
        Some(error) if all.is_empty() => {
            let code = "scheduler_unreachable";
            Err(Problem::new(StatusCode::BAD_GATEWAY, code, chain(&error)))
        }
        _ => Ok(all
            .into_iter()
            .map(|(name, model)| (name, shown(&model)))
            .collect()),
    }
}

fn shown(model: &scheduler::Model) -> Value {
    json!({
        "id": model.name, "object": "model", "created": 0, "owned_by": "cocoon",
        "root": model.root, "workers": model.workers, "price": model.price,
    })
}

async fn models(State(network): State<Arc<Network>>) -> Response {
    match listed(&network).await {
        Ok(models) => {
            let models: Vec<_> = models.into_values().collect();
            Json(json!({ "object": "list", "data": models })).into_response()
        }
        Err(problem) => problem.into_response(),
    }
}

async fn model(State(network): State<Arc<Network>>, Path(id): Path<String>) -> Response {
    match listed(&network).await {
        Ok(mut models) => match models.remove(&id) {
            Some(model) => Json(model).into_response(),
            None => {
                let message = format!("no worker serves {id:?}");
                Problem::new(StatusCode::NOT_FOUND, "model_not_found", message).into_response()
            }
        },
        Err(problem) => problem.into_response(),
    }
}

async fn trust(State(network): State<Arc<Network>>) -> Json<Value> {
    let workers = network.workers.all();
    let workers = workers.iter().map(|proved| {
        json!({
            "worker": proved.key().id(),
            "seconds": proved.age().as_secs(),
            "checks": proved.checks(),
        })
    });
    Json(json!({ "trusted": true, "workers": workers.collect::<Vec<_>>() }))
}

async fn spent(
    State(network): State<Arc<Network>>,
    bill: Option<Extension<Arc<Bill>>>,
) -> Json<Value> {
    let user = bill.as_ref().map_or("", |bill| bill.name());
    let mut all = Balance::default();
    for purse in &network.purses {
        let one = purse.balance();
        all.spent = all.spent.saturating_add(one.spent);
        all.reserved = all.reserved.saturating_add(one.reserved);
        all.budget = all.budget.saturating_add(one.budget);
        all.tokens = all.tokens.saturating_add(one.tokens);
    }
    Json(json!({
        "paid": true,
        "spent": all.spent,
        "reserved": all.reserved,
        "budget": (!network.purses.is_empty()).then_some(all.budget),
        "tokens": all.tokens,
        "requests": network.usage.newest(user),
    }))
}

async fn metrics(State(network): State<Arc<Network>>) -> String {
    network.usage.show()
}

const REQUEST: HeaderName = HeaderName::from_static("cocoon-request");
const WORKER: HeaderName = HeaderName::from_static("cocoon-worker");
const TIP: HeaderName = HeaderName::from_static("cocoon-tip");
const COST: HeaderName = HeaderName::from_static("cocoon-cost");
const PROBLEM: HeaderName = HeaderName::from_static("cocoon-problem");

/// What a chat's template may add to what is asked.
const TEMPLATE: u64 = 1024;

/// More than any picture becomes.
const IMAGE: u64 = 4096;

/// Of an answer that is no stream: pictures are the largest.
const MAX_ANSWER: usize = 64 << 20;
