//! A worker with a small model behind a gateway, both on loopback.

#![allow(
    dead_code,
    clippy::unwrap_used,
    reason = "each user has its own part of it"
)]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use agent::api::{Model, Models, router};
use axum::Router;
use axum::body::Body;
use axum::http::request::Builder;
use axum::http::{Request, Response};
use client::address::Address;
use client::gateway;
use client::worker::{FRESH, Worker};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use inference::{Engine, Limits};
use tests::td::Td;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::{CancellationToken, DropGuard};
use tower::ServiceExt as _;

pub(crate) type Reply = Response<Incoming>;

/// Ends with this.
pub(crate) struct Served {
    gateways: Vec<SocketAddr>,
    worker: Router,
    _running: DropGuard,
}

impl Served {
    pub(crate) const MODEL: &str = "cocoon-tiny";

    pub(crate) async fn start(limits: Limits) -> Self {
        Self::start_for(limits, 1).await
    }

    /// Behind so many gateways, each of which is a client of its own to the worker.
    pub(crate) async fn start_for(limits: Limits, clients: usize) -> Self {
        let models = Models::new([Model {
            name: Self::MODEL.into(),
            root: None,
            engine: engine(limits),
        }]);
        let api = router(models);
        let stop = CancellationToken::new();

        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address: Address = listener.local_addr().unwrap().to_string().parse().unwrap();
        let worker = session::server::Worker::start(Arc::new(Td::new()))
            .await
            .unwrap();
        let stopped = stop.clone().cancelled_owned();
        tokio::spawn(agent::serve::serve(listener, worker, api.clone(), stopped));

        let mut gateways = Vec::new();
        for _ in 0..clients {
            let policy = Arc::new(Td::new().policy());
            let worker = Arc::new(Worker::new(address.clone(), policy, FRESH));
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            gateways.push(listener.local_addr().unwrap());
            let stopped = stop.clone().cancelled_owned();
            tokio::spawn(gateway::serve(listener, gateway::router(worker), stopped));
        }
        Self {
            gateways,
            worker: api,
            _running: stop.drop_guard(),
        }
    }

    /// Asks for an answer, on a connection of its own, which ends with the reply.
    pub(crate) async fn ask(&self, body: Body) -> Reply {
        self.ask_as(0, body).await
    }

    /// The same, of one of the clients.
    pub(crate) async fn ask_as(&self, client: usize, body: Body) -> Reply {
        let request = Request::post("/v1/chat/completions");
        self.send(client, request, body).await
    }

    /// Asks what is served.
    pub(crate) async fn models(&self) -> Reply {
        let request = Request::get("/v1/models");
        self.send(0, request, Body::empty()).await
    }

    /// What the worker counts under that name and its labels.
    pub(crate) async fn counted(&self, name: &str) -> u64 {
        let request = Request::get("/metrics").body(Body::empty()).unwrap();
        let reply = self.worker.clone().oneshot(request).await.unwrap();
        let text = reply.into_body().collect().await.unwrap().to_bytes();
        let text = str::from_utf8(&text).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.unwrap().trim().parse().unwrap()
    }

    async fn send(&self, client: usize, request: Builder, body: Body) -> Reply {
        let tcp = TcpStream::connect(self.gateways.get(client).unwrap());
        let tcp = tcp.await.unwrap();
        let (mut http, connection) = http1::handshake(TokioIo::new(tcp)).await.unwrap();
        tokio::spawn(connection);
        let request = request
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(body);
        http.send_request(request.unwrap()).await.unwrap()
    }
}

/// The small model.
pub(crate) fn engine(limits: Limits) -> Engine {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../inference/models/cocoon-tiny");
    Engine::load_with(&dir, limits).unwrap()
}
