//! Which models there are, and what is not.

use attestation::aci::Hash;
use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::served::{ROOT, chat, embed, error, get, ok, recite, tiny_dir, with};

#[tokio::test]
async fn models_are_listed_with_their_digests() {
    let list = ok(get("/v1/models").await).await;
    assert_eq!(list["object"], "list");
    let tiny = &list["data"][0];
    assert_eq!(tiny["id"], "cocoon-tiny");
    assert_eq!(tiny["object"], "model");
    assert_eq!(tiny["root"], ROOT);
    // It comes with no manifest.
    assert_eq!(tiny["manifest"], Value::Null);
    assert_eq!(tiny["quant"], "bf16");
    let known = std::fs::read(tiny_dir().join("selftest.json")).unwrap();
    assert_eq!(tiny["self_test"], Hash::of(&known).to_string());
    assert!(tiny["created"].as_u64().unwrap() > 1_700_000_000);
    assert_eq!(ok(get("/v1/models/cocoon-tiny").await).await, *tiny);
}

#[tokio::test]
async fn unknown_models_urls_and_methods_are_told_apart() {
    let body = with(recite(), "model", json!("gpt-x"));
    let unknown = error(chat(body).await, StatusCode::NOT_FOUND).await;
    assert_eq!(
        (&unknown["param"], &unknown["code"]),
        (&json!("model"), &json!("model_not_found"))
    );
    let unknown = error(get("/v1/models/org/name").await, StatusCode::NOT_FOUND).await;
    assert_eq!(unknown["code"], "model_not_found");
    let unknown = error(get("/v1/chat").await, StatusCode::NOT_FOUND).await;
    assert_eq!(unknown["code"], "unknown_url");
    let method = error(
        get("/v1/chat/completions").await,
        StatusCode::METHOD_NOT_ALLOWED,
    )
    .await;
    assert_eq!(method["code"], "method_not_supported");
}

#[tokio::test]
async fn a_model_for_another_task_is_not_found() {
    let body = json!({"model": "cocoon-tiny", "input": "x"});
    let error = error(embed(body).await, StatusCode::NOT_FOUND).await;
    assert_eq!(error["message"], "The model does chat, not embeddings.");
}
