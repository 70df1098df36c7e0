//! `/v1/embeddings`.

use std::path::{Path, PathBuf};

use axum::http::StatusCode;
use inference::Engine;
use serde_json::{Value, json};

use crate::served::{alone, error, ok, send, with};

#[tokio::test]
async fn embeddings_come_as_numbers_or_as_base64() {
    let Some(app) = minilm() else { return };
    let body = json!({"model": "minilm", "input": ["a happy person", "a happy dog"], "user": "u"});
    let numbers = send(app.clone(), "/v1/embeddings", body.clone()).await;
    let numbers = ok(numbers).await;
    assert_eq!(
        numbers["usage"],
        json!({"prompt_tokens": 10, "total_tokens": 10})
    );
    assert_eq!(numbers["data"][1]["index"], 1);
    let body = with(body, "encoding_format", json!("base64"));
    let coded = ok(send(app, "/v1/embeddings", body).await).await;
    for (numbers, coded) in (0..2).map(|i| (&numbers["data"][i], &coded["data"][i])) {
        use base64::Engine as _;
        let coded = coded["embedding"].as_str().unwrap();
        let bytes = base64::prelude::BASE64_STANDARD.decode(coded).unwrap();
        let (coded, rest) = bytes.as_chunks::<4>();
        assert!(rest.is_empty() && coded.len() == 384);
        for (number, coded) in numbers["embedding"].as_array().unwrap().iter().zip(coded) {
            let difference = number.as_f64().unwrap() - f64::from(f32::from_le_bytes(*coded));
            assert!(difference.abs() < 1e-6);
        }
    }
}

#[tokio::test]
async fn tokens_are_embedded_as_the_text_that_they_are_and_vectors_are_shortened() {
    let Some(app) = minilm() else { return };
    let body = json!({"model": "minilm", "input": "happy"});
    let text = ok(send(app.clone(), "/v1/embeddings", body.clone()).await).await;
    let ids = with(body.clone(), "input", json!([[3407]]));
    let ids = ok(send(app.clone(), "/v1/embeddings", ids).await).await;
    assert_eq!(text["data"], ids["data"]);
    let short = with(body, "dimensions", json!(8));
    let short = ok(send(app, "/v1/embeddings", short).await).await;
    let numbers = |answer: &Value| -> Vec<f64> {
        let numbers = answer["data"][0]["embedding"].as_array().unwrap();
        numbers.iter().map(|x| x.as_f64().unwrap()).collect()
    };
    let (long, short) = (numbers(&text), numbers(&short));
    let length = long[..8].iter().map(|x| x * x).sum::<f64>().sqrt();
    assert_eq!(short.len(), 8);
    for (short, long) in short.iter().zip(long) {
        assert!((short - long / length).abs() < 1e-6);
    }
}

#[tokio::test]
async fn embeddings_that_cannot_be_are_refused_by_name() {
    let Some(app) = minilm() else { return };
    for (name, value, param, code) in [
        ("input", json!([1, 99_999]), "input", "invalid_value"),
        ("input", json!([[]]), "input", "empty_array"),
        ("input", json!([1, "x"]), "input", "invalid_type"),
        ("input", json!([]), "input", "empty_array"),
        (
            "input",
            json!("dog ".repeat(300)),
            "input",
            "context_length_exceeded",
        ),
        ("input", json!(vec!["x"; 2049]), "input", "invalid_value"),
        ("dimensions", json!(385), "dimensions", "invalid_value"),
        (
            "encoding_format",
            json!("hex"),
            "encoding_format",
            "invalid_value",
        ),
        ("top_p", json!(1), "top_p", "unknown_parameter"),
    ] {
        let body = with(json!({"model": "minilm", "input": "x"}), name, value);
        let response = send(app.clone(), "/v1/embeddings", body).await;
        let error = error(response, StatusCode::BAD_REQUEST).await;
        assert_eq!(
            (&error["param"], &error["code"]),
            (&json!(param), &json!(code))
        );
    }
}

fn minilm() -> Option<axum::Router> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let dir = std::env::var_os("COCOON_MODELS").map_or(root.join("target/models"), PathBuf::from);
    let dir = dir.join("minilm");
    if !dir.exists() {
        assert!(
            std::env::var_os("CI").is_none(),
            "{} is missing",
            dir.display()
        );
        eprintln!("skipped: no {}", dir.display());
        return None;
    }
    Some(alone("minilm", Engine::load(&dir).unwrap()))
}
