//! The OpenAI API, without a socket.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests"
)]

use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::time::Duration;

use agent::api::{Model, Models, router};
use attestation::aci::Hash;
use axum::body::Body;
use axum::http::{Request, Response, StatusCode};
use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use inference::{Engine, Limits};
use serde_json::{Value, json};
use tower::ServiceExt as _;

const GENESIS: &str = "In the beginning God created the heaven and the earth.";

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
async fn a_whole_answer_has_the_real_shape() {
    let mut answer = ok(chat(recite()).await).await;
    let id = answer["id"].take();
    assert!(id.as_str().unwrap().starts_with("chatcmpl-"));
    assert!(answer["created"].take().as_u64().unwrap() > 1_700_000_000);
    assert_eq!(
        answer,
        json!({
            "id": null,
            "object": "chat.completion",
            "created": null,
            "model": "cocoon-tiny",
            "system_fingerprint": "fp_0123456789ab",
            "choices": [{
                "index": 0,
                "message": {"role": "assistant", "content": GENESIS, "refusal": null},
                "logprobs": null,
                "finish_reason": "stop",
            }],
            "usage": {
                "prompt_tokens": 23,
                "completion_tokens": 14,
                "total_tokens": 37,
                "prompt_tokens_details": {"cached_tokens": 0},
                "completion_tokens_details": {"reasoning_tokens": 0},
            },
        }),
    );
}

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
async fn several_choices_have_seeds_of_their_own_and_one_prompt() {
    let body = json!({
        "model": "cocoon-tiny",
        "messages": [{"role": "user", "content": "Tell me about the house."}],
        "temperature": 1,
        "seed": -1,
        "max_tokens": 20,
        "n": 2,
    });
    let both = ok(chat(body.clone()).await).await;
    let text =
        |answer: &Value, index: usize| answer["choices"][index]["message"]["content"].clone();
    assert_ne!(text(&both, 0), text(&both, 1));
    let second = with(with(body, "seed", json!(0)), "n", json!(1));
    let second = ok(chat(second).await).await;
    assert_eq!(text(&both, 1), text(&second, 0));
    assert_eq!(
        both["usage"]["prompt_tokens"],
        second["usage"]["prompt_tokens"]
    );
    assert_eq!(both["usage"]["completion_tokens"], 40);
}

#[tokio::test]
async fn text_parts_and_the_developer_are_understood() {
    let messages = json!([
        {"role": "user", "content": [
            {"type": "text", "text": "Recite Genesis 1:1."},
        ], "name": "x"},
        {"role": "assistant", "content": GENESIS, "refusal": null, "annotations": []},
        {"role": "user", "content": "Recite Genesis 1:1."},
    ]);
    let answer = ok(chat(with(recite(), "messages", messages)).await).await;
    assert_eq!(answer["choices"][0]["message"]["content"], GENESIS);
    let developer =
        json!([{"role": "developer", "content": "x"}, {"role": "user", "content": "y"}]);
    let body = with(
        with(recite(), "messages", developer),
        "max_tokens",
        json!(1),
    );
    assert_eq!(
        ok(chat(body).await).await["choices"][0]["finish_reason"],
        "length"
    );
}

#[tokio::test]
async fn a_stop_text_may_stand_alone_or_in_a_list() {
    for stop in [json!("God"), json!(["earth", "God"])] {
        let answer = ok(chat(with(recite(), "stop", stop)).await).await;
        let choice = &answer["choices"][0];
        assert_eq!(choice["message"]["content"], "In the beginning ");
        assert_eq!(choice["finish_reason"], "stop");
    }
}

