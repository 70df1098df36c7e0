//! A worker of the network without an engine: it dials in, proves itself as the emulated
//! TD, opens what is sealed to it, and says it again, chunk by chunk.
//!
//! It speaks the wire as the agent does; its tokens are the bytes that it read and said.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, SystemTime};

use attestation::binding::Nonce;
use attestation::cbor;
use attestation::protocol::Request;
use attestation::register::Digest256;
use aws_lc_rs::signature::Ed25519KeyPair;
use axum::body::{Body, Bytes};
use axum::extract::{Path, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use contracts::receipt::{Receipt, Work};
use contracts::voucher::{Signed, cost};
use futures_util::{StreamExt as _, stream};
use hyper::server::conn::http2;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use sealed::{
    Envelope, Header, Offer, OfferedModel, Opener, ResponseHead, START, Sealer, Settlement,
    Transcript,
};
use serde_json::{Value, json};
use session::server::Worker;
use tokio::net::TcpStream;
use tokio::sync::{Mutex, mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tycho_types::boc::Boc;
use tycho_types::cell::{CellBuilder, HashBytes, Lazy};
use tycho_types::models::StdAddr;

use crate::td::Td;

/// One of them; dropping it cuts its connections.
#[derive(Debug)]
pub struct StandIn {
    /// SHA-256 of its seal key.
    pub id: Digest256,
    served: Arc<Served>,
    links: JoinSet<()>,
}

/// How it differs from an honest one.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub enum Manner {
    /// Not at all.
    #[default]
    Honest,
    /// Its receipt counts more than was agreed.
    Greedy,
    /// It says one sealed chunk twice.
    Repeating,
    /// Its receipt is about another answer.
    Mistaken,
    /// Its receipt asks for more than was agreed.
    Dear,
    /// Its receipt is signed with another worker's key.
    Stranger,
    /// It settles nothing.
    Unsettled,
    /// It shows clients evidence of an earlier nonce.
    Stale,
    /// It breaks off before it has said all.
    Breaking,
    /// It breaks off when all is said, and before its settlement.
    Parting,
    /// It takes all of a request, and never begins to answer.
    Mute,
    /// It has room, until it is asked.
    Unwilling,
    /// It offers for somebody else.
    Impostor,
    /// It goes silent behind its first offer.
    Silent,
    /// It never stops offering.
    Flooding,
    /// Its answers never end.
    Endless,
    /// Its receipt counts all that was agreed, of which the answer is `max_tokens`.
    Thorough,
}

/// Takes vouchers for a stand-in, as the agent does.
pub trait Till: fmt::Debug + Send + Sync {
    /// Out of which Channel, and on which network.
    fn channel(&self) -> (StdAddr, i32);

    /// Sets so much aside; else says what was earned so far. What comes back is told what
    /// was earned, or dropped.
    fn reserve(&self, voucher: Option<&Signed>, cost: u64) -> Result<Earned, u64>;
}

/// What was earned by a request.
pub type Earned = Box<dyn FnOnce(u64) + Send>;

/// A settlement, and what was earned by it, if nobody has it yet.
type Noted = (Vec<u8>, Option<(u64, Earned)>);

/// What it serves, and how.
#[derive(Clone, Copy, Debug)]
pub struct Terms {
    /// Requests at a time.
    pub slots: u32,
    /// In nanotons for a million tokens.
    pub ask: u64,
    /// Before each chunk.
    pub pause: Duration,
    /// How it differs.
    pub manner: Manner,
    /// Says this, for so many tokens, instead of what it was asked; events as a stream.
    pub answer: Option<(&'static str, u64)>,
}

impl Terms {
    /// As usual, but in this manner.
    #[must_use]
    pub fn of(manner: Manner) -> Self {
        Self {
            manner,
            ..Self::default()
        }
    }
}

impl Default for Terms {
    fn default() -> Self {
        Self {
            slots: 512,
            ask: 1_000_000,
            pause: Duration::ZERO,
            manner: Manner::Honest,
            answer: None,
        }
    }
}

struct Served {
    worker: Arc<Worker>,
    id: Digest256,
    terms: Terms,
    till: Option<Arc<dyn Till>>,
    is_held: watch::Sender<bool>,
    busy: AtomicU32,
    shown: std::sync::Mutex<Vec<(BTreeSet<String>, Envelope)>>,
    /// None while it is being answered.
    settled: Mutex<HashMap<[u8; 16], Option<Noted>>>,
}

impl fmt::Debug for Served {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.fmt(f)
    }
}

impl StandIn {
    /// The model of all.
    pub const MODEL: &str = "echo";

    /// On a machine of its own; it has dialled nobody yet.
    pub async fn start(terms: Terms) -> Self {
        let mut machine = [0; 16];
        getrandom::fill(&mut machine).expect("the system has randomness");
        Self::start_on(machine, terms).await
    }

    /// On that machine, with new keys as after every boot.
    pub async fn start_on(machine: [u8; 16], terms: Terms) -> Self {
        Self::on(Td::on_machine(machine), terms).await
    }

    /// On a TD that may be of another build.
    pub async fn on(td: Td, terms: Terms) -> Self {
        Self::paid(td, terms, None).await
    }

    /// Paid into a till.
    pub async fn paid(td: Td, terms: Terms, till: Option<Arc<dyn Till>>) -> Self {
        let worker = Worker::start(Arc::new(td)).await;
        let worker = worker.expect("the emulated TD makes keys");
        let id = worker.seal_id();
        let served = Served {
            worker,
            id,
            terms,
            till,
            is_held: watch::Sender::new(false),
            busy: AtomicU32::new(0),
            shown: std::sync::Mutex::default(),
            settled: Mutex::default(),
        };
        Self {
            id,
            served: Arc::new(served),
            links: JoinSet::new(),
        }
    }

    /// Dials a scheduler, and again whenever the connection ends.
    pub fn dial(&mut self, scheduler: SocketAddr) {
        let served = Arc::clone(&self.served);
        self.links.spawn(async move {
            loop {
                // A scheduler may be away, or close: dialling again is all there is to do.
                drop(link(&served, scheduler).await);
                sleep(Duration::from_millis(100)).await;
            }
        });
    }

    /// Says nothing but heads, until it is let go on.
    pub fn hold(&self, is_held: bool) {
        self.served.is_held.send_replace(is_held);
    }

    /// What it was shown of each request in clear: the names of its headers, and its envelope.
    ///
    /// # Panics
    ///
    /// If one that was writing it down has.
    #[must_use]
    pub fn shown(&self) -> Vec<(BTreeSet<String>, Envelope)> {
        self.served.shown.lock().expect("nobody panicked").clone()
    }

    /// How many requests are under way.
    #[must_use]
    pub fn busy(&self) -> u32 {
        self.served.busy.load(Ordering::SeqCst)
    }
}

async fn link(served: &Arc<Served>, scheduler: SocketAddr) -> std::io::Result<()> {
    let tcp = TcpStream::connect(scheduler).await?;
    tcp.set_nodelay(true)?;
    let (stream, attester) = served
        .worker
        .accept(tcp)
        .await
        .map_err(std::io::Error::other)?;
    let attester = Arc::new(Mutex::new(attester));
    let again = async move |body: Bytes| match cbor::decode(&body) {
        Ok(request) => cbor::encode(&attester.lock().await.answer(request).await).into_response(),
        Err(_) => StatusCode::BAD_REQUEST.into_response(),
    };
    let api = Router::new()
        .route("/network/offer", get(offer))
        .route("/v1/aci/keyset", get(keyset))
        .route("/attestation", post(again))
        .route("/network/evidence", post(evidence))
        .route("/network/requests", post(answer))
        .route("/network/settlements/{id}", get(settlement))
        .route("/network/vouchers", get(vouchers))
        .with_state(Arc::clone(served));
    http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(1024)
        .initial_stream_window_size(64 << 10)
        .initial_connection_window_size(64 << 20)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(api))
        .await
        .map_err(std::io::Error::other)
}

