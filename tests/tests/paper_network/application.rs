//! An application that asks a gateway, and the gateway with its purse.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderMap, Request, StatusCode};
use client::network::purse::{ChannelFile, Purse};
use client::network::scheduler::Scheduler as Way;
use client::network::secret::Secret;
use client::network::{Network, Options};
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tempfile::TempDir;
use tests::td::Td;
use tower::ServiceExt as _;
use tycho_types::cell::HashBytes;
use tycho_types::models::StdAddr;

use super::{PAYEE, PRICE};

pub(crate) const SECRET: &str = "what nobody on the way may read";

/// What 42 tokens cost.
pub(crate) const COST: u64 = 42 * PRICE / 1_000_000;

pub(crate) fn purse(folder: &TempDir, budget: u64) -> Arc<Purse> {
    let path = channel(folder);
    Arc::new(Purse::open(&path, Some(budget)).unwrap())
}

pub(crate) fn channel(folder: &TempDir) -> PathBuf {
    let path = folder.path().join("channel.json");
    let file = ChannelFile {
        channel: StdAddr::new(0, HashBytes([1; 32])).to_string(),
        global_id: -3,
        payee: PAYEE.to_string(),
        deposit: 1_000_000_000,
        until: u32::MAX,
        voucher_key: "key".into(),
    };
    std::fs::write(&path, serde_json::to_vec(&file).unwrap()).unwrap();
    std::fs::write(folder.path().join("key"), "07".repeat(32)).unwrap();
    path
}

pub(crate) fn network(
    schedulers: &[SocketAddr],
    purses: Vec<Arc<Purse>>,
    options: Options,
) -> Arc<Network> {
    let way = |address: &SocketAddr| Way::new(format!("http://{address}").parse().unwrap());
    let ways = schedulers
        .iter()
        .map(way)
        .collect::<Result<_, _>>()
        .unwrap();
    let policy = Arc::new(Td::new().policy());
    Network::new(ways, policy, purses, options, &Secret::random().unwrap())
}

pub(crate) fn gateway(schedulers: &[SocketAddr], purses: Vec<Arc<Purse>>) -> Router {
    network(schedulers, purses, OPTIONS).router()
}

pub(crate) const OPTIONS: Options = Options {
    max_price: PRICE,
    tip: 0,
    prices: None,
    answer: 100,
    deadline: Duration::from_secs(20),
    hedge: false,
};

pub(crate) fn chat(turns: usize, stream: bool) -> Request<Body> {
    let messages: Vec<_> = (0..turns)
        .map(|turn| json!({ "role": if turn % 2 == 0 { "user" } else { "assistant" }, "content": SECRET }))
        .collect();
    let body = json!({ "model": "tiny", "messages": messages, "stream": stream });
    Request::post("/v1/chat/completions")
        .header("content-type", "application/json")
        .header("authorization", "Bearer secret")
        .body(body.to_string().into())
        .unwrap()
}

pub(crate) async fn ask(
    gateway: &Router,
    request: Request<Body>,
) -> (StatusCode, HeaderMap, Result<String, ()>) {
    let response = gateway.clone().oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.map_err(drop);
    let body = body.map(|body| String::from_utf8(body.to_bytes().to_vec()).unwrap());
    (head.status, head.headers, body)
}

pub(crate) async fn get(gateway: &Router, path: &str) -> Value {
    let request = Request::get(path).body(Body::empty()).unwrap();
    let (status, _, body) = ask(gateway, request).await;
    assert_eq!(status, StatusCode::OK);
    serde_json::from_str(&body.unwrap()).unwrap()
}