#[tokio::test]
async fn parameters_that_change_nothing_are_accepted() {
    let mut body = recite();
    for (name, value) in [
        ("user", json!("u")),
        ("metadata", json!({"a": "b"})),
        ("store", json!(false)),
        ("temperature", Value::Null),
        ("frequency_penalty", json!(0)),
        ("presence_penalty", json!(0.0)),
        ("logit_bias", json!({})),
        ("response_format", json!({"type": "text"})),
        ("tools", json!([])),
        ("tool_choice", json!("none")),
        ("parallel_tool_calls", json!(true)),
    ] {
        body = with(body, name, value);
    }
    ok(chat(body).await).await;
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    let long = "a ".repeat(2000);
    for (name, value, param, code) in [
        ("model", json!(7), "model", "invalid_type"),
        ("model", Value::Null, "model", "missing_required_parameter"),
        ("messages", json!([]), "messages", "empty_array"),
        ("messages", json!("x"), "messages", "invalid_type"),
        ("messages", json!(["x"]), "messages[0]", "invalid_type"),
        (
            "messages",
            user(json!(7)),
            "messages[0].content",
            "invalid_type",
        ),
        (
            "messages",
            user(json!(long)),
            "messages",
            "context_length_exceeded",
        ),
        (
            "messages",
            json!([{"content": "x"}]),
            "messages[0].role",
            "missing_required_parameter",
        ),
        (
            "messages",
            json!([{"role": "king", "content": "x"}]),
            "messages[0].role",
            "invalid_value",
        ),
        (
            "messages",
            json!([{"role": "assistant", "content": "x", "tool_calls": [{}]}]),
            "messages[0].tool_calls[0].type",
            "missing_required_parameter",
        ),
        (
            "messages",
            json!([{"role": "assistant", "tool_calls": [{"id": "c", "type": "function",
                "function": {"name": "f", "arguments": "[]"}}]}]),
            "messages[0].tool_calls[0].function.arguments",
            "invalid_type",
        ),
        (
            "messages",
            json!([{"role": "tool", "content": "x"}]),
            "messages[0].tool_call_id",
            "missing_required_parameter",
        ),
        (
            "messages",
            user(json!([{"type": "image_url", "image_url": {"url": "data:"}}])),
            "messages[0].content[0].type",
            "invalid_value",
        ),
        ("max_tokens", json!(-1), "max_tokens", "invalid_type"),
        ("max_tokens", json!(0), "max_tokens", "invalid_value"),
        (
            "max_tokens",
            json!(1024),
            "messages",
            "context_length_exceeded",
        ),
        ("temperature", json!(2.1), "temperature", "invalid_value"),
        ("temperature", json!("hot"), "temperature", "invalid_type"),
        ("top_p", json!(1.5), "top_p", "invalid_value"),
        ("n", json!(0), "n", "invalid_value"),
        ("n", json!(9), "n", "invalid_value"),
        ("seed", json!(1.5), "seed", "invalid_type"),
        (
            "stop",
            json!(["a", "b", "c", "d", "e"]),
            "stop",
            "invalid_value",
        ),
        ("stop", json!(7), "stop", "invalid_type"),
        ("stream", json!("yes"), "stream", "invalid_type"),
        (
            "stream_options",
            json!({}),
            "stream_options",
            "invalid_value",
        ),
        (
            "tools",
            json!([{"type": "function"}]),
            "tools[0].function",
            "missing_required_parameter",
        ),
        (
            "tools",
            json!([{"type": "retrieval"}]),
            "tools[0].type",
            "invalid_value",
        ),
        (
            "tools",
            json!([{"type": "function", "function": {"name": "a b"}}]),
            "tools",
            "invalid_value",
        ),
        (
            "tool_choice",
            json!("required"),
            "tool_choice",
            "invalid_value",
        ),
        (
            "tool_choice",
            json!("often"),
            "tool_choice",
            "invalid_value",
        ),
        (
            "response_format",
            json!({"type": "xml"}),
            "response_format.type",
            "invalid_value",
        ),
        (
            "response_format",
            json!({"type": "json_schema", "json_schema": {"name": "x", "schema": {"not": {}}}}),
            "response_format",
            "invalid_json_schema",
        ),
        ("logprobs", json!(5), "logprobs", "invalid_type"),
        ("top_logprobs", json!(5), "top_logprobs", "invalid_value"),
        ("top_k", json!(-1), "top_k", "invalid_type"),
        ("min_p", json!(1.1), "min_p", "invalid_value"),
        (
            "repetition_penalty",
            json!(0),
            "repetition_penalty",
            "invalid_value",
        ),
        (
            "presence_penalty",
            json!(2.1),
            "presence_penalty",
            "invalid_value",
        ),
        (
            "frequency_penalty",
            json!("x"),
            "frequency_penalty",
            "invalid_type",
        ),
        (
            "logit_bias",
            json!({"1": 101}),
            "logit_bias",
            "invalid_value",
        ),
        (
            "logit_bias",
            json!({"king": 1}),
            "logit_bias",
            "invalid_type",
        ),
        ("mirostat", json!(2), "mirostat", "unknown_parameter"),
    ] {
        let body = with(recite(), name, value.clone());
        let error = error(chat(body).await, StatusCode::BAD_REQUEST).await;
        assert_eq!(
            (&error["param"], &error["code"]),
            (&json!(param), &json!(code)),
            "{name} {value}"
        );
        assert_eq!(error["type"], "invalid_request_error");
    }
}

