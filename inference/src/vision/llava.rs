//! LLaVA: a tower whose rows, two layers later, stand in a prompt as if they were
//! embeddings of tokens.
//!
//! Source: `LlavaForConditionalGeneration` of Hugging Face transformers, with the tower
//! of CLIP or of SigLIP.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::encoder::{self, Activation, Encoder, Names};
use super::processor::Processor;
use super::resize::Filter;
use super::sight::Placeholder;
use crate::config::{FILE, unsupported};
use crate::decoder::{Family, Shape};
use crate::encoder::{linear, project};
use crate::error::LoadError;
use crate::generation::Ids;
use crate::image::Pixels;
use crate::kernel::pool::Pool;
use crate::linear::Linear;
use crate::model_dir::ModelDir;
use crate::weights::Weights;

/// The part of the model that sees.
#[derive(Debug)]
pub(crate) struct Llava {
    processor: Arc<Processor>,
    patch: usize,
    encoder: Encoder,
    /// Rows before those that are used.
    skipped: usize,
    first: Linear,
    activation: Activation,
    second: Linear,
}

impl Llava {
    /// As `architectures` in config.json has it.
    pub(crate) const ARCHITECTURE: &'static str = "LlavaForConditionalGeneration";

    /// Takes its tensors out of `weights`, and leaves those of a decoder.
    pub(crate) fn load(
        pool: &mut Pool,
        dir: &ModelDir,
        config: &Config,
        weights: &mut Weights,
    ) -> Result<Self, LoadError> {
        for (from, to) in OTHER_NAMES {
            weights.rename(from, to);
        }
        let tower = &config.vision_config;
        let names = tower.names()?;
        let layers = config.layers()?;
        let encoder = Encoder::load(
            pool,
            weights,
            &tower.encoder,
            names,
            "vision_tower.",
            layers,
        )?;
        let hidden = config.hidden()?;
        let biased = config.multimodal_projector_bias;
        let mut linear = |name, inputs| {
            let name = format!("multi_modal_projector.{name}");
            linear(pool, weights, &name, [hidden, inputs], biased)
        };
        Ok(Self {
            processor: Arc::new(Processor::load(
                dir,
                tower.encoder.image_size,
                Filter::Bicubic,
            )?),
            patch: tower.encoder.patch_size,
            encoder,
            skipped: config.skipped()?,
            first: linear("linear_1", tower.encoder.hidden_size)?,
            activation: Activation::of("projector_hidden_act", &config.projector_hidden_act)?,
            second: linear("linear_2", hidden)?,
        })
    }

    /// What stands for an image in a prompt.
    pub(crate) fn placeholder(&self, config: &Config) -> Placeholder {
        let rows = config.vision_config.encoder.patches();
        let class = usize::from(self.encoder.has_class());
        Placeholder {
            processor: Arc::clone(&self.processor),
            token: config.image_token_index,
            count: rows.saturating_add(class).saturating_sub(self.skipped),
        }
    }

    /// A row for each of its tokens.
    pub(crate) fn see(
        &self,
        pool: &mut Pool,
        image: &Pixels,
    ) -> candle_core::Result<Zeroizing<Vec<f32>>> {
        let patches = self.processor.patches(image, self.patch);
        let rows = self.encoder.forward(pool, &patches)?;
        let count = rows.dim(0)?.saturating_sub(self.skipped);
        let rows = rows.narrow(0, self.skipped, count)?;
        let inner = self.activation.apply(&project(pool, &self.first, &rows)?)?;
        let rows = project(pool, &self.second, &inner)?;
        Ok(Zeroizing::new(rows.flatten_all()?.to_vec1()?))
    }
}

/// config.json.
#[derive(Debug, Deserialize)]
pub(crate) struct Config {
    vision_config: Tower,
    text_config: serde_json::Map<String, Value>,
    #[serde(alias = "image_token_id")]
    pub(crate) image_token_index: u32,
    #[serde(default = "gelu")]
    projector_hidden_act: String,
    #[serde(default = "default")]
    vision_feature_select_strategy: String,
    #[serde(default = "last_but_one")]
    vision_feature_layer: i64,
    #[serde(default = "yes")]
    multimodal_projector_bias: bool,
    #[serde(default)]
    tie_word_embeddings: bool,
    eos_token_id: Option<Ids>,
}

#[derive(Debug, Deserialize)]
struct Tower {
    model_type: String,
    #[serde(flatten)]
    encoder: encoder::Config,
}

fn gelu() -> String {
    "gelu".into()
}

fn default() -> String {
    "default".into()
}

fn last_but_one() -> i64 {
    -2
}

fn yes() -> bool {
    true
}

