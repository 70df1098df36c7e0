//! Requests one by one, and several at once, on connections that are kept.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Bytes;
use axum::http::{Request, StatusCode};
use futures_util::future::join_all;
use http_body_util::{BodyExt as _, Full};
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use serde_json::json;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// Where requests go.
#[derive(Clone)]
pub(crate) struct Load {
    address: SocketAddr,
    tls: Option<TlsConnector>,
    body: Bytes,
}

impl Load {
    pub(crate) fn new(address: SocketAddr, tls: Option<Arc<rustls::ClientConfig>>) -> Self {
        let body = json!({
            "model": "echo",
            "messages": [{"role": "user", "content": "Recite Psalm 23:4. ".repeat(20)}],
            "max_tokens": 64,
        });
        Self {
            address,
            tls: tls.map(TlsConnector::from),
            body: body.to_string().into(),
        }
    }

    /// Whether it answers.
    pub(crate) async fn works(&self) -> bool {
        let Ok(tcp) = TcpStream::connect(self.address).await else {
            return false;
        };
        drop(tcp);
        self.ask(&mut self.connect().await).await.is_some()
    }

    /// How long each took.
    pub(crate) async fn one_by_one(&self, count: usize) -> Vec<Duration> {
        let mut connection = self.connect().await;
        let mut times = Vec::new();
        for _ in 0..count {
            let start = Instant::now();
            self.ask(&mut connection).await.expect("it answers");
            times.push(start.elapsed());
        }
        times
    }

    /// How long all took.
    pub(crate) async fn together(&self, at_once: usize, count: usize) -> Duration {
        let connections = join_all((0..at_once).map(|_| self.connect())).await;
        let start = Instant::now();
        join_all(connections.into_iter().map(|mut connection| async move {
            for _ in 0..count / at_once {
                self.ask(&mut connection).await.expect("it answers");
            }
        }))
        .await;
        start.elapsed()
    }

    async fn connect(&self) -> SendRequest<Full<Bytes>> {
        let tcp = TcpStream::connect(self.address).await.unwrap();
        tcp.set_nodelay(true).unwrap();
        match &self.tls {
            None => speak(tcp).await,
            Some(tls) => {
                let name = ServerName::try_from("localhost").unwrap();
                speak(tls.connect(name, tcp).await.unwrap()).await
            }
        }
    }

    async fn ask(&self, connection: &mut SendRequest<Full<Bytes>>) -> Option<()> {
        let request = Request::post("/v1/chat/completions")
            .header("host", "localhost")
            .header("content-type", "application/json")
            .body(Full::new(self.body.clone()))
            .unwrap();
        connection.ready().await.ok()?;
        let response = connection.send_request(request).await.ok()?;
        let is_ok = response.status() == StatusCode::OK;
        let body = response.into_body().collect().await.ok()?.to_bytes();
        let said = body.windows(6).any(|part| part == b"valley");
        (is_ok && said).then_some(())
    }
}

async fn speak<S>(stream: S) -> SendRequest<Full<Bytes>>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (http, connection) = http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    http
}