#[tokio::test]
async fn probabilities_come_with_the_tokens_that_make_the_text() {
    let body = with(recite(), "logprobs", json!(true));
    let body = with(body, "top_logprobs", json!(3));
    let whole = ok(chat(body.clone()).await).await;
    let content = whole["choices"][0]["logprobs"]["content"].clone();
    let places = content.as_array().unwrap();
    assert_eq!(places.len(), 13);
    for place in places {
        let top = place["top_logprobs"].as_array().unwrap();
        assert_eq!(top.len(), 3);
        // The answer is greedy.
        assert_eq!(top[0]["token"], place["token"]);
        assert!(place["logprob"].as_f64().unwrap() <= 0.0);
        assert!(top[1]["logprob"].as_f64() <= top[0]["logprob"].as_f64());
    }
    let bytes = places
        .iter()
        .flat_map(|place| place["bytes"].as_array().unwrap());
    let bytes: Vec<_> = bytes
        .map(|byte| u8::try_from(byte.as_u64().unwrap()).unwrap())
        .collect();
    assert_eq!(String::from_utf8(bytes).unwrap(), GENESIS);

    let chunks = events(chat(with(body, "stream", json!(true))).await).await;
    let streamed: Vec<Value> = chunks[..chunks.len() - 1]
        .iter()
        .filter_map(|chunk| {
            parse(chunk)["choices"][0]["logprobs"]["content"]
                .as_array()
                .cloned()
        })
        .flatten()
        .collect();
    assert_eq!(Value::Array(streamed), content);
}

#[tokio::test]
async fn a_call_that_must_be_follows_the_schema_of_its_tool() {
    let body = with(recite(), "tools", weather());
    for (choice, parallel) in [
        (json!("required"), false),
        (json!("required"), true),
        (
            json!({"type": "function", "function": {"name": "weather"}}),
            true,
        ),
    ] {
        let body = with(body.clone(), "tool_choice", choice);
        let body = with(body, "parallel_tool_calls", json!(parallel));
        let whole = ok(chat(body.clone()).await).await;
        let choice = &whole["choices"][0];
        assert_eq!(choice["finish_reason"], "tool_calls");
        assert_eq!(choice["message"]["content"], Value::Null);
        let calls = choice["message"]["tool_calls"].as_array().unwrap();
        assert!(parallel || calls.len() == 1);
        let function = &calls[0]["function"];
        assert_eq!(function["name"], "weather");
        let arguments = parse(function["arguments"].as_str().unwrap());
        assert_eq!(arguments["town"], "Oslo");
        assert!((1..=9).contains(&arguments["days"].as_i64().unwrap()));

        let chunks = events(chat(with(body, "stream", json!(true))).await).await;
        let mut streamed = Vec::<Value>::new();
        for chunk in &chunks[..chunks.len() - 1] {
            let delta = &parse(chunk)["choices"][0]["delta"]["tool_calls"][0];
            if delta["id"].is_string() {
                assert_eq!(delta["index"], streamed.len());
                streamed.push(delta["function"].clone());
            } else if let Some(more) = delta["function"]["arguments"].as_str() {
                let last = streamed.last_mut().unwrap();
                let text = last["arguments"].as_str().unwrap().to_owned() + more;
                last["arguments"] = json!(text);
            }
        }
        let functions: Vec<_> = calls.iter().map(|call| call["function"].clone()).collect();
        assert_eq!(streamed, functions);
    }
}

