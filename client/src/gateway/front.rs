//! What stands before a gateway: which pages may use it, whose keys, what is counted,
//! and the page that people try it with.
//!
//! A browser names the page that asks (`Origin`): a page of somebody else's would spend
//! the user's coins, and is refused. Logs have the key's name, the path, the model and
//! numbers; never what was asked or answered.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;

use super::asked::Asked;
use super::bill::Bill;
use super::keys::{Exhausted, Key, Keys};
use super::metrics::Metrics;
use super::page;
use super::problem::Problem;
use super::tally::Tally;

/// Stands before one gateway.
#[derive(Debug)]
pub struct Front {
    keys: Option<Keys>,
    origins: Vec<String>,
    metrics: Metrics,
}

impl Front {
    /// For a gateway at `address`: its own page may use it, and those of `origins`. With
    /// `keys`, nobody asks without one.
    #[must_use]
    pub fn new(address: SocketAddr, keys: Option<Keys>, mut origins: Vec<String>) -> Self {
        let port = address.port();
        let own = ["127.0.0.1", "localhost", "[::1]"];
        origins.extend(own.map(|host| format!("http://{host}:{port}")));
        origins.push(format!("http://{address}"));
        Self {
            keys,
            origins,
            metrics: Metrics::default(),
        }
    }

    /// Stands before `gateway`.
    pub fn before(self, gateway: Router) -> Router {
        let metrics = self.metrics.clone();
        let front = Arc::new(self);
        gateway
            .route("/", get(page::show))
            .route(METRICS, get(async move || metrics.show()))
            .layer(middleware::from_fn_with_state(front, pass))
    }

    /// The origin of the page that asks, if one does and it may.
    fn origin(&self, headers: &HeaderMap) -> Result<Option<HeaderValue>, Problem> {
        let Some(origin) = headers.get(header::ORIGIN) else {
            return Ok(None);
        };
        let known = self.origins.iter().any(|known| known.as_bytes() == origin);
        match known {
            true => Ok(Some(origin.clone())),
            false => Err(Problem::new(
                StatusCode::FORBIDDEN,
                "origin_not_allowed",
                format!("pages of {origin:?} may not use this gateway: see --origin"),
            )),
        }
    }

    /// Whether what is shown of the user's is shown to the user: a page of somebody else's
    /// can have its own name lead here, and a browser then takes this for its origin.
    fn host(&self, request: &Request) -> Result<(), Problem> {
        let is_shown = request.uri().path().starts_with("/cocoon/");
        let host = request.headers().get(header::HOST);
        let (None, true, Some(host)) = (&self.keys, is_shown, host) else {
            return Ok(());
        };
        let host = host.to_str().unwrap_or_default();
        let is_number = host.parse::<SocketAddr>().is_ok() || host.parse::<IpAddr>().is_ok();
        let of = |origin: &String| origin.split_once("://").is_some_and(|(_, of)| of == host);
        match is_number || self.origins.iter().any(of) {
            true => Ok(()),
            false => Err(Problem::new(
                StatusCode::FORBIDDEN,
                "host_not_allowed",
                format!("{host:?} is no name of this gateway: see --origin"),
            )),
        }
    }

    /// Whose request it is; None where nobody needs a key.
    fn admit(&self, headers: &HeaderMap) -> Result<Option<Arc<Key>>, Problem> {
        let Some(keys) = &self.keys else {
            return Ok(None);
        };
        let authorization = headers.get(header::AUTHORIZATION);
        let authorization = authorization.and_then(|text| text.to_str().ok());
        let key = keys.holder(authorization).ok_or_else(|| {
            let message = "no API key that this gateway knows";
            Problem::new(StatusCode::UNAUTHORIZED, "invalid_api_key", message)
                .of_kind("invalid_request_error")
        })?;
        Ok(Some(Arc::clone(key)))
    }
}

