//! Bodies that are not read.

use axum::http::StatusCode;
use serde_json::json;

use crate::served::{chat, error, ok, post, recite, with};

#[tokio::test]
async fn a_body_that_is_no_json_object_is_refused_without_repeating_it() {
    let deep = "[".repeat(100_000);
    for (body, line) in [
        ("{\"secret\": tru}", 1),
        ("{\n\"a\"", 2),
        ("[]", 1),
        (deep.as_str(), 1),
        ("\u{7f}", 1),
    ] {
        let response = post("/v1/chat/completions", "application/json", body.to_owned()).await;
        let error = error(response, StatusCode::BAD_REQUEST).await;
        let message = error["message"].as_str().unwrap();
        let begin = format!("The body is not a JSON object: see line {line}, column ");
        assert!(message.starts_with(&begin), "{message}");
        assert!(!message.contains("secret"));
    }
}

#[tokio::test]
async fn bytes_that_are_no_text_are_refused() {
    let body = b"{\"model\": \"\xff\"}".to_vec();
    let response = post("/v1/chat/completions", "application/json", body).await;
    error(response, StatusCode::BAD_REQUEST).await;
}

#[tokio::test]
async fn only_json_is_read() {
    for kind in ["text/plain", "application/x-www-form-urlencoded", ""] {
        let response = post("/v1/chat/completions", kind, recite().to_string()).await;
        let error = error(response, StatusCode::UNSUPPORTED_MEDIA_TYPE).await;
        assert_eq!(error["code"], "unsupported_media_type");
    }
    let kind = "Application/JSON; charset=utf-8";
    ok(post("/v1/chat/completions", kind, recite().to_string()).await).await;
}

#[tokio::test]
async fn a_body_over_the_limit_is_refused() {
    let body = with(recite(), "user", json!("x".repeat(4 << 20)));
    let error = error(chat(body).await, StatusCode::PAYLOAD_TOO_LARGE).await;
    assert_eq!(error["code"], "request_too_large");
}
