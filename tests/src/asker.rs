//! A client of the network: has a scheduler choose, verifies the worker, seals, and opens.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::time::SystemTime;

use attestation::binding::Nonce;
use attestation::cbor;
use attestation::policy::Policy;
use attestation::protocol;
use attestation::register::Digest256;
use attestation::time::UnixTime;
use axum::body::{Body, Bytes};
use axum::http::{Request, StatusCode};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use futures_util::stream;
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http2::{self, SendRequest};
use hyper_util::rt::{TokioExecutor, TokioIo};
use sealed::{
    Assignment, AssignmentRequest, ChunkError, Envelope, Peer, PublicKey, RequestHead, Settlement,
    SizeClass, seal,
};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use crate::stand_in::StandIn;
use crate::td::Td;

/// With one connection of HTTP/2 to a scheduler.
#[derive(Debug)]
pub struct Asker {
    http: SendRequest<Body>,
    /// Of its requests.
    pub deadline_ms: u32,
    /// A bag of cells, which pays for them.
    pub voucher: Option<Vec<u8>>,
    /// Shows that whoever asks pays by it.
    pub pass: Option<String>,
    /// Of all of them, for who asks the same again.
    pub id: Option<[u8; 16]>,
    policy: Policy,
    peers: Mutex<HashMap<Digest256, PublicKey>>,
}

/// What nobody else asks.
#[must_use]
pub fn texts(index: usize) -> Vec<Vec<u8>> {
    let text = |part: usize| {
        let times = part.saturating_mul(40).saturating_add(1);
        format!("{index}/{part} ").repeat(times).into_bytes()
    };
    (0..=index % 7).map(text).collect()
}

/// Why there is no answer.
#[derive(Debug, PartialEq)]
pub enum AskError {
    /// The scheduler's or the worker's error, before an answer began.
    Refused(StatusCode, String),
    /// The answer broke off.
    Broken,
    /// The answer is not the worker's.
    Forged(ChunkError),
}

/// What was answered.
#[derive(Debug)]
pub struct Said {
    /// By whom.
    pub worker: Digest256,
    /// Each chunk behind the head.
    pub texts: Vec<Vec<u8>>,
    /// What followed.
    pub settlement: Settlement,
}

/// An answer that is under way.
#[derive(Debug)]
pub struct Answer {
    worker: Digest256,
    body: Incoming,
    open: sealed::Response,
}

impl Asker {
    /// Connects.
    pub async fn connect(scheduler: SocketAddr) -> std::io::Result<Self> {
        let tcp = TcpStream::connect(scheduler).await?;
        tcp.set_nodelay(true)?;
        let (http, driver) = http2::Builder::new(TokioExecutor::new())
            .initial_stream_window_size(64 << 10)
            .initial_connection_window_size(64 << 20)
            .handshake(TokioIo::new(tcp))
            .await
            .map_err(std::io::Error::other)?;
        // Its end shows in what was asked.
        tokio::spawn(async move { drop(driver.await) });
        Ok(Self {
            http,
            deadline_ms: 20_000,
            voucher: None,
            pass: None,
            id: None,
            policy: Td::new().policy(),
            peers: Mutex::default(),
        })
    }

    /// Takes other workers than [`Td::new`].
    #[must_use]
    pub fn trusting(self, policy: Policy) -> Self {
        Self { policy, ..self }
    }

    /// Has `texts` said again, whoever is chosen.
    pub async fn ask(&self, texts: Vec<Vec<u8>>) -> Result<Said, AskError> {
        let assignment = self.assign(&json!({})).await?;
        self.begin(&assignment, texts).await?.whole().await
    }

    /// Has a worker chosen; `with` replaces what would be asked for otherwise.
    pub async fn assign(&self, with: &Value) -> Result<Assignment, AskError> {
        let wanted = AssignmentRequest {
            model: StandIn::MODEL.into(),
            limit: LIMIT,
            max_price: PRICE,
            tip: 0,
            deadline_ms: self.deadline_ms,
            affinity: None,
            except: Vec::new(),
        };
        let mut wanted = serde_json::to_value(wanted).expect("it is JSON");
        for (name, value) in with.as_object().into_iter().flatten() {
            wanted[name] = value.clone();
        }
        let body = self.post("/network/v1/assignments", wanted.to_string().into());
        Ok(serde_json::from_slice(&body.await?).expect("an assignment"))
    }

