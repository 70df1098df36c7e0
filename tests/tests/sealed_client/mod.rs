//! A scheduler and a client in one, with a worker that has dialled it.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "helpers of tests"
)]

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use agent::api::{Model, Models};
use agent::network::Network;
use attestation::aci::Keyset;
use attestation::binding::Nonce;
use attestation::cbor;
use attestation::config::{Channel as Paid, Scheduler};
use attestation::protocol::Request as Asked;
use attestation::time::UnixTime;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use axum::body::{Body, Bytes};
use axum::http::{Request, Response, StatusCode};
use base64::Engine as _;
use base64::prelude::{BASE64_STANDARD, BASE64_URL_SAFE_NO_PAD};
use contracts::channel::{Channel, Terms};
use contracts::receipt::Receipt;
use contracts::voucher::{Voucher, cost};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use inference::{Engine, Limits};
use sealed::{
    Envelope, Header, Offer, Peer, PublicKey, RequestHead, ResponseHead, Settlement, SizeClass,
    seal,
};
use serde_json::{Value, json};
use session::http::Connection;
use session::server::Worker;
use sha2::{Digest as _, Sha256};
use tests::td::Td;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tycho_types::boc::Boc;
use tycho_types::cell::{CellBuilder, HashBytes};
use tycho_types::models::StdAddr;

/// Nanotons for a million tokens.
pub(crate) const ASK: u64 = 2_000_000;
pub(crate) const DEPOSIT: u64 = 1_000_000;

/// The scheduler, to which a worker has connected, and which is its client as well.
pub(crate) struct Double {
    listener: TcpListener,
    connection: Connection<TcpStream, Body>,
    ask: u64,
    pub(crate) peer: Peer,
    pub(crate) stop: CancellationToken,
    pub(crate) ended: JoinHandle<anyhow::Result<()>>,
}

impl Double {
    /// For which the worker asks [`ASK`].
    pub(crate) async fn paying(limits: Limits) -> Self {
        let state = Boc::encode(CellBuilder::build_from(&channel().state).unwrap());
        let paid = Paid {
            state: BASE64_STANDARD.encode(state),
            network: -239,
            deposit: DEPOSIT,
            paid: 0,
        };
        Self::start(limits, ASK, Some(paid)).await
    }

    /// For which it works for nothing.
    pub(crate) async fn free(limits: Limits) -> Self {
        Self::start(limits, 0, None).await
    }

    async fn start(limits: Limits, ask: u64, channel: Option<Paid>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let scheduler = Scheduler {
            address: listener.local_addr().unwrap().to_string(),
            ask,
            asks: [].into(),
            channel,
        };
        let inference = Path::new(env!("CARGO_MANIFEST_DIR")).join("../inference");
        let models = [
            ("cocoon-tiny", "models/cocoon-tiny"),
            ("draws", "reference/diffusion"),
        ];
        let models = models.map(|(name, dir)| Model {
            name: name.into(),
            root: Some("06".repeat(32)),
            engine: Engine::load_with(&inference.join(dir), limits).unwrap(),
        });
        let worker = Worker::start(Arc::new(Td::new())).await.unwrap();
        let models = Models::new(models);
        // One deployment, which pays out of one Channel; the other one of it is down.
        let down = Scheduler {
            address: "127.0.0.1:1".into(),
            ..scheduler.clone()
        };
        let network = Network::start(worker, &models, vec![scheduler, down]).await;
        let network = network.unwrap();
        let stop = CancellationToken::new();
        let ended = tokio::spawn(network.run(stop.clone().cancelled_owned()));
        let connection = accept(&listener).await;
        let peer = verify(&connection).await;
        Self {
            listener,
            connection,
            ask,
            peer,
            stop,
            ended,
        }
    }

    /// Loses the connection, and waits for the next.
    pub(crate) async fn lose(self) -> Self {
        let Self { listener, .. } = self;
        // Nothing holds it any more.
        drop(self.connection);
        let connection = accept(&listener).await;
        Self {
            listener,
            connection,
            ..self
        }
    }

    pub(crate) fn envelope(&self) -> Envelope {
        let mut id = [0; 16];
        getrandom::fill(&mut id).unwrap();
        Envelope {
            worker: self.peer.key.id(),
            model: "cocoon-tiny".into(),
            id,
            limit: 200,
            price: ASK,
            deadline_ms: 60_000,
            class: SizeClass::Small,
        }
    }

    pub(crate) fn cost(&self, envelope: &Envelope) -> u64 {
        cost(envelope.limit, envelope.price).unwrap()
    }

    pub(crate) fn seal(&self, envelope: &Envelope, request: &(&str, Value, u8)) -> Sealed {
        Sealed::new(&self.peer.key, envelope, request)
    }

    pub(crate) async fn send(
        &self,
        sealed: &Sealed,
        voucher: Option<Vec<u8>>,
    ) -> Response<Incoming> {
        let body = Body::from(sealed.body.clone());
        self.send_body(sealed, body, voucher).await.unwrap()
    }

