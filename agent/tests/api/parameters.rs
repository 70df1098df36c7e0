//! What a request for a chat cannot have.

use axum::http::StatusCode;
use serde_json::{Value, json};

use crate::served::{chat, error, recite, user, with};

#[tokio::test]
async fn what_is_wrong_is_named() {
    let long = "a ".repeat(2000);
    for (name, value, param, code) in [
        ("model", json!(7), "model", "invalid_type"),
        ("model", Value::Null, "model", "missing_required_parameter"),
        ("messages", json!([]), "messages", "empty_array"),
        ("messages", json!("x"), "messages", "invalid_type"),
        (
            "messages",
            json!(vec!["x"; 4097]),
            "messages",
            "invalid_value",
        ),
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
async fn two_names_for_one_limit_exclude_each_other() {
    let body = with(recite(), "max_tokens", json!(5));
    let body = with(body, "max_completion_tokens", json!(5));
    let error = error(chat(body).await, StatusCode::BAD_REQUEST).await;
    assert_eq!(error["code"], "invalid_parameter_combination");
}
