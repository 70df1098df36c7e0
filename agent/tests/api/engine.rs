//! What is said of the engine, and of its answers all together.

use agent::api::router;
use axum::body::Body;
use axum::http::{Request, StatusCode};
use futures_util::StreamExt as _;
use inference::{Engine, Limits};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::served::{
    chat, error, events, get, ok, recite, request, send, serve, text, tiny_dir, with,
};

#[tokio::test]
async fn every_response_has_an_id_of_its_own() {
    let mut ids = Vec::new();
    for response in [
        get("/v1/models").await,
        get("/nothing").await,
        chat(json!({})).await,
    ] {
        let id = response.headers()["x-request-id"]
            .to_str()
            .unwrap()
            .to_owned();
        assert!(id.starts_with("req_") && id.len() == 36);
        ids.push(id);
    }
    ids.dedup();
    assert_eq!(ids.len(), 3);
}

#[tokio::test]
async fn a_busy_engine_says_when_to_come_back() {
    let limits = Limits {
        batch: 1,
        queue: 1,
        ..Limits::default()
    };
    let app = router(serve(Engine::load_with(&tiny_dir(), limits).unwrap()));
    let endless = with(
        json!({
            "model": "cocoon-tiny",
            "messages": [{"role": "user", "content": "Tell me everything about Mr. Darcy."}],
        }),
        "stream",
        json!(true),
    );
    let send = |body: Value| {
        app.clone().oneshot(request(
            "/v1/chat/completions",
            "application/json",
            body.to_string(),
        ))
    };
    let first = send(endless.clone()).await.unwrap();
    let mut first = first.into_body().into_data_stream();
    // The role comes at once, the first word when the request has left the queue.
    first.next().await.unwrap().unwrap();
    first.next().await.unwrap().unwrap();
    let second = send(endless.clone()).await.unwrap();
    assert_eq!(second.status(), StatusCode::OK);
    let third = send(endless).await.unwrap();
    assert_eq!(third.headers()["retry-after"], "1");
    let error = error(third, StatusCode::TOO_MANY_REQUESTS).await;
    assert_eq!(error["code"], "rate_limit_exceeded");
    // A client that goes makes room.
    drop(first);
    assert_eq!(events(second).await.last().unwrap(), "[DONE]");
}

#[tokio::test]
async fn counts_are_told_and_no_content() {
    let app = router(serve(Engine::load(&tiny_dir()).unwrap()));
    let ask = |path: &str| {
        app.clone()
            .oneshot(Request::get(path).body(Body::empty()).unwrap())
    };
    assert_eq!(
        ok(ask("/health").await.unwrap()).await,
        json!({"status": "ok"})
    );
    ok(send(app.clone(), "/v1/chat/completions", recite()).await).await;
    text(ask("/secret").await.unwrap()).await;
    let counts = text(ask("/metrics").await.unwrap()).await;
    for line in [
        "# TYPE cocoon_responses_total counter",
        "cocoon_responses_total{path=\"/v1/chat/completions\",status=\"200\"} 1",
        "cocoon_responses_total{path=\"other\",status=\"404\"} 1",
        "cocoon_tokens_total{model=\"cocoon-tiny\",kind=\"answer\"} 0",
    ] {
        assert!(counts.lines().any(|found| found == line), "{counts}");
    }
    assert!(!counts.contains("secret"));
}
