//! Transformers over the patches of an image: ViT, and the towers of CLIP and SigLIP.
//!
//! One image at a time, so that no other can touch its numbers.
//!
//! Source: `ViTModel`, `CLIPVisionModel` and `SiglipVisionModel` of Hugging Face
//! transformers.

use candle_core::{Device, Tensor};
use serde::Deserialize;

use crate::config::{FILE, check_sizes, unsupported};
use crate::encoder::{Activation, Attention, Feed, Norm, linear, project};
use crate::error::LoadError;
use crate::kernel::pool::Pool;
use crate::linear::Linear;
use crate::weights::Weights;

/// Weights and shape.
#[derive(Debug)]
pub(super) struct Encoder {
    patches: Linear,
    /// What stands before the patches, if anything does.
    class: Option<Tensor>,
    positions: Tensor,
    pre_norm: Option<Norm>,
    layers: Vec<Layer>,
}

/// How a family calls its tensors, and which it has.
#[derive(Debug)]
pub(super) struct Names {
    pub(super) patches: &'static str,
    pub(super) patch_bias: bool,
    pub(super) class: Option<&'static str>,
    pub(super) positions: &'static str,
    pub(super) pre_norm: Option<&'static str>,
    pub(super) layers: &'static str,
    /// Of queries, keys, values, and of what comes of them.
    pub(super) attention: [&'static str; 4],
    /// Before attention, and before the feed-forward network.
    pub(super) norms: [&'static str; 2],
    pub(super) feed: [&'static str; 2],
    /// What holds if config.json does not say it.
    pub(super) activation: &'static str,
    pub(super) epsilon: f32,
}

impl Encoder {
    /// The first `layers` layers, of tensors whose names begin with `prefix`.
    pub(super) fn load(
        pool: &mut Pool,
        weights: &mut Weights,
        config: &Config,
        names: &Names,
        prefix: &str,
        layers: usize,
    ) -> Result<Self, LoadError> {
        config.check()?;
        let epsilon = config.layer_norm_eps.unwrap_or(names.epsilon);
        let (hidden, patch) = (config.hidden_size, config.patch_size);
        let name = |part: &str| format!("{prefix}{part}");
        let flat = patch.saturating_mul(patch).saturating_mul(3);
        let patches = name(names.patches);
        let kernel = [hidden, 3, patch, patch];
        weights.flatten(&format!("{patches}.weight"), &kernel)?;
        let patches = linear(pool, weights, &patches, [hidden, flat], names.patch_bias)?;
        let mut rows = |part: &str, rows| weights.rows(&name(part), [rows, hidden]);
        let class = names.class.map(|class| rows(class, 1)).transpose()?;
        let count = config
            .patches()
            .saturating_add(usize::from(class.is_some()));
        let positions = rows(names.positions, count)?;
        let pre_norm = names
            .pre_norm
            .map(|norm| Norm::load(weights, &name(norm), hidden, epsilon))
            .transpose()?;
        let layers = (0..layers)
            .map(|index| {
                let prefix = name(&format!("{}.{index}.", names.layers));
                Layer::load(pool, weights, config, names, &prefix)
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            patches,
            class,
            positions,
            pre_norm,
            layers,
        })
    }

    /// Whether a row stands before those of the patches.
    pub(super) fn has_class(&self) -> bool {
        self.class.is_some()
    }

    /// A row for each patch, after one for the class if there is one.
    pub(super) fn forward(&self, pool: &mut Pool, patches: &[f32]) -> candle_core::Result<Tensor> {
        let rows = self.positions.dim(0)?;
        let rows = rows.saturating_sub(usize::from(self.class.is_some()));
        let width = patches.len().checked_div(rows).unwrap_or(0);
        let patches = Tensor::from_slice(patches, (rows, width), &Device::Cpu)?;
        let mut x = project(pool, &self.patches, &patches)?;
        if let Some(class) = &self.class {
            x = Tensor::cat(&[class, &x], 0)?;
        }
        x = x.add(&self.positions)?;
        if let Some(norm) = &self.pre_norm {
            x = norm.forward(&x)?;
        }
        for layer in &self.layers {
            x = layer.forward(pool, &x)?;
        }
        Ok(x)
    }
}

/// One block: what attention and the feed-forward network make of norms is added.
#[derive(Debug)]
struct Layer {
    attention_norm: Norm,
    attention: Attention,
    norm: Norm,
    feed: Feed,
}

impl Layer {
    fn load(
        pool: &mut Pool,
        weights: &mut Weights,
        config: &Config,
        names: &Names,
        prefix: &str,
    ) -> Result<Self, LoadError> {
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let name = |part: &str| format!("{prefix}{part}");
        let [query, key, value, output] = names.attention;
        let [attention_norm, norm] = names.norms;
        let [up, down] = names.feed.map(name);
        let activation = config.hidden_act.as_deref().unwrap_or(names.activation);
        let activation = Activation::of(FILE, "hidden_act", activation)?;
        let epsilon = config.layer_norm_eps.unwrap_or(names.epsilon);
        let mut load_norm = |part| Norm::load(weights, &name(part), hidden, epsilon);
        let (attention_norm, norm) = (load_norm(attention_norm)?, load_norm(norm)?);
        let mut square = |part, biased| {
            let shape = [hidden, hidden];
            linear(pool, weights, &name(part), shape, biased)
        };
        Ok(Self {
            attention_norm,
            attention: Attention {
                query: square(query, config.qkv_bias)?,
                key: square(key, config.qkv_bias)?,
                value: square(value, config.qkv_bias)?,
                output: square(output, true)?,
                heads: config.num_attention_heads,
            },
            norm,
            feed: Feed::load(
                pool,
                weights,
                [&up, &down],
                [hidden, inner, hidden],
                activation,
                true,
            )?,
        })
    }

    fn forward(&self, pool: &mut Pool, x: &Tensor) -> candle_core::Result<Tensor> {
        let normed = self.attention_norm.forward(x)?;
        let x = x.add(&self.attention.forward(pool, &normed)?)?;
        x.add(&self.feed.forward(pool, &self.norm.forward(&x)?)?)
    }
}

/// What all these encoders are told.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    pub(super) hidden_size: usize,
    intermediate_size: usize,
    pub(super) num_hidden_layers: usize,
    num_attention_heads: usize,
    pub(super) image_size: usize,
    pub(super) patch_size: usize,
    #[serde(default = "three")]
    num_channels: usize,
    hidden_act: Option<String>,
    pub(super) layer_norm_eps: Option<f32>,
    #[serde(default = "yes")]
    qkv_bias: bool,
}

fn three() -> usize {
    3
}

fn yes() -> bool {
    true
}

impl Config {
    /// Patches of the whole image.
    pub(super) fn patches(&self) -> usize {
        let side = self.image_size.checked_div(self.patch_size).unwrap_or(0);
        side.saturating_mul(side)
    }

    /// Refuses sizes that no real model has and settings that are not implemented.
    fn check(&self) -> Result<(), LoadError> {
        check_sizes(
            FILE,
            [
                ("hidden_size", self.hidden_size, 1 << 14),
                ("intermediate_size", self.intermediate_size, 1 << 16),
                ("num_hidden_layers", self.num_hidden_layers, 1 << 8),
                ("num_attention_heads", self.num_attention_heads, 1 << 8),
                ("image_size", self.image_size, 1 << 11),
                ("patch_size", self.patch_size, 1 << 8),
            ],
        )?;
        if self.num_channels != 3 {
            return Err(unsupported(FILE, "num_channels", self.num_channels, "3"));
        }
        if self.image_size.checked_rem(self.patch_size) != Some(0) {
            let expected = format!("a divisor of image_size, {}", self.image_size);
            return Err(unsupported(FILE, "patch_size", self.patch_size, expected));
        }
        let heads = self.num_attention_heads;
        if self.hidden_size.checked_rem(heads) != Some(0) {
            let expected = format!("a divisor of hidden_size, {}", self.hidden_size);
            return Err(unsupported(FILE, "num_attention_heads", heads, expected));
        }
        Ok(())
    }
}
