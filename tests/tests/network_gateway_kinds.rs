//! What is no chat goes through the gateway sealed as it is, and refusals come back as what
//! clients of OpenAI know.
#![cfg(test)]

mod paper_network;

use std::sync::Arc;
use std::time::Duration;

use axum::http::{Request, StatusCode};
use client::network::Options;
use paper_network::application::{COST, OPTIONS, ask, chat, gateway, network, purse};
use paper_network::{Lie, Scheduler};
use serde_json::{Value, json};

const FORM: &str = "--x\r\ncontent-disposition: form-data; name=\"file\"; filename=\"a.wav\"\r\n\
    content-type: audio/wav\r\n\r\nRIFF sounds\r\n--x\r\n\
    content-disposition: form-data; name=\"model\"\r\n\r\ntiny\r\n--x--\r\n";

#[tokio::test]
async fn each_kind_of_request_reaches_its_worker_as_it_was_and_is_paid() {
    let (scheduler, address) = Scheduler::start(1, &[], false).await;
    let folder = tempfile::tempdir().unwrap();
    let purse = purse(&folder, 1_000_000);
    let gateway = gateway(&[address], vec![Arc::clone(&purse)]);
    let texts = json!({ "model": "tiny", "input": ["one", "two"] }).to_string();
    let image = json!({ "model": "tiny", "prompt": "a cocoon", "n": 2 }).to_string();
    let picture = json!({ "type": "image_url", "image_url": { "url": "data:," } });
    let seen = json!({ "model": "tiny", "messages": [{ "role": "user", "content": [picture] }] });
    let seen = seen.to_string();
    let kinds = [
        ("/v1/embeddings", "application/json", &*texts),
        ("/v1/images/generations", "application/json", &*image),
        ("/v1/chat/completions", "application/json", &*seen),
        (
            "/v1/audio/transcriptions",
            "multipart/form-data; boundary=x",
            FORM,
        ),
    ];
    for (index, (path, kind, body)) in kinds.into_iter().enumerate() {
        let request = Request::post(path).header("content-type", kind);
        let request = request.body(body.to_owned().into()).unwrap();
        let (status, headers, answer) = ask(&gateway, request).await;
        assert_eq!(status, StatusCode::OK, "{path}: {answer:?}");
        assert_eq!(headers["cocoon-cost"], COST.to_string());
        let seen = scheduler.seen.lock().unwrap();
        assert_eq!(seen.heads[index].path, path);
        let header = &seen.heads[index].headers[0];
        assert_eq!((&*header.0, &*header.1), ("content-type", kind));
        assert_eq!(seen.bodies[index], body.as_bytes(), "{path}");
        let limit = u64::try_from(body.len()).unwrap() + 1024 + 100;
        let more = if index == 2 { 2 * 4096 } else { 0 };
        assert_eq!(seen.envelopes[index].limit, limit + more, "{path}");
    }
    let took = u64::try_from(kinds.len()).unwrap() * COST;
    assert_eq!((purse.balance().spent, purse.balance().reserved), (took, 0));
}

#[tokio::test]
async fn where_all_are_full_the_application_is_told_when_to_come_again() {
    let full = [(0, Lie::Full), (1, Lie::Full)];
    let (_, address) = Scheduler::start(2, &full, true).await;
    let (status, headers, body) = ask(&gateway(&[address], Vec::new()), chat(1, false)).await;
    assert_eq!(status, StatusCode::TOO_MANY_REQUESTS);
    // Whole seconds, never sooner.
    assert_eq!(headers["retry-after"], "8");
    let error: Value = serde_json::from_str(&body.unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "full");
}

#[tokio::test]
async fn where_nobody_is_left_the_application_is_told_so() {
    let (_, address) = Scheduler::start(0, &[], true).await;
    let (status, _, body) = ask(&gateway(&[address], Vec::new()), chat(1, true)).await;
    assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE);
    let error: Value = serde_json::from_str(&body.unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "full");
}

#[tokio::test]
async fn an_answer_that_does_not_begin_in_time_is_given_up() {
    let (scheduler, address) = Scheduler::start(1, &[(0, Lie::Silent)], true).await;
    let options = Options {
        deadline: Duration::from_secs(3),
        ..OPTIONS
    };
    let gateway = network(&[address], Vec::new(), options).router();
    let (status, _, body) = ask(&gateway, chat(1, false)).await;
    assert_eq!(status, StatusCode::GATEWAY_TIMEOUT);
    let error: Value = serde_json::from_str(&body.unwrap()).unwrap();
    assert_eq!(error["error"]["code"], "deadline_exceeded");
    let seen = scheduler.seen.lock().unwrap();
    assert!(seen.envelopes[0].deadline_ms <= 3000, "the worker knows");
}
