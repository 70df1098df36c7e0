//! What stands before a gateway: keys, quotas, pages of others, counts.
#![cfg(test)]

use std::net::SocketAddr;

use attestation::register::Digest256;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use axum::routing::{get, post};
use axum::{Json, Router};
use client::gateway::front::Front;
use client::gateway::keys::Keys;
use http_body_util::BodyExt as _;
use serde_json::{Value, json};
use tower::ServiceExt as _;

const KEY: &str = "a long random key";

const OPERATOR: &str = "another long random key";

/// A gateway whose answers take ten tokens, behind a front with two keys.
fn gateway() -> Router {
    let key = |name: &str, key: &str, more: &str| {
        let hash = Digest256::of(key.as_bytes());
        format!(
            "[[key]]\nname = \"{name}\"\nsha256 = \"{hash}\"\nrequests_per_minute = 3\n\
             tokens_per_day = 20\nmodels = [\"small\"]\n{more}"
        )
    };
    let keys = key("bot", KEY, "") + &key("watch", OPERATOR, "operator = true\n");
    let answer = async || Json(json!({ "usage": { "total_tokens": 10 } }));
    let gateway = Router::new()
        .route("/v1/chat/completions", post(answer))
        .route("/v1/models", get(async || "models"));
    let address = SocketAddr::from(([127, 0, 0, 1], 8080));
    let origins = vec!["https://app.example".to_owned()];
    Front::new(address, Some(Keys::parse(&keys).unwrap()), origins).before(gateway)
}

fn chat(model: &str) -> Request<Body> {
    Request::post("/v1/chat/completions")
        .header(header::AUTHORIZATION, format!("Bearer {KEY}"))
        .body(json!({ "model": model }).to_string().into())
        .unwrap()
}

async fn ask(gateway: &Router, request: Request<Body>) -> (StatusCode, Option<u64>, String) {
    let response = gateway.clone().oneshot(request).await.unwrap();
    let (head, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes();
    let retry = head.headers.get(header::RETRY_AFTER);
    let retry = retry.map(|seconds| seconds.to_str().unwrap().parse().unwrap());
    (
        head.status,
        retry,
        String::from_utf8(body.to_vec()).unwrap(),
    )
}

fn error(body: &str) -> (String, String) {
    let body: Value = serde_json::from_str(body).unwrap();
    let text = |name: &str| body["error"][name].as_str().unwrap().to_owned();
    (text("code"), text("type"))
}

#[tokio::test]
async fn nobody_asks_without_a_key() {
    let gateway = gateway();
    for path in [
        "/v1/models",
        "/cocoon/trust",
        "/cocoon/usage",
        "/cocoon/metrics",
    ] {
        let request = Request::get(path).body(Body::empty()).unwrap();
        let (status, _, body) = ask(&gateway, request).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}");
        let expected = ("invalid_api_key".into(), "invalid_request_error".into());
        assert_eq!(error(&body), expected);
    }
    let (status, _, _) = ask(&gateway, chat("small")).await;
    assert_eq!(status, StatusCode::OK);
}

#[tokio::test]
async fn a_key_asks_its_models_and_no_others() {
    let (status, _, body) = ask(&gateway(), chat("large")).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_eq!(error(&body).0, "model_not_found");
}

#[tokio::test]
async fn a_key_that_is_used_up_is_told_until_when() {
    let gateway = gateway();
    for _ in 0..2 {
        assert_eq!(ask(&gateway, chat("small")).await.0, StatusCode::OK);
    }
    let (status, retry, body) = ask(&gateway, chat("small")).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(error(&body).0, "insufficient_quota");
    assert!((1..=86_401).contains(&retry.unwrap()));
}

#[tokio::test]
async fn a_key_that_asks_too_fast_is_told_until_when() {
    let gateway = gateway();
    for _ in 0..3 {
        assert_eq!(ask(&gateway, chat("large")).await.0, StatusCode::NOT_FOUND);
    }
    let (status, retry, body) = ask(&gateway, chat("large")).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    assert_eq!(error(&body).0, "rate_limit_exceeded");
    assert!((1..=21).contains(&retry.unwrap()));
}

