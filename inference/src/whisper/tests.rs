//! Whisper against transformers, and against files that are not one.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "numbers of a test"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use futures_channel::oneshot;
use futures_executor::block_on;
use media::Audio;
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::features::Extractor;
use super::segment::{Piece, cut};
use super::*;
use crate::deadline::Deadline;
use crate::engine::Engine;
use crate::error::{EngineError, RequestError};
use crate::queue::{Line as _, Queue};
use crate::request::Tenant;
use crate::tokens::Tokens;

/// Made by reference/whisper.py, which shares nothing with this crate.
fn reference() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/whisper")
}

#[derive(Deserialize)]
struct Expected {
    features: Vec<f32>,
    features128: Vec<f32>,
    states: Vec<f32>,
    ids: Vec<u32>,
    logits: Vec<f32>,
    transcripts: Vec<Case>,
}

#[derive(Deserialize)]
struct Case {
    count: usize,
    task: String,
    language: Option<String>,
    prompt: Option<String>,
    #[serde(default)]
    return_timestamps: bool,
    segments: Vec<Span>,
}

#[derive(Deserialize)]
struct Span {
    start: f64,
    end: f64,
    tokens: Vec<u32>,
}

fn expected() -> Expected {
    let file = std::fs::read(reference().join("expected.json")).unwrap();
    serde_json::from_slice(&file).unwrap()
}

/// The sound of reference/whisper.py.
fn sound(count: usize) -> Vec<f32> {
    let saw = |i: i64| (7 * i * i + 13 * i) / 64 % 4096 - 2048;
    let count = i64::try_from(count).unwrap();
    (0..count)
        .map(|i| (saw(i) * (i / 2000 % 3)) as f32 / 8192.0)
        .collect()
}

fn audio(count: usize) -> Audio {
    let spec = hound::WavSpec {
        channels: 1,
        sample_rate: 16_000,
        bits_per_sample: 32,
        sample_format: hound::SampleFormat::Float,
    };
    let mut file = std::io::Cursor::new(Vec::new());
    let mut writer = hound::WavWriter::new(&mut file, spec).unwrap();
    for sample in sound(count) {
        writer.write_sample(sample).unwrap();
    }
    writer.finalize().unwrap();
    Audio::decode(file.get_ref()).unwrap()
}

fn worker() -> Worker {
    let dir = ModelDir::new(&reference());
    let mut pool = Pool::new(true).unwrap();
    let model = Whisper::load(&mut pool, &dir).unwrap();
    let tokens = Arc::new(Tokens::load(&dir, model.tokens()).unwrap());
    Worker {
        vocabulary: model.vocabulary(&dir, &tokens).unwrap(),
        model,
        pool,
        tokens,
    }
}

fn assert_near(what: &str, found: &[f32], expected: &[f32], tolerance: f32) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let pairs = found.iter().zip(expected);
    let difference = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("{what}: {difference:.1e}");
    assert!(difference < tolerance, "{what}: {difference}");
}

fn sample(tensor: &candle_core::Tensor, step: usize) -> Vec<f32> {
    let all = tensor.flatten_all().unwrap().to_vec1().unwrap();
    all.into_iter().step_by(step).collect()
}

#[test]
fn when_the_device_is_lost_a_request_says_so_and_the_engine_ends() {
    let (queue, worker) = (Queue::new(4), worker());
    let mut pendings = Vec::new();
    for _ in 0..2 {
        let (result, pending) = oneshot::channel();
        let job = Job {
            audio: audio(16_000),
            prompt: Zeroizing::default(),
            language: None,
            translate: false,
            temperature: 0.0,
            times: false,
            seed: 1,
            deadline: Deadline::after(Duration::from_secs(600)),
            result,
        };
        assert!(queue.push(Tenant::new(), job).is_ok());
        pendings.push(pending);
    }
    queue.close();
    crate::linear::lose();
    worker.run(&queue);
    let first = block_on(pendings.remove(0)).unwrap();
    assert_eq!(first.err(), Some(EngineError::Device));
    assert_eq!(queue.waiting(), 1);
}