    /// Seals `texts` to the worker, each in a chunk, once it is known to be trusted.
    pub async fn begin(
        &self,
        assignment: &Assignment,
        texts: Vec<Vec<u8>>,
    ) -> Result<Answer, AskError> {
        let (envelope, pieces, open) = self.sealed(assignment, texts).await?;
        let body = self.relay(&envelope, pieces.into_iter().map(Ok)).await?;
        Ok(Answer {
            worker: assignment.worker,
            body,
            open,
        })
    }

    /// Begins a request, and breaks it off before its last chunk.
    pub async fn cut(&self, assignment: &Assignment) -> Result<(), AskError> {
        let (envelope, mut pieces, _) = self.sealed(assignment, vec![vec![1]]).await?;
        pieces.pop();
        let broken = Err(std::io::Error::other("it changed its mind"));
        let pieces = pieces.into_iter().map(Ok).chain([broken]);
        collect(self.relay(&envelope, pieces).await?)
            .await
            .map(drop)
    }

    /// Sends what is no sealed request beside an envelope that fits.
    pub async fn garbage(&self, assignment: &Assignment) -> Result<(), AskError> {
        let (envelope, _, _) = self.sealed(assignment, Vec::new()).await?;
        let garbage = Ok(Bytes::from(vec![0xff; 4096]));
        collect(self.relay(&envelope, [garbage].into_iter()).await?)
            .await
            .map(drop)
    }

    /// The envelope, the request in pieces, and what opens its answer.
    async fn sealed(
        &self,
        assignment: &Assignment,
        texts: Vec<Vec<u8>>,
    ) -> Result<(Vec<u8>, Vec<Bytes>, sealed::Response), AskError> {
        let key = self.verified(assignment).await?;
        let mut random = [0; 64];
        getrandom::fill(&mut random).expect("the system has randomness");
        let envelope = Envelope {
            worker: assignment.worker,
            model: StandIn::MODEL.into(),
            id: self
                .id
                .unwrap_or(*random.first_chunk().expect("64 bytes are more than 16")),
            limit: LIMIT,
            price: assignment.price,
            deadline_ms: self.deadline_ms,
            class: SizeClass::of(texts.iter().map(Vec::len).sum()),
        }
        .encode();
        getrandom::fill(&mut random).expect("the system has randomness");
        let (start, mut sealer, open) = seal(&key, &envelope, random).expect("it seals");
        let mut pieces = vec![Bytes::from(start)];
        let mut push = |text: &[u8]| {
            let mut piece = Vec::new();
            sealer.chunk(text, &mut piece).expect("it seals");
            pieces.push(piece.into());
        };
        let head = RequestHead {
            method: "POST".into(),
            path: "/v1/chat/completions".into(),
            headers: Vec::new(),
            tenant: [7; 32],
        };
        push(&head.encode());
        texts.iter().for_each(|text| push(text));
        let mut last = Vec::new();
        sealer.last(b"", &mut last).expect("it seals");
        pieces.push(last.into());
        Ok((envelope, pieces, open))
    }

    async fn relay(
        &self,
        envelope: &[u8],
        pieces: impl Iterator<Item = std::io::Result<Bytes>> + Send + 'static,
    ) -> Result<Incoming, AskError> {
        let mut request = Request::post(format!("{AUTHORITY}/network/v1/requests"))
            .header("cocoon-envelope", BASE64_URL_SAFE_NO_PAD.encode(envelope));
        if let Some(pass) = &self.pass {
            request = request.header("cocoon-pass", pass);
        }
        if let Some(voucher) = &self.voucher {
            request = request.header("cocoon-voucher", BASE64_URL_SAFE_NO_PAD.encode(voucher));
        }
        let request = request.body(Body::from_stream(stream::iter(pieces)));
        self.send(request.expect("a request")).await
    }

