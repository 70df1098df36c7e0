//! CLIP's text encoder: tokens to states, all of the same number.

use candle_core::{Device, Tensor};
use serde::Deserialize;

use crate::config::{check_multiple, check_sizes};
use crate::encoder::by_head::causal;
use crate::encoder::{Activation, Attention, Feed, Norm, linear};
use crate::error::LoadError;
use crate::kernel::pool::Pool;
use crate::model_dir::ModelDir;
use crate::weights::Weights;

#[derive(Debug)]
pub(super) struct TextEncoder {
    tokens: Tensor,
    positions: Tensor,
    layers: Vec<Layer>,
    norm: Norm,
}

#[derive(Debug)]
struct Layer {
    attention_norm: Norm,
    attention: Attention,
    norm: Norm,
    feed: Feed,
}

impl TextEncoder {
    /// Also how many numbers it has.
    pub(super) fn load(pool: &mut Pool, dir: &ModelDir) -> Result<(Self, u64), LoadError> {
        let config: Config = dir.json(FILE)?;
        config.check()?;
        let mut weights = Weights::open(&dir.part("text_encoder"))?;
        // Files before transformers 5 have a prefix.
        let old = weights.contains("text_model.final_layer_norm.weight");
        let name = |part: &str| format!("{}{part}", if old { "text_model." } else { "" });
        let width = config.hidden_size;
        let layers = 0..config.num_hidden_layers;
        let layers = layers.map(|index| {
            let name = |part: &str| name(&format!("encoder.layers.{index}.{part}"));
            Layer::load(pool, &mut weights, &config, name)
        });
        let layers = layers.collect::<Result<_, _>>()?;
        let mut table = |part, rows| weights.tensor(&name(part), &[rows, width]);
        let tokens = table("embeddings.token_embedding.weight", config.vocab_size)?;
        let positions = config.max_position_embeddings;
        let positions = table("embeddings.position_embedding.weight", positions)?;
        let norm = Norm::load(
            &mut weights,
            &name("final_layer_norm"),
            width,
            config.layer_norm_eps,
        )?;
        let encoder = Self {
            tokens,
            positions,
            layers,
            norm,
        };
        Ok((encoder, weights.tally().parameters))
    }

    pub(super) fn context(&self) -> usize {
        self.positions.dims().first().copied().unwrap_or(0)
    }

    pub(super) fn vocabulary(&self) -> usize {
        self.tokens.dims().first().copied().unwrap_or(0)
    }

    pub(super) fn width(&self) -> usize {
        self.tokens.dims().last().copied().unwrap_or(0)
    }

    /// A row for each token.
    pub(super) fn forward(&self, pool: &mut Pool, tokens: &[u32]) -> candle_core::Result<Tensor> {
        let rows = tokens.len();
        let tokens = Tensor::from_slice(tokens, rows, &Device::Cpu)?;
        let x = self.tokens.index_select(&tokens, 0)?;
        let mut x = x.add(&self.positions.narrow(0, 0, rows)?)?;
        let mask = causal(rows, rows)?;
        for layer in &self.layers {
            let inner = layer.attention_norm.forward(&x)?;
            let seen = layer.attention.seen(pool, &inner)?;
            x = x.add(&layer.attention.attend(pool, &inner, &seen, Some(&mask))?)?;
            x = x.add(&layer.feed.forward(pool, &layer.norm.forward(&x)?)?)?;
        }
        self.norm.forward(&x)
    }
}

impl Layer {
    fn load(
        pool: &mut Pool,
        weights: &mut Weights,
        config: &Config,
        name: impl Fn(&str) -> String,
    ) -> Result<Self, LoadError> {
        let (width, inner) = (config.hidden_size, config.intermediate_size);
        let mut norm = |part| Norm::load(weights, &name(part), width, config.layer_norm_eps);
        let attention_norm = norm("layer_norm1")?;
        let norm = norm("layer_norm2")?;
        let mut square = |part| linear(pool, weights, &name(part), [width, width], true);
        Ok(Self {
            attention_norm,
            attention: Attention {
                query: square("self_attn.q_proj")?,
                key: square("self_attn.k_proj")?,
                value: square("self_attn.v_proj")?,
                output: square("self_attn.out_proj")?,
                heads: config.num_attention_heads,
            },
            norm,
            feed: Feed::load(
                pool,
                weights,
                [&name("mlp.fc1"), &name("mlp.fc2")],
                [width, inner, width],
                Activation::of(FILE, "hidden_act", &config.hidden_act)?,
                true,
            )?,
        })
    }
}

#[derive(Debug, Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    hidden_act: String,
    layer_norm_eps: f32,
}

impl Config {
    fn check(&self) -> Result<(), LoadError> {
        check_sizes(
            FILE,
            [
                ("vocab_size", self.vocab_size, 1 << 20),
                ("hidden_size", self.hidden_size, 1 << 13),
                ("intermediate_size", self.intermediate_size, 1 << 16),
                ("num_hidden_layers", self.num_hidden_layers, 1 << 8),
                ("num_attention_heads", self.num_attention_heads, 1 << 8),
                (
                    "max_position_embeddings",
                    self.max_position_embeddings,
                    1 << 10,
                ),
            ],
        )?;
        check_multiple(
            FILE,
            "hidden_size",
            self.hidden_size,
            self.num_attention_heads,
        )
    }
}

const FILE: &str = "text_encoder/config.json";