async fn keyset(State(served): State<Arc<Served>>) -> String {
    let keyset = served.worker.keyset().expect("it has started");
    keyset.text().into()
}

async fn evidence(State(served): State<Arc<Served>>, body: Bytes) -> Response {
    let Ok(Request::Challenge(nonce)) = cbor::decode(&body) else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let nonce = match served.terms.manner {
        Manner::Stale => [0; 32],
        _ => nonce,
    };
    let response = served.worker.attest_sealed(Nonce(nonce)).await;
    cbor::encode(&response).into_response()
}

async fn offer(State(served): State<Arc<Served>>) -> Body {
    let lines = stream::unfold(0_u32, move |count| {
        let served = Arc::clone(&served);
        async move {
            match served.terms.manner {
                _ if count == 0 => {}
                Manner::Silent => std::future::pending().await,
                Manner::Flooding => {}
                _ => sleep(Duration::from_millis(200)).await,
            }
            Some((
                Ok::<_, std::io::Error>(served.offer()),
                count.saturating_add(1),
            ))
        }
    });
    Body::from_stream(lines)
}

async fn vouchers(State(served): State<Arc<Served>>) -> Json<Value> {
    let tills = served.till.iter().map(|till| {
        let (channel, network) = till.channel();
        json!({ "channel": channel.to_string(), "network": network })
    });
    Json(json!({ "vouchers": tills.collect::<Vec<_>>() }))
}

