//! An application, the gateway, and a worker behind it.
#![cfg(test)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use attestation::binding::ReportData;
use attestation::evidence::PlatformEvidence;
use attestation::policy::Policy;
use attestation::register::Digest384;
use attestation::vtpm::{Credential, Endorsement};
use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, Response, StatusCode};
use axum::routing::{get, post};
use client::address::Address;
use client::gateway;
use client::worker::{FRESH, Worker};
use http_body_util::BodyExt;
use measurements::release::Release;
use session::provider::{Provider, ProviderError};
use tests::quote::TdState;
use tests::td::Td;
use tokio::net::TcpListener;
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt;

#[tokio::test]
async fn a_request_and_its_answer_pass_through() {
    let (worker, _running) = serve(Quoting::new(Td::new())).await;
    let request = Request::post("/v1/echo?a=b").body(Body::from("hello"));
    let (status, body) = ask(worker, request.unwrap(), FRESH).await;
    assert_eq!((status, &*body), (StatusCode::OK, "hello"));
}

#[tokio::test]
async fn what_identifies_the_user_stays_here() {
    let (worker, _running) = serve(Quoting::new(Td::new())).await;
    let request = Request::get("/v1/headers")
        .header("authorization", "Bearer secret")
        .header("cookie", "secret")
        .header("connection", "keep-alive")
        .header("x-other", "passes")
        .body(Body::empty());
    let (status, body) = ask(worker, request.unwrap(), FRESH).await;
    assert_eq!((status, &*body), (StatusCode::OK, "x-other"));
}

#[tokio::test]
async fn evidence_that_is_too_old_is_asked_for_again_on_the_same_connection() {
    for (fresh, quotes_per_request) in [(FRESH, 0), (Duration::ZERO, 1)] {
        let td = Quoting::new(Td::new());
        let quotes = Arc::clone(&td.quotes);
        let (address, _running) = serve(td).await;
        let gateway = gateway::router(worker(address, fresh));
        let mut counts = Vec::new();
        for _ in 0..3 {
            let request = Request::get("/v1/headers").body(Body::empty()).unwrap();
            let response = gateway.clone().oneshot(request).await.unwrap();
            assert_eq!(response.status(), StatusCode::OK);
            counts.push(quotes.load(Ordering::SeqCst));
        }
        let more: Vec<_> = counts.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert_eq!(more, [quotes_per_request; 2], "{fresh:?}");
    }
}

#[tokio::test]
async fn a_worker_that_is_not_what_was_published_gets_nothing() {
    let mut state = TdState::new(Td::REGISTERS, Td::MRCONFIGID);
    state.registers.rtmr1 = Digest384::of(b"another kernel");
    let (worker, _running) = serve(Quoting::new(Td::in_state(state))).await;
    let request = Request::post("/v1/echo").body(Body::from("a secret"));
    let (status, body) = ask(worker, request.unwrap(), FRESH).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    let error: serde_json::Value = serde_json::from_str(&body).unwrap();
    assert_eq!(error["error"]["code"], "worker_not_trusted");
    let message = error["error"]["message"].as_str().unwrap();
    let expected = format!(
        "the worker is not trusted: the peer did not prove what it is: rtmr1: expected {}, found {}",
        Td::REGISTERS.rtmr1,
        Digest384::of(b"another kernel"),
    );
    assert_eq!(message, expected);
}

#[tokio::test]
async fn a_worker_that_is_not_there_is_named_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let request = Request::get("/v1/models").body(Body::empty()).unwrap();
    let (status, body) = ask(address, request, FRESH).await;
    assert_eq!(status, StatusCode::BAD_GATEWAY);
    assert!(body.contains("worker_unreachable"), "{body}");
}

#[tokio::test]
async fn trust_is_told_check_by_check() {
    let (worker, _running) = serve(Quoting::new(Td::new())).await;
    let request = Request::get("/cocoon/trust").body(Body::empty()).unwrap();
    let (status, body) = ask(worker, request, FRESH).await;
    assert_eq!(status, StatusCode::OK);
    let told: serde_json::Value = serde_json::from_str(&body).unwrap();
    let checks = told["checks"].as_array().unwrap();
    assert!(checks.iter().any(|check| check["name"] == "rtmr2"));
    assert!(checks.iter().all(|check| check["passed"] == true));
}

#[allow(
    dead_code,
    unreachable_pub,
    reason = "an example has a `main` of its own"
)]
#[path = "../../client/examples/verify_a_server.rs"]
mod verify_a_server;

#[tokio::test]
async fn a_program_of_somebody_elses_asks_a_worker_that_it_has_verified() {
    let (worker, _running) = serve(Quoting::new(Td::new())).await;
    let address = || worker.to_string().parse().unwrap();
    let models = verify_a_server::models(address(), Td::new().policy()).await;
    assert_eq!(models.unwrap(), "tiny");
    let published = include_bytes!("../../measurements/releases/current.json");
    let policy = verify_a_server::policy(&Release::parse(published).unwrap());
    let refused = verify_a_server::models(address(), policy).await;
    assert_eq!(
        refused.unwrap_err().to_string(),
        "the worker is not trusted"
    );
}

/// A TD that counts its quotes.
struct Quoting {
    td: Td,
    quotes: Arc<AtomicU32>,
}

impl Quoting {
    fn new(td: Td) -> Self {
        Self {
            td,
            quotes: Arc::default(),
        }
    }
}

impl Provider for Quoting {
    fn endorsement(&self) -> Option<Endorsement> {
        self.td.endorsement()
    }

    fn attest(
        &self,
        report_data: &ReportData,
        credential: Option<&Credential>,
    ) -> Result<PlatformEvidence, ProviderError> {
        self.quotes.fetch_add(1, Ordering::SeqCst);
        self.td.attest(report_data, credential)
    }

    fn event_log(&self) -> &[u8] {
        self.td.event_log()
    }
}

/// The agent's server around an API that tells what reaches it.
async fn serve(td: Quoting) -> (SocketAddr, DropGuard) {
    let worker = session::server::Worker::start(Arc::new(td)).await.unwrap();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let api = Router::new()
        .route("/v1/echo", post(|body: String| async { body }))
        .route("/v1/headers", get(header_names))
        .route("/v1/models", get(|| async { "tiny" }));
    let stop = CancellationToken::new();
    let stopped = stop.clone().cancelled_owned();
    tokio::spawn(agent::serve::serve(listener, worker, api, stopped));
    (address, stop.drop_guard())
}

async fn header_names(headers: HeaderMap) -> String {
    let names: Vec<_> = headers.keys().map(ToString::to_string).collect();
    names.join(" ")
}

fn worker(address: SocketAddr, fresh: Duration) -> Arc<Worker> {
    let address: Address = address.to_string().parse().unwrap();
    let policy: Policy = Td::new().policy();
    Arc::new(Worker::new(address, Arc::new(policy), fresh))
}

async fn ask(address: SocketAddr, request: Request<Body>, fresh: Duration) -> (StatusCode, String) {
    let gateway = gateway::router(worker(address, fresh));
    let response: Response<Body> = gateway.oneshot(request).await.unwrap();
    let status = response.status();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8(body.to_vec()).unwrap())
}
