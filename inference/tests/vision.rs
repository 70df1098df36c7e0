//! Models that see, through the public interface.

#![allow(
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests"
)]

use std::path::{Path, PathBuf};

use futures_executor::{block_on, block_on_stream};
use inference::{
    Engine, Event, Image, ImageError, LoadError, Message, Prompt, Request, RequestError, Role,
    Sampling, Task, Tenant, Usage,
};
use serde_json::Value;

const QUESTION: &str = "What is 15?";
/// What transformers answers about the image.
const ANSWER: &str = "#I=9Do#I=11lphLHpfd";

#[test]
fn it_answers_about_an_image_as_transformers_does() {
    let engine = Engine::load(&dir("llava-llama")).unwrap();
    let info = *engine.info();
    assert_eq!((info.task, info.images), (Task::Chat, true));
    assert_eq!(info.architecture, "LlavaForConditionalGeneration");
    assert!(engine.card().self_test.is_some());
    let (text, usage) = hear(&engine, ask(QUESTION, &[picture(0)]));
    assert_eq!(text, ANSWER);
    // "user: ", 16 of the image, the question, "\nassistant:".
    assert_eq!(usage.prompt, 6 + 16 + 11 + 11);
}

#[test]
fn a_known_answer_about_another_image_stops_it_from_loading() {
    let copy = copy("llava-llama");
    std::fs::write(copy.path().join("selftest.png"), turned()).unwrap();
    let error = Engine::load(copy.path()).unwrap_err();
    assert!(matches!(error, LoadError::SelfTest { .. }), "{error}");
}

#[test]
fn two_images_never_share_what_was_read() {
    let engine = Engine::load(&dir("llava-llama")).unwrap();
    let tenant = Tenant::new();
    // The image begins in the third page.
    let text = format!("{}{QUESTION}", "What do you see here? ".repeat(3));
    let shown = |image| Request {
        tenant: tenant.clone(),
        ..ask_at(&text, 60, &[image])
    };
    let (cat, first) = hear(&engine, shown(picture(0)));
    let (dog, second) = hear(&engine, shown(picture(1)));
    let (cat_again, third) = hear(&engine, shown(picture(0)));
    let fresh = Engine::load(&dir("llava-llama")).unwrap();
    let (dog_alone, alone) = hear(&fresh, shown(picture(1)));
    assert_eq!((&dog, &cat), (&dog_alone, &cat_again));
    assert_ne!(cat, dog);
    // Pages of 32 tokens: two are of text alone, three of the first image too.
    assert_eq!(
        [first, second, third, alone].map(|usage| usage.cached),
        [0, 64, 96, 0],
    );
}

#[test]
fn an_answer_is_the_same_whatever_else_is_seen() {
    let engine = Engine::load(&dir("llava-llama")).unwrap();
    let others: Vec<_> = (0..6)
        .map(|index| {
            let images: Vec<_> = (0..index).map(|image| picture(image % 2)).collect();
            let request = ask("And this, beside that? Tell me all.", &images);
            engine
                .answer(Request {
                    max_tokens: Some(20),
                    ..request
                })
                .unwrap()
        })
        .collect();
    let (text, _) = hear(&engine, ask(QUESTION, &[picture(0)]));
    assert_eq!(text, ANSWER);
    drop(others);
}

#[test]
fn the_text_of_a_placeholder_shows_nothing() {
    let engine = Engine::load(&dir("llava-llama")).unwrap();
    let request = ask("<image>", &[]);
    let (_, usage) = hear(
        &engine,
        Request {
            max_tokens: Some(1),
            ..request
        },
    );
    assert_eq!(usage.prompt, 6 + 7 + 11);
}

#[test]
fn more_images_than_the_context_has_room_for_are_refused() {
    let engine = Engine::load(&dir("llava-llama")).unwrap();
    let images: Vec<_> = (0..32).map(|_| picture(0)).collect();
    let error = engine.answer(ask(QUESTION, &images)).unwrap_err();
    assert!(
        matches!(
            error,
            RequestError::ContextLength {
                prompt: 540,
                context: 512,
                ..
            }
        ),
        "{error}"
    );
}

#[test]
fn an_image_that_breaks_off_is_refused_by_its_number() {
    let engine = Engine::load(&dir("llava-llama")).unwrap();
    let half = Image::new(std::fs::read(dir("image.png")).unwrap()[..600].to_vec()).unwrap();
    let error = engine
        .answer(ask(QUESTION, &[picture(0), half.clone()]))
        .unwrap_err();
    let reason = ImageError::Malformed;
    assert_eq!(error, RequestError::Image { index: 1, reason });
    assert!(!format!("{half:?}").contains("PNG"));
}