async fn answer(State(served): State<Arc<Served>>, headers: HeaderMap, body: Body) -> Response {
    let header = |name| BASE64_URL_SAFE_NO_PAD.decode(headers.get(name)?).ok();
    let Some(envelope) = header("cocoon-envelope") else {
        return StatusCode::BAD_REQUEST.into_response();
    };
    let known = Envelope::parse(&envelope);
    let id = known.as_ref().map_or([0; 16], |envelope| envelope.id);
    if let Ok(envelope) = known {
        let names = headers.keys().map(ToString::to_string).collect();
        let mut shown = served.shown.lock().expect("nobody panicked");
        shown.push((names, envelope));
    }
    if served.terms.manner == Manner::Unwilling {
        return StatusCode::TOO_MANY_REQUESTS.into_response();
    }
    if served.terms.manner == Manner::Mute {
        body.into_data_stream().for_each(async |_| {}).await;
        served.busy.fetch_add(1, Ordering::SeqCst);
        return std::future::pending().await;
    }
    let earned = match served.reserve(&envelope, header("cocoon-voucher")) {
        Ok(earned) => earned,
        Err(spent) => {
            let error = json!({ "error": { "code": "not_covered", "spent": spent } });
            return (StatusCode::PAYMENT_REQUIRED, Json(error)).into_response();
        }
    };
    let (said, hear) = mpsc::channel(1);
    let is_parting = served.terms.manner == Manner::Parting;
    tokio::spawn(async move {
        served.busy.fetch_add(1, Ordering::SeqCst);
        served.settled.lock().await.insert(id, None);
        // Who hangs up, or sends what does not open, gets no more of an answer.
        Answer::give(&served, &envelope, body, said, earned).await;
        let mut settled = served.settled.lock().await;
        if let Some(None) = settled.get(&id) {
            settled.remove(&id);
        }
        served.busy.fetch_sub(1, Ordering::SeqCst);
    });
    let hear = stream::unfold(hear, move |mut hear| async move {
        let broken =
            || is_parting.then(|| Err(std::io::Error::from(std::io::ErrorKind::BrokenPipe)));
        let said = hear.recv().await.map(Ok).or_else(broken)?;
        Some((said, hear))
    });
    let kind = [(header::CONTENT_TYPE, "application/cocoon-sealed")];
    (kind, Body::from_stream(hear)).into_response()
}

/// What came of a request; who asks has it.
async fn settlement(State(served): State<Arc<Served>>, Path(id): Path<String>) -> Response {
    let mut bytes = [0; 16];
    hex::decode_to_slice(id, &mut bytes).unwrap_or_default();
    match served.settled.lock().await.get_mut(&bytes) {
        Some(Some((settlement, unpaid))) => {
            if let Some((cost, earned)) = unpaid.take() {
                earned(cost);
            }
            settlement.clone().into_response()
        }
        Some(None) => StatusCode::ACCEPTED.into_response(),
        None => StatusCode::NOT_FOUND.into_response(),
    }
}

