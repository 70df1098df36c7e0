//! Answers of a chat, whole.

use serde_json::{Value, json};

use crate::served::{GENESIS, chat, events, ok, parse, recite, with};

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