    /// The request with another body, which need not come to an end.
    pub(crate) async fn send_body(
        &self,
        sealed: &Sealed,
        body: Body,
        voucher: Option<Vec<u8>>,
    ) -> hyper::Result<Response<Incoming>> {
        let envelope = BASE64_URL_SAFE_NO_PAD.encode(sealed.envelope.encode());
        let mut request = Request::post("http://worker.cocoon.invalid/network/requests")
            .header("cocoon-envelope", envelope);
        if let Some(voucher) = voucher {
            let voucher = BASE64_URL_SAFE_NO_PAD.encode(voucher);
            request = request.header("cocoon-voucher", voucher);
        }
        let request = request.body(body).unwrap();
        self.connection.requests.clone().send_request(request).await
    }

    pub(crate) async fn ask(&self, sealed: &Sealed, voucher: Option<Vec<u8>>) -> Answer {
        let response = self.send(sealed, voucher).await;
        let status = response.status();
        let body = timeout(Duration::from_secs(60), response.into_body().collect()).await;
        let body = body.unwrap().unwrap().to_bytes();
        Answer { status, body }
    }

    /// The receipt, once all of it was checked.
    pub(crate) fn settled(&self, sealed: &Sealed, reply: &Reply) -> Receipt {
        let Settlement {
            receipt, signature, ..
        } = &reply.settlement;
        let receipt: Receipt = Boc::decode(receipt).unwrap().parse().unwrap();
        let key = self.peer.keyset.receipt_key(Keyset::RECEIPTS).unwrap();
        receipt.verify(&HashBytes(key), signature).unwrap();
        assert_eq!(receipt.request.0, *Sha256::digest(&sealed.body));
        assert_eq!(receipt.response.0, reply.hash);
        assert_eq!(receipt.price, self.ask);
        let work = receipt.work.load().unwrap();
        assert_eq!(work.model, HashBytes([6; 32]));
        assert_eq!(work.build.0, *Td::REGISTERS.build().as_bytes());
        assert_eq!(work.tokens(), reply.settlement.tokens);
        receipt
    }

    pub(crate) async fn get(&self, path: &str) -> Bytes {
        let response = get(&self.connection, path).await;
        assert_eq!(response.status(), StatusCode::OK, "{path}");
        response.into_body().collect().await.unwrap().to_bytes()
    }

    pub(crate) async fn status(&self, path: &str) -> StatusCode {
        get(&self.connection, path).await.status()
    }

    pub(crate) async fn post(&self, path: &str, body: Body) -> Response<Incoming> {
        post(&self.connection, path, body).await
    }

    pub(crate) async fn offers(&self) -> Offers {
        let response = get(&self.connection, "/network/offer").await;
        Offers(response.into_body(), Vec::new())
    }
}

/// Lines as they come.
pub(crate) struct Offers(Incoming, Vec<u8>);

impl Offers {
    pub(crate) async fn next(&mut self) -> Option<Offer> {
        loop {
            if let Some(end) = self.1.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.1.drain(..=end).collect();
                return Some(serde_json::from_slice(&line).unwrap());
            }
            let frame = timeout(Duration::from_secs(30), self.0.frame()).await;
            self.1.extend(frame.unwrap()?.unwrap().into_data().unwrap());
        }
    }
}

/// A request of the client's.
pub(crate) struct Sealed {
    pub(crate) envelope: Envelope,
    pub(crate) body: Vec<u8>,
    response: std::cell::RefCell<Option<sealed::Response>>,
}

impl Sealed {
    /// Of a path, a body (none: it is a GET), and a secret.
    pub(crate) fn new(key: &PublicKey, envelope: &Envelope, request: &(&str, Value, u8)) -> Self {
        let (path, value, secret) = request;
        let mut random = [0; 64];
        getrandom::fill(&mut random).unwrap();
        let (mut body, mut sealer, response) = seal(key, &envelope.encode(), random).unwrap();
        let head = RequestHead {
            method: if value.is_null() { "GET" } else { "POST" }.into(),
            path: (*path).into(),
            headers: vec![Header("content-type".into(), "application/json".into())],
            tenant: [*secret; 32],
        };
        sealer.chunk(&head.encode(), &mut body).unwrap();
        sealer
            .last(value.to_string().as_bytes(), &mut body)
            .unwrap();
        Self {
            envelope: envelope.clone(),
            body,
            response: Some(response).into(),
        }
    }
}

/// What came back.
pub(crate) struct Answer {
    status: StatusCode,
    body: Bytes,
}

impl Answer {
    pub(crate) const fn status(&self) -> StatusCode {
        self.status
    }

