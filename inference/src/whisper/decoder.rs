//! Tokens and states to what may come next.

use std::sync::Arc;

use candle_core::{Device, Tensor};

use super::block::{attention, feed, norm};
use super::config::Config;
use crate::encoder::by_head::{Seen, causal};
use crate::encoder::{Attention, Feed, Norm, project};
use crate::error::LoadError;
use crate::kernel::matrix::Matrix;
use crate::kernel::pool::Pool;
use crate::linear::Linear;
use crate::weights::Weights;

#[derive(Debug)]
pub(super) struct Decoder {
    /// Also what hidden states are compared with.
    embedding: Arc<Matrix>,
    output: Linear,
    positions: Tensor,
    layers: Vec<Layer>,
    norm: Norm,
}

/// What one window has said so far.
#[derive(Debug)]
pub(super) struct Said {
    count: usize,
    layers: Vec<Memory>,
}

#[derive(Debug)]
struct Memory {
    states: Seen,
    /// `None` before the first token.
    tokens: Option<Seen>,
}

impl Decoder {
    pub(super) fn load(
        pool: &mut Pool,
        weights: &mut Weights,
        config: &Config,
    ) -> Result<Self, LoadError> {
        let width = config.d_model;
        let name = |part: &str| format!("model.decoder.{part}");
        let table = [config.vocab_size, width];
        let embedding = weights.matrix(pool, &name("embed_tokens.weight"), table, |row| row)?;
        let output = Linear::new(vec![Arc::clone(&embedding)], Vec::new())?;
        let positions = [config.max_target_positions, width];
        let layers = 0..config.decoder_layers;
        let layers = layers.map(|index| Layer::load(pool, weights, config, index));
        Ok(Self {
            embedding,
            output,
            layers: layers.collect::<Result<_, _>>()?,
            positions: weights.tensor(&name("embed_positions.weight"), &positions)?,
            norm: norm(weights, &name("layer_norm"), width)?,
        })
    }

    /// Before the first token of a window with these states.
    pub(super) fn begin(&self, pool: &mut Pool, states: &Tensor) -> candle_core::Result<Said> {
        let layers = self.layers.iter().map(|layer| {
            Ok(Memory {
                states: layer.cross.seen(pool, states)?,
                tokens: None,
            })
        });
        Ok(Said {
            count: 0,
            layers: layers.collect::<candle_core::Result<_>>()?,
        })
    }

    /// Reads tokens; a row of logits for each.
    pub(super) fn read(
        &self,
        pool: &mut Pool,
        said: &mut Said,
        tokens: &[u32],
    ) -> candle_core::Result<Vec<Vec<f32>>> {
        let (first, rows, width) = (said.count, tokens.len(), self.positions.dim(1)?);
        let mut x = vec![0.0; rows.saturating_mul(width)];
        for (row, token) in x.chunks_exact_mut(width).zip(tokens) {
            self.embedding
                .row(usize::try_from(*token).unwrap_or(usize::MAX), row);
        }
        let x = Tensor::from_vec(x, (rows, width), &Device::Cpu)?;
        let mut x = x.add(&self.positions.narrow(0, first, rows)?)?;
        let mask = match rows {
            1 => None,
            _ => Some(causal(rows, first.saturating_add(rows))?),
        };
        for (layer, memory) in self.layers.iter().zip(&mut said.layers) {
            x = layer.forward(pool, memory, &x, mask.as_ref())?;
        }
        said.count = first.saturating_add(rows);
        project(pool, &self.output, &self.norm.forward(&x)?)?.to_vec2()
    }
}

#[derive(Debug)]
struct Layer {
    attention_norm: Norm,
    attention: Attention,
    cross_norm: Norm,
    cross: Attention,
    norm: Norm,
    feed: Feed,
}

impl Layer {
    fn load(
        pool: &mut Pool,
        weights: &mut Weights,
        config: &Config,
        index: usize,
    ) -> Result<Self, LoadError> {
        let name = format!("model.decoder.layers.{index}");
        let part = |part: &str| format!("{name}.{part}");
        let (width, inner) = (config.d_model, config.decoder_ffn_dim);
        let heads = config.decoder_attention_heads;
        Ok(Self {
            attention_norm: norm(weights, &part("self_attn_layer_norm"), width)?,
            attention: attention(pool, weights, &part("self_attn"), width, heads)?,
            cross_norm: norm(weights, &part("encoder_attn_layer_norm"), width)?,
            cross: attention(pool, weights, &part("encoder_attn"), width, heads)?,
            norm: norm(weights, &part("final_layer_norm"), width)?,
            feed: feed(pool, weights, &name, [width, inner])?,
        })
    }

    fn forward(
        &self,
        pool: &mut Pool,
        memory: &mut Memory,
        x: &Tensor,
        mask: Option<&Tensor>,
    ) -> candle_core::Result<Tensor> {
        let inner = self.attention_norm.forward(x)?;
        let new = self.attention.seen(pool, &inner)?;
        let tokens = match memory.tokens.take() {
            Some(old) => old.and(&new)?,
            None => new,
        };
        let x = x.add(&self.attention.attend(pool, &inner, &tokens, mask)?)?;
        memory.tokens = Some(tokens);
        let inner = self.cross_norm.forward(&x)?;
        let x = x.add(&self.cross.attend(pool, &inner, &memory.states, None)?)?;
        x.add(&self.feed.forward(pool, &self.norm.forward(&x)?)?)
    }
}
