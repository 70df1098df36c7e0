//! `/v1/audio/transcriptions`, and translations.

use std::sync::LazyLock;

use agent::api::{Model, Models, router};
use axum::body::{Body, Bytes};
use axum::http::{Response, StatusCode};
use futures_util::{poll, stream};
use inference::{Engine, Tenant};
use serde_json::json;
use tower::ServiceExt as _;

use crate::served::{error, ok, reference, request, text};

fn flac() -> Vec<u8> {
    std::fs::read(reference("tone.flac")).unwrap()
}

/// A form as browsers write it.
fn form(file: &[u8], fields: &[(&str, &str)]) -> Vec<u8> {
    let mut body = Vec::new();
    for (name, value) in fields {
        let head = format!("--cut\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n");
        body.extend([head.as_bytes(), value.as_bytes(), b"\r\n"].concat());
    }
    let head = "--cut\r\nContent-Disposition: form-data; name=\"file\"; filename=\"a\"\r\n\r\n";
    [&body, head.as_bytes(), file, b"\r\n--cut--\r\n"].concat()
}

async fn post(path: &str, kind: &str, body: Vec<u8>) -> Response<Body> {
    served().oneshot(request(path, kind, body)).await.unwrap()
}

fn served() -> axum::Router {
    static APP: LazyLock<axum::Router> = LazyLock::new(|| {
        let model = |name: &str, dir: &str| Model {
            name: name.into(),
            root: None,
            engine: Engine::load(&reference(dir)).unwrap(),
        };
        router(Models::new([
            model("whisper", "whisper"),
            model("tiny", "../models/cocoon-tiny"),
        ]))
    });
    APP.clone()
}

async fn ask(path: &str, file: &[u8], fields: &[(&str, &str)]) -> Response<Body> {
    let fields = [&[("model", "whisper")], fields].concat();
    post(
        path,
        "multipart/form-data; boundary=cut",
        form(file, &fields),
    )
    .await
}

/// Forms that do not end, and what others hear meanwhile.
#[tokio::test]
async fn one_client_cannot_take_the_places_of_all_forms() {
    let (slow, other) = (Tenant::new(), Tenant::new());
    let send = |tenant: &Tenant, body: Body| {
        let kind = "multipart/form-data; boundary=cut";
        let mut request = request("/v1/audio/transcriptions", kind, body);
        request.extensions_mut().insert(tenant.clone());
        Box::pin(served().oneshot(request))
    };
    let endless = || Body::from_stream(stream::pending::<Result<Bytes, axum::Error>>());
    let mut held = [(); 2].map(|()| send(&slow, endless()));
    for held in &mut held {
        assert!(poll!(held).is_pending());
    }
    let refused = send(&slow, endless()).await.unwrap();
    let error = error(refused, StatusCode::TOO_MANY_REQUESTS).await;
    assert_eq!(error["code"], "rate_limit_exceeded");
    let heard = form(&flac(), &[("model", "whisper")]);
    ok(send(&other, heard.clone().into()).await.unwrap()).await;
    drop(held);
    ok(send(&slow, heard.into()).await.unwrap()).await;
}

#[tokio::test]
async fn a_form_of_many_fields_is_refused() {
    let many = vec![("include[]", ""); 64];
    let error = error(transcribe(&many).await, StatusCode::PAYLOAD_TOO_LARGE).await;
    assert_eq!(error["code"], "request_too_large");
}

async fn transcribe(fields: &[(&str, &str)]) -> Response<Body> {
    ask("/v1/audio/transcriptions", &flac(), fields).await
}

