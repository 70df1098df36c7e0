//! `/v1/responses`: the same answers, told otherwise.

use axum::http::StatusCode;
use serde_json::json;

use crate::served::{GENESIS, error, ok, parse, post, text, weather, with};

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
