//! A scheduler that lies: it stands before an honest one, whose books and workers it uses.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "for tests"
)]

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock};

use attestation::register::Digest256;
use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{HeaderValue, StatusCode};
use axum::response::Response;
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use http_body_util::BodyExt as _;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use sealed::{Envelope, SizeClass, Transcript};
use serde_json::Value;
use session::http::Connection;
use tests::stand_in::StandIn;
use tests::td::Td;
use tokio::net::TcpListener;
use tycho_types::boc::Boc;
use tycho_types::cell::CellBuilder;

use crate::paid::{PRICE, Worker};

/// What it does to what passes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Lie {
    /// It shows another worker's evidence.
    Swaps,
    /// It ends an answer in the middle.
    Cuts,
    /// It has a request served a second time.
    SendsAgain,
    /// It has each request paid by the voucher of the first.
    SpendsAgain,
}

/// Clients find it here.
pub(crate) struct LyingScheduler {
    pub(crate) address: SocketAddr,
    between: Arc<Between>,
}

struct Between {
    honest: SocketAddr,
    lie: Lie,
    workers: Vec<Digest256>,
    first: OnceLock<HeaderValue>,
    http: Client<HttpConnector, Body>,
    refusals: Mutex<String>,
}

impl LyingScheduler {
    pub(crate) async fn before(honest: SocketAddr, lie: Lie, workers: &[Worker]) -> Self {
        let between = Arc::new(Between {
            honest,
            lie,
            workers: workers.iter().map(|worker| worker.stand_in.id).collect(),
            first: OnceLock::new(),
            http: Client::builder(TokioExecutor::new()).build_http(),
            refusals: Mutex::default(),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let router = Router::new()
            .fallback(pass)
            .with_state(Arc::clone(&between));
        tokio::spawn(async move { axum::serve(listener, router).await });
        Self { address, between }
    }

    /// What the honest one said to what it did beside.
    pub(crate) fn refusals(&self) -> String {
        self.between.refusals.lock().unwrap().clone()
    }
}

async fn pass(State(between): State<Arc<Between>>, request: Request) -> Response {
    let (mut head, body) = request.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let path = head.uri.path().to_owned();
    let is_request = path.ends_with("/requests");
    let path = match between.lie {
        Lie::Swaps => between.swapped(&path),
        _ => path,
    };
    if is_request && between.lie == Lie::SpendsAgain {
        let voucher = head.headers.get_mut("cocoon-voucher").unwrap();
        *voucher = between.first.get_or_init(|| voucher.clone()).clone();
    }
    head.uri = format!("http://{}{path}", between.honest).parse().unwrap();
    let send = async || {
        let request = Request::from_parts(head.clone(), Body::from(body.clone()));
        let answer = between.http.request(request).await.unwrap();
        let (head, body) = answer.into_parts();
        (head, body.collect().await.unwrap().to_bytes())
    };
    let (answer, mut said) = send().await;
    if is_request && between.lie == Lie::SendsAgain {
        let (_, refused) = send().await;
        let refused = String::from_utf8_lossy(&refused);
        between.refusals.lock().unwrap().push_str(&refused);
    }
    if is_request && between.lie == Lie::Cuts {
        let mut transcript = Transcript::response();
        transcript.push(&said).unwrap();
        let (_, settlement) = transcript.end().unwrap();
        said.truncate(said.len() - settlement.len() - 1);
    }
    let mut response = Response::new(Body::from(said));
    *response.status_mut() = answer.status;
    response
}

impl Between {
    /// The path of the next worker instead.
    fn swapped(&self, path: &str) -> String {
        let named = |id: &Digest256| path.contains(&id.to_string());
        let Some(named) = self.workers.iter().position(named) else {
            return path.into();
        };
        let other = self.workers[(named + 1) % self.workers.len()];
        path.replace(&self.workers[named].to_string(), &other.to_string())
    }
}

/// Asks a worker, as the scheduler that it dials, for another request by the newest voucher
/// that it was given; how it is refused.
pub(crate) async fn spends_again(worker: &mut Worker) -> (StatusCode, Value) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    worker.stand_in.dial(listener.local_addr().unwrap());
    let (tcp, _) = listener.accept().await.unwrap();
    let policy = Td::new().policy();
    let connection: Connection<_, Body> = Connection::open(tcp, &policy).await.unwrap();
    let envelope = Envelope {
        worker: worker.stand_in.id,
        model: StandIn::MODEL.into(),
        id: [1; 16],
        limit: 1000,
        price: PRICE,
        deadline_ms: 1000,
        class: SizeClass::of(0),
    };
    let voucher = CellBuilder::build_from(worker.till.newest().unwrap()).unwrap();
    let request = Request::post("http://worker.cocoon.invalid/network/requests")
        .header(
            "cocoon-envelope",
            BASE64_URL_SAFE_NO_PAD.encode(envelope.encode()),
        )
        .header(
            "cocoon-voucher",
            BASE64_URL_SAFE_NO_PAD.encode(Boc::encode(voucher)),
        )
        .body(Body::empty())
        .unwrap();
    let answer = connection
        .requests
        .clone()
        .send_request(request)
        .await
        .unwrap();
    let status = answer.status();
    let said = answer.into_body().collect().await.unwrap().to_bytes();
    (status, serde_json::from_slice(&said).unwrap())
}