#[tokio::test]
async fn earlier_calls_and_their_results_are_read() {
    let messages = json!([
        {"role": "user", "content": "How is Oslo?"},
        {"role": "assistant", "content": null, "tool_calls": [{
            "id": "call_1", "type": "function",
            "function": {"name": "weather", "arguments": "{\"town\": \"Oslo\", \"days\": 1}"},
        }]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]);
    let body = with(with(recite(), "messages", messages), "max_tokens", json!(3));
    let without = ok(chat(body.clone()).await).await;
    let with_tools = ok(chat(with(body.clone(), "tools", weather())).await).await;
    let hidden = with(with(body, "tools", weather()), "tool_choice", json!("none"));
    let hidden = ok(chat(hidden).await).await;
    let read = |answer: &Value| answer["usage"]["prompt_tokens"].as_u64().unwrap();
    assert!(read(&with_tools) > read(&without));
    assert_eq!(read(&hidden), read(&without));
}

#[tokio::test]
async fn an_answer_has_the_form_that_was_asked_for_with_every_seed() {
    let schema = json!({
        "type": "object",
        "properties": {"kind": {"enum": ["cat", "dog"]}, "size": {"type": "number"}},
        "required": ["kind", "size"],
    });
    let format = json!({"type": "json_schema", "json_schema": {"name": "pet", "schema": schema}});
    let body = with(recite(), "response_format", format);
    let body = with(with(body, "temperature", json!(1.5)), "n", json!(8));
    let whole = ok(chat(with(body, "seed", json!(1))).await).await;
    for choice in whole["choices"].as_array().unwrap() {
        assert_eq!(choice["finish_reason"], "stop");
        let value = parse(choice["message"]["content"].as_str().unwrap());
        assert!(["cat", "dog"].contains(&value["kind"].as_str().unwrap()));
        assert!(value["size"].is_number());
    }
    let body = with(recite(), "response_format", json!({"type": "json_object"}));
    let whole = ok(chat(with(body, "max_tokens", json!(5))).await).await;
    let text = whole["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(text.starts_with('{'), "{text}");
}

#[tokio::test]
async fn a_response_is_told_in_order() {
    let body =
        json!({"model": "cocoon-tiny", "input": "Recite Genesis 1:1.", "instructions": null});
    let whole = ok(post("/v1/responses", "application/json", body.to_string()).await).await;
    assert_eq!(whole["object"], "response");
    assert_eq!(whole["status"], "completed");
    assert_eq!(whole["output"][0]["content"][0]["text"], GENESIS);
    assert_eq!(whole["usage"]["output_tokens"], 14);

    let body = with(body, "stream", json!(true));
    let response = post("/v1/responses", "application/json", body.to_string()).await;
    let text = text(response).await;
    let mut kinds = Vec::new();
    for (number, event) in text.trim_end().split("\n\n").enumerate() {
        let (kind, data) = event.split_once('\n').unwrap();
        let data = parse(data.strip_prefix("data: ").unwrap());
        assert_eq!(format!("event: {}", data["type"].as_str().unwrap()), kind);
        assert_eq!(data["sequence_number"], number);
        kinds.push(data["type"].as_str().unwrap().to_owned());
    }
    kinds.dedup();
    assert_eq!(
        kinds,
        [
            "response.created",
            "response.in_progress",
            "response.output_item.added",
            "response.content_part.added",
            "response.output_text.delta",
            "response.output_text.done",
            "response.content_part.done",
            "response.output_item.done",
            "response.completed",
        ],
    );
}

#[tokio::test]
async fn a_response_may_call_and_go_on_from_the_result() {
    let mut tool = weather()[0]["function"].take();
    tool["type"] = json!("function");
    let body = json!({
        "model": "cocoon-tiny", "input": "How is Oslo?", "tools": [tool],
        "tool_choice": {"type": "function", "name": "weather"},
    });
    let whole = ok(post("/v1/responses", "application/json", body.to_string()).await).await;
    let call = &whole["output"][0];
    assert_eq!(
        (&call["type"], &call["name"]),
        (&json!("function_call"), &json!("weather"))
    );
    let input = json!([
        {"role": "user", "content": [{"type": "input_text", "text": "How is Oslo?"}]},
        call,
        {"type": "function_call_output", "call_id": call["call_id"], "output": "rain"},
    ]);
    let body = json!({"model": "cocoon-tiny", "input": input, "max_output_tokens": 2});
    let whole = ok(post("/v1/responses", "application/json", body.to_string()).await).await;
    assert_eq!(whole["incomplete_details"]["reason"], "max_output_tokens");
}

#[tokio::test]
async fn what_a_response_cannot_have_is_named() {
    for (name, value, param, code) in [
        ("store", json!(true), "store", "unsupported_parameter"),
        (
            "previous_response_id",
            json!("resp_1"),
            "previous_response_id",
            "unsupported_parameter",
        ),
        ("input", json!(7), "input", "invalid_type"),
        ("input", json!([]), "input", "empty_array"),
        (
            "input",
            json!([{"type": "item_reference"}]),
            "input[0].type",
            "invalid_value",
        ),
        (
            "input",
            json!("a ".repeat(2000)),
            "input",
            "context_length_exceeded",
        ),
        (
            "max_output_tokens",
            json!(0),
            "max_output_tokens",
            "invalid_value",
        ),
        (
            "tools",
            json!([{"type": "web_search"}]),
            "tools[0].type",
            "invalid_value",
        ),
        ("messages", json!([]), "messages", "unknown_parameter"),
    ] {
        let body = with(json!({"model": "cocoon-tiny", "input": "x"}), name, value);
        let response = post("/v1/responses", "application/json", body.to_string()).await;
        let error = error(response, StatusCode::BAD_REQUEST).await;
        assert_eq!(
            (&error["param"], &error["code"]),
            (&json!(param), &json!(code))
        );
    }
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

#[tokio::test]
async fn a_stop_text_has_no_probabilities() {
    let body = with(
        with(recite(), "logprobs", json!(true)),
        "stop",
        json!(" God"),
    );
    let whole = ok(chat(body).await).await;
    assert_eq!(
        whole["choices"][0]["message"]["content"],
        "In the beginning"
    );
    let places = whole["choices"][0]["logprobs"]["content"]
        .as_array()
        .unwrap();
    let text: String = places
        .iter()
        .map(|place| place["token"].as_str().unwrap())
        .collect();
    assert_eq!(text, "In the beginning");
}

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
        ("prompt", json!(vec!["a"; 129]), "invalid_value"),
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

#[tokio::test]
async fn two_names_for_one_limit_exclude_each_other() {
    let body = with(recite(), "max_tokens", json!(5));
    let body = with(body, "max_completion_tokens", json!(5));
    let error = error(chat(body).await, StatusCode::BAD_REQUEST).await;
    assert_eq!(error["code"], "invalid_parameter_combination");
}

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

/// The image that reference/vision.py has seen too.
fn picture() -> String {
    use base64::Engine as _;
    let path = vision("image.png");
    let bytes = base64::prelude::BASE64_STANDARD.encode(std::fs::read(path).unwrap());
    format!("data:image/png;base64,{bytes}")
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

fn vision(name: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    root.join("inference/reference/vision").join(name)
}

fn vit() -> axum::Router {
    static MODELS: LazyLock<Models> = LazyLock::new(|| {
        Models::new([Model {
            name: "vit".into(),
            root: None,
            engine: Engine::load(&vision("vit")).unwrap(),
        }])
    });
    router(MODELS.clone())
}

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
    let expected = std::fs::read(vision("vit/expected.json")).unwrap();
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

fn llava() -> axum::Router {
    static MODELS: LazyLock<Models> = LazyLock::new(|| {
        Models::new([Model {
            name: "llava".into(),
            root: None,
            engine: Engine::load(&vision("llava-llama")).unwrap(),
        }])
    });
    router(MODELS.clone())
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

const ROOT: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

fn tiny_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../inference/models/cocoon-tiny")
}

fn serve(engine: Engine) -> Models {
    Models::new([Model {
        name: "cocoon-tiny".into(),
        root: Some(ROOT.into()),
        engine,
    }])
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
    Some(router(Models::new([Model {
        name: "minilm".into(),
        root: None,
        engine: Engine::load(&dir).unwrap(),
    }])))
}

fn recite() -> Value {
    json!({"model": "cocoon-tiny", "messages": user(json!("Recite Genesis 1:1."))})
}

fn weather() -> Value {
    json!([{"type": "function", "function": {
        "name": "weather",
        "description": "The weather of a town.",
        "strict": true,
        "parameters": {
            "type": "object",
            "properties": {
                "town": {"const": "Oslo"},
                "days": {"type": "integer", "minimum": 1, "maximum": 9},
            },
            "required": ["town", "days"],
            "additionalProperties": false,
        },
    }}])
}

fn user(content: Value) -> Value {
    json!([{"role": "user", "content": content}])
}

fn with(mut body: Value, name: &str, value: Value) -> Value {
    body[name] = value;
    body
}

async fn get(path: &str) -> Response<Body> {
    respond(Request::get(path).body(Body::empty()).unwrap()).await
}

async fn chat(body: Value) -> Response<Body> {
    post("/v1/chat/completions", "application/json", body.to_string()).await
}

async fn complete(body: Value) -> Response<Body> {
    post("/v1/completions", "application/json", body.to_string()).await
}

async fn embed(body: Value) -> Response<Body> {
    post("/v1/embeddings", "application/json", body.to_string()).await
}

async fn post(path: &str, kind: &str, body: impl Into<Body>) -> Response<Body> {
    respond(request(path, kind, body)).await
}

async fn send(app: axum::Router, path: &str, body: Value) -> Response<Body> {
    app.oneshot(request(path, "application/json", body.to_string()))
        .await
        .unwrap()
}

fn request(path: &str, kind: &str, body: impl Into<Body>) -> Request<Body> {
    let request = Request::post(path).header("content-type", kind);
    request.body(body.into()).unwrap()
}

async fn respond(request: Request<Body>) -> Response<Body> {
    static APP: LazyLock<axum::Router> =
        LazyLock::new(|| router(serve(Engine::load(&tiny_dir()).unwrap())));
    APP.clone().oneshot(request).await.unwrap()
}

async fn ok(response: Response<Body>) -> Value {
    let status = response.status();
    let body = text(response).await;
    assert_eq!(status, StatusCode::OK, "{body}");
    parse(&body)
}

async fn error(response: Response<Body>, status: StatusCode) -> Value {
    assert_eq!(response.status(), status);
    parse(&text(response).await)["error"].take()
}

/// The data of the events of a stream.
async fn events(response: Response<Body>) -> Vec<String> {
    assert_eq!(response.status(), StatusCode::OK);
    let text = text(response).await;
    let events = text
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("data: "));
    events.map(str::to_owned).collect()
}

async fn text(response: Response<Body>) -> String {
    let bytes = response.into_body().collect().await.unwrap().to_bytes();
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn parse(text: &str) -> Value {
    serde_json::from_str(text).unwrap()
}
