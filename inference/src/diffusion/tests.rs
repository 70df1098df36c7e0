//! Stable Diffusion against diffusers, and against directories that are not one.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "numbers of a test"
)]

use std::path::{Path, PathBuf};
use std::time::Duration;

use candle_core::{Device, Tensor};
use futures_channel::oneshot;
use futures_executor::block_on;
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::*;
use crate::deadline::Deadline;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::queue::{Line as _, Queue};
use crate::request::Tenant;

/// Made by reference/diffusion.py, which shares nothing with this crate.
fn reference() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("reference/diffusion")
}

#[derive(Deserialize)]
struct Expected {
    prompt: String,
    ids: Vec<u32>,
    states: Vec<f32>,
    predicted: Vec<f32>,
    image: Vec<f32>,
    ddim: Run,
    velocity: Run,
    euler: Run,
    whole: Vec<u8>,
}

/// The steps of a scheduler.
#[derive(Deserialize)]
struct Run {
    count: usize,
    /// The time of each, and some of what the network is shown.
    seen: Vec<Vec<f32>>,
    last: Vec<f32>,
}

fn expected() -> Expected {
    let file = std::fs::read(reference().join("expected.json")).unwrap();
    serde_json::from_slice(&file).unwrap()
}

/// The numbers of reference/diffusion.py.
fn noise(seed: i64) -> Tensor {
    let numbers = (0..256).map(|i| ((i * 7919 + seed * 104_729) % 2003 - 1001) as f32 / 512.0);
    let numbers = Tensor::from_iter(numbers, &Device::Cpu).unwrap();
    numbers.reshape((1, 4, 8, 8)).unwrap()
}

fn worker() -> Worker {
    let dir = ModelDir::new(&reference());
    let mut pool = Pool::new(true).unwrap();
    Worker {
        model: Diffusion::load(&mut pool, &dir).unwrap(),
        scheduler: Scheduler::load(&dir).unwrap(),
        pool,
    }
}

fn prompts() -> Prompts {
    Prompts::load(&ModelDir::new(&reference()), 520, 16).unwrap()
}

fn job(steps: usize) -> (Job, oneshot::Receiver<Result<Pictures, EngineError>>) {
    let (result, pending) = oneshot::channel();
    let job = Job {
        prompt: prompts().encode(&expected().prompt).unwrap(),
        negative: prompts().encode("sea").unwrap(),
        count: 1,
        size: [16, 16],
        steps,
        guidance: 5.0,
        seed: 7,
        deadline: Deadline::after(Duration::from_secs(600)),
        result,
    };
    (job, pending)
}

fn assert_near(what: &str, found: &Tensor, step: usize, expected: &[f32], tolerance: f32) {
    let found: Vec<f32> = found.flatten_all().unwrap().to_vec1().unwrap();
    let found: Vec<_> = found.into_iter().step_by(step).collect();
    assert_eq!(found.len(), expected.len(), "{what}");
    let pairs = found.iter().zip(expected);
    let difference = pairs.map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
    println!("{what}: {difference:.1e}");
    assert!(difference < tolerance, "{what}: {difference}");
}

#[test]
fn each_network_gives_the_numbers_of_diffusers() {
    let (expected, mut worker) = (expected(), worker());
    assert_eq!(*prompts().encode(&expected.prompt).unwrap(), expected.ids);
    let (model, pool) = (&worker.model, &mut worker.pool);
    let states = model.text.forward(pool, &expected.ids).unwrap();
    assert_near("states", &states, 1, &expected.states, 2e-5);
    let predicted = model.unet.forward(pool, &noise(1), 481.0, &states).unwrap();
    assert_near("predicted", &predicted, 1, &expected.predicted, 2e-5);
    let image = model.vae.decode(pool, &noise(1)).unwrap();
    assert_near("image", &image, 3, &expected.image, 2e-5);
}