impl Served {
    fn offer(&self) -> Bytes {
        let busy = self.busy.load(Ordering::SeqCst);
        let worker = match self.terms.manner {
            Manner::Impostor => Digest256::of(b"somebody else"),
            _ => self.id,
        };
        let offer = Offer {
            worker,
            draining: false,
            models: [OfferedModel {
                name: StandIn::MODEL.into(),
                root: None,
                slots: self.terms.slots,
                free: self.terms.slots.saturating_sub(busy),
                queued: 0,
                tokens_per_second: 1000,
                context: 1 << 20,
                ask: self.terms.ask,
            }]
            .into(),
        };
        let mut line = serde_json::to_vec(&offer).expect("an offer is JSON");
        line.push(b'\n');
        line.into()
    }

    fn reserve(&self, envelope: &[u8], voucher: Option<Vec<u8>>) -> Result<Earned, u64> {
        let (Some(till), Ok(envelope)) = (&self.till, Envelope::parse(envelope)) else {
            return Ok(Box::new(drop));
        };
        let voucher = voucher.and_then(|boc| Boc::decode(boc).ok()?.parse::<Signed>().ok());
        let cost = cost(envelope.limit, self.terms.ask).unwrap_or(u64::MAX);
        till.reserve(voucher.as_ref(), cost)
    }

    /// The settlement, and what it comes to.
    fn settle(
        &self,
        envelope: &Envelope,
        request: Digest256,
        response: Digest256,
        tokens: u64,
    ) -> (Vec<u8>, u64) {
        let till = self.till.as_ref().map(|till| till.channel());
        let (channel, global_id) = till.unwrap_or((StdAddr::new(0, HashBytes::ZERO), 0));
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let tokens = match self.terms.manner {
            Manner::Greedy => envelope.limit.saturating_add(1),
            _ => tokens,
        };
        let response = match self.terms.manner {
            Manner::Mistaken => Digest256::of(b"another answer"),
            _ => response,
        };
        let work = Work {
            model: HashBytes([1; 32]),
            build: HashBytes([2; 32]),
            prompt_tokens: 0,
            completion_tokens: u32::try_from(tokens).expect("tests say little"),
        };
        let work = match self.terms.manner {
            Manner::Thorough => Work {
                prompt_tokens: u32::try_from(envelope.limit.saturating_sub(tokens))
                    .expect("tests say little"),
                ..work
            },
            _ => work,
        };
        let receipt = Receipt {
            global_id,
            channel,
            request: HashBytes(*request.as_bytes()),
            response: HashBytes(*response.as_bytes()),
            price: match self.terms.manner {
                Manner::Dear => self.terms.ask.saturating_add(1),
                _ => self.terms.ask,
            },
            time: now.map_or(0, |now| now.as_secs().try_into().unwrap_or(u32::MAX)),
            work: Lazy::new(&work).expect("work is a cell"),
        };
        let hash = receipt.hash().expect("a receipt is a cell");
        let cell = CellBuilder::build_from(&receipt).expect("a receipt is a cell");
        let signature = match self.terms.manner {
            Manner::Stranger => Ed25519KeyPair::from_seed_unchecked(&[9; 32])
                .expect("a seed makes a key")
                .sign(&hash)
                .as_ref()
                .try_into()
                .expect("a signature has 64 bytes"),
            _ => self.worker.sign_hash(&hash).expect("it has a key"),
        };
        let settlement = Settlement {
            receipt: Boc::encode(cell),
            signature,
            tokens: work.tokens(),
        };
        (settlement.encode(), receipt.cost().unwrap_or_default())
    }
}

/// One answer while it is said.
struct Answer {
    opener: Opener,
    sealer: Option<Sealer>,
    hash: Transcript,
    said: mpsc::Sender<Bytes>,
    /// What it may be, when that is what counts.
    most: Option<u64>,
    tokens: u64,
}

