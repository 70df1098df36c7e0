//! How large the events of a stream are.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use agent::receipts::Ledger;
use axum::http::StatusCode;
use inference::Bounds;
use serde_json::{Value, json};

use crate::served::{error, parse, post, recite, request, respond, text, user, weather, with};

/// Of each event that has a part of what is said: its size, but for its number, and that
/// part's.
async fn sizes(path: &str, body: Value) -> (BTreeSet<usize>, BTreeSet<usize>) {
    let body = with(body, "stream", json!(true)).to_string();
    let answer = text(post(path, "application/json", body).await).await;
    let (mut whole, mut said) = (BTreeSet::new(), BTreeSet::new());
    for line in answer.lines().filter(|line| line.starts_with("data: {")) {
        let event = parse(line.strip_prefix("data: ").unwrap());
        let choice = &event["choices"][0];
        let call = &choice["delta"]["tool_calls"][0];
        let parts = [
            &event["delta"],
            &choice["delta"]["content"],
            &choice["text"],
            &call["function"]["arguments"],
        ];
        let part = parts.iter().find_map(|part| part.as_str());
        let Some(part) = part.filter(|part| !part.is_empty()) else {
            continue;
        };
        said.insert(part.len());
        let number = event["sequence_number"].as_u64();
        let number = number.map_or(0, |number| number.to_string().len());
        whole.insert(line.len() - number);
    }
    (whole, said)
}

/// What is asked at each place: words, and a call.
fn asked() -> [(&'static str, Value); 5] {
    let call = json!({"type": "function", "function": {"name": "weather"}});
    let calls = with(recite(), "messages", user(json!("How is Oslo?")));
    let calls = with(with(calls, "tools", weather()), "tool_choice", call);
    let mut tool = weather()[0]["function"].take();
    tool["type"] = json!("function");
    [
        ("/v1/chat/completions", recite()),
        ("/v1/chat/completions", calls),
        (
            "/v1/completions",
            json!({"model": "cocoon-tiny", "prompt": "In the beginning", "max_tokens": 40}),
        ),
        (
            "/v1/responses",
            json!({"model": "cocoon-tiny", "input": "Recite Genesis 1:1."}),
        ),
        (
            "/v1/responses",
            json!({"model": "cocoon-tiny", "input": "How is Oslo?", "tools": [tool],
                "tool_choice": {"type": "function", "name": "weather"}}),
        ),
    ]
}

#[tokio::test]
async fn tokens_of_any_length_make_events_of_one_size() {
    for (path, body) in asked() {
        let (whole, said) = sizes(path, body.clone()).await;
        assert!(said.len() > 1, "{path}: {said:?}");
        assert_eq!(whole.len(), 1, "{path}: {whole:?} for {said:?}");

        let open = json!({"include_obfuscation": false});
        let (whole, said) = sizes(path, with(body, "stream_options", open)).await;
        assert!(whole.len() >= said.len(), "{path}: {whole:?} for {said:?}");
    }
}

#[tokio::test]
async fn what_is_no_choice_of_padding_is_refused() {
    for (path, body) in asked() {
        let body = with(body, "stream", json!(true));
        let body = with(body, "stream_options", json!({"include_obfuscation": "no"}));
        let response = post(path, "application/json", body.to_string()).await;
        let error = error(response, StatusCode::BAD_REQUEST).await;
        assert_eq!(error["param"], "stream_options.include_obfuscation");
    }
}

/// Their chunks are of few sizes anyhow.
#[tokio::test]
async fn sealed_answers_are_padded_only_on_demand() {
    let until = Instant::now() + Duration::from_secs(600);
    for (options, padded) in [
        (Value::Null, false),
        (json!({"include_obfuscation": true}), true),
    ] {
        for (path, body) in asked() {
            let body = with(
                with(body, "stream", json!(true)),
                "stream_options",
                options.clone(),
            );
            let mut request = request(path, "application/json", body.to_string());
            let bounds = Bounds {
                tokens: 1000,
                until,
            };
            request
                .extensions_mut()
                .insert(Ledger::within(bounds, None));
            let answer = text(respond(request).await).await;
            assert_eq!(answer.contains("\"obfuscation\""), padded, "{path}");
        }
    }
}
