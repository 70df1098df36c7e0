//! `/v1/images/generations`.

use std::sync::LazyLock;

use axum::body::Body;
use axum::http::{Response, StatusCode};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use inference::{Engine, Limits};
use serde_json::{Value, json};

use crate::served::{alone, error, ok, reference, send, with};

fn engine(limits: Limits) -> axum::Router {
    alone(
        "draws",
        Engine::load_with(&reference("diffusion"), limits).unwrap(),
    )
}

async fn draw(name: &str, value: Value) -> Response<Body> {
    static APP: LazyLock<axum::Router> = LazyLock::new(|| engine(Limits::default()));
    send(APP.clone(), PATH, with(asked(), name, value)).await
}

fn asked() -> Value {
    json!({"model": "draws", "prompt": "a sea", "steps": 2, "seed": 7})
}

const PATH: &str = "/v1/images/generations";

#[tokio::test]
async fn images_come_as_png_and_again_for_the_same_seed() {
    let two = ok(draw("n", json!(2)).await).await;
    assert_eq!((&two["size"], &two["seed"]), (&json!("16x16"), &json!(7)));
    assert!(two["created"].as_u64().unwrap() > 1_700_000_000);
    let files = two["data"].as_array().unwrap();
    assert_eq!(files.len(), 2);
    let file = BASE64_STANDARD.decode(files[0]["b64_json"].as_str().unwrap());
    assert!(file.unwrap().starts_with(b"\x89PNG"));
    let one = ok(draw("response_format", json!("b64_json")).await).await;
    assert_eq!(one["data"][0], two["data"][0]);
    let small = ok(draw("size", json!("8x16")).await).await;
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
        let error = error(draw(name, value).await, StatusCode::BAD_REQUEST).await;
        assert_eq!(error["param"], name);
        assert_eq!(error["code"], code, "{name}");
    }
}

#[tokio::test]
async fn a_busy_engine_says_when_to_come_back() {
    let limits = Limits {
        queue: 0,
        ..Limits::default()
    };
    let busy = send(engine(limits), PATH, asked()).await;
    assert_eq!(busy.headers()["retry-after"], "1");
    error(busy, StatusCode::TOO_MANY_REQUESTS).await;
}