impl Answer {
    async fn give(
        served: &Served,
        envelope: &[u8],
        body: Body,
        said: mpsc::Sender<Bytes>,
        earned: Earned,
    ) -> Option<()> {
        let known = Envelope::parse(envelope).ok()?;
        let mut body = body.into_data_stream();
        let (mut start, mut request) = (Vec::new(), Transcript::request());
        while start.len() < START {
            let bytes = body.next().await?.ok()?;
            request.push(&bytes).ok()?;
            start.extend_from_slice(&bytes);
        }
        let rest = start.split_off(START);
        let (opener, responder) = served.worker.open(envelope, &start).ok()?;
        let mut salt = [0; 32];
        getrandom::fill(&mut salt).ok()?;
        let mut out = Vec::new();
        let mut sealer = responder.start(salt, &mut out).ok()?;
        let answer = served.terms.answer.map_or("", |(text, _)| text);
        let events = answer
            .starts_with("data:")
            .then(|| Header("content-type".into(), "text/event-stream".into()));
        let head = ResponseHead {
            status: 200,
            headers: events.into_iter().collect(),
        };
        sealer.chunk(&head.encode(), &mut out).ok()?;
        let mut answer = Self {
            opener,
            sealer: Some(sealer),
            hash: Transcript::response(),
            said,
            most: None,
            tokens: 0,
        };
        answer.say(out).await?;
        // The head of the request is a chunk by itself, and not said again.
        let mut heard = answer.opener.push(&rest).ok()?;
        let mut skipped = false;
        loop {
            for text in heard.drain(..) {
                let is_body = std::mem::replace(&mut skipped, true);
                if is_body && served.terms.answer.is_none() {
                    let mut held = served.is_held.subscribe();
                    held.wait_for(|is_held| !is_held).await.ok()?;
                    answer.echo(served.terms, &text).await?;
                }
            }
            let Some(bytes) = body.next().await else {
                break;
            };
            let bytes = bytes.ok()?;
            request.push(&bytes).ok()?;
            heard = answer.opener.push(&bytes).ok()?;
        }
        if let Some((text, tokens)) = served.terms.answer {
            answer.echo(served.terms, text.as_bytes()).await?;
            answer.tokens = tokens;
        }
        answer.opener.end().ok()?;
        if served.terms.manner == Manner::Breaking {
            return None;
        }
        let mut last = Vec::new();
        answer.sealer.take()?.last(b"", &mut last).ok()?;
        answer.hash.push(&last).ok()?;
        let (request, _) = request.end().ok()?;
        let (response, _) = answer.hash.end().ok()?;
        if served.terms.manner == Manner::Unsettled {
            return answer.said.send(last.into()).await.ok();
        }
        let tokens = answer.most.unwrap_or(answer.tokens);
        let (settlement, cost) = served.settle(&known, request, response, tokens);
        last.extend(&settlement);
        let noted = Some((settlement, Some((cost, earned))));
        served.settled.lock().await.insert(known.id, noted);
        if served.terms.manner == Manner::Parting {
            return None;
        }
        answer.said.send(last.into()).await.ok()?;
        // Whoever takes more than the settlement has it.
        drop(answer.said.reserve().await.ok()?);
        let mut settled = served.settled.lock().await;
        if let Some(Some((_, unpaid))) = settled.get_mut(&known.id)
            && let Some((cost, earned)) = unpaid.take()
        {
            earned(cost);
        }
        Some(())
    }

    async fn echo(&mut self, terms: Terms, text: &[u8]) -> Option<()> {
        sleep(terms.pause).await;
        self.tokens = self.tokens.saturating_add(u64::try_from(text.len()).ok()?);
        if terms.manner == Manner::Thorough {
            let asked = serde_json::from_slice::<Value>(text).ok()?;
            self.most = asked["max_tokens"].as_u64();
        }
        let mut out = Vec::new();
        self.sealer.as_mut()?.chunk(text, &mut out).ok()?;
        if terms.manner == Manner::Repeating {
            out = out.repeat(2);
        }
        self.say(out).await?;
        if terms.manner == Manner::Endless {
            loop {
                let mut out = Vec::new();
                self.sealer.as_mut()?.chunk(text, &mut out).ok()?;
                self.say(out).await?;
            }
        }
        Some(())
    }

    async fn say(&mut self, bytes: Vec<u8>) -> Option<()> {
        if bytes.is_empty() {
            return Some(());
        }
        self.hash.push(&bytes).ok()?;
        // A scheduler that takes nothing for so long is taken for dead.
        let said = timeout(Duration::from_secs(60), self.said.send(bytes.into()));
        said.await.ok()?.ok()
    }
}