#[test]
fn a_model_that_reads_only_takes_no_images() {
    let tiny = Path::new(env!("CARGO_MANIFEST_DIR")).join("models/cocoon-tiny");
    let engine = Engine::load(&tiny).unwrap();
    assert!(!engine.info().images);
    let error = engine.answer(ask(QUESTION, &[picture(0)])).unwrap_err();
    let reason = ImageError::NotSeen;
    assert_eq!(error, RequestError::Image { index: 0, reason });
}

#[test]
fn a_placeholder_that_a_user_could_write_is_refused() {
    let copy = copy("llava-llama");
    let path = copy.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["image_token_index"] = 5.into();
    std::fs::write(path, config.to_string()).unwrap();
    assert_eq!(
        Engine::load(copy.path()).unwrap_err().to_string(),
        "config.json: image_token_index is 5, expected a control token",
    );
}

#[test]
fn a_classifier_is_tested_before_it_serves() {
    let engine = Engine::load(&dir("vit")).unwrap();
    let info = *engine.info();
    assert_eq!(info.task, Task::Classification);
    assert_eq!(engine.card().self_test, None);
    let labels = block_on(engine.classify(Tenant::new(), &[picture(0)], 1).unwrap()).unwrap();
    let likeliest = &labels[0][0];

    let copy = copy("vit");
    std::fs::copy(dir("image.png"), copy.path().join("selftest.png")).unwrap();
    let test = |probability: f32| {
        let test = serde_json::json!({
            "image": "selftest.png", "label": *likeliest.name, "probability": probability,
        });
        std::fs::write(copy.path().join("selftest.json"), test.to_string()).unwrap();
        Engine::load(copy.path())
    };
    let passed = test(likeliest.probability).unwrap();
    assert!(passed.card().self_test.is_some());
    let error = test(likeliest.probability - 0.01).unwrap_err();
    assert!(matches!(error, LoadError::SelfTest { .. }), "{error}");
}

#[test]
fn a_classifier_refuses_conversations_and_nothing() {
    let engine = Engine::load(&dir("vit")).unwrap();
    let error = engine.answer(ask(QUESTION, &[])).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the model does image classification, not chat"
    );
    let error = engine.classify(Tenant::new(), &[], 1).unwrap_err();
    assert_eq!(error, RequestError::Empty { parameter: "input" });
}

#[test]
fn labels_that_are_not_numbered_are_refused() {
    let copy = copy("vit");
    let path = copy.path().join("config.json");
    let mut config: Value = serde_json::from_slice(&std::fs::read(&path).unwrap()).unwrap();
    config["id2label"].as_object_mut().unwrap().remove("0");
    std::fs::write(path, config.to_string()).unwrap();
    assert_eq!(
        Engine::load(copy.path()).unwrap_err().to_string(),
        "config.json: id2label is 4 labels, expected 1 to 65536, numbered from 0",
    );
}

fn dir(name: &str) -> PathBuf {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"));
    dir.join("reference/vision").join(name)
}

fn copy(name: &str) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    for entry in dir(name).read_dir().unwrap() {
        let path = entry.unwrap().path();
        std::fs::copy(&path, copy.path().join(path.file_name().unwrap())).unwrap();
    }
    copy
}

/// The image that reference/vision.py has shown, or that on its side.
fn picture(number: usize) -> Image {
    let bytes = match number {
        0 => std::fs::read(dir("image.png")).unwrap(),
        _ => turned(),
    };
    Image::new(bytes).unwrap()
}

fn turned() -> Vec<u8> {
    let image = image::open(dir("image.png")).unwrap().rotate270();
    let mut png = std::io::Cursor::new(Vec::new());
    image.write_to(&mut png, image::ImageFormat::Png).unwrap();
    png.into_inner()
}

/// A greedy question about images that are shown before it.
fn ask(text: &str, images: &[Image]) -> Request {
    ask_at(text, 0, images)
}

fn ask_at(text: &str, place: usize, images: &[Image]) -> Request {
    Request {
        prompt: Prompt::Chat(vec![Message {
            images: images.iter().map(|image| (place, image.clone())).collect(),
            ..Message::new(Role::User, text.to_owned())
        }]),
        sampling: Sampling {
            temperature: Some(0.0),
            ..Sampling::default()
        },
        max_tokens: Some(30),
        ..Request::default()
    }
}

fn hear(engine: &Engine, request: Request) -> (String, Usage) {
    let mut heard = String::new();
    for event in block_on_stream(engine.answer(request).unwrap()) {
        match event.unwrap() {
            Event::Text { text, .. } => heard += &text,
            Event::Call(_) | Event::Arguments(_) => panic!("no tools were given"),
            Event::Finish { usage, .. } => return (heard, usage),
        }
    }
    panic!("an answer without an end");
}