#[test]
fn features_states_and_logits_are_those_of_transformers() {
    let (expected, mut worker) = (expected(), worker());
    for (bins, expected) in [(80, &expected.features), (128, &expected.features128)] {
        let features = Extractor::new(bins)
            .unwrap()
            .features(&sound(21_000), 200)
            .unwrap();
        assert_eq!(features.dims(), [bins, 200]);
        assert_near("features", &sample(&features, 13), expected, 2e-5);
    }
    let (model, pool) = (&worker.model, &mut worker.pool);
    let features = model.extractor.features(&sound(21_000), 200).unwrap();
    let states = model.encoder.forward(pool, &features).unwrap();
    assert_near("states", &sample(&states, 7), &expected.states, 2e-5);
    let mut said = model.decoder.begin(pool, &states).unwrap();
    let mut logits = model.decoder.read(pool, &mut said, &expected.ids).unwrap();
    assert_near("logits", &logits.pop().unwrap(), &expected.logits, 2e-5);
    // Token by token, from the memory, it is the same.
    let mut said = model.decoder.begin(pool, &states).unwrap();
    for token in &expected.ids {
        logits = model.decoder.read(pool, &mut said, &[*token]).unwrap();
    }
    assert_near("steps", &logits.pop().unwrap(), &expected.logits, 2e-5);
}

#[test]
fn what_is_heard_is_what_transformers_hears() {
    let mut worker = worker();
    for case in expected().transcripts {
        let prompt = case
            .prompt
            .map(|text| worker.tokens.encode_prompt(&format!(" {text}")));
        let (result, _pending) = oneshot::channel();
        let heard = worker.transcribe(&Job {
            audio: audio(case.count),
            prompt: prompt.unwrap_or_else(|| Ok(Zeroizing::default())).unwrap(),
            language: case
                .language
                .as_ref()
                .and_then(|code| worker.vocabulary.language(code)),
            translate: case.task == "translate",
            temperature: 0.0,
            times: case.return_timestamps,
            seed: 0,
            deadline: Deadline::after(Duration::from_secs(600)),
            result,
        });
        let heard = heard.unwrap();
        assert_eq!(heard.segments.len(), case.segments.len());
        for (found, expected) in heard.segments.iter().zip(&case.segments) {
            assert_eq!(found.tokens, expected.tokens);
            if case.return_timestamps {
                assert!((found.start.as_secs_f64() - expected.start).abs() < 1e-6);
                assert!((found.end.as_secs_f64() - expected.end).abs() < 1e-6);
            }
            assert!((0.0..=1.0).contains(&found.no_speech) && found.mean_logprob < 0.0);
        }
        assert!(heard.language.is_some());
        assert_eq!(heard.duration, audio(case.count).duration());
    }
}

#[test]
fn a_pair_of_times_ends_a_segment() {
    let piece = |tokens, start, end| Piece { tokens, start, end };
    // Times from 10 on.
    for (tokens, pieces, resume) in [
        (vec![1, 2], vec![piece(0..2, 0, 200)], 200),
        (vec![10, 1, 15], vec![piece(0..3, 0, 10)], 200),
        (
            vec![10, 1, 15, 15, 2, 20],
            vec![piece(0..3, 0, 10), piece(3..6, 10, 20)],
            200,
        ),
        (
            vec![10, 1, 15, 15, 2, 20, 20, 3],
            vec![piece(0..3, 0, 10), piece(3..7, 10, 20)],
            20,
        ),
        (vec![10, 1, 15, 16], vec![piece(0..4, 0, 10)], 10),
        (vec![], vec![piece(0..0, 0, 200)], 200),
    ] {
        assert_eq!(cut(&tokens, 10, 200), (pieces, resume), "{tokens:?}");
    }
}

/// A directory like the reference, but for one file.
fn changed(file: &str, change: impl Fn(&mut Value)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    for entry in reference().read_dir().unwrap() {
        let path = entry.unwrap().path();
        std::os::unix::fs::symlink(&path, dir.path().join(path.file_name().unwrap())).unwrap();
    }
    let bytes = std::fs::read(reference().join(file)).unwrap();
    let mut json: Value = serde_json::from_slice(&bytes).unwrap();
    change(&mut json);
    std::fs::remove_file(dir.path().join(file)).unwrap();
    std::fs::write(dir.path().join(file), json.to_string()).unwrap();
    dir
}

