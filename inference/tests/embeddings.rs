//! The embedding model, if `cargo xtask` has put it under `target/models`.

#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests"
)]

use std::path::{Path, PathBuf};

use futures_executor::block_on;
use futures_util::FutureExt as _;
use inference::{Engine, RequestError, Task, Tenant, Witness};

#[test]
fn a_tenant_with_many_texts_lets_one_with_a_single_text_pass() {
    let Some(engine) = minilm() else { return };
    let ask = |count| {
        let texts = vec!["a text".to_owned(); count];
        engine.embed_before(Tenant::new(), None, &texts).unwrap()
    };
    let mut many = ask(2048);
    block_on(ask(1)).unwrap();
    assert!((&mut many).now_or_never().is_none());
    drop(many);
    block_on(ask(1)).unwrap();
}

#[test]
fn sentences_are_as_near_as_the_original_finds_them() {
    let Some(engine) = minilm() else { return };
    assert_eq!(engine.info().task, Task::Embedding);
    assert!(engine.card().self_test.is_some());
    let texts = [
        "That is a happy person",
        "That is a happy dog",
        "That is a very happy person",
        "Today is a sunny day",
    ];
    let vectors = embed(&engine, &texts);
    // As sentence-transformers gives them, and the model card shows them.
    for (other, expected) in [(1, 0.6946), (2, 0.9429), (3, 0.2569)] {
        let cosine = dot(&vectors[0], &vectors[other]);
        assert!(
            (cosine - expected).abs() < 1e-4,
            "{cosine} is not {expected}"
        );
    }
    for vector in vectors {
        assert_eq!(vector.len(), 384);
        assert!((dot(&vector, &vector) - 1.0).abs() < 1e-5);
    }
}

#[test]
fn a_text_gives_the_same_bits_in_any_batch() {
    let Some(engine) = minilm() else { return };
    let alone = embed(&engine, &["a short one"]);
    let among = embed(&engine, &["a longer one, before it", "a short one", "x"]);
    assert_eq!(alone[0], among[1]);
}

#[test]
fn tokens_are_counted_with_those_that_frame_a_text() {
    let Some(engine) = minilm() else { return };
    let pending = engine.embed(&["happy".into(), "dog".into()]).unwrap();
    assert_eq!(block_on(pending).unwrap().usage.prompt, 6);
}

#[test]
fn a_witness_hears_of_each_text() {
    let Some(engine) = minilm() else { return };
    let witness = Witness::default();
    let pending = engine.embed_before(
        Tenant::new(),
        Some(witness.clone()),
        &["happy".into(), "dog".into()],
    );
    block_on(pending.unwrap()).unwrap();
    let counts = witness.take().into_iter().map(|one| one.prompt.len());
    assert_eq!(counts.collect::<Vec<_>>(), [3, 3]);
}

#[test]
fn a_text_that_does_not_fit_is_refused() {
    let Some(engine) = minilm() else { return };
    let fits = vec!["dog"; 254].join(" ");
    embed(&engine, &[&fits]);
    let error = engine.embed(&[fits + " dog"]).unwrap_err();
    assert_eq!(
        error,
        RequestError::ContextLength {
            prompt: 257,
            answer: 0,
            context: 256
        },
    );
}

#[test]
fn an_empty_list_and_an_empty_text_are_refused() {
    let Some(engine) = minilm() else { return };
    let empty = RequestError::Empty { parameter: "input" };
    assert_eq!(engine.embed(&[]).unwrap_err(), empty);
    assert_eq!(engine.embed(&[String::new()]).unwrap_err(), empty);
}

fn minilm() -> Option<Engine> {
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
    Some(Engine::load(&dir).unwrap())
}

fn embed(engine: &Engine, texts: &[&str]) -> Vec<Vec<f32>> {
    let texts: Vec<String> = texts.iter().map(ToString::to_string).collect();
    block_on(engine.embed(&texts).unwrap()).unwrap().vectors
}

fn dot(a: &[f32], b: &[f32]) -> f32 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
