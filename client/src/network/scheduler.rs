//! A scheduler, asked over HTTP. It sees models, prices, sizes and times; what it says is
//! believed in nothing: evidence is verified, and requests are sealed.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use attestation::cbor;
use attestation::protocol;
use attestation::register::Digest256;
use axum::body::{Body, Bytes};
use axum::http::{HeaderValue, Method, Request, Response, StatusCode, header};
use base64::Engine as _;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use contracts::voucher::Signed;
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;
use hyper_rustls::{HttpsConnector, HttpsConnectorBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::{Builder, Client};
use hyper_util::rt::{TokioExecutor, TokioTimer};
use rustls::crypto::aws_lc_rs::default_provider;
use scheduler::pass::{PASS, Pass};
use sealed::{Assignment, AssignmentRequest, Envelope};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::time::timeout;
use tycho_types::boc::Boc;
use tycho_types::cell::CellBuilder;

use super::purse::{Counted, Told};

/// Where a scheduler is: `https://HOST[:PORT]`, or `http://` on a network of one's own.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Url(String);

impl FromStr for Url {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let bare = text.strip_suffix('/').unwrap_or(text);
        let uri: axum::http::Uri = bare.parse().map_err(|_| UrlError(text.into()))?;
        let is_known = matches!(uri.scheme_str(), Some("http" | "https"));
        let is_bare = uri.host().is_some() && uri.query().is_none() && uri.path() == "/";
        match is_known && is_bare && !bare.contains('@') {
            true => Ok(Self(bare.into())),
            false => Err(UrlError(text.into())),
        }
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Text that is not a scheduler's address.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is not a scheduler's address, expected https://HOST[:PORT]")]
pub struct UrlError(String);

type Http = Client<HttpsConnector<HttpConnector>, Body>;

/// One scheduler.
#[derive(Clone, Debug)]
pub struct Scheduler {
    url: Arc<Url>,
    http: Http,
}

impl Scheduler {
    /// Does not connect yet.
    pub fn new(url: Url) -> anyhow::Result<Self> {
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        // What is sealed goes out at once, its end too.
        tcp.set_nodelay(true);
        let connector = HttpsConnectorBuilder::new()
            .with_provider_and_webpki_roots(default_provider())?
            .https_or_http()
            .enable_all_versions()
            .wrap_connector(tcp);
        let url = Arc::new(url);
        let http = builder().build(connector);
        Ok(Self { url, http })
    }

    /// Where it is.
    #[must_use]
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// What its workers serve.
    pub(super) async fn models(&self) -> Result<Vec<Model>, Failure> {
        let Models { models } = self.json(Method::GET, "models", Vec::new()).await?;
        Ok(models)
    }

    /// How it wants to be paid.
    pub(super) async fn terms(&self) -> Result<Terms, Failure> {
        self.json(Method::GET, "terms", Vec::new()).await
    }

    /// A worker for a request of whoever has that pass.
    pub(super) async fn assign(
        &self,
        wanted: &AssignmentRequest,
        pass: Option<&Pass>,
    ) -> Result<Assignment, Failure> {
        let wanted = serde_json::to_vec(wanted).map_err(|_| Failure::Garbled("assignments"))?;
        let mut request = self.request(Method::POST, "assignments", wanted)?;
        show(pass, &mut request)?;
        self.read(request, "assignments").await
    }

    /// What a worker says to a challenge.
    pub(super) async fn evidence(
        &self,
        worker: &Digest256,
        challenge: &protocol::Request,
    ) -> Result<protocol::Response, Failure> {
        let path = format!("workers/{worker}/evidence");
        let request = self.request(Method::POST, &path, cbor::encode(challenge))?;
        let body = self.document(request, protocol::Response::MAX).await?;
        cbor::decode(&body).map_err(|_| Failure::Garbled("evidence"))
    }

    /// Sends what was sealed. The answer is sealed too, or an error in clear.
    pub(super) async fn send(
        &self,
        envelope: &Envelope,
        pass: Option<&Pass>,
        voucher: Option<&Signed>,
        sealed: Bytes,
        patience: Duration,
    ) -> Result<Response<Incoming>, Failure> {
        let mut request = self.request(Method::POST, "requests", sealed)?;
        show(pass, &mut request)?;
        let headers = request.headers_mut();
        headers.insert("cocoon-envelope", base64url(&envelope.encode())?);
        if let Some(voucher) = voucher {
            headers.insert("cocoon-voucher", base64url(&bag(voucher)?)?);
        }
        self.answer(request, patience).await
    }

    /// What it counts of the Channel of this voucher, the newest, and of some requests.
    pub(super) async fn told(
        &self,
        pass: &Pass,
        voucher: &Signed,
        requests: &[String],
    ) -> Result<Told, Failure> {
        let mut request = self.request(Method::POST, "vouchers", bag(voucher)?)?;
        show(Some(pass), &mut request)?;
        let asked = HeaderValue::try_from(requests.join(","));
        let asked = asked.map_err(|_| Failure::Garbled("headers"))?;
        request.headers_mut().insert("cocoon-requests", asked);
        self.read(request, "vouchers").await
    }

    async fn json<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &'static str,
        body: Vec<u8>,
    ) -> Result<T, Failure> {
        let request = self.request(method, path, body)?;
        self.read(request, path).await
    }

    async fn read<T: DeserializeOwned>(
        &self,
        request: Request<Body>,
        path: &'static str,
    ) -> Result<T, Failure> {
        let body = self.document(request, MAX_DOCUMENT).await?;
        serde_json::from_slice(&body).map_err(|_| Failure::Garbled(path))
    }

    fn request(
        &self,
        method: Method,
        path: &str,
        body: impl Into<Body>,
    ) -> Result<Request<Body>, Failure> {
        let kind = match path {
            "assignments" => "application/json",
            "requests" => "application/cocoon-sealed",
            "vouchers" => "application/octet-stream",
            _ => "application/cbor",
        };
        Request::builder()
            .method(method)
            .uri(format!("{}/network/v1/{path}", self.url))
            .header(header::CONTENT_TYPE, kind)
            .body(body.into())
            .map_err(|_| Failure::Garbled("addresses"))
    }

    async fn document(&self, request: Request<Body>, max: usize) -> Result<Bytes, Failure> {
        let response = self.answer(request, DOCUMENT).await?;
        let body = timeout(DOCUMENT, Limited::new(response.into_body(), max).collect());
        let body = body.await.map_err(|_| Failure::Late)?;
        Ok(body.map_err(|_| Failure::Broken)?.to_bytes())
    }

    /// An answer of status 200.
    async fn answer(
        &self,
        request: Request<Body>,
        patience: Duration,
    ) -> Result<Response<Incoming>, Failure> {
        let response = timeout(patience, self.http.request(request))
            .await
            .map_err(|_| Failure::Late)?
            .map_err(Failure::Unreachable)?;
        if response.status() == StatusCode::OK {
            return Ok(response);
        }
        let (head, body) = response.into_parts();
        let body = timeout(DOCUMENT, Limited::new(body, MAX_DOCUMENT).collect()).await;
        let body = body.ok().and_then(Result::ok);
        let body = body
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        let said: Refused = serde_json::from_slice(&body).unwrap_or_default();
        let retry = head.headers.get(header::RETRY_AFTER);
        let retry = retry.and_then(|seconds| seconds.to_str().ok()?.parse().ok());
        Err(Failure::Refused {
            status: head.status,
            counted: said.error.counted(),
            code: said.error.code.unwrap_or_default(),
            message: said.error.message,
            retry: retry.map(Duration::from_secs),
        })
    }
}

/// A model of the network's, as a scheduler lists it.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq)]
pub(super) struct Model {
    pub(super) name: String,
    pub(super) root: Option<String>,
    pub(super) workers: u32,
    /// The lowest of those that have room.
    pub(super) price: Option<u64>,
}

#[derive(Deserialize)]
struct Models {
    models: Vec<Model>,
}

/// How a scheduler is paid: not at all, or through a Channel to `payee`.
#[derive(Clone, Debug, Default, Deserialize)]
pub(super) struct Terms {
    #[serde(default)]
    pub(super) free: bool,
    pub(super) global_id: Option<i32>,
    pub(super) payee: Option<String>,
    /// In thousandths of what workers ask.
    #[serde(default)]
    pub(super) fee: u16,
}

#[derive(Default, Deserialize)]
struct Refused {
    error: Said,
}

#[derive(Default, Deserialize)]
struct Said {
    code: Option<String>,
    #[serde(default)]
    message: String,
    spent: Option<u64>,
    reserved: Option<u64>,
}

impl Said {
    /// A worker's refusal says what it has of the scheduler: that is not our Channel.
    fn counted(&self) -> Option<Counted> {
        let (spent, reserved) = (self.spent?, self.reserved?);
        Some(Counted { spent, reserved })
    }
}

fn show(pass: Option<&Pass>, request: &mut Request<Body>) -> Result<(), Failure> {
    if let Some(pass) = pass {
        let pass = HeaderValue::try_from(pass.to_string());
        let pass = pass.map_err(|_| Failure::Garbled("headers"))?;
        request.headers_mut().insert(PASS, pass);
    }
    Ok(())
}

fn bag(voucher: &Signed) -> Result<Vec<u8>, Failure> {
    let cell = CellBuilder::build_from(voucher).map_err(|_| Failure::Garbled("vouchers"))?;
    Ok(Boc::encode(cell))
}

fn base64url(bytes: &[u8]) -> Result<HeaderValue, Failure> {
    HeaderValue::try_from(BASE64_URL_SAFE_NO_PAD.encode(bytes))
        .map_err(|_| Failure::Garbled("headers"))
}

fn builder() -> Builder {
    let mut builder = Client::builder(TokioExecutor::new());
    builder
        .pool_timer(TokioTimer::new())
        // Together never more than the connection takes: an answer that nobody reads does
        // not hold up the others.
        .http2_initial_stream_window_size(STREAM_WINDOW)
        .http2_initial_connection_window_size(MAX_STREAMS.saturating_mul(STREAM_WINDOW));
    builder
}

/// Bytes of one answer that wait here.
const STREAM_WINDOW: u32 = 64 << 10;

/// Of one connection, of which schedulers take as many.
const MAX_STREAMS: u32 = 1024;

/// For what is no answer of a model's. A quote takes a second, and others may wait.
const DOCUMENT: Duration = Duration::from_secs(90);

const MAX_DOCUMENT: usize = 1 << 20;

/// Why a scheduler did not do what it was asked.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// It broke off, or never ended.
    #[error("the scheduler's answer broke off")]
    Broken,
    /// Not what this version reads.
    #[error("the scheduler and this gateway disagree about {0}")]
    Garbled(&'static str),
    /// Too slow.
    #[error("the scheduler took too long")]
    Late,
    /// It said so.
    #[error("the scheduler refused with {status}, {code}: {message}")]
    Refused {
        /// As answered.
        status: StatusCode,
        /// Of OpenAI's error object.
        code: String,
        /// Of OpenAI's error object.
        message: String,
        /// When to come again.
        retry: Option<Duration>,
        /// What it counts of our Channel, if that does not cover.
        counted: Option<Counted>,
    },
    /// TCP, TLS or HTTP.
    #[error("cannot reach the scheduler")]
    Unreachable(#[source] hyper_util::client::legacy::Error),
}

impl Failure {
    /// Whether nothing is or will be counted for the request that was refused: it may have
    /// been before, where it is refused as sent twice, its worker may have done it, or nobody
    /// can tell.
    pub(super) fn is_final(&self) -> bool {
        let uncertain = ["replayed", "unavailable", "worker_lost"];
        matches!(self, Self::Refused { code, .. } if !uncertain.contains(&code.as_str()))
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use axum::Router;
    use axum::routing::get;
    use futures_util::stream;
    use tokio::net::TcpListener;
    use tokio::time::timeout;

    use super::*;

    #[tokio::test]
    async fn answers_that_nobody_reads_hold_up_no_other_on_their_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endless = format!("http://{}/", listener.local_addr().unwrap());
        let zeros = || Ok::<_, Infallible>(Bytes::from_static(&[0; 1 << 14]));
        let says = get(async move || Body::from_stream(stream::repeat_with(zeros)));
        let api = Router::new().route("/", says);
        tokio::spawn(async move { axum::serve(listener, api).await });
        let http: Client<_, Body> = builder().http2_only(true).build(HttpConnector::new());
        let mut answers = Vec::new();
        for _ in 0..100 {
            let uri = endless.parse().unwrap();
            answers.push(http.get(uri).await.unwrap().into_body());
        }
        let read = answers.last_mut().unwrap();
        for _ in 0..100 {
            let next = timeout(Duration::from_secs(30), read.frame()).await;
            next.unwrap().unwrap().unwrap();
        }
    }

    #[test]
    fn a_scheduler_is_a_scheme_and_a_host() {
        for text in [
            "https://a.example",
            "http://127.0.0.1:80",
            "https://[::1]:1/",
        ] {
            assert!(text.parse::<Url>().is_ok(), "{text}");
        }
        for text in [
            "",
            "a.example",
            "ftp://a",
            "https://a/b",
            "https://a?b",
            "https://u@a",
        ] {
            let error = text.parse::<Url>().unwrap_err().to_string();
            assert!(error.ends_with("expected https://HOST[:PORT]"), "{text}");
        }
    }
}