async fn pass(State(front): State<Arc<Front>>, request: Request, next: Next) -> Response {
    let origin = match front.origin(request.headers()) {
        Ok(origin) => origin,
        Err(problem) => return problem.into_response(),
    };
    if let Err(problem) = front.host(&request) {
        return problem.into_response();
    }
    let mut response = match (&origin, request.method()) {
        (Some(_), &Method::OPTIONS) => StatusCode::NO_CONTENT.into_response(),
        _ => match is_open(request.uri().path()) {
            true => next.run(request).await,
            false => ask(&front, request, next).await,
        },
    };
    let headers = response.headers_mut();
    if let Some(origin) = origin {
        headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        headers.insert(header::VARY, HeaderValue::from_static("origin"));
        let allowed = HeaderValue::from_static("authorization, content-type");
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, allowed);
        let shown = HeaderValue::from_static("cocoon-request, cocoon-cost");
        headers.insert(header::ACCESS_CONTROL_EXPOSE_HEADERS, shown);
    }
    response
}

/// Shows nothing of anybody's.
fn is_open(path: &str) -> bool {
    matches!(path, "/" | "/health" | "/metrics")
}

const METRICS: &str = "/cocoon/metrics";

async fn ask(front: &Front, request: Request, next: Next) -> Response {
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    let bill = Arc::new(Bill::new(front.metrics.clone(), method, path));
    let response = match admitted(front, request, &bill).await {
        Ok(request) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    bill.answered(response.status().as_u16());
    response.map(|body| Body::new(Tally::new(body, bill)))
}

/// The request again, once its key is known to allow it; with its bill goes what was read
/// of the body.
async fn admitted(
    front: &Front,
    mut request: Request,
    bill: &Arc<Bill>,
) -> Result<Request, Problem> {
    let key = front.admit(request.headers())?;
    request.extensions_mut().insert(Arc::clone(bill));
    let Some(key) = key else {
        return Ok(request);
    };
    bill.to(&key);
    if request.uri().path() == METRICS && !key.is_operator() {
        let message = "counts of all keys are for keys with operator = true";
        return Err(Problem::new(
            StatusCode::FORBIDDEN,
            "not_an_operator",
            message,
        ));
    }
    if request.method() != Method::POST {
        return Ok(request);
    }
    key.admit(since_1970()).map_err(exhausted)?;
    let (head, body) = request.into_parts();
    let body = read(body).await?;
    let asked = Asked::read(&head.headers, &body).await;
    let model = asked.as_ref().map_or("", |asked| &asked.model);
    let shown: String = model.chars().take(MAX_SHOWN).collect();
    bill.of(shown.clone());
    if !key.may_ask(model) {
        let message = format!("no model {shown:?} that this key may ask");
        let code = "model_not_found";
        let problem = Problem::new(StatusCode::NOT_FOUND, code, message);
        return Err(problem.of_kind("invalid_request_error"));
    }
    let mut request = Request::from_parts(head, Body::from(body));
    asked.map(|asked| request.extensions_mut().insert(asked));
    Ok(request)
}

fn exhausted(exhausted: Exhausted) -> Problem {
    let (code, retry) = match exhausted {
        Exhausted::Requests { retry, .. } => ("rate_limit_exceeded", retry),
        Exhausted::Tokens { retry, .. } => ("insufficient_quota", retry),
    };
    let problem = Problem::new(StatusCode::TOO_MANY_REQUESTS, code, exhausted.to_string());
    problem.of_kind(code).after(retry)
}

/// All of a body, up to [`MAX_BODY`].
pub(crate) async fn read(body: Body) -> Result<Bytes, Problem> {
    to_bytes(body, MAX_BODY).await.map_err(|_| {
        let message = format!("more than {MAX_BODY} bytes, or they broke off");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", message)
    })
}

pub(super) fn since_1970() -> Duration {
    let now = SystemTime::now().duration_since(UNIX_EPOCH);
    now.unwrap_or_default()
}

/// More than an agent takes: its longest is a form with sound.
const MAX_BODY: usize = 32 << 20;

/// Characters of a model's name that are repeated.
const MAX_SHOWN: usize = 256;
