//! A known answer, asked for before the model serves anybody.
//!
//! It shows that weights, tokenizer, template and arithmetic belong together and
//! work on this machine. `selftest.json` is one of
//!
//! ```json
//! {"prompt": "Recite Genesis 1:1.", "expected": "In the beginning ..."}
//! {"prompt": "What is this?", "image": "selftest.png", "expected": "A cat."}
//! {"pair": ["a happy person", "a happy dog"], "cosine": 0.6946}
//! {"image": "selftest.png", "label": "tabby cat", "probability": 0.8312}
//! {"sound": "selftest.flac", "expected": "And so my fellow Americans ..."}
//! {"picture": "a red ball", "seed": 1, "steps": 4, "levels": [203, 17, 40]}
//! ```
//!
//! Of a picture these are bytes of the pixels, evenly apart. Images and sounds are files beside it.

use futures_executor::{block_on, block_on_stream};
use media::{Audio, Image};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use zeroize::Zeroizing;

use crate::answer::Event;
use crate::config::unsupported;
use crate::diffusion::PictureRequest;
use crate::engine::Engine;
use crate::error::LoadError;
use crate::model_dir::ModelDir;
use crate::request::{Message, Prompt, Request, Role, Sampling, Tenant};
use crate::whisper::TranscriptRequest;

/// Runs the test if there is one; the SHA-256 of what passed.
pub(crate) fn run(dir: &ModelDir, engine: &Engine) -> Result<Option<[u8; 32]>, LoadError> {
    let Some(text) = dir.optional_bytes(FILE)? else {
        return Ok(None);
    };
    match dir.parse(FILE, &text)? {
        SelfTest::Chat {
            prompt,
            image,
            expected,
        } => {
            let image = image.map(|image| look(dir, &image)).transpose()?;
            recite(engine, prompt, image, &expected)?;
        }
        SelfTest::Classification {
            image,
            label,
            probability,
        } => {
            recognise(engine, look(dir, &image)?, &label, probability)?;
        }
        SelfTest::Embedding { pair, cosine } => compare(engine, &pair, cosine)?,
        SelfTest::Generation {
            picture,
            seed,
            steps,
            levels,
        } => {
            let request = PictureRequest {
                seed: Some(seed),
                steps,
                ..PictureRequest::new(Zeroizing::new(picture))
            };
            draw(engine, request, &levels)?;
        }
        SelfTest::Transcription { sound, expected } => {
            let audio = Audio::decode(&read(dir, "sound", &sound)?).map_err(failed)?;
            listen(engine, audio, &expected)?;
        }
    }
    Ok(Some(Sha256::digest(text).into()))
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum SelfTest {
    Chat {
        prompt: String,
        image: Option<String>,
        expected: String,
    },
    Classification {
        image: String,
        label: String,
        probability: f32,
    },
    Embedding {
        pair: [String; 2],
        cosine: f32,
    },
    Generation {
        picture: String,
        seed: u64,
        steps: usize,
        levels: Vec<u8>,
    },
    Transcription {
        sound: String,
        expected: String,
    },
}

fn look(dir: &ModelDir, file: &str) -> Result<Image, LoadError> {
    Image::new(read(dir, "image", file)?).map_err(failed)
}

fn read(dir: &ModelDir, key: &'static str, file: &str) -> Result<Vec<u8>, LoadError> {
    match file.contains('/') {
        true => Err(unsupported(FILE, key, file, "a name without a slash")),
        false => dir.bytes(file),
    }
}

fn recite(
    engine: &Engine,
    prompt: String,
    image: Option<Image>,
    expected: &str,
) -> Result<(), LoadError> {
    let request = Request {
        prompt: Prompt::Chat(vec![Message {
            images: image.into_iter().map(|image| (0, image)).collect(),
            ..Message::new(Role::User, prompt)
        }]),
        sampling: Sampling {
            temperature: Some(0.0),
            ..Sampling::default()
        },
        ..Request::default()
    };
    let mut text = String::new();
    for event in block_on_stream(engine.answer(request).map_err(failed)?) {
        if let Event::Text { text: more, .. } = event.map_err(failed)? {
            text += &more;
        }
        // An answer that has gone wrong need not be heard to its end.
        if !expected.starts_with(&text) {
            break;
        }
    }
    same(&text, expected)
}

fn draw(engine: &Engine, request: PictureRequest, expected: &[u8]) -> Result<(), LoadError> {
    let drawn = block_on(engine.picture(request).map_err(failed)?).map_err(failed)?;
    let file = drawn.files.first().map(|file| file.to_vec());
    let pixels = Image::new(file.unwrap_or_default()).and_then(|image| image.decode());
    let levels = pixels.map_err(failed)?.levels;
    let step = levels.len().checked_div(expected.len()).unwrap_or(0);
    let levels = levels.iter().step_by(step.max(1));
    // Another kind of processor may round otherwise.
    let near = levels.zip(expected).filter(|(a, b)| a.abs_diff(**b) <= 2);
    match (near.count(), expected.len()) {
        (found, all) if found == all && all > 0 => Ok(()),
        (found, all) => Err(LoadError::SelfTest {
            found: format!("{found} levels are right"),
            expected: format!("{all}, and one at least"),
        }),
    }
}

fn listen(engine: &Engine, audio: Audio, expected: &str) -> Result<(), LoadError> {
    let request = TranscriptRequest::new(audio);
    let heard = block_on(engine.transcribe(request).map_err(failed)?).map_err(failed)?;
    same(&heard.text(), expected)
}

fn same(text: &str, expected: &str) -> Result<(), LoadError> {
    match text == expected {
        true => Ok(()),
        false => {
            let same = text.bytes().zip(expected.bytes());
            let same = same.take_while(|(a, b)| a == b).count();
            Err(LoadError::SelfTest {
                found: format!("the answer has {same} right bytes"),
                expected: format!("the {} bytes in selftest.json", expected.len()),
            })
        }
    }
}

fn compare(engine: &Engine, pair: &[String; 2], expected: f32) -> Result<(), LoadError> {
    let embeddings = block_on(engine.embed(pair).map_err(failed)?).map_err(failed)?;
    let [a, b] = embeddings.vectors.as_slice() else {
        return Err(failed("not two vectors"));
    };
    let cosine: f32 = a.iter().zip(b).map(|(a, b)| a * b).sum();
    match (cosine - expected).abs() < 1e-3 {
        true => Ok(()),
        false => Err(LoadError::SelfTest {
            found: format!("the cosine is {cosine:.4}"),
            expected: format!("{expected:.4} within 0.001"),
        }),
    }
}

fn recognise(
    engine: &Engine,
    image: Image,
    label: &str,
    probability: f32,
) -> Result<(), LoadError> {
    let labels = block_on(
        engine
            .classify(Tenant::new(), &[image], 1)
            .map_err(failed)?,
    )
    .map_err(failed)?;
    let Some(found) = labels.iter().flatten().next() else {
        return Err(failed("no label"));
    };
    let near = (found.probability - probability).abs() < 1e-3;
    match near && *found.name == *label {
        true => Ok(()),
        false => Err(LoadError::SelfTest {
            found: format!("the image is {} at {:.4}", found.name, found.probability),
            expected: format!("{label} at {probability:.4} within 0.001"),
        }),
    }
}

fn failed(source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> LoadError {
    LoadError::SelfTestRun {
        source: source.into(),
    }
}

const FILE: &str = "selftest.json";

/// The chat model of this repository.
#[cfg(test)]
pub(crate) fn tiny() -> std::path::PathBuf {
    std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("models/cocoon-tiny")
}
