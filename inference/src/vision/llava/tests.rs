//! LLaVA beside transformers.

#![expect(clippy::arithmetic_side_effects, reason = "numbers of a test")]

use media::Image;

use super::*;
use crate::decoder::{Decoder, Span, Workspace};
use crate::kernel::attention::PAGE;
use crate::kernel::level::Cpu;
use crate::memory::Memory;
use crate::vision::{Sight, reference};

#[derive(Deserialize)]
struct Expected {
    ids: Vec<u32>,
    row: Vec<f32>,
    logits: Vec<f32>,
}

fn expected(name: &str) -> Expected {
    let expected = std::fs::read(reference(name).join("expected.json")).unwrap();
    serde_json::from_slice(&expected).unwrap()
}

/// A model with its tower.
struct Reader {
    tower: Llava,
    placeholder: Placeholder,
    decoder: Decoder,
    pool: Pool,
}

impl Reader {
    fn open(name: &str, threads: usize, cpu: Cpu) -> Self {
        let dir = ModelDir::new(&reference(name));
        let config: Config = dir.json(FILE).unwrap();
        let mut pool = Pool::with(threads, cpu).unwrap();
        let mut weights = Weights::open(&dir).unwrap();
        let tower = Llava::load(&mut pool, &dir, &config, &mut weights).unwrap();
        let shape = config.shape().unwrap();
        Self {
            placeholder: tower.placeholder(&config),
            decoder: Decoder::load(&mut pool, shape, weights).unwrap(),
            tower,
            pool,
        }
    }

    /// The logits after a prompt that is read in pieces.
    fn logits(&mut self, tokens: &[u32], sights: &mut [Sight], piece: usize) -> Vec<f32> {
        let shape = self.decoder.shape().clone();
        let mut memory = Memory::new(shape.heads, shape.layers, 1 << 24);
        let count = tokens.len().div_ceil(PAGE);
        let pages: Vec<_> = (0..count).filter_map(|_| memory.page()).collect();
        let mut logits = Vec::new();
        for (index, part) in tokens.chunks(piece).enumerate() {
            let position = index * piece;
            for sight in sights.iter_mut() {
                let range = position..position + part.len();
                assert!(sight.look(&self.tower, &mut self.pool, &range));
            }
            let span = Span {
                tokens: part,
                position,
                pages: &pages,
                sights,
                wanted: true,
                best: None,
            };
            let mut work = Workspace::default();
            let (pool, decoder) = (&mut self.pool, &mut self.decoder);
            let found = decoder.forward(pool, &mut memory, &[span], &mut work);
            logits = found.unwrap().to_vec();
            for sight in sights.iter_mut() {
                sight.forget(position + part.len());
            }
        }
        logits
    }
}

/// The image, and it on its side, as reference/vision.py has shown them.
fn images() -> [Image; 2] {
    let upright = crate::vision::sample();
    let bytes = include_bytes!("../../../reference/vision/image.png");
    let turned = image::load_from_memory(bytes).unwrap().rotate270();
    let mut png = std::io::Cursor::new(Vec::new());
    turned.write_to(&mut png, image::ImageFormat::Png).unwrap();
    [upright, Image::new(png.into_inner()).unwrap()]
}

/// One token for each image, as a template writes it.
fn template(ids: &[u32], token: u32) -> Vec<u32> {
    let mut ids = ids.to_vec();
    ids.dedup_by(|a, b| a == b && *a == token);
    ids
}

#[test]
fn rows_and_logits_are_those_of_transformers() {
    let [upright, turned] = images();
    for name in ["llava-llama", "llava-qwen2"] {
        let expected = expected(name);
        let mut reader = Reader::open(name, 2, Cpu::detect());
        let fitted = reader
            .placeholder
            .processor
            .fit_all([&upright].into_iter())
            .unwrap();
        let rows = reader.tower.see(&mut reader.pool, &fitted[0]).unwrap();
        for (found, expected) in rows.chunks(64).nth(3).unwrap().iter().zip(&expected.row) {
            assert!(
                (found - expected).abs() < 1e-4,
                "{name}: {found} {expected}"
            );
        }

        let prompt = template(&expected.ids, reader.placeholder.token);
        let (ids, mut sights) = reader
            .placeholder
            .expand(&prompt, &[&upright, &turned])
            .unwrap();
        assert_eq!(*ids, expected.ids);
        let found = reader.logits(&ids, &mut sights, 1000);
        assert_eq!(found.len(), expected.logits.len());
        for (found, expected) in found.iter().zip(&expected.logits) {
            // Keys and values are halves here.
            let difference = (found - expected).abs();
            assert!(difference < 4e-3, "{name}: {found} is not {expected}");
        }
    }
}