#[tokio::test]
async fn what_is_heard_comes_in_every_format() {
    let short = ok(transcribe(&[("language", "en")]).await).await;
    assert!(!short["text"].as_str().unwrap().is_empty());
    assert_eq!(short["usage"], json!({"type": "duration", "seconds": 1}));

    let fields = [
        ("language", "de"),
        ("response_format", "verbose_json"),
        ("timestamp_granularities[]", "segment"),
    ];
    let long = ok(transcribe(&fields).await).await;
    assert_eq!(long["task"], "transcribe");
    assert_eq!(long["language"], "german");
    assert!((long["duration"].as_f64().unwrap() - 0.2).abs() < 1e-4);
    let segments = long["segments"].as_array().unwrap();
    for (id, segment) in segments.iter().enumerate() {
        assert_eq!(segment["id"], id);
        assert!(segment["start"].as_f64() <= segment["end"].as_f64());
        for number in [
            "avg_logprob",
            "compression_ratio",
            "no_speech_prob",
            "temperature",
        ] {
            assert!(segment[number].is_f64(), "{number}");
        }
    }

    let fields = |format| [("language", "de"), ("response_format", format)];
    let plain = text(transcribe(&fields("text")).await).await;
    assert!(plain.ends_with('\n'));
    let vtt = text(transcribe(&fields("vtt")).await).await;
    assert!(vtt.starts_with("WEBVTT\n\n00:00:0"), "{vtt}");
    let srt = text(transcribe(&fields("srt")).await).await;
    assert!(srt.starts_with("1\n00:00:0"), "{srt}");
    assert_eq!(srt.matches(" --> ").count(), segments.len());
}

#[tokio::test]
async fn a_translation_is_another_text() {
    let there = ask("/v1/audio/translations", &flac(), &[("prompt", "of old")]).await;
    let there = ok(there).await;
    let here = ok(transcribe(&[("prompt", "of old")]).await).await;
    assert_ne!(there["text"], here["text"]);
}

#[tokio::test]
async fn what_is_wrong_is_named() {
    for (fields, param, code) in [
        ([("language", "xx")], "language", "invalid_value"),
        (
            [("response_format", "xml")],
            "response_format",
            "invalid_value",
        ),
        ([("temperature", "hot")], "temperature", "invalid_value"),
        ([("temperature", "1.5")], "temperature", "invalid_value"),
        (
            [("timestamp_granularities[]", "word")],
            "timestamp_granularities",
            "invalid_value",
        ),
        ([("stream", "true")], "stream", "unsupported_parameter"),
        ([("beam_size", "5")], "beam_size", "unknown_parameter"),
    ] {
        let refused = error(transcribe(&fields).await, StatusCode::BAD_REQUEST).await;
        assert_eq!(refused["param"], param);
        assert_eq!(refused["code"], code);
    }
    let fields = [("language", "en")];
    let translated = ask("/v1/audio/translations", &flac(), &fields).await;
    let refused = error(translated, StatusCode::BAD_REQUEST).await;
    assert_eq!(refused["param"], "language");
}

#[tokio::test]
async fn a_file_that_is_no_sound_is_refused() {
    let path = "/v1/audio/transcriptions";
    for (file, message) in [
        (
            b"ID3\x04\0".as_slice(),
            "The file is MP3, expected WAV or FLAC.",
        ),
        (&flac()[..5000], "The FLAC file is damaged."),
    ] {
        let refused = error(ask(path, file, &[]).await, StatusCode::BAD_REQUEST).await;
        assert_eq!(refused["message"], message);
        assert_eq!(refused["param"], "file");
    }
    let large = ask(path, &vec![0; 26 << 20], &[]).await;
    let refused = error(large, StatusCode::PAYLOAD_TOO_LARGE).await;
    assert_eq!(refused["code"], "request_too_large");
}

#[tokio::test]
async fn only_forms_with_a_file_and_a_model_that_listens_are_read() {
    let path = "/v1/audio/transcriptions";
    let json = post(path, "application/json", b"{}".to_vec()).await;
    let refused = error(json, StatusCode::UNSUPPORTED_MEDIA_TYPE).await;
    assert_eq!(refused["code"], "unsupported_media_type");

    let kind = "multipart/form-data; boundary=cut";
    let refused = error(
        post(path, kind, b"--cut--\r\n".to_vec()).await,
        StatusCode::BAD_REQUEST,
    )
    .await;
    assert_eq!(refused["param"], "file");

    let body = form(&flac(), &[("model", "tiny")]);
    let refused = error(post(path, kind, body).await, StatusCode::NOT_FOUND).await;
    assert_eq!(refused["code"], "model_not_found");

    let whole = form(&flac(), &[("model", "whisper")]);
    let half = post(path, kind, whole[..whole.len() - 20].to_vec()).await;
    error(half, StatusCode::BAD_REQUEST).await;
}
