//! Hundreds of applications at one gateway, with a worker and a small model behind
//! it: impatient ones, slow ones and hostile ones.
#![cfg(test)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests"
)]

mod served;

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::http::StatusCode;
use futures_util::future::join_all;
use futures_util::stream::{self, FuturesUnordered, StreamExt as _};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use inference::Limits;
use serde_json::{Value, json};
use served::{Reply, Served};
use tokio::sync::Mutex;
use tokio::time::{sleep, timeout};

/// Each answer is what its request gets alone, and nobody's place is lost.
#[tokio::test(flavor = "multi_thread")]
async fn hundreds_of_streams_are_answered_as_if_each_were_alone() {
    let _alone = ALONE.lock().await;
    let served = Served::start_for(Limits::default(), CLIENTS).await;
    let mut alone = Vec::new();
    for kind in 0..KINDS {
        alone.push(said(&whole(served.ask(question(kind)).await).await));
    }
    assert!(alone.iter().all(|text| !text.is_empty()));

    let mut most = 0;
    for _ in 0..2 {
        let before = peak_again_kib();
        let streams = (0..STREAMS).map(|index| {
            let (served, alone) = (&served, &alone);
            async move {
                let kind = index % KINDS;
                let Some(text) = listen(served, question(kind), index).await else {
                    return 0;
                };
                assert_eq!(text, alone[kind], "stream {index}");
                1
            }
        });
        let heard: usize = join_all(streams).await.into_iter().sum();
        assert_eq!(heard, STREAMS - STREAMS / IMPATIENT);
        most = kib("VmHWM:").saturating_sub(before);
        println!("a wave took {most} KiB");
    }
    assert!(most < 64 << 10, "the second wave took {most} KiB");

    // As many at a time as the engine has places: none of them is held.
    let again = (0..Limits::default().batch).map(|_| served.ask(question(0)));
    for reply in join_all(again).await {
        assert_eq!(reply.status(), StatusCode::OK);
        assert_eq!(said(&whole(reply).await), alone[0]);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_no_client_should_send_is_refused_by_name_while_others_are_served() {
    let _alone = ALONE.lock().await;
    let served = Served::start(Limits::default()).await;
    let expected = said(&whole(served.ask(question(1)).await).await);
    let calm = async {
        for _ in 0..8 {
            let text = said(&whole(served.ask(question(1)).await).await);
            assert_eq!(text, expected);
        }
    };
    let hostile = async {
        for (name, body, status, code) in hostile() {
            let reply = served.ask(Body::from(body)).await;
            assert_eq!(reply.status(), status, "{name}");
            let error: Value = serde_json::from_slice(&whole(reply).await).unwrap();
            assert_eq!(error["error"]["code"], code, "{name}: {error}");
            let told = error.to_string();
            assert!(!told.contains(SECRET), "{name} is repeated: {told}");
        }
    };
    let mut stalled = Box::pin(served.ask(endless(Bytes::from("{"))));
    tokio::select! {
        _ = &mut stalled => panic!("half a request is answered"),
        _ = futures_util::future::join(calm, hostile) => {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_that_stall_take_no_room_from_other_clients() {
    let _alone = ALONE.lock().await;
    let served = Served::start_for(Limits::default(), 2).await;
    let [mut asked, large] = [request(1), json!("x".repeat(1 << 20))];
    asked["user"] = large;
    let asked = || Body::from(asked.to_string());
    let expected = said(&whole(served.ask(asked()).await).await);

    let before = peak_again_kib();
    let half = Bytes::from(vec![b' '; (4 << 20) - 1]);
    let stalled = (0..80).map(|_| served.ask_as(1, endless(half.clone())));
    let mut stalled: FuturesUnordered<_> = stalled.collect();
    // When one is refused, others hold all that they get.
    let refused = stalled.next().await.unwrap();
    assert_eq!(refused.status(), StatusCode::TOO_MANY_REQUESTS);
    for _ in 0..4 {
        let reply = served.ask(asked()).await;
        assert_eq!(reply.status(), StatusCode::OK);
        assert_eq!(said(&whole(reply).await), expected);
    }
    let most = kib("VmHWM:").saturating_sub(before);
    println!("bodies that stall took {most} KiB");
    assert!(most < 384 << 10, "bodies that stall took {most} KiB");
}

/// A body whose end never comes.
/// What they do not take is not made, and they have all of it once they do.
#[tokio::test(flavor = "multi_thread")]
async fn who_takes_nothing_of_an_answer_keeps_no_place_from_others() {
    let _alone = ALONE.lock().await;
    let limits = Limits {
        batch: 2,
        ..Limits::default()
    };
    let served = Served::start_for(limits, 2).await;
    let short = said(&whole(served.ask(question(0)).await).await);
    let long = said(&whole(served.ask(wordy()).await).await);
    let before = served.counted(MADE).await;
    let untaken = served.ask(wordy()).await;
    for _ in 0..8 {
        let asked = timeout(Duration::from_secs(60), served.ask_as(1, question(0)));
        assert_eq!(said(&whole(asked.await.unwrap()).await), short);
    }
    let idle = async {
        while served.counted(RUNNING).await > 0 {
            sleep(Duration::from_millis(50)).await;
        }
    };
    timeout(Duration::from_secs(60), idle).await.unwrap();
    let made = served.counted(MADE).await - before;
    println!("{made} tokens were made for nobody to take");
    assert!(made < 6000, "{made} of {}", CHOICES * WORDS);
    assert_eq!(said(&whole(untaken).await), long);
}

fn endless(begin: Bytes) -> Body {
    let begin = stream::iter([Ok::<_, hyper::Error>(Frame::data(begin))]);
    Body::new(StreamBody::new(begin.chain(stream::pending())))
}

/// What is sent, and how it is refused.
fn hostile() -> Vec<(&'static str, Vec<u8>, StatusCode, Value)> {
    let of = |value: Value| value.to_string().into_bytes();
    let with = |name: &str, value: Value| {
        let mut request = request(0);
        request[name] = value;
        of(request)
    };
    let says = |text: String| with("messages", json!([{"role": "user", "content": text}]));
    let bad = StatusCode::BAD_REQUEST;
    let unknown = StatusCode::NOT_FOUND;
    let nested = [b"{\"messages\":".as_slice(), &[b'['; 100_000]].concat();
    let mut text = says(SECRET.into());
    let place = text.windows(6).position(|part| part == b"secret").unwrap();
    text[place] = 0xff;
    vec![
        ("deep JSON", nested, bad, Value::Null),
        ("text that is not UTF-8", text, bad, Value::Null),
        (
            "half a request",
            of(request(0))[..40].to_vec(),
            bad,
            Value::Null,
        ),
        ("no request", Vec::new(), bad, Value::Null),
        (
            "another model",
            with("model", json!(SECRET)),
            unknown,
            json!("model_not_found"),
        ),
        (
            "a huge n",
            with("n", json!(1_u64 << 60)),
            bad,
            json!("invalid_value"),
        ),
        (
            "a negative n",
            with("n", json!(-1)),
            bad,
            json!("invalid_type"),
        ),
        (
            "no number",
            with("temperature", json!(1e300)),
            bad,
            json!("invalid_value"),
        ),
        (
            "an unknown field",
            with("colour", json!(SECRET)),
            bad,
            json!("unknown_parameter"),
        ),
        (
            "a long prompt",
            says(format!("{SECRET} ").repeat(100_000)),
            bad,
            json!("context_length_exceeded"),
        ),
        (
            "10 MB",
            says("x".repeat(10_000_000)),
            StatusCode::PAYLOAD_TOO_LARGE,
            json!("request_too_large"),
        ),
    ]
}

const SECRET: &str = "a secret of the user's";

/// Reads an answer as this client does: patiently, slowly, or not to its end.
async fn listen(served: &Served, question: Body, index: usize) -> Option<String> {
    let mut body = patient(served, index % CLIENTS, question).await.into_body();
    let (mut bytes, mut frames) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.unwrap().into_data() {
            bytes.extend_from_slice(&data);
        }
        frames += 1;
        if index.is_multiple_of(IMPATIENT) && frames > index % 7 {
            return None;
        }
        if index % SLOW == 1 {
            sleep(Duration::from_millis(20)).await;
        }
    }
    Some(said(&bytes))
}

/// Comes again when it is told to.
async fn patient(served: &Served, client: usize, question: Body) -> Reply {
    let bytes = question.collect().await.unwrap().to_bytes();
    for _ in 0..100 {
        let reply = served.ask_as(client, Body::from(bytes.clone())).await;
        if reply.status() != StatusCode::TOO_MANY_REQUESTS {
            assert_eq!(reply.status(), StatusCode::OK);
            return reply;
        }
        let after = reply.headers()["retry-after"].to_str().unwrap();
        sleep(Duration::from_secs(after.parse().unwrap())).await;
    }
    panic!("always told to come again");
}

async fn whole(reply: Reply) -> Vec<u8> {
    let bytes = timeout(Duration::from_secs(60), reply.into_body().collect()).await;
    bytes.unwrap().unwrap().to_bytes().to_vec()
}

/// The text of a stream, which must have an end, choice after choice.
fn said(stream: &[u8]) -> String {
    let stream = str::from_utf8(stream).unwrap();
    let mut events: Vec<&str> = stream
        .lines()
        .filter_map(|line| line.strip_prefix("data: "))
        .collect();
    assert_eq!(events.pop(), Some("[DONE]"), "{stream}");
    let mut choices = BTreeMap::<u64, String>::new();
    for event in events {
        let event: Value = serde_json::from_str(event).unwrap();
        let choice = &event["choices"][0];
        let said = choices
            .entry(choice["index"].as_u64().unwrap())
            .or_default();
        said.push_str(choice["delta"]["content"].as_str().unwrap_or_default());
    }
    choices.into_values().collect()
}

/// Some are certain, some drawn.
fn request(kind: usize) -> Value {
    json!({
        "model": Served::MODEL,
        "messages": [{"role": "user", "content": format!("Recite Psalm 23:{}.", kind % 6 + 1)}],
        "max_tokens": 48,
        "temperature": if kind.is_multiple_of(2) { 0.0 } else { 0.9 },
        "seed": kind,
        "stream": true,
    })
}

fn question(kind: usize) -> Body {
    Body::from(request(kind).to_string())
}

/// Much about each of many tokens: more than all buffers on its way hold.
fn wordy() -> Body {
    let mut request = request(1);
    request["n"] = CHOICES.into();
    request["max_tokens"] = WORDS.into();
    request["logit_bias"] = json!({ "0": -100, "2": -100 });
    request["logprobs"] = true.into();
    request["top_logprobs"] = 20.into();
    Body::from(request.to_string())
}

/// Memory of this process, in which all of them are: as it is, and from now on its peak.
fn peak_again_kib() -> usize {
    std::fs::write("/proc/self/clear_refs", "5").unwrap();
    kib("VmRSS:")
}

fn kib(name: &str) -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap()
        .split_whitespace()
        .next()
        .unwrap()
        .parse()
        .unwrap()
}

/// Held by one story at a time: memory is the process's.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Gateways, and so clients of the worker.
const CLIENTS: usize = 4;
/// Every so many leave before the end.
const IMPATIENT: usize = 3;
/// Every so many read slowly.
const SLOW: usize = 10;
/// Tokens of answers, in whole thousands.
const MADE: &str = r#"cocoon_tokens_total{model="cocoon-tiny",kind="answer"}"#;
const RUNNING: &str = r#"cocoon_answers_running{model="cocoon-tiny"}"#;
const CHOICES: u64 = 8;
/// What there is room for beside a short prompt.
const WORDS: u64 = 900;
const KINDS: usize = 12;
const STREAMS: usize = 300;
