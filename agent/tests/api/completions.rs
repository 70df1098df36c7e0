//! `/v1/completions`: texts that are continued.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::served::{complete, error, events, ok, parse, with};

#[tokio::test]
async fn a_text_is_continued_without_a_template() {
    let ids = [1, 363, 270, 267];
    let body = json!({"model": "cocoon-tiny", "prompt": "In the beginning", "max_tokens": 4});
    let whole = ok(complete(body.clone()).await).await;
    assert!(whole["id"].as_str().unwrap().starts_with("cmpl-"));
    assert_eq!(whole["object"], "text_completion");
    assert_eq!(whole["usage"]["completion_tokens"], 4);
    let choice = &whole["choices"][0];
    assert_eq!(choice["finish_reason"], "length");
    let text = choice["text"].as_str().unwrap();
    let echoed = ok(complete(with(body.clone(), "echo", json!(true))).await).await;
    assert_eq!(
        echoed["choices"][0]["text"],
        format!("In the beginning{text}")
    );

    let several = json!(["In the beginning", "And it came to pass"]);
    let body = with(body, "prompt", several);
    let both = ok(complete(with(body.clone(), "n", json!(2))).await).await;
    let texts: Vec<_> = (0..4)
        .map(|index| both["choices"][index]["text"].clone())
        .collect();
    assert_eq!((&texts[0], &texts[2]), (&texts[1], &texts[3]));
    assert_eq!(texts[0], text);
    assert_ne!(texts[0], texts[2]);
    assert_eq!(both["usage"]["completion_tokens"], 16);
    for prompt in [json!(ids), json!([ids])] {
        ok(complete(with(body.clone(), "prompt", prompt)).await).await;
    }

    let body = with(with(body, "stream", json!(true)), "echo", json!(true));
    let chunks = events(complete(body).await).await;
    let mut streamed = [const { String::new() }; 2];
    for chunk in &chunks[..chunks.len() - 1] {
        let choice = &parse(chunk)["choices"][0];
        let index = usize::try_from(choice["index"].as_u64().unwrap()).unwrap();
        streamed[index] += choice["text"].as_str().unwrap();
    }
    assert_eq!(streamed[0], format!("In the beginning{text}"));
}

#[tokio::test]
async fn a_continued_text_has_probabilities_in_the_old_shape() {
    let body = json!({
        "model": "cocoon-tiny", "prompt": "In the beginning", "max_tokens": 5,
        "temperature": 0, "logprobs": 2,
    });
    let whole = ok(complete(body).await).await;
    let choice = &whole["choices"][0];
    let list = |name: &str| choice["logprobs"][name].as_array().unwrap().clone();
    let tokens: Vec<_> = list("tokens")
        .iter()
        .map(|token| token.as_str().unwrap().to_owned())
        .collect();
    assert_eq!(tokens.concat(), choice["text"].as_str().unwrap());
    let mut offset = 0;
    for (index, token) in tokens.iter().enumerate() {
        assert_eq!(list("text_offset")[index], offset);
        offset += token.chars().count();
        let top = list("top_logprobs")[index].as_object().unwrap().clone();
        assert_eq!(top.len(), 2);
        assert_eq!(top[token], list("token_logprobs")[index]);
    }
}

#[tokio::test]
async fn what_is_wrong_with_a_text_is_named() {
    for (name, value, code) in [
        ("prompt", Value::Null, "missing_required_parameter"),
        ("prompt", json!(""), "empty_array"),
        ("prompt", json!([]), "invalid_value"),
        ("prompt", json!([[]]), "empty_array"),
        ("prompt", json!(["a", 1]), "invalid_type"),
        ("prompt", json!([3072]), "invalid_value"),
        (
            "prompt",
            json!("a ".repeat(2000)),
            "context_length_exceeded",
        ),
        ("prompt", json!(vec!["a"; 33]), "invalid_value"),
        ("suffix", json!("x"), "unsupported_parameter"),
        ("best_of", json!(2), "unsupported_parameter"),
        ("logprobs", json!(6), "invalid_value"),
        ("messages", json!([]), "unknown_parameter"),
    ] {
        let body = with(
            json!({"model": "cocoon-tiny", "prompt": "x"}),
            name,
            value.clone(),
        );
        let error = error(complete(body).await, StatusCode::BAD_REQUEST).await;
        assert_eq!(
            (&error["param"], &error["code"]),
            (&json!(name), &json!(code)),
            "{value}"
        );
    }
    let body = json!({"model": "cocoon-tiny", "prompt": "x", "echo": true, "logprobs": 1});
    let error = error(complete(body).await, StatusCode::BAD_REQUEST).await;
    assert_eq!(error["code"], "unsupported_parameter");
}
