//! A scheduler and two workers in one process, for clients that seal: emulated TDs under
//! a made-up root, and a scheduler that does to a request what its model is called. With
//! `--paid` it wants vouchers of the payer whose key is 32 bytes of 7.
//!
//! Prints one line of JSON when it listens, and ends when its standard input does.

use std::collections::HashMap;
use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::{Context as _, Result};
use attestation::aci::Keyset;
use attestation::binding::{Binding, Nonce};
use attestation::evidence::{Evidence, GpuCollateral, State};
use attestation::protocol::{Request, Response as Shown};
use attestation::register::{Digest256, Digest384};
use attestation::{batch, cbor};
use aws_lc_rs::rand;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State as With};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use contracts::receipt::{Receipt, Work};
use contracts::voucher::{Signed, cost};
use sealed::{
    Assignment, AssignmentRequest, Envelope, Header, RequestHead, ResponseHead, START, SecretKey,
    Settlement, Transcript,
};
use serde_json::{Map, Value, json};
use session::provider::Provider as _;
use tests::quote::TdState;
use tests::td::Td;
use tokio::net::TcpListener;
use tycho_types::boc::BocRepr;
use tycho_types::cell::{HashBytes, Lazy};
use tycho_types::models::StdAddr;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let network = Arc::new(Network {
        // The first has the key of the golden bytes.
        workers: [Worker::new(7)?, Worker::new(8)?],
        heard: Mutex::default(),
        spent: is_asked("--paid").then(Mutex::default),
        ended: Mutex::default(),
    });
    let app = Router::new()
        .route("/network/v1/models", get(models))
        .route("/network/v1/assignments", post(assign))
        .route("/network/v1/workers/{id}/evidence", post(prove))
        .route("/network/v1/requests", post(relay))
        .route("/network/v1/terms", get(terms))
        .route("/network/v1/vouchers", post(voucher))
        .route("/heard", get(heard))
        // What a browser asks before it asks.
        .method_not_allowed_fallback(|| async { StatusCode::NO_CONTENT })
        .layer(axum::middleware::map_response(from_any_page))
        .with_state(network);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let (td, registers) = (Td::new(), Td::REGISTERS);
    let unset = Digest384::ZERO;
    let ready = json!({
        "url": format!("http://{}", listener.local_addr()?),
        "root": hex::encode(td.root()),
        "identity": {
            "builds": [{
                "mrtd": registers.mrtd, "rtmr0": registers.rtmr0, "rtmr1": registers.rtmr1,
                "rtmr2": registers.rtmr2, "rtmr3": registers.rtmr3,
            }],
            "mrconfigid": [Td::MRCONFIGID], "mrowner": [unset], "mrownerconfig": [unset],
        },
    });
    writeln!(std::io::stdout(), "{ready}")?;
    std::thread::spawn(|| {
        std::io::stdin().read_to_end(&mut Vec::new()).unwrap_or(0);
        std::process::exit(0)
    });
    axum::serve(listener, app).await.context("cannot serve")
}

struct Network {
    workers: [Worker; 2],
    /// All that the scheduler saw of requests and answers.
    heard: Mutex<Vec<u8>>,
    /// By the payer, in nanotons; nothing where nobody pays.
    spent: Option<Mutex<u64>>,
    /// What followed the answers to requests by their identifiers, if they were answered.
    ended: Mutex<HashMap<String, Option<Vec<u8>>>>,
}

impl Network {
    fn worker(&self, id: &Digest256) -> Option<&Worker> {
        self.workers.iter().find(|worker| worker.id() == *id)
    }

    fn price(&self) -> u64 {
        if self.spent.is_some() { PRICE } else { 5 }
    }

    fn spent(&self) -> MutexGuard<'_, u64> {
        let spent = self.spent.as_ref().unwrap_or(&NOTHING);
        spent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ended(&self) -> MutexGuard<'_, HashMap<String, Option<Vec<u8>>>> {
        self.ended.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the payer signed for.
    fn signed(&self, voucher: &[u8]) -> Result<u64> {
        let signed: Signed = BocRepr::decode(voucher)?;
        let key = Ed25519KeyPair::from_seed_unchecked(&[7; 32])?;
        let key = HashBytes(key.public_key().as_ref().try_into()?);
        let voucher = signed.verify(&key)?;
        anyhow::ensure!(voucher.keeps_its_cap(), "not as the contract counts");
        Ok(voucher.amount)
    }

