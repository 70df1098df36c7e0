//! A scheduler and its workers in this process: they speak the network's words with
//! real evidence and real sealing, and lie where they are told to.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "for tests"
)]
#![allow(dead_code, reason = "not every test needs all of it")]

pub(crate) mod application;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use attestation::aci::Keyset;
use attestation::batch;
use attestation::binding::{Binding, Nonce};
use attestation::cbor;
use attestation::evidence::{self, Evidence, GpuCollateral};
use attestation::protocol::{Request as Challenge, Response as Proof};
use attestation::register::{Digest256, Digest384};
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use contracts::receipt::{Receipt, Work};
use contracts::voucher::{Signed, Voucher};
use futures_util::{StreamExt as _, stream};
use sealed::{
    AssignmentRequest, Envelope, Header, RequestHead, ResponseHead, START, SecretKey, Settlement,
    Transcript,
};
use serde_json::{Map, Value, json};
use session::provider::Provider as _;
use tests::td::Td;
use tokio::net::TcpListener;
use tokio::sync::Notify;
use tycho_types::boc::Boc;
use tycho_types::cell::{CellBuilder, HashBytes, Lazy};
use tycho_types::models::StdAddr;

/// What goes wrong.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Lie {
    /// A worker of another build.
    Build,
    /// Evidence of another worker's.
    Swapped,
    /// Evidence of an earlier nonce.
    Stale,
    /// More than the client pays.
    Price,
    /// All that the client pays, of which the worker gets what it asks.
    Skim,
    /// The same worker, whoever is excepted.
    Stubborn,
    /// It takes requests and has no room.
    Full,
    /// It breaks off before an answer begins.
    Gone,
    /// The last chunk is missing.
    Truncated,
    /// One bit of the answer.
    Changed,
    /// One chunk of the answer comes twice.
    Repeated,
    /// The answer to the request before.
    Other,
    /// More tokens than the answer says.
    Counts,
    /// More tokens than there can be.
    Tokens,
    /// A receipt at another price.
    Dear,
    /// A receipt of another request.
    Request,
    /// A receipt by another key.
    Key,
    /// No settlement.
    Unsettled,
    /// It knows of nothing that was paid.
    Uncovered,
    /// It says that it had the request before.
    Replayed,
    /// It takes requests and says nothing.
    Silent,
    /// It says something, and the rest when it is let go.
    Halting,
}

/// One scheduler; what it has seen is kept.
pub(crate) struct Scheduler {
    workers: Vec<Worker>,
    lies: HashMap<usize, Lie>,
    free: bool,
    /// Lets those that halt go on.
    pub(crate) gate: Notify,
    pub(crate) seen: Mutex<Seen>,
}

/// What came by.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) assignments: Vec<AssignmentRequest>,
    pub(crate) proofs: usize,
    pub(crate) envelopes: Vec<Envelope>,
    pub(crate) sealed: Vec<Bytes>,
    pub(crate) heads: Vec<RequestHead>,
    pub(crate) bodies: Vec<Vec<u8>>,
    answered: Option<Vec<Bytes>>,
    pub(crate) vouchers: Vec<Option<Voucher>>,
    /// What it says was spent and is reserved, and has covered.
    pub(crate) counted: Option<(u64, u64)>,
    /// It charges nothing for what it is asked about later.
    pub(crate) releases: bool,
    /// What workers signed, by the requests.
    settlements: HashMap<String, Vec<u8>>,
}

pub(crate) const PRICE: u64 = 2_000_000;

pub(crate) const PAYEE: StdAddr = StdAddr::new(0, HashBytes([7; 32]));

impl Scheduler {
    /// With so many workers, of which some lie.
    pub(crate) async fn start(
        workers: usize,
        lies: &[(usize, Lie)],
        free: bool,
    ) -> (Arc<Self>, SocketAddr) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        (Self::serve(listener, workers, lies, free), address)
    }

    pub(crate) fn serve(
        listener: TcpListener,
        workers: usize,
        lies: &[(usize, Lie)],
        free: bool,
    ) -> Arc<Self> {
        let scheduler = Arc::new(Self {
            workers: (0..workers).map(Worker::new).collect(),
            lies: lies.iter().copied().collect(),
            free,
            gate: Notify::new(),
            seen: Mutex::default(),
        });
        let router = Router::new()
            .route("/network/v1/models", get(models))
            .route("/network/v1/terms", get(terms))
            .route("/network/v1/assignments", post(assign))
            .route("/network/v1/workers/{id}/evidence", post(prove))
            .route("/network/v1/requests", post(request))
            .route("/network/v1/vouchers", post(voucher))
            .with_state(Arc::clone(&scheduler));
        tokio::spawn(async move { axum::serve(listener, router).await });
        scheduler
    }

    pub(crate) fn worker(&self, index: usize) -> Digest256 {
        self.workers[index].seal.public().id()
    }

    /// What it has counted so far, and whether it lets go what it is asked about.
    pub(crate) fn counts(&self, spent: u64, releases: bool) {
        let mut seen = self.seen.lock().unwrap();
        (seen.counted, seen.releases) = (Some((spent, 0)), releases);
    }

    fn find(&self, id: &Digest256) -> (&Worker, Option<Lie>) {
        let found = |worker: &Worker| worker.seal.public().id() == *id;
        let index = self.workers.iter().position(found).unwrap();
        (&self.workers[index], self.lies.get(&index).copied())
    }
}

