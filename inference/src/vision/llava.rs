//! LLaVA: a tower whose rows, two layers later, stand in a prompt as if they were
//! embeddings of tokens.
//!
//! Source: `LlavaForConditionalGeneration` of Hugging Face transformers, with the tower
//! of CLIP or of SigLIP.

#[cfg(test)]
mod tests;

use std::sync::Arc;

use media::Pixels;
use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::encoder::{self, Encoder, Names};
use super::processor::Processor;
use super::resize::Filter;
use super::sight::Placeholder;
use crate::config::{FILE, unsupported};
use crate::decoder::{Family, Shape};
use crate::encoder::{Activation, Feed};
use crate::error::LoadError;
use crate::generation::Ids;
use crate::kernel::pool::Pool;
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
    /// Makes rows as wide as those of tokens.
    projector: Feed,
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
        let projector = Feed::load(
            pool,
            weights,
            [
                "multi_modal_projector.linear_1",
                "multi_modal_projector.linear_2",
            ],
            [tower.encoder.hidden_size, hidden, hidden],
            Activation::of(FILE, "projector_hidden_act", &config.projector_hidden_act)?,
            config.multimodal_projector_bias,
        )?;
        Ok(Self {
            processor: Arc::new(Processor::load(
                dir,
                tower.encoder.image_size,
                Filter::Bicubic,
            )?),
            patch: tower.encoder.patch_size,
            encoder,
            skipped: config.skipped()?,
            projector,
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
        let rows = self.projector.forward(pool, &rows)?;
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
