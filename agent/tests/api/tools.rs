//! Calls, and answers of a form.

use serde_json::{Value, json};

use crate::served::{chat, events, ok, parse, recite, weather, with};

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
