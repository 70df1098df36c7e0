//! The HTTP interface that applications speak: the OpenAI API, as far as the
//! models here can serve it.
//!
//! ```text
//! GET  /v1/models              what is served, with the digests of each
//! GET  /v1/models/{id}
//! POST /v1/chat/completions    whole, or as server-sent events
//! POST /v1/completions         the same
//! POST /v1/responses           the same, as events of another kind
//! POST /v1/embeddings          as numbers or as base64
//! POST /v1/classify            labels of images
//! POST /v1/audio/...           transcriptions and translations, of a form
//! POST /v1/images/generations  images of texts
//! GET  /health                 answers if anything does
//! GET  /metrics                counts for Prometheus
//! ```
//!
//! A parameter is honoured, or known to be without effect, or refused by name:
//! the module of each endpoint lists which. Every error is an OpenAI error object.
//! Nothing of a request or an answer is logged or repeated in an error, but for
//! the names of parameters. It does not know who asks: by the time a request is
//! here, the transport has proved to the client what it talks to.

mod answers;
mod asker;
mod body;
mod chat;
mod classify;
mod completions;
mod cost;
mod delivery;
mod embeddings;
mod error;
mod fields;
mod generations;
mod images;
mod logprobs;
mod messages;
mod metrics;
mod models;
mod options;
mod padding;
mod responses;
mod room;
mod stream;
mod tools;
mod transcriptions;
mod turns;

use std::num::NonZero;
use std::sync::LazyLock;
use std::thread::available_parallelism;

use axum::Router;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::http::{HeaderName, HeaderValue, StatusCode};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use inference::{Tenant, wipe_stack};
use serde::Serialize;
use tokio::task::spawn_blocking;

pub(crate) use answers::reason_name;
pub use cost::Cost;
pub(crate) use error::sentence;
pub(crate) use models::Served;
pub use models::{Model, Models};

use error::ApiError;
use metrics::Metrics;
use turns::Turns;

/// The API over `models`.
pub fn router(models: Models) -> Router {
    let metrics = Metrics::default();
    let shown = metrics.clone();
    let show = async move |State(models): State<Models>| shown.show(&models);
    let form = DefaultBodyLimit::max(transcriptions::MAX_FORM);
    Router::new()
        .route("/health", get(metrics::health))
        .route("/metrics", get(show))
        .route(
            "/v1/audio/transcriptions",
            post(transcriptions::transcribe).layer(form),
        )
        .route(
            "/v1/audio/translations",
            post(transcriptions::translate).layer(form),
        )
        .route("/v1/chat/completions", post(chat::create))
        .route("/v1/classify", post(classify::create))
        .route("/v1/completions", post(completions::create))
        .route("/v1/embeddings", post(embeddings::create))
        .route("/v1/images/generations", post(generations::create))
        .route("/v1/models", get(models::list))
        .route("/v1/models/{*id}", get(models::retrieve))
        .route("/v1/responses", post(responses::create))
        .fallback(async || ApiError::unknown_url())
        .method_not_allowed_fallback(async || ApiError::method_not_allowed())
        .layer(middleware::from_fn(with_request_id))
        .layer(middleware::from_fn_with_state(metrics, Metrics::count))
        .with_state(models)
}

/// What a completion and every chunk of it begin with.
#[derive(Clone, Debug, Serialize)]
struct Head {
    id: String,
    object: &'static str,
    created: u64,
    model: String,
    system_fingerprint: Option<String>,
}

impl Head {
    fn new(prefix: &str, object: &'static str, model: &Served) -> Self {
        Self {
            id: random_id(prefix),
            object,
            created: unix_time(),
            model: model.name().to_owned(),
            system_fingerprint: model.fingerprint(),
        }
    }
}

/// Names each exchange, so that two parties can speak about it.
async fn with_request_id(request: Request, next: Next) -> Response {
    let mut response = next.run(request).await;
    if let Ok(id) = HeaderValue::try_from(random_id("req_")) {
        response.headers_mut().insert(REQUEST_ID, id);
    }
    response
}

/// Does what takes long on a thread that may, when it is this client's turn; the thread
/// forgets what it has seen.
async fn aside<T: Send + 'static>(
    tenant: &Tenant,
    work: impl FnOnce() -> Result<T, ApiError> + Send + 'static,
) -> Result<T, ApiError> {
    let turn = TURNS.take(tenant).await;
    let done = spawn_blocking(move || {
        let done = work();
        wipe_stack();
        drop(turn);
        done
    });
    done.await.map_err(|_| ApiError::internal())?
}

/// For what stands around the API: an error as its clients know it.
pub(crate) fn refused(status: StatusCode, kind: &'static str, message: &str) -> Response {
    ApiError::new(status, kind, message).into_response()
}

/// `prefix` and 128 random bits.
pub(crate) fn random_id(prefix: &str) -> String {
    // Without randomness the id says nothing; nothing relies on it.
    let [a, b] = [(); 2].map(|()| getrandom::u64().unwrap_or_default());
    format!("{prefix}{a:016x}{b:016x}")
}

/// Seconds since 1970.
pub(crate) fn unix_time() -> u64 {
    let now = std::time::SystemTime::now();
    now.duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}

/// One processor is left to whoever needs none of them.
static TURNS: LazyLock<Turns> = LazyLock::new(|| {
    let processors = available_parallelism().map_or(1, NonZero::get);
    Turns::new(processors.saturating_sub(1).max(1))
});

const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::hint::black_box;
    use std::os::unix::fs::FileExt as _;

    #[tokio::test]
    async fn what_is_done_aside_leaves_nothing_on_its_stack() {
        #[inline(never)]
        fn work() -> usize {
            let said = black_box([black_box(0x51_u8); 4096]);
            black_box(&raw const said).addr()
        }
        fn left(place: usize) -> usize {
            let mut left = [0; 4096];
            let memory = File::open("/proc/self/mem").unwrap();
            let place = u64::try_from(place).unwrap();
            memory.read_exact_at(&mut left, place).unwrap();
            left.iter().filter(|byte| **byte == 0x51).count()
        }
        // Its thread is kept for the next.
        assert!(left(aside(&Tenant::new(), || Ok(work())).await.unwrap()) < 1024);
        // What nobody wipes is found.
        assert!(left(spawn_blocking(work).await.unwrap()) > 2048);
    }
}