/// A TD with keys for sealing and receipts.
struct Worker {
    td: Td,
    other: Td,
    seal: SecretKey,
    receipts: Ed25519KeyPair,
    keyset: Keyset,
}

impl Worker {
    fn new(index: usize) -> Self {
        let seed = [u8::try_from(index).unwrap() + 1; 32];
        let seal = SecretKey::from_seed(seed).unwrap();
        let receipts = Ed25519KeyPair::from_seed_unchecked(&seed).unwrap();
        let key = receipts.public_key().as_ref().try_into().unwrap();
        let tls = Digest256::ZERO;
        let keyset = Keyset::new(&key, &seal.public().bytes(), &tls, u64::from(u32::MAX)).unwrap();
        let mut state = tests::quote::TdState::new(Td::REGISTERS, Td::MRCONFIGID);
        state.registers.rtmr1 = Digest384::of(b"another kernel");
        Self {
            td: Td::new(),
            other: Td::in_state(state),
            seal,
            receipts,
            keyset,
        }
    }

    fn prove(&self, nonce: &Nonce, lie: Option<Lie>) -> Proof {
        let nonce = match lie {
            Some(Lie::Stale) => &Nonce([0; 32]),
            _ => nonce,
        };
        let td = match lie {
            Some(Lie::Build) => &self.other,
            _ => &self.td,
        };
        let binding = Binding::sealed(&self.keyset.digest().0, nonce);
        let (head, mut paths) = batch::tree(&[binding]);
        let event_log = td.event_log().to_vec();
        let state = evidence::State {
            boot_seed: [1; 32],
            event_log: *Digest384::of(&event_log).as_bytes(),
            gpu_mode: None,
            keyset: *self.keyset.digest().0.as_bytes(),
        };
        let data = evidence::report_data(&head, &[], &state);
        let evidence = Evidence {
            platform: td.attest(&data, None).unwrap(),
            gpus: Vec::new(),
            gpu_collateral: GpuCollateral::default(),
            state,
            event_log,
        };
        Proof::Evidence(Box::new(evidence), paths.remove(0))
    }

    /// The sealed answer in pieces, with its settlement.
    fn answer(
        &self,
        envelope: &Envelope,
        encoded: &[u8],
        request: &[u8],
        lie: Option<Lie>,
    ) -> (RequestHead, Vec<u8>, Vec<Bytes>, Vec<u8>) {
        let (start, chunks) = request.split_at(START);
        let (mut opener, responder) = self.seal.open(encoded, start).unwrap();
        let mut opened = opener.push(chunks).unwrap().into_iter();
        opener.end().unwrap();
        let head = RequestHead::parse(&opened.next().unwrap()).unwrap();
        let sent: Vec<u8> = opened.flatten().collect();
        let body: Value = serde_json::from_slice(&sent).unwrap_or_default();
        let streams = body["stream"] == true;
        let asked = body["messages"].as_array().map_or(0, Vec::len);
        let text = format!("{} asked", asked);
        let usage = json!({ "prompt_tokens": 30, "completion_tokens": 12, "total_tokens": 42 });
        let (kind, parts) = match streams {
            true => (
                "text/event-stream",
                vec![
                    format!(
                        "data: {}\n\n",
                        json!({ "choices": [{ "delta": { "content": text } }] })
                    ),
                    format!("data: {}\n\n", json!({ "choices": [], "usage": usage })),
                    "data: [DONE]\n\n".to_owned(),
                ],
            ),
            false => (
                "application/json",
                vec![
                    json!({ "choices": [{ "message": { "content": text } }], "usage": usage })
                        .to_string(),
                ],
            ),
        };
        let mut pieces = vec![Vec::new()];
        let salt = *Digest256::of(start).as_bytes();
        let mut sealer = responder.start(salt, &mut pieces[0]).unwrap();
        let answer = ResponseHead {
            status: 200,
            headers: vec![Header("content-type".into(), kind.into())],
        };
        sealer.chunk(&answer.encode(), &mut pieces[0]).unwrap();
        for part in parts {
            let mut piece = Vec::new();
            sealer.chunk(part.as_bytes(), &mut piece).unwrap();
            pieces.push(piece);
        }
        let mut last = Vec::new();
        sealer.last(b"", &mut last).unwrap();
        pieces.push(last);
        let mut transcript = Transcript::response();
        pieces
            .iter()
            .for_each(|piece| transcript.push(piece).unwrap());
        let (response, _) = transcript.end().unwrap();
        let settlement = self.settle(envelope, request, response, lie);
        match lie {
            Some(Lie::Truncated) => drop(pieces.pop()),
            Some(Lie::Changed) => *pieces[1].last_mut().unwrap() ^= 1,
            Some(Lie::Repeated) => pieces.insert(2, pieces[1].clone()),
            Some(Lie::Unsettled) => {}
            _ => pieces.push(settlement.clone()),
        }
        let pieces = pieces.into_iter().map(Bytes::from).collect();
        (head, sent, pieces, settlement)
    }