    /// What the scheduler counts of its voucher's Channel.
    pub async fn counted(&self) -> Result<Value, AskError> {
        let mut request = Request::post(format!("{AUTHORITY}/network/v1/vouchers"));
        if let Some(pass) = &self.pass {
            request = request.header("cocoon-pass", pass);
        }
        let request = request.body(self.voucher.clone().unwrap_or_default().into());
        let body = collect(self.send(request.expect("a request")).await?).await?;
        Ok(serde_json::from_slice(&body).expect("JSON"))
    }

    /// What a path says.
    pub async fn get(&self, path: &str) -> Result<Bytes, AskError> {
        let request = Request::get(format!("{AUTHORITY}{path}")).body(Body::empty());
        collect(self.send(request.expect("a request")).await?).await
    }

    async fn verified(&self, assignment: &Assignment) -> Result<PublicKey, AskError> {
        let mut peers = self.peers.lock().await;
        if let Some(key) = peers.get(&assignment.worker) {
            return Ok(key.clone());
        }
        let mut nonce = Nonce([0; 32]);
        getrandom::fill(&mut nonce.0).expect("the system has randomness");
        let path = format!("/network/v1/workers/{}/evidence", assignment.worker);
        let challenge = cbor::encode(&protocol::Request::challenge(nonce));
        let response = self.post(&path, challenge.into()).await?;
        let response = cbor::decode(&response).expect("evidence");
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = UnixTime(now.expect("after 1970").as_secs());
        let keyset = assignment.keyset.as_bytes();
        let peer = Peer::judge(&self.policy, keyset, &nonce, response, now);
        let key = peer.expect("the worker is trusted").key;
        assert_eq!(key.id(), assignment.worker);
        peers.insert(assignment.worker, key.clone());
        Ok(key)
    }

    async fn post(&self, path: &str, body: Body) -> Result<Bytes, AskError> {
        let request = Request::post(format!("{AUTHORITY}{path}")).body(body);
        collect(self.send(request.expect("a request")).await?).await
    }

    async fn send(&self, request: Request<Body>) -> Result<Incoming, AskError> {
        let mut http = self.http.clone();
        http.ready().await.map_err(|_| AskError::Broken)?;
        let response = http.send_request(request).await;
        let (head, body) = response.map_err(|_| AskError::Broken)?.into_parts();
        match head.status {
            StatusCode::OK => Ok(body),
            status => {
                let error: Value =
                    serde_json::from_slice(&collect(body).await?).unwrap_or_default();
                let code = error["error"]["code"].as_str().unwrap_or_default();
                Err(AskError::Refused(status, code.into()))
            }
        }
    }
}

impl Answer {
    /// The chunks that came next; none at the end.
    pub async fn next(&mut self) -> Result<Option<Vec<Vec<u8>>>, AskError> {
        while let Some(frame) = self.body.frame().await {
            let frame = frame.map_err(|_| AskError::Broken)?;
            let bytes = frame.into_data().unwrap_or_default();
            let texts = self.open.push(&bytes).map_err(AskError::Forged)?;
            if !texts.is_empty() {
                return Ok(Some(texts));
            }
        }
        Ok(None)
    }

    /// All that is left of it.
    pub async fn whole(mut self) -> Result<Said, AskError> {
        let mut texts = Vec::new();
        while let Some(more) = self.next().await? {
            texts.extend(more);
        }
        let settlement = self.open.end().map_err(AskError::Forged)?;
        // The head comes first, and the last chunk is empty.
        texts.remove(0);
        texts.pop();
        Ok(Said {
            worker: self.worker,
            texts,
            settlement: Settlement::parse(&settlement).map_err(|_| AskError::Broken)?,
        })
    }
}

async fn collect(body: Incoming) -> Result<Bytes, AskError> {
    let body = body.collect().await.map_err(|_| AskError::Broken)?;
    Ok(body.to_bytes())
}

/// Tokens that it pays for at most.
pub const LIMIT: u64 = 100_000;

/// Nanotons for a million tokens.
pub const PRICE: u64 = 2_000_000;

const AUTHORITY: &str = "http://scheduler.cocoon.invalid";
