//! The API of the small models, and how tests ask it.

use std::path::{Path, PathBuf};
use std::sync::LazyLock;

use agent::api::{Model, Models, router};
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use http_body_util::BodyExt as _;
use inference::Engine;
use serde_json::{Value, json};
use tower::ServiceExt as _;

pub(crate) const GENESIS: &str = "In the beginning God created the heaven and the earth.";

/// The image that reference/vision.py has seen too.
pub(crate) fn picture() -> String {
    use base64::Engine as _;
    let path = reference("vision/image.png");
    let bytes = base64::prelude::BASE64_STANDARD.encode(std::fs::read(path).unwrap());
    format!("data:image/png;base64,{bytes}")
}

/// What other implementations made, and were asked.
pub(crate) fn reference(name: &str) -> PathBuf {
    let inference = Path::new(env!("CARGO_MANIFEST_DIR")).join("../inference");
    inference.join("reference").join(name)
}

pub(crate) const ROOT: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

pub(crate) fn tiny_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../inference/models/cocoon-tiny")
}

/// One model, and no other.
pub(crate) fn alone(name: &str, engine: Engine) -> axum::Router {
    router(Models::new([Model {
        name: name.into(),
        root: None,
        engine,
    }]))
}

pub(crate) fn serve(engine: Engine) -> Models {
    Models::new([Model {
        name: "cocoon-tiny".into(),
        root: Some(ROOT.into()),
        engine,
    }])
}

pub(crate) fn recite() -> Value {
    json!({"model": "cocoon-tiny", "messages": user(json!("Recite Genesis 1:1."))})
}

pub(crate) fn weather() -> Value {
    json!([{"type": "function", "function": {
        "name": "weather",
        "description": "The weather of a town.",
        "strict": true,
        "parameters": {
            "type": "object",
            "properties": {
                "town": {"const": "Oslo"},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["town", "days"],
            "additionalProperties": false,
        },
    }}])
}

pub(crate) fn user(content: Value) -> Value {
    json!([{"role": "user", "content": content}])
}

pub(crate) fn with(mut body: Value, name: &str, value: Value) -> Value {
    body[name] = value;
    body
}

pub(crate) async fn get(path: &str) -> Response<Body> {
    respond(Request::get(path).body(Body::empty()).unwrap()).await
}

pub(crate) async fn chat(body: Value) -> Response<Body> {
    post("/v1/chat/completions", "application/json", body.to_string()).await
}

pub(crate) async fn complete(body: Value) -> Response<Body> {
    post("/v1/completions", "application/json", body.to_string()).await
}

pub(crate) async fn embed(body: Value) -> Response<Body> {
    post("/v1/embeddings", "application/json", body.to_string()).await
}

pub(crate) async fn post(path: &str, kind: &str, body: impl Into<Body>) -> Response<Body> {
    respond(request(path, kind, body)).await
}

pub(crate) async fn send(app: axum::Router, path: &str, body: Value) -> Response<Body> {
    app.oneshot(request(path, "application/json", body.to_string()))
        .await
        .unwrap()
}

pub(crate) fn request(path: &str, kind: &str, body: impl Into<Body>) -> Request<Body> {
    let request = Request::post(path).header("content-type", kind);
    request.body(body.into()).unwrap()
}

pub(crate) async fn respond(request: Request<Body>) -> Response<Body> {
    static APP: LazyLock<axum::Router> =
        LazyLock::new(|| router(serve(Engine::load(&tiny_dir()).unwrap())));
    APP.clone().oneshot(request).await.unwrap()
}

pub(crate) async fn ok(response: Response<Body>) -> Value {
    let status = response.status();
    let body = text(response).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    parse(&body)
}

pub(crate) async fn error(response: Response<Body>, status: StatusCode) -> Value {
    assert_eq!(response.status(), status);
    parse(&text(response).await)["error"].take()
}

/// The data of the events of a stream.
pub(crate) async fn events(response: Response<Body>) -> Vec<String> {
    assert_eq!(response.status(), StatusCode::OK);
    let text = text(response).await;
    let events = text
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("data: "));
    events.map(str::to_owned).collect()
}

pub(crate) async fn text(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

pub(crate) fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}