    fn settle(
        &self,
        envelope: &Envelope,
        request: &[u8],
        response: Digest256,
        lie: Option<Lie>,
    ) -> Vec<u8> {
        let prompt_tokens = match lie {
            Some(Lie::Counts) => 31,
            Some(Lie::Tokens) => 1_000_000,
            _ => 30,
        };
        let work = Work {
            model: HashBytes::ZERO,
            build: HashBytes::ZERO,
            prompt_tokens,
            completion_tokens: 12,
        };
        let request = match lie {
            Some(Lie::Request) => Digest256::ZERO,
            _ => Digest256::of(request),
        };
        let receipt = Receipt {
            global_id: -3,
            channel: PAYEE,
            request: HashBytes(*request.as_bytes()),
            response: HashBytes(*response.as_bytes()),
            price: match lie {
                Some(Lie::Skim) => PRICE,
                _ => envelope.price + u64::from(lie == Some(Lie::Dear)),
            },
            time: 1,
            work: Lazy::new(&work).unwrap(),
        };
        let other = Ed25519KeyPair::from_seed_unchecked(&[99; 32]).unwrap();
        let signer = match lie {
            Some(Lie::Key) => &other,
            _ => &self.receipts,
        };
        let signature = signer.sign(&receipt.hash().unwrap());
        let settlement = Settlement {
            receipt: Boc::encode(CellBuilder::build_from(&receipt).unwrap()),
            signature: signature.as_ref().try_into().unwrap(),
            tokens: u64::from(prompt_tokens) + 12,
        };
        settlement.encode()
    }
}

type Here = State<Arc<Scheduler>>;

async fn models(State(scheduler): Here) -> Json<Value> {
    let workers = scheduler.workers.len();
    let model =
        json!({ "name": "tiny", "root": null, "workers": workers, "price": PRICE, "free": 1 });
    Json(json!({ "models": [model] }))
}

async fn terms(State(scheduler): Here) -> Json<Value> {
    match scheduler.free {
        true => Json(json!({ "free": true })),
        false => Json(json!({ "global_id": -3, "payee": PAYEE.to_string(), "fee": 0 })),
    }
}

async fn assign(State(scheduler): Here, Json(wanted): Json<AssignmentRequest>) -> Response {
    scheduler
        .seen
        .lock()
        .unwrap()
        .assignments
        .push(wanted.clone());
    if wanted.model != "tiny" {
        return refuse(StatusCode::NOT_FOUND, "model_not_found");
    }
    let stubborn = scheduler.lies.values().any(|lie| *lie == Lie::Stubborn);
    let mut all = scheduler.workers.iter().enumerate();
    let pick =
        all.find(|(_, worker)| stubborn || !wanted.except.contains(&worker.seal.public().id()));
    let Some((index, worker)) = pick else {
        return refuse(StatusCode::SERVICE_UNAVAILABLE, "full");
    };
    let price = match scheduler.lies.get(&index) {
        Some(Lie::Price) => wanted.max_price + 1,
        Some(Lie::Skim) => wanted.max_price,
        _ => PRICE,
    };
    Json(json!({
        "worker": worker.seal.public().id(), "price": price,
        "keyset": worker.keyset.text(), "expires_ms": 10_000,
    }))
    .into_response()
}

