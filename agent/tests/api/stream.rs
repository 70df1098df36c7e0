//! Answers of a chat, as they come.

use std::time::Duration;

use agent::api::router;
use axum::http::StatusCode;
use inference::{Engine, Limits};
use serde_json::{Value, json};
use tower::ServiceExt as _;

use crate::served::{GENESIS, chat, error, events, parse, recite, request, serve, tiny_dir, with};

#[tokio::test]
async fn a_stream_begins_with_the_role_and_ends_with_done() {
    let response = chat(with(recite(), "stream", json!(true))).await;
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let chunks = events(response).await;
    let (last, chunks) = chunks.split_last().unwrap();
    assert_eq!(last, "[DONE]");
    let chunks: Vec<Value> = chunks.iter().map(|chunk| parse(chunk)).collect();
    for chunk in &chunks {
        assert_eq!(chunk["object"], "chat.completion.chunk");
        assert_eq!(chunk["id"], chunks[0]["id"]);
        assert_eq!(chunk.get("usage"), None);
    }
    let delta = |chunk: &Value| chunk["choices"][0]["delta"].clone();
    assert_eq!(
        delta(&chunks[0]),
        json!({"role": "assistant", "content": ""})
    );
    let text: String = chunks
        .iter()
        .filter_map(|chunk| delta(chunk)["content"].as_str().map(str::to_owned))
        .collect();
    assert_eq!(text, GENESIS);
    let end = chunks.last().unwrap();
    assert_eq!(delta(end), json!({}));
    assert_eq!(end["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn usage_in_a_stream_is_null_but_for_its_own_chunk() {
    let body = with(recite(), "stream", json!(true));
    let body = with(body, "stream_options", json!({"include_usage": true}));
    let chunks = events(chat(body).await).await;
    let chunks: Vec<Value> = chunks[..chunks.len() - 1]
        .iter()
        .map(|chunk| parse(chunk))
        .collect();
    let (last, others) = chunks.split_last().unwrap();
    assert_eq!(last["choices"], json!([]));
    assert_eq!(last["usage"]["total_tokens"], 37);
    for chunk in others {
        assert!(chunk.as_object().unwrap().contains_key("usage"));
        assert_eq!(chunk["usage"], Value::Null);
    }
}

#[tokio::test]
async fn choices_of_a_stream_carry_their_index() {
    let body = with(with(recite(), "stream", json!(true)), "n", json!(3));
    let chunks = events(chat(body).await).await;
    let mut texts = [const { String::new() }; 3];
    for chunk in &chunks[..chunks.len() - 1] {
        let choice = &parse(chunk)["choices"][0];
        let index = usize::try_from(choice["index"].as_u64().unwrap()).unwrap();
        texts[index] += choice["delta"]["content"].as_str().unwrap_or_default();
    }
    assert_eq!(texts, [GENESIS; 3]);
}

#[tokio::test]
async fn an_error_after_the_headers_is_an_event() {
    let dir = tempfile::tempdir().unwrap();
    for entry in std::fs::read_dir(tiny_dir()).unwrap() {
        let entry = entry.unwrap();
        if entry.file_name() != "selftest.json" {
            std::os::unix::fs::symlink(entry.path(), dir.path().join(entry.file_name())).unwrap();
        }
    }
    let limits = Limits {
        time: Duration::ZERO,
        ..Limits::default()
    };
    let app = router(serve(Engine::load_with(dir.path(), limits).unwrap()));
    let send = |body: Value| {
        app.clone().oneshot(request(
            "/v1/chat/completions",
            "application/json",
            body.to_string(),
        ))
    };
    let chunks = events(send(with(recite(), "stream", json!(true))).await.unwrap()).await;
    assert_eq!(chunks.len(), 2);
    assert_eq!(parse(&chunks[1])["error"]["code"], "timeout");
    error(send(recite()).await.unwrap(), StatusCode::GATEWAY_TIMEOUT).await;
}
