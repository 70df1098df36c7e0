//! Images that a message shows.

use std::sync::LazyLock;

use axum::http::StatusCode;
use inference::Engine;
use serde_json::{Value, json};

use crate::served::{alone, chat, error, ok, picture, reference, send, with};

#[tokio::test]
async fn a_message_may_show_an_image_to_a_model_that_sees() {
    let parts = json!([shows(&picture()), {"type": "text", "text": "What is 15?"}]);
    let answer = ok(send(llava(), "/v1/chat/completions", shown(&parts)).await).await;
    // What transformers answers.
    let content = &answer["choices"][0]["message"]["content"];
    assert_eq!(content, "#I=9Do#I=11lphLHpfd");
    assert_eq!(answer["usage"]["prompt_tokens"], 44);
}

#[tokio::test]
async fn parts_that_cannot_be_shown_are_refused_by_place() {
    let text = json!({"type": "text", "text": "What is 15?"});
    let nothing = "expected a 'data:' URL; this machine fetches nothing.";
    let url = "messages[0].content[1].image_url.url";
    for (parts, param, message) in [
        (
            json!([text, shows("https://example.com/secret.png")]),
            url,
            format!("Invalid value for '{url}': {nothing}"),
        ),
        (
            json!([text, shows("data:image/png;base64,c2VjcmV0")]),
            url,
            "The image has an unknown format, expected PNG, JPEG or WebP.".into(),
        ),
        (
            json!([text, {"type": "image_url", "image_url": picture()}]),
            "messages[0].content[1].image_url",
            "Invalid type for 'messages[0].content[1].image_url': expected an object.".into(),
        ),
        (
            json!([text, {"type": "input_audio"}]),
            "messages[0].content[1].type",
            "Invalid value for 'messages[0].content[1].type': this model takes 'text' and 'image_url' only.".into(),
        ),
        (
            json!(vec![shows(&picture()); 9]),
            "messages",
            "Invalid value for 'messages': expected at most 8 images.".into(),
        ),
        (
            json!([text, shows(picture().split_at(622).0)]),
            "messages",
            "Image 0: the image cannot be decoded.".into(),
        ),
    ] {
        let response = send(llava(), "/v1/chat/completions", shown(&parts)).await;
        let error = error(response, StatusCode::BAD_REQUEST).await;
        assert_eq!(error["message"], message);
        assert_eq!(error["param"], param);
    }
}

#[tokio::test]
async fn an_image_for_a_model_that_only_reads_is_refused_by_place() {
    let parts = json!([{"type": "text", "text": "x"}, shows(&picture())]);
    let body = with(shown(&parts), "model", json!("cocoon-tiny"));
    let error = error(chat(body).await, StatusCode::BAD_REQUEST).await;
    assert_eq!(error["param"], "messages[0].content[1].type");
}

fn llava() -> axum::Router {
    static APP: LazyLock<axum::Router> = LazyLock::new(|| {
        alone(
            "llava",
            Engine::load(&reference("vision/llava-llama")).unwrap(),
        )
    });
    APP.clone()
}

fn shown(parts: &Value) -> Value {
    json!({
        "model": "llava",
        "messages": [{"role": "user", "content": parts}],
        "temperature": 0,
        "max_tokens": 30,
    })
}

fn shows(url: &str) -> Value {
    json!({"type": "image_url", "image_url": {"url": url, "detail": "low"}})
}