async fn prove(State(scheduler): Here, Path(id): Path<Digest256>, body: Bytes) -> Vec<u8> {
    scheduler.seen.lock().unwrap().proofs += 1;
    let (worker, lie) = scheduler.find(&id);
    let Challenge::Challenge(nonce) = cbor::decode(&body).unwrap() else {
        panic!("no challenge");
    };
    let worker = match lie {
        Some(Lie::Swapped) => scheduler.workers.last().unwrap(),
        _ => worker,
    };
    cbor::encode(&worker.prove(&Nonce(nonce), lie))
}

async fn request(State(scheduler): Here, headers: HeaderMap, body: Bytes) -> Response {
    let header = |name| {
        let text: &axum::http::HeaderValue = headers.get(name)?;
        Some(BASE64_URL_SAFE_NO_PAD.decode(text).unwrap())
    };
    let encoded = header("cocoon-envelope").unwrap();
    let envelope = Envelope::parse(&encoded).unwrap();
    let voucher = header("cocoon-voucher").map(|bytes| {
        let signed: Signed = Boc::decode(bytes).unwrap().parse().unwrap();
        signed.unverified().unwrap()
    });
    let covered = voucher.as_ref().map_or(0, |voucher| voucher.amount);
    let (worker, lie) = scheduler.find(&envelope.worker);
    {
        let mut seen = scheduler.seen.lock().unwrap();
        seen.envelopes.push(envelope.clone());
        seen.sealed.push(body.clone());
        seen.vouchers.push(voucher);
    }
    let counted = scheduler.seen.lock().unwrap().counted;
    if let Some((spent, reserved)) = counted {
        let cost = envelope.limit * envelope.price / 1_000_000;
        if covered < spent + reserved + cost {
            let error = json!({ "code": "not_covered", "spent": spent, "reserved": reserved });
            let refused = Json(json!({ "error": error }));
            return (StatusCode::PAYMENT_REQUIRED, refused).into_response();
        }
    }
    match lie {
        Some(Lie::Full) => {
            let refused = refuse(StatusCode::TOO_MANY_REQUESTS, "full");
            return ([("retry-after", "7")], refused).into_response();
        }
        Some(Lie::Replayed) => return refuse(StatusCode::CONFLICT, "replayed"),
        Some(Lie::Uncovered) => return refuse(StatusCode::PAYMENT_REQUIRED, "not_covered"),
        _ => {}
    }
    let (head, sent, mut pieces, settlement) = worker.answer(&envelope, &encoded, &body, lie);
    {
        let mut seen = scheduler.seen.lock().unwrap();
        seen.settlements
            .insert(hex::encode(envelope.id), settlement);
        seen.heads.push(head);
        seen.bodies.push(sent);
        let before = seen.answered.replace(pieces.clone());
        if let Some(before) = before.filter(|_| lie == Some(Lie::Other)) {
            pieces = before;
        }
    }
    match lie {
        Some(Lie::Silent) => return std::future::pending().await,
        Some(Lie::Gone) => pieces.clear(),
        _ => {}
    }
    let rest = pieces.split_off(pieces.len().min(2));
    let rest = stream::once(async move {
        if lie == Some(Lie::Halting) {
            scheduler.gate.notified().await;
        }
        stream::iter(rest)
    });
    let pieces = stream::iter(pieces).chain(rest.flatten());
    Body::from_stream(pieces.map(Ok::<_, std::io::Error>)).into_response()
}

async fn voucher(State(scheduler): Here, headers: HeaderMap, body: Bytes) -> Json<Value> {
    let signed: Signed = Boc::decode(body).unwrap().parse().unwrap();
    let amount = signed.unverified().unwrap().amount;
    let seen = scheduler.seen.lock().unwrap();
    let (spent, reserved) = seen.counted.unwrap();
    let free = amount.saturating_sub(spent + reserved);
    let asked = headers["cocoon-requests"].to_str().unwrap().split(',');
    let told = asked.filter_map(|id| {
        let told = match seen.settlements.get(id) {
            _ if seen.releases => json!({ "stage": "released" }),
            Some(settlement) => {
                json!({ "stage": "settled", "settlement": BASE64_STANDARD.encode(settlement) })
            }
            None => return None,
        };
        Some((id.to_owned(), told))
    });
    let requests: Map<_, _> = told.collect();
    Json(json!({ "free": free, "spent": spent, "reserved": reserved, "requests": requests }))
}

fn refuse(status: StatusCode, code: &str) -> Response {
    let error = json!({ "error": { "code": code, "message": "no", "type": "x", "param": null } });
    (status, Json(error)).into_response()
}
