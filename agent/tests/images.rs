//! Images through the OpenAI API, without a socket.

#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "helpers of tests"
)]

use std::path::Path;
use std::sync::LazyLock;

use agent::api::{Model, Models, router};
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use http_body_util::BodyExt as _;
use inference::{Engine, Limits};
use serde_json::{Value, json};
use tower::ServiceExt as _;

fn engine(limits: Limits) -> axum::Router {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../inference/reference/diffusion");
    router(Models::new([Model {
        name: "draws".into(),
        root: None,
        engine: Engine::load_with(&dir, limits).unwrap(),
    }]))
}

async fn draw(body: &Value) -> Response<Body> {
    static APP: LazyLock<axum::Router> = LazyLock::new(|| engine(Limits::default()));
    send(APP.clone(), body).await
}

async fn send(app: axum::Router, body: &Value) -> Response<Body> {
    let request =
        Request::post("/v1/images/generations").header("content-type", "application/json");
    let request = request.body(Body::from(body.to_string())).unwrap();
    app.oneshot(request).await.unwrap()
}

fn asked(name: &str, value: Value) -> Value {
    let mut body = json!({"model": "draws", "prompt": "a sea", "steps": 2, "seed": 7});
    body[name] = value;
    body
}

async fn json(response: Response<Body>, status: StatusCode) -> Value {
    let found = response.status();
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    assert_eq!(found, status);
    serde_json::from_slice(&bytes).unwrap()
}

#[tokio::test]
async fn images_come_as_png_and_again_for_the_same_seed() {
    let two = json(draw(&asked("n", json!(2))).await, StatusCode::OK).await;
    assert_eq!((&two["size"], &two["seed"]), (&json!("16x16"), &json!(7)));
    assert!(two["created"].as_u64().unwrap() > 1_700_000_000);
    let files = two["data"].as_array().unwrap();
    assert_eq!(files.len(), 2);
    let file = BASE64_STANDARD.decode(files[0]["b64_json"].as_str().unwrap());
    assert!(file.unwrap().starts_with(b"\x89PNG"));
    let body = asked("response_format", json!("b64_json"));
    let one = json(draw(&body).await, StatusCode::OK).await;
    assert_eq!(one["data"][0], two["data"][0]);
    let small = json(draw(&asked("size", json!("8x16"))).await, StatusCode::OK).await;
    assert_eq!(small["size"], "8x16");
}

#[tokio::test]
async fn what_cannot_be_drawn_is_named() {
    for (name, value, code) in [
        ("response_format", json!("url"), "unsupported_parameter"),
        ("output_format", json!("webp"), "unsupported_parameter"),
        ("quality", json!("hd"), "unsupported_parameter"),
        ("size", json!("1024x1024"), "invalid_value"),
        ("size", json!("large"), "invalid_value"),
        ("n", json!(5), "invalid_value"),
        ("steps", json!(1000), "invalid_value"),
        ("guidance_scale", json!(0), "invalid_value"),
        (
            "prompt",
            json!("many words ".repeat(20)),
            "context_length_exceeded",
        ),
        ("prompt", json!(["a"]), "invalid_type"),
        ("lora", json!("x"), "unknown_parameter"),
    ] {
        let error = json(draw(&asked(name, value)).await, StatusCode::BAD_REQUEST).await;
        assert_eq!(error["error"]["param"], name);
        assert_eq!(error["error"]["code"], code, "{name}");
    }
}

#[tokio::test]
async fn a_busy_engine_says_when_to_come_back() {
    let limits = Limits {
        queue: 0,
        ..Limits::default()
    };
    let busy = send(engine(limits), &asked("n", json!(1))).await;
    assert_eq!(busy.headers()["retry-after"], "1");
    json(busy, StatusCode::TOO_MANY_REQUESTS).await;
}