    /// Opens it.
    pub(crate) fn open(self, sealed: &Sealed) -> Reply {
        let said = String::from_utf8_lossy(&self.body).into_owned();
        assert_eq!(self.status, StatusCode::OK, "{said}");
        let mut response = sealed.response.borrow_mut().take().unwrap();
        let mut chunks = response.push(&self.body).unwrap();
        let settlement = response.end().unwrap();
        let end = self.body.len() - settlement.len();
        let head = ResponseHead::parse(&chunks.remove(0)).unwrap();
        Reply {
            head,
            body: chunks.concat(),
            chunks,
            hash: Sha256::digest(&self.body[..end]).into(),
            settlement: Settlement::parse(&settlement).unwrap(),
        }
    }

    /// In clear.
    pub(crate) fn refusal(self) -> (u16, Value) {
        let error = serde_json::from_slice(&self.body).unwrap_or_default();
        (self.status.as_u16(), error)
    }
}

/// The answer, opened.
pub(crate) struct Reply {
    pub(crate) head: ResponseHead,
    pub(crate) chunks: Vec<Vec<u8>>,
    pub(crate) body: Vec<u8>,
    pub(crate) settlement: Settlement,
    hash: [u8; 32],
}

impl Reply {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    /// The one before `[DONE]`.
    pub(crate) fn last_event(&self) -> Value {
        let text = str::from_utf8(&self.body).unwrap();
        let events = text.lines().filter_map(|line| line.strip_prefix("data: "));
        serde_json::from_str(events.rev().nth(1).unwrap()).unwrap()
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let mut headers = self.head.headers.iter();
        headers
            .find(|header| header.0 == name)
            .map(|header| &*header.1)
    }
}

/// What is asked of the small model.
pub(crate) struct Chat {
    pub(crate) model: &'static str,
    pub(crate) max_tokens: Option<u32>,
    pub(crate) stream: bool,
}

impl Chat {
    pub(crate) const SECRET: u8 = 7;

    pub(crate) fn request(&self) -> (&'static str, Value, u8) {
        let mut request = json!({
            "model": self.model,
            "messages": [{"role": "user", "content": "Recite Genesis 1:1."}],
            "temperature": 0,
        });
        if let Some(most) = self.max_tokens {
            request["max_tokens"] = most.into();
        }
        if self.stream {
            request["stream"] = true.into();
            request["stream_options"] = json!({"include_usage": true});
        }
        ("/v1/chat/completions", request, Self::SECRET)
    }
}

impl Default for Chat {
    fn default() -> Self {
        Self {
            model: "cocoon-tiny",
            max_tokens: Some(40),
            stream: false,
        }
    }
}

/// Of the scheduler's Channel, as a bag of cells.
pub(crate) fn voucher(amount: u64) -> Vec<u8> {
    let voucher = Voucher {
        amount,
        tokens: amount,
        cap: 1_000_000,
        ..Voucher::first(-239, channel().address)
    };
    let signature = payer().sign(&voucher.hash().unwrap());
    let signed = voucher.signed(signature.as_ref().try_into().unwrap());
    Boc::encode(CellBuilder::build_from(signed.unwrap()).unwrap())
}

fn channel() -> Channel {
    let address = |byte| StdAddr::new(0, HashBytes([byte; 32]));
    Channel::new(Terms {
        payer: address(1),
        payee: address(2),
        key: HashBytes(payer().public_key().as_ref().try_into().unwrap()),
        until: u32::MAX,
        delay: 3600,
        fee: 50,
        market: address(3),
    })
    .unwrap()
}

fn payer() -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(&[1; 32]).unwrap()
}

async fn accept(listener: &TcpListener) -> Connection<TcpStream, Body> {
    let (tcp, _) = timeout(Duration::from_secs(30), listener.accept())
        .await
        .unwrap()
        .unwrap();
    Connection::open(tcp, &Td::new().policy()).await.unwrap()
}

/// As a client does it, through the scheduler.
async fn verify(connection: &Connection<TcpStream, Body>) -> Peer {
    let keyset = get(connection, "/v1/aci/keyset").await;
    let keyset = keyset.into_body().collect().await.unwrap().to_bytes();
    let nonce = Nonce([4; 32]);
    let challenge = cbor::encode(&Asked::challenge(Nonce(nonce.0)));
    let response = post(connection, "/network/evidence", Body::from(challenge)).await;
    let response = response.into_body().collect().await.unwrap().to_bytes();
    let response = cbor::decode(&response).unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    let now = UnixTime(now.as_secs());
    Peer::judge(&Td::new().policy(), &keyset, &nonce, response, now).unwrap()
}

async fn get(connection: &Connection<TcpStream, Body>, path: &str) -> Response<Incoming> {
    let request = Request::get(format!("http://worker.cocoon.invalid{path}"));
    let request = request.body(Body::empty()).unwrap();
    connection
        .requests
        .clone()
        .send_request(request)
        .await
        .unwrap()
}

async fn post(
    connection: &Connection<TcpStream, Body>,
    path: &str,
    body: Body,
) -> Response<Incoming> {
    let request = Request::post(format!("http://worker.cocoon.invalid{path}"));
    let request = request.body(body).unwrap();
    connection
        .requests
        .clone()
        .send_request(request)
        .await
        .unwrap()
}