#[tokio::test]
async fn pages_of_strangers_cannot_spend_the_users_coins() {
    let gateway = gateway();
    for (origin, expected) in [
        ("https://evil.example", StatusCode::FORBIDDEN),
        ("null", StatusCode::FORBIDDEN),
        ("http://localhost:8080", StatusCode::OK),
        ("https://app.example", StatusCode::OK),
    ] {
        let mut request = chat("small");
        let origin = header::HeaderValue::from_static(origin);
        request.headers_mut().insert(header::ORIGIN, origin.clone());
        let response = gateway.clone().oneshot(request).await.unwrap();
        assert_eq!(response.status(), expected, "{origin:?}");
        let allowed = response.headers().get(header::ACCESS_CONTROL_ALLOW_ORIGIN);
        assert_eq!(allowed.is_some(), expected == StatusCode::OK);
        response.into_body().collect().await.unwrap();
        if expected == StatusCode::FORBIDDEN {
            continue;
        }
        let preflight = Request::options("/v1/chat/completions").header(header::ORIGIN, origin);
        let preflight = preflight.body(Body::empty()).unwrap();
        assert_eq!(ask(&gateway, preflight).await.0, StatusCode::NO_CONTENT);
    }
}

#[tokio::test]
async fn no_name_of_a_strangers_is_shown_what_the_user_spent() {
    let usage = Router::new().route("/cocoon/usage", get(async || "usage"));
    let address = SocketAddr::from(([127, 0, 0, 1], 8080));
    let origins = vec!["https://app.example".to_owned()];
    let gateway = Front::new(address, None, origins).before(usage);
    for (host, expected) in [
        ("evil.example:8080", StatusCode::FORBIDDEN),
        ("evil.example", StatusCode::FORBIDDEN),
        ("localhost:8080", StatusCode::OK),
        ("127.0.0.1:8080", StatusCode::OK),
        ("192.0.2.7:8080", StatusCode::OK),
        ("[::1]:8080", StatusCode::OK),
        ("app.example", StatusCode::OK),
    ] {
        let request = Request::get("/cocoon/usage").header(header::HOST, host);
        let request = request.body(Body::empty()).unwrap();
        assert_eq!(ask(&gateway, request).await.0, expected, "{host}");
    }
}

#[tokio::test]
async fn counts_name_keys_and_nothing_of_what_was_asked() {
    let gateway = gateway();
    ask(&gateway, chat("small")).await;
    ask(&gateway, chat("a secret")).await;
    let metrics = |key: &str| {
        let request = Request::get("/cocoon/metrics");
        let request = request.header(header::AUTHORIZATION, format!("Bearer {key}"));
        request.body(Body::empty()).unwrap()
    };
    let (status, _, body) = ask(&gateway, metrics(KEY)).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_eq!(error(&body).0, "not_an_operator");
    let (status, _, shown) = ask(&gateway, metrics(OPERATOR)).await;
    assert_eq!(status, StatusCode::OK);
    for line in [
        "cocoon_gateway_requests_total{key=\"bot\",status=\"200\"} 1",
        "cocoon_gateway_requests_total{key=\"bot\",status=\"404\"} 1",
        "cocoon_gateway_tokens_total{key=\"bot\"} 10",
    ] {
        assert!(shown.contains(line), "{line}\n{shown}");
    }
    assert!(!shown.contains("secret"));
}

#[tokio::test]
async fn the_page_runs_no_script_but_its_own() {
    let request = Request::get("/").body(Body::empty()).unwrap();
    let response = gateway().oneshot(request).await.unwrap();
    let policy = response.headers()[header::CONTENT_SECURITY_POLICY].clone();
    let policy = policy.to_str().unwrap();
    assert!(policy.starts_with("default-src 'none'; connect-src 'self';"));
    assert!(!policy.contains("unsafe") && !policy.contains('*'));
}
