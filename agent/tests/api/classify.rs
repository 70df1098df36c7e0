//! `/v1/classify`: labels of images.

use std::sync::LazyLock;

use axum::http::StatusCode;
use inference::Engine;
use serde_json::{Value, json};

use crate::served::{alone, error, ok, picture, reference, send, with};

#[tokio::test]
async fn an_image_gets_its_likeliest_labels() {
    let body = json!({"model": "vit", "input": picture(), "top_k": 2, "user": "u"});
    let answer = ok(send(vit(), "/v1/classify", body.clone()).await).await;
    assert_eq!(
        (&answer["object"], &answer["model"]),
        (&json!("list"), &json!("vit"))
    );
    let data = &answer["data"][0];
    assert_eq!(data["object"], "classification");
    let labels = data["labels"].as_array().unwrap();
    assert_eq!(labels.len(), 2);
    // What transformers gives for it.
    let expected = std::fs::read(reference("vision/vit/expected.json")).unwrap();
    let expected: Value = serde_json::from_slice(&expected).unwrap();
    let logits: Vec<f64> = serde_json::from_value(expected["logits"].clone()).unwrap();
    let total: f64 = logits.iter().map(|logit| logit.exp()).sum();
    let most = logits.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let probability = labels[0]["probability"].as_f64().unwrap();
    assert!((probability - most.exp() / total).abs() < 1e-5);
    let names = [
        "tench",
        "goldfish",
        "great white shark",
        "tiger shark",
        "hammerhead",
    ];
    let place = logits.iter().position(|logit| *logit == most).unwrap();
    assert_eq!(labels[0]["label"], names[place]);

    let several = with(body, "input", json!([picture(), picture()]));
    let several = ok(send(vit(), "/v1/classify", several).await).await;
    assert_eq!(several["data"][1]["index"], 1);
    assert_eq!(several["data"][1]["labels"], data["labels"]);
}

#[tokio::test]
async fn images_that_are_none_are_refused_by_place() {
    let nothing = "expected a 'data:' URL; this machine fetches nothing.";
    for (input, param, code, message) in [
        (
            json!("https://example.com/secret.png"),
            "input",
            "invalid_image_url",
            format!("Invalid value for 'input': {nothing}"),
        ),
        (
            json!([picture(), "HTTP://example.com/secret.png"]),
            "input[1]",
            "invalid_image_url",
            format!("Invalid value for 'input[1]': {nothing}"),
        ),
        (
            json!("file:///etc/secret"),
            "input",
            "invalid_image_url",
            format!("Invalid value for 'input': {nothing}"),
        ),
        (
            json!("data:image/png,secret"),
            "input",
            "invalid_image_url",
            "Invalid value for 'input': expected an image in base64.".into(),
        ),
        (
            json!("data:image/png;base64,secret"),
            "input",
            "invalid_image_url",
            "Invalid value for 'input': expected an image in base64.".into(),
        ),
        (
            json!("data:image/png;base64,c2VjcmV0"),
            "input",
            "image_parse_error",
            "The image has an unknown format, expected PNG, JPEG or WebP.".into(),
        ),
        (
            json!([picture(), picture().split_at(622).0]),
            "input[1]",
            "image_parse_error",
            "The image cannot be decoded.".into(),
        ),
        (
            json!([]),
            "input",
            "empty_array",
            "Input is empty, expected at least one.".into(),
        ),
        (
            json!(vec![black(); 3]),
            "input",
            "invalid_value",
            "Invalid value for 'input': expected images of at most 33554432 pixels in all.".into(),
        ),
        (
            json!(vec![picture(); 9]),
            "input",
            "invalid_value",
            "Invalid value for 'input': expected at most 8 images.".into(),
        ),
    ] {
        let body = json!({"model": "vit", "input": input});
        let response = send(vit(), "/v1/classify", body).await;
        let error = error(response, StatusCode::BAD_REQUEST).await;
        assert_eq!(error["message"], message);
        assert_eq!(
            (&error["param"], &error["code"]),
            (&json!(param), &json!(code))
        );
    }
    let body = json!({"model": "vit", "input": picture(), "top_k": 0});
    let error = error(
        send(vit(), "/v1/classify", body).await,
        StatusCode::BAD_REQUEST,
    )
    .await;
    assert_eq!(error["param"], "top_k");
}

/// One whose header says that it is as large as an image may be.
fn black() -> String {
    use base64::Engine as _;
    let mut webp = b"RIFF\x12\0\0\0WEBPVP8L\x05\0\0\0\x2f".to_vec();
    // Two times 14 bits: width and height, less one.
    webp.extend((4095_u32 | 4095 << 14).to_le_bytes());
    webp.push(0);
    let bytes = base64::prelude::BASE64_STANDARD.encode(webp);
    format!("data:image/webp;base64,{bytes}")
}

fn vit() -> axum::Router {
    static APP: LazyLock<axum::Router> =
        LazyLock::new(|| alone("vit", Engine::load(&reference("vision/vit")).unwrap()));
    APP.clone()
}