impl Config {
    /// Of the decoder. The files of the hub leave out what transformers assumes.
    pub(crate) fn shape(&self) -> Result<Shape, LoadError> {
        let kind = self.text_config.get("model_type").and_then(Value::as_str);
        let kind = kind.unwrap_or("absent");
        let known = DECODERS.iter().find(|(name, _)| *name == kind);
        let family = known.and_then(|(_, architecture)| Family::find(architecture));
        let Some(family) = family else {
            let expected = "llama, qwen2 or qwen3";
            return Err(unsupported(FILE, "model_type", kind, expected));
        };
        let mut text = self.text_config.clone();
        let mut assume = |key: &str, value: Value| {
            text.entry(key).or_insert(value);
        };
        assume("hidden_act", json!("silu"));
        assume("rms_norm_eps", json!(1e-6));
        assume("tie_word_embeddings", json!(self.tie_word_embeddings));
        if !self.text_config.contains_key("rope_parameters") {
            assume("rope_theta", json!(10_000.0));
        }
        if kind == "llama" {
            for (key, value) in LLAMA {
                assume(key, json!(value));
            }
        }
        Shape::of_config(family, text.into())
    }

    /// Tokens that end an answer, if the files say it here.
    pub(crate) fn ends(&self) -> Option<Ids> {
        let text = self.text_config.get("eos_token_id");
        let text = text.and_then(|ends| Ids::deserialize(ends).ok());
        self.eos_token_id.clone().or(text)
    }

    fn hidden(&self) -> Result<usize, LoadError> {
        self.shape().map(|shape| shape.hidden)
    }

    /// Layers of the tower that are used; a negative number counts from the end.
    fn layers(&self) -> Result<usize, LoadError> {
        let all = self.vision_config.encoder.num_hidden_layers;
        let found = self.vision_feature_layer;
        let layers = match usize::try_from(found) {
            Ok(layers) => Some(layers),
            Err(_) => usize::try_from(found.unsigned_abs())
                .ok()
                .and_then(|before| all.saturating_add(1).checked_sub(before)),
        };
        let layers = layers.filter(|layers| (1..=all).contains(layers));
        layers.ok_or_else(|| {
            let expected = format!("1 to {all}, or -{all} to -1");
            unsupported(FILE, "vision_feature_layer", found, expected)
        })
    }

    /// Rows that are not used.
    fn skipped(&self) -> Result<usize, LoadError> {
        match self.vision_feature_select_strategy.as_str() {
            "default" => Ok(1),
            "full" => Ok(0),
            found => {
                let key = "vision_feature_select_strategy";
                Err(unsupported(FILE, key, found, "default or full"))
            }
        }
    }
}

impl Tower {
    fn names(&self) -> Result<&'static Names, LoadError> {
        match self.model_type.as_str() {
            "clip_vision_model" => Ok(&CLIP),
            "siglip_vision_model" => Ok(&SIGLIP),
            found => {
                let expected = "clip_vision_model or siglip_vision_model";
                Err(unsupported(FILE, "model_type", found, expected))
            }
        }
    }
}

/// Decoders, by `model_type`.
const DECODERS: [(&str, &str); 3] = [
    ("llama", "LlamaForCausalLM"),
    ("qwen2", "Qwen2ForCausalLM"),
    ("qwen3", "Qwen3ForCausalLM"),
];

/// Sizes of a Llama of which nothing else is said.
const LLAMA: [(&str, u32); 6] = [
    ("hidden_size", 4096),
    ("intermediate_size", 11008),
    ("max_position_embeddings", 2048),
    ("num_attention_heads", 32),
    ("num_hidden_layers", 32),
    ("vocab_size", 32000),
];

/// How files call what is called here as in most of them.
const OTHER_NAMES: [(&str, &str); 6] = [
    ("model.vision_tower.", "vision_tower."),
    ("vision_tower.vision_model.", "vision_tower."),
    ("model.multi_modal_projector.", "multi_modal_projector."),
    ("model.language_model.", "model."),
    ("language_model.model.", "model."),
    ("language_model.lm_head.", "lm_head."),
];

const CLIP: Names = Names {
    patches: "embeddings.patch_embedding",
    patch_bias: false,
    class: Some("embeddings.class_embedding"),
    positions: "embeddings.position_embedding.weight",
    // As the file spells it.
    pre_norm: Some("pre_layrnorm"),
    layers: "encoder.layers",
    attention: [
        "self_attn.q_proj",
        "self_attn.k_proj",
        "self_attn.v_proj",
        "self_attn.out_proj",
    ],
    norms: ["layer_norm1", "layer_norm2"],
    feed: ["mlp.fc1", "mlp.fc2"],
    activation: "quick_gelu",
    epsilon: 1e-5,
};

const SIGLIP: Names = Names {
    patch_bias: true,
    class: None,
    pre_norm: None,
    activation: "gelu_pytorch_tanh",
    epsilon: 1e-6,
    ..CLIP
};

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "numbers of a test")]
mod tests {
    use super::*;
    use crate::decoder::{Decoder, Span, Workspace};
    use crate::image::Image;
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
                };
                let mut work = Workspace::default();
                let (pool, decoder) = (&mut self.pool, &self.decoder);
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
        let upright = crate::image::sample();
        let bytes = include_bytes!("../../reference/vision/image.png");
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
                .fit_all(std::slice::from_ref(&upright))
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
}