#[test]
fn when_the_device_is_lost_a_request_says_so_and_the_engine_ends() {
    let (queue, worker) = (Queue::new(4), worker());
    let (mut pendings, jobs) = (Vec::new(), [job(1), job(1)]);
    for (job, pending) in jobs {
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
fn each_scheduler_takes_the_steps_of_diffusers() {
    let expected = expected();
    let file = "scheduler/scheduler_config.json";
    for (name, run, key, value) in [
        (
            "ddim",
            &expected.ddim,
            "_class_name",
            json!("DDIMScheduler"),
        ),
        (
            "velocity",
            &expected.velocity,
            "prediction_type",
            json!("v_prediction"),
        ),
        (
            "euler",
            &expected.euler,
            "_class_name",
            json!("EulerDiscreteScheduler"),
        ),
    ] {
        let dir = changed(file, |json| {
            json[key] = value.clone();
            if name == "euler" {
                json["timestep_spacing"] = json!("linspace");
            }
        });
        let scheduler = Scheduler::load(&ModelDir::new(dir.path())).unwrap();
        let steps = scheduler.steps(run.count);
        let mut x = noise(1).affine(scheduler.loudness(&steps), 0.0).unwrap();
        for (index, (step, seen)) in steps.iter().zip(&run.seen).enumerate() {
            let (time, seen) = seen.split_first().unwrap();
            assert!(
                (step.time - f64::from(*time)).abs() < 1e-3,
                "{name} {index}"
            );
            let shown = scheduler.shown(*step, &x).unwrap();
            assert_near(name, &shown, 37, seen, 1e-4);
            let predicted = noise(i64::try_from(index).unwrap() + 2);
            x = scheduler.step(*step, &x, &predicted).unwrap();
        }
        assert_eq!(steps.len(), run.seen.len());
        assert_near(name, &x, 1, &run.last, 1e-4);
    }
}

#[test]
fn a_whole_image_is_that_of_diffusers() {
    let (expected, mut worker) = (expected(), worker());
    let (job, _pending) = job(3);
    let states = [&job.prompt, &job.negative];
    let [text, other] = states.map(|ids| worker.model.text.forward(&mut worker.pool, ids).unwrap());
    let latents = worker.denoise(&job, noise(1), &text, Some(&other)).unwrap();
    let levels = worker.levels(&job, &latents).unwrap();
    assert_eq!(levels.len(), expected.whole.len());
    let pairs = levels.iter().zip(&expected.whole);
    // A half may be rounded either way.
    assert!(pairs.clone().all(|(a, b)| a.abs_diff(*b) <= 1));
    assert!(pairs.filter(|(a, b)| a != b).count() < 10);
}

#[test]
fn a_seed_gives_the_same_bytes_and_another_gives_others() {
    let mut worker = worker();
    let mut draw = |seed, count| {
        let (job, _pending) = job(2);
        worker.pictures(&Job { seed, count, ..job }).unwrap().files
    };
    let two = draw(7, 2);
    assert!(two[0].starts_with(b"\x89PNG\r\n"));
    assert_eq!(draw(7, 1)[0], two[0]);
    // The second image is the first of the next seed.
    assert_eq!(draw(8, 1)[0], two[1]);
    assert_ne!(two[0], two[1]);
}

#[test]
fn noise_is_normal_and_known() {
    let numbers = noise::normal(42, [1, 4, 64, 64]).unwrap();
    let numbers: Vec<f32> = numbers.flatten_all().unwrap().to_vec1().unwrap();
    let count = numbers.len() as f32;
    let mean = numbers.iter().sum::<f32>() / count;
    let variance = numbers.iter().map(|x| x * x).sum::<f32>() / count;
    assert!(
        mean.abs() < 0.02 && (variance - 1.0).abs() < 0.03,
        "{mean} {variance}"
    );
    // More of it does not change what was there.
    let few = noise::normal(42, [1, 1, 2, 2]).unwrap();
    let few: Vec<f32> = few.flatten_all().unwrap().to_vec1().unwrap();
    assert_eq!(numbers[..4], few);
}

/// A directory like the reference, but for one file.
fn changed(file: &str, change: impl Fn(&mut Value)) -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let parts = ["", "scheduler", "text_encoder", "tokenizer", "unet", "vae"];
    for part in parts {
        let to = dir.path().join(part);
        std::fs::create_dir_all(&to).unwrap();
        for entry in reference().join(part).read_dir().unwrap() {
            let path = entry.unwrap().path();
            if path.is_file() {
                std::os::unix::fs::symlink(&path, to.join(path.file_name().unwrap())).unwrap();
            }
        }
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
    let (unet, vae, text) = (
        "unet/config.json",
        "vae/config.json",
        "text_encoder/config.json",
    );
    let scheduler = "scheduler/scheduler_config.json";
    for (file, key, value, message) in [
        (
            unet,
            "act_fn",
            json!("gelu"),
            "act_fn is \"gelu\", expected \"silu\"",
        ),
        (
            unet,
            "block_out_channels",
            json!([16, 0]),
            "block_out_channels is 0, expected 1 to 4096",
        ),
        (
            unet,
            "block_out_channels",
            json!([16]),
            "block_out_channels is a list of 1, expected 2 to 6 levels",
        ),
        (
            unet,
            "attention_head_dim",
            json!(5),
            "block_out_channels is 16, expected a multiple of 5",
        ),
        (
            unet,
            "cross_attention_dim",
            json!(64),
            "cross_attention_dim is 64, expected 32",
        ),
        (
            unet,
            "down_block_types",
            json!(["A", "B"]),
            "down_block_types is A, expected CrossAttnDownBlock2D or DownBlock2D",
        ),
        (
            vae,
            "latent_channels",
            json!(16),
            "latent_channels is 16, expected 4",
        ),
        (
            vae,
            "shift_factor",
            json!(0.1),
            "shift_factor is 0.1, expected null",
        ),
        (
            text,
            "hidden_act",
            json!("relu"),
            "hidden_act is relu, expected gelu, gelu_pytorch_tanh or quick_gelu",
        ),
        (
            scheduler,
            "_class_name",
            json!("Heun"),
            "_class_name is Heun, expected DDIMScheduler, EulerDiscreteScheduler or PNDMScheduler",
        ),
        (
            scheduler,
            "beta_end",
            json!(2.0),
            "beta_end is 2, expected between 0 and 1",
        ),
        (
            scheduler,
            "thresholding",
            json!(true),
            "thresholding is true, expected false",
        ),
        (
            "model_index.json",
            "_class_name",
            json!("Flux"),
            "_class_name is \"Flux\", expected StableDiffusionPipeline",
        ),
    ] {
        let dir = changed(file, |json| json[key] = value.clone());
        let error = Engine::load(dir.path()).unwrap_err();
        assert_eq!(error.to_string(), format!("{file}: {message}"));
    }
}

#[test]
fn what_cannot_be_drawn_is_refused() {
    let engine = Engine::load(&reference()).unwrap();
    let request = || PictureRequest::new(Zeroizing::new("a sea".into()));
    let refused = |request| engine.picture(request).unwrap_err().to_string();
    for (request, message) in [
        (
            PictureRequest {
                size: Some([16, 24]),
                ..request()
            },
            "size is 16x24, expected sides of multiples of 4 up to 16",
        ),
        (
            PictureRequest {
                size: Some([0, 16]),
                ..request()
            },
            "size is 0x16, expected sides of multiples of 4 up to 16",
        ),
        (
            PictureRequest {
                steps: 0,
                ..request()
            },
            "steps is 0, expected 1 to 100",
        ),
        (
            PictureRequest {
                count: 5,
                ..request()
            },
            "n is 5, expected 1 to 4",
        ),
        (
            PictureRequest {
                guidance: f64::NAN,
                ..request()
            },
            "guidance_scale is NaN, expected 1 to 30",
        ),
        (
            PictureRequest::new(Zeroizing::default()),
            "prompt is empty, expected at least one",
        ),
        (
            PictureRequest::new(Zeroizing::new("many words ".repeat(20))),
            "prompt and answer have at least 180 and 0 tokens, the context has room for 14",
        ),
    ] {
        assert_eq!(refused(request), message);
    }
}

#[test]
fn a_self_test_with_another_result_keeps_the_model_from_serving() {
    let load = |levels: &[u8]| {
        let dir = changed("model_index.json", |_| {});
        let test = json!({"picture": "a sea", "seed": 1, "steps": 2, "levels": levels});
        std::fs::write(dir.path().join("selftest.json"), test.to_string()).unwrap();
        Engine::load(dir.path())
    };
    let engine = Engine::load(&reference()).unwrap();
    let request = PictureRequest {
        seed: Some(1),
        steps: 2,
        ..PictureRequest::new(Zeroizing::new("a sea".into()))
    };
    let drawn = block_on(engine.picture(request).unwrap()).unwrap();
    let pixels = media::Image::new(drawn.files[0].to_vec())
        .unwrap()
        .decode()
        .unwrap();
    let levels: Vec<u8> = pixels.levels.iter().copied().step_by(256).collect();
    assert!(load(&levels).unwrap().card().self_test.is_some());
    let other: Vec<u8> = levels.iter().map(|level| level ^ 0x80).collect();
    assert_eq!(
        load(&other).unwrap_err().to_string(),
        "self-test: 0 levels are right, expected 3, and one at least",
    );
}

#[test]
fn nobody_waits_for_what_nobody_wants() {
    let mut worker = worker();
    let (unwanted, pending) = job(50);
    drop(pending);
    assert!(matches!(
        worker.pictures(&unwanted),
        Err(EngineError::Stopped)
    ));
    let (late, _pending) = job(50);
    let late = Job {
        deadline: Deadline::after(Duration::ZERO),
        ..late
    };
    assert!(matches!(
        worker.pictures(&late),
        Err(EngineError::Deadline { .. })
    ));
}