#[test]
fn images_give_the_same_bits_in_any_pieces_on_any_processor() {
    let [upright, turned] = images();
    let ids = expected("llava-llama").ids;
    let logits = |piece, threads, cpu| {
        let mut reader = Reader::open("llava-llama", threads, cpu);
        let prompt = template(&ids, reader.placeholder.token);
        let (ids, mut sights) = reader
            .placeholder
            .expand(&prompt, &[&upright, &turned])
            .unwrap();
        reader.logits(&ids, &mut sights, piece)
    };
    let whole = logits(1000, 1, Cpu::PORTABLE);
    for cpu in Cpu::all() {
        for (piece, threads) in [(1, 1), (13, 3), (32, 2)] {
            assert!(
                logits(piece, threads, cpu) == whole,
                "{cpu:?} {piece} {threads}"
            );
        }
    }
}

#[test]
fn a_prompt_with_another_number_of_images_is_refused() {
    let [upright, turned] = images();
    let reader = Reader::open("llava-llama", 1, Cpu::detect());
    let error = |prompt: &[u32], images: &[&Image]| {
        let error = reader.placeholder.expand(prompt, images).unwrap_err();
        error.to_string()
    };
    let text = |found, expected| {
        format!(
            "the model's chat template has room for {found} images, the messages have {expected}"
        )
    };
    assert_eq!(error(&[3, 95, 4], &[&upright, &turned]), text(1, 2));
    assert_eq!(error(&[3, 95, 4], &[]), text(1, 0));
    assert_eq!(error(&[3, 4], &[&upright]), text(0, 1));
}

#[test]
fn settings_that_are_not_implemented_are_refused_by_name() {
    for (at, value, message) in [
        (
            "/vision_config/model_type",
            json!("pixtral"),
            "model_type is pixtral, expected clip_vision_model or siglip_vision_model",
        ),
        (
            "/vision_config/hidden_act",
            json!("relu"),
            "hidden_act is relu, expected gelu, gelu_pytorch_tanh or quick_gelu",
        ),
        (
            "/vision_config/patch_size",
            json!(7),
            "patch_size is 7, expected a divisor of image_size, 24",
        ),
        (
            "/vision_config/image_size",
            json!(0),
            "image_size is 0, expected 1 to 2048",
        ),
        (
            "/vision_config/num_channels",
            json!(4),
            "num_channels is 4, expected 3",
        ),
        (
            "/text_config/model_type",
            json!("mistral"),
            "model_type is mistral, expected llama, qwen2 or qwen3",
        ),
        (
            "/vision_feature_layer",
            json!(-4),
            "vision_feature_layer is -4, expected 1 to 3, or -3 to -1",
        ),
        (
            "/vision_feature_select_strategy",
            json!("last"),
            "vision_feature_select_strategy is last, expected default or full",
        ),
    ] {
        let dir = ModelDir::new(&reference("llava-llama"));
        let mut config: Value = dir.json(FILE).unwrap();
        *config.pointer_mut(at).unwrap() = value;
        let config: Config = serde_json::from_value(config).unwrap();
        let mut pool = Pool::with(1, Cpu::detect()).unwrap();
        let mut weights = Weights::open(&dir).unwrap();
        let error = Llava::load(&mut pool, &dir, &config, &mut weights).unwrap_err();
        assert_eq!(error.to_string(), format!("{FILE}: {message}"));
    }
}

#[test]
fn the_names_of_all_files_in_use_are_known() {
    for (names, prefix) in [
        ("vision_tower.vision_model.", "vision_tower."),
        ("model.vision_tower.vision_model.", "vision_tower."),
        ("language_model.model.layers.", "model.layers."),
        ("model.language_model.layers.", "model.layers."),
        ("language_model.lm_head.", "lm_head."),
        ("lm_head.", "lm_head."),
        ("model.multi_modal_projector.", "multi_modal_projector."),
    ] {
        let rename = |name: String, (from, to): &(&str, &str)| match name.strip_prefix(from) {
            Some(rest) => format!("{to}{rest}"),
            None => name,
        };
        let found = OTHER_NAMES.iter().fold(format!("{names}x"), rename);
        assert_eq!(found, format!("{prefix}x"));
    }
}