    fn hear(&self, bytes: &[u8]) {
        let mut heard = self.heard.lock().unwrap_or_else(PoisonError::into_inner);
        heard.extend_from_slice(bytes);
    }
}

struct Worker {
    seal: SecretKey,
    receipts: Ed25519KeyPair,
    keyset: Keyset,
}

impl Worker {
    fn new(seed: u8) -> Result<Self> {
        let seal = SecretKey::from_seed([seed; 32])?;
        let receipts = Ed25519KeyPair::generate()?;
        let key = receipts.public_key().as_ref().try_into()?;
        let keyset = Keyset::new(key, &seal.public().bytes(), &Digest256::ZERO, FAR)?;
        Ok(Self {
            seal,
            receipts,
            keyset,
        })
    }

    fn id(&self) -> Digest256 {
        self.seal.public().id()
    }

    fn prove(&self, td: &Td, nonce: [u8; 32]) -> Result<Shown> {
        let binding = Binding::sealed(&self.keyset.digest().0, &Nonce(nonce));
        let (head, mut paths) = batch::tree(&[binding]);
        let state = State {
            boot_seed: [0; 32],
            event_log: *Digest384::of(td.event_log()).as_bytes(),
            gpu_mode: None,
            keyset: *self.keyset.digest().0.as_bytes(),
        };
        let data = attestation::evidence::report_data(&head, &[], &state);
        let evidence = Evidence {
            platform: td
                .attest(&data, None)
                .map_err(|error| anyhow::anyhow!("{error}"))?,
            gpus: Vec::new(),
            gpu_collateral: GpuCollateral::default(),
            state,
            event_log: td.event_log().to_vec(),
        };
        let path = paths.pop().context("one path for one binding")?;
        Ok(Shown::Evidence(Box::new(evidence), path))
    }

    /// Repeats the question as an answer in pieces, and signs for it.
    fn answer(&self, envelope: &Envelope, encoded: &[u8], request: &[u8]) -> Result<Vec<u8>> {
        let (start, chunks) = request.split_at_checked(START).context("no request")?;
        let (mut opener, responder) = self.seal.open(encoded, start)?;
        let opened = opener.push(chunks)?;
        opener.end()?;
        let (first, body) = opened.split_first().context("no head")?;
        let head = RequestHead::parse(first)?;
        let body = body.concat();
        let asked: Value = serde_json::from_slice(&body).unwrap_or_default();
        let said = asked.pointer("/messages/0/content");
        let form = String::from_utf8_lossy(&body);
        let said = said.and_then(Value::as_str).unwrap_or(&form);
        let (kind, pieces) = match asked.get("stream") == Some(&Value::Bool(true)) {
            true => ("text/event-stream", stream(said)),
            false => ("application/json", vec![whole(said, &head.path, envelope)]),
        };
        let mut salt = [0; 32];
        rand::fill(&mut salt)?;
        let mut answer = Vec::new();
        let mut sealer = responder.start(salt, &mut answer)?;
        let head = ResponseHead {
            status: 200,
            headers: vec![Header("content-type".into(), kind.into())],
        };
        sealer.chunk(&head.encode(), &mut answer)?;
        for piece in pieces {
            sealer.chunk(piece.as_bytes(), &mut answer)?;
        }
        sealer.last(b"", &mut answer)?;
        let settlement = self.settle(envelope, request, &answer)?;
        answer.extend(settlement.encode());
        Ok(answer)
    }

    fn settle(&self, envelope: &Envelope, request: &[u8], answer: &[u8]) -> Result<Settlement> {
        let mut transcript = Transcript::response();
        transcript.push(answer)?;
        let work = Work {
            model: HashBytes([1; 32]),
            build: HashBytes([2; 32]),
            prompt_tokens: read(envelope),
            completion_tokens: 2,
        };
        let receipt = Receipt {
            global_id: 0,
            channel: StdAddr::new(0, HashBytes::ZERO),
            request: HashBytes(*Digest256::of(request).as_bytes()),
            response: HashBytes(*transcript.end()?.0.as_bytes()),
            price: match &*envelope.model {
                "dear" => envelope.price.saturating_add(1),
                _ => envelope.price,
            },
            time: 1,
            work: Lazy::new(&work)?,
        };
        Ok(Settlement {
            receipt: BocRepr::encode(&receipt)?,
            signature: self.receipts.sign(&receipt.hash()?).as_ref().try_into()?,
            tokens: work.tokens(),
        })
    }
}