#[test]
fn a_setting_that_is_not_implemented_is_refused_by_name() {
    let (config, preprocessor) = ("config.json", "preprocessor_config.json");
    let generation = "generation_config.json";
    for (file, key, value, message) in [
        (
            config,
            "activation_function",
            json!("relu"),
            "activation_function is relu, expected gelu",
        ),
        (
            config,
            "num_mel_bins",
            json!(64),
            "num_mel_bins is 64, expected 80 or 128",
        ),
        (
            config,
            "scale_embedding",
            json!(true),
            "scale_embedding is true, expected false",
        ),
        (
            config,
            "decoder_layers",
            json!(999),
            "decoder_layers is 999, expected 1 to 256",
        ),
        (
            config,
            "max_target_positions",
            json!(8),
            "max_target_positions is 8, expected 16 at least",
        ),
        (
            config,
            "encoder_attention_heads",
            json!(5),
            "d_model is 32, expected a multiple of 5",
        ),
        (
            preprocessor,
            "chunk_length",
            json!(30),
            "chunk_length is 30, expected 2",
        ),
        (
            preprocessor,
            "hop_length",
            json!(100),
            "hop_length is 100, expected 160",
        ),
        (
            preprocessor,
            "do_normalize",
            json!(true),
            "do_normalize is true, expected false",
        ),
        (
            generation,
            "eos_token_id",
            json!(999),
            "eos_token_id is 999, expected a token below 368",
        ),
        (
            generation,
            "no_timestamps_token_id",
            json!(3),
            "no_timestamps_token_id is 3, expected more than eos_token_id, 256",
        ),
    ] {
        let dir = changed(file, |json| json[key] = value.clone());
        let error = Engine::load(dir.path()).unwrap_err();
        assert_eq!(error.to_string(), format!("{file}: {message}"));
    }
}

fn request() -> TranscriptRequest {
    TranscriptRequest {
        language: Some("en".into()),
        ..TranscriptRequest::new(audio(16_000))
    }
}

#[test]
fn a_language_that_the_model_lacks_is_refused() {
    let engine = Engine::load(&reference()).unwrap();
    let refused = |request| engine.transcribe(request).unwrap_err().to_string();
    let other = TranscriptRequest {
        language: Some("xx".into()),
        ..request()
    };
    assert_eq!(
        refused(other),
        "language is unknown to the model, expected a code of a language it knows",
    );
    let hot = TranscriptRequest {
        temperature: 1.5,
        ..request()
    };
    assert_eq!(refused(hot), "temperature is 1.5, expected 0 to 1");
    let asked = engine.embed(&["a".into()]).unwrap_err();
    assert!(matches!(asked, RequestError::WrongTask { .. }));
}

#[test]
fn a_self_test_with_another_result_keeps_the_model_from_serving() {
    let engine = Engine::load(&reference()).unwrap();
    let heard = block_on(engine.transcribe(request()).unwrap()).unwrap();
    assert!(!heard.text().is_empty());
    let load = |expected: String| {
        let dir = changed("config.json", |_| {});
        let test = json!({"sound": "selftest.wav", "expected": expected});
        std::fs::write(dir.path().join("selftest.json"), test.to_string()).unwrap();
        let flac = include_bytes!("../../reference/tone.flac");
        std::fs::write(dir.path().join("selftest.wav"), flac).unwrap();
        Engine::load(dir.path())
    };
    let error = load("Something else".into()).unwrap_err();
    assert!(
        error
            .to_string()
            .starts_with("self-test: the answer has 0 right bytes"),
        "{error}"
    );
}

#[test]
fn nobody_waits_for_what_nobody_wants() {
    let mut worker = worker();
    let (result, pending) = oneshot::channel();
    drop(pending);
    let job = Job {
        audio: audio(16_000),
        prompt: Zeroizing::default(),
        language: None,
        translate: false,
        temperature: 0.0,
        times: false,
        seed: 0,
        deadline: Deadline::after(Duration::from_secs(600)),
        result,
    };
    assert_eq!(worker.transcribe(&job), Err(EngineError::Stopped));
    let (result, _pending) = oneshot::channel();
    let late = Job {
        deadline: Deadline::after(Duration::ZERO),
        result,
        ..job
    };
    let limit = Duration::ZERO;
    assert_eq!(
        worker.transcribe(&late),
        Err(EngineError::Deadline { limit })
    );
}