fn stream(said: &str) -> Vec<String> {
    let delta = |content: &str| {
        let choice = json!({"index": 0, "delta": {"content": content}, "finish_reason": null});
        format!(
            "data: {}\n\n",
            json!({"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "tiny", "choices": [choice]})
        )
    };
    let words = said.split_inclusive(' ').map(delta);
    words.chain(["data: [DONE]\n\n".into()]).collect()
}

fn whole(said: &str, path: &str, envelope: &Envelope) -> String {
    let message = json!({"role": "assistant", "content": said});
    let choice = json!({"index": 0, "message": message, "finish_reason": "stop"});
    let total = match &*envelope.model {
        "miscounted" => 9,
        _ => read(envelope).saturating_add(2),
    };
    json!({"id": path, "object": "chat.completion", "created": 1, "model": "tiny", "choices": [choice], "usage": {"total_tokens": total}}).to_string()
}

/// Tokens of a prompt, as the worker counts them.
fn read(envelope: &Envelope) -> u32 {
    match &*envelope.model {
        "padded" => 3000,
        _ => 5,
    }
}

async fn models() -> axum::Json<Value> {
    axum::Json(
        json!({"models": [{"name": "tiny", "root": null, "workers": 2, "price": 5, "free": 2}]}),
    )
}

/// The first worker that has not failed the client.
async fn assign(With(network): With<Arc<Network>>, asked: Bytes) -> Answer {
    let asked: AssignmentRequest = serde_json::from_slice(&asked)?;
    let mut left = network.workers.iter();
    let Some(worker) = left.find(|worker| !asked.except.contains(&worker.id())) else {
        return Ok(refuse(StatusCode::SERVICE_UNAVAILABLE, "full"));
    };
    if asked.model == "unknown" {
        return Ok(refuse(StatusCode::NOT_FOUND, "model_not_found"));
    }
    let other = network
        .workers
        .iter()
        .find(|other| other.id() != worker.id());
    let keys = match &*asked.model {
        "swapped" => other.unwrap_or(worker),
        _ => worker,
    };
    let price = match &*asked.model {
        "greedy" => asked.max_price.saturating_add(1),
        _ => network.price(),
    };
    let assignment = Assignment {
        worker: worker.id(),
        price,
        keyset: keys.keyset.text().into(),
        expires_ms: 1000,
    };
    Ok(axum::Json(assignment).into_response())
}

async fn prove(With(network): With<Arc<Network>>, Path(id): Path<String>, asked: Bytes) -> Answer {
    let worker = network.worker(&id.parse()?).context("no such worker")?;
    let Ok(Request::Challenge(nonce)) = cbor::decode(&asked) else {
        return Ok(refuse(StatusCode::BAD_REQUEST, "no_challenge"));
    };
    let td = match is_asked("--other-build") {
        true => {
            let mut state = TdState::new(Td::REGISTERS, Td::MRCONFIGID);
            state.registers.rtmr1 = Digest384::from_bytes([9; 48]);
            Td::in_state(state)
        }
        false => Td::new(),
    };
    Ok(cbor::encode(&worker.prove(&td, nonce)?).into_response())
}

async fn relay(With(network): With<Arc<Network>>, headers: HeaderMap, request: Bytes) -> Answer {
    let encoded = headers.get("cocoon-envelope").context("no envelope")?;
    let encoded = URL_SAFE_NO_PAD.decode(encoded)?;
    let envelope = Envelope::parse(&encoded)?;
    let worker = network.worker(&envelope.worker).context("no such worker")?;
    let first = network
        .workers
        .iter()
        .position(|other| other.id() == worker.id())
        == Some(0);
    if network.spent.is_some() {
        let voucher = headers.get("cocoon-voucher").context("no voucher")?;
        let amount = network.signed(&URL_SAFE_NO_PAD.decode(voucher)?)?;
        let most = cost(envelope.limit, envelope.price).context("too much")?;
        let spent = *network.spent();
        if amount < spent.saturating_add(most) {
            let error = json!({"code": "not_covered", "spent": spent, "reserved": 0});
            let refused = axum::Json(json!({"error": error}));
            return Ok((StatusCode::PAYMENT_REQUIRED, refused).into_response());
        }
    }
    network.hear(&request);
    let mut answer = worker.answer(&envelope, &encoded, &request)?;
    network.hear(&answer);
    let mut transcript = Transcript::response();
    transcript.push(&answer)?;
    let is_gone = (&*envelope.model, first) == ("gone", true);
    let settlement = (!is_gone).then_some(transcript.end()?.1);
    network.ended().insert(hex::encode(envelope.id), settlement);
    if is_gone {
        return Ok(refuse(StatusCode::BAD_GATEWAY, "worker_gone"));
    }
    let paid = cost(7, envelope.price).context("too much")?;
    let spent = network.spent().saturating_add(paid);
    *network.spent() = spent;
    match (&*envelope.model, first) {
        ("silent", true) => answer.truncate(40),
        ("cut", _) => answer.truncate(answer.len() / 2),
        ("forged", _) => {
            let middle = answer.len() / 2;
            answer
                .iter_mut()
                .skip(middle)
                .take(1)
                .for_each(|byte| *byte ^= 1);
        }
        _ => {}
    }
    let pieces: Vec<_> = answer.chunks(100).map(Bytes::copy_from_slice).collect();
    let pieces = futures_util::stream::iter(pieces.into_iter().map(Ok::<_, std::io::Error>));
    Ok((
        [(header::CONTENT_TYPE, "application/cocoon-sealed")],
        Body::from_stream(pieces),
    )
        .into_response())
}

async fn terms(With(network): With<Arc<Network>>) -> axum::Json<Value> {
    let payee = StdAddr::new(0, HashBytes([9; 32])).to_string();
    axum::Json(match network.spent {
        Some(_) => json!({"global_id": -3, "payee": payee}),
        None => json!({"free": true}),
    })
}

async fn voucher(With(network): With<Arc<Network>>, headers: HeaderMap, voucher: Bytes) -> Answer {
    let pass = headers.get("cocoon-pass");
    if !pass.is_some_and(|pass| pass.as_bytes().starts_with(b"0:")) {
        return Ok(refuse(StatusCode::BAD_REQUEST, "bad_voucher"));
    }
    let (amount, spent) = (network.signed(&voucher)?, *network.spent());
    let free = amount.saturating_sub(spent);
    let asked = headers.get("cocoon-requests");
    let asked = asked.map_or(Ok(""), |asked| asked.to_str())?.split(',');
    let ended = network.ended();
    let told = asked.filter_map(|id| {
        let told = match ended.get(id)? {
            Some(settlement) => {
                json!({"stage": "settled", "settlement": STANDARD.encode(settlement)})
            }
            None => json!({"stage": "released"}),
        };
        Some((id.into(), told))
    });
    let requests: Map<_, _> = told.collect();
    let counted = json!({"free": free, "spent": spent, "reserved": 0, "requests": requests});
    Ok(axum::Json(counted).into_response())
}

async fn heard(With(network): With<Arc<Network>>) -> Vec<u8> {
    let heard = network.heard.lock().unwrap_or_else(PoisonError::into_inner);
    heard.clone()
}

/// A page of any origin may ask: there is nothing to protect by cookies.
async fn from_any_page(mut response: Response) -> Response {
    let headers = response.headers_mut();
    for name in ["origin", "headers", "methods"] {
        let name = format!("access-control-allow-{name}");
        if let (Ok(name), Ok(any)) = (name.parse::<header::HeaderName>(), "*".parse()) {
            headers.insert(name, any);
        }
    }
    response
}

fn refuse(status: StatusCode, code: &str) -> Response {
    let error = json!({"error": {"message": code, "type": "network", "code": code}});
    (status, axum::Json(error)).into_response()
}

type Answer = Result<Response, Broken>;

/// A request that no client of ours would send.
struct Broken(anyhow::Error);

impl<E: Into<anyhow::Error>> From<E> for Broken {
    fn from(error: E) -> Self {
        Self(error.into())
    }
}

impl IntoResponse for Broken {
    fn into_response(self) -> Response {
        (StatusCode::INTERNAL_SERVER_ERROR, format!("{:#}", self.0)).into_response()
    }
}

fn is_asked(option: &str) -> bool {
    std::env::args().skip(1).any(|given| given == option)
}

static NOTHING: Mutex<u64> = Mutex::new(0);

/// Where it is paid: nanotons for a million tokens.
const PRICE: u64 = 2_000_000;

/// 2100-01-01.
const FAR: u64 = 4_102_444_800;
