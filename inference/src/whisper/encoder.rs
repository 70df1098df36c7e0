//! Features of one window to states, two frames each.

use candle_core::Tensor;

use super::block::{attention, feed, norm};
use super::config::Config;
use crate::encoder::{Attention, Feed, Norm};
use crate::error::LoadError;
use crate::kernel::pool::Pool;
use crate::weights::Weights;

#[derive(Debug)]
pub(super) struct Encoder {
    first: Convolution,
    second: Convolution,
    positions: Tensor,
    layers: Vec<Layer>,
    norm: Norm,
}

impl Encoder {
    pub(super) fn load(
        pool: &mut Pool,
        weights: &mut Weights,
        config: &Config,
    ) -> Result<Self, LoadError> {
        let width = config.d_model;
        let name = |part: &str| format!("model.encoder.{part}");
        let first = [width, config.num_mel_bins, 3];
        let positions = [config.max_source_positions, width];
        let layers = 0..config.encoder_layers;
        let layers = layers.map(|index| Layer::load(pool, weights, config, index));
        let layers = layers.collect::<Result<_, _>>()?;
        Ok(Self {
            first: Convolution::load(weights, &name("conv1"), first, 1)?,
            second: Convolution::load(weights, &name("conv2"), [width, width, 3], 2)?,
            positions: weights.tensor(&name("embed_positions.weight"), &positions)?,
            layers,
            norm: norm(weights, &name("layer_norm"), width)?,
        })
    }

    /// `[bins, frames]` to `[frames / 2, width]`.
    pub(super) fn forward(
        &self,
        pool: &mut Pool,
        features: &Tensor,
    ) -> candle_core::Result<Tensor> {
        let x = self.first.forward(&features.unsqueeze(0)?)?;
        let x = self.second.forward(&x)?.squeeze(0)?;
        let mut x = x.t()?.contiguous()?.add(&self.positions)?;
        for layer in &self.layers {
            x = layer.forward(pool, &x)?;
        }
        self.norm.forward(&x)
    }
}

#[derive(Debug)]
struct Convolution {
    weight: Tensor,
    /// As a column.
    bias: Tensor,
    stride: usize,
}

impl Convolution {
    fn load(
        weights: &mut Weights,
        name: &str,
        shape: [usize; 3],
        stride: usize,
    ) -> Result<Self, LoadError> {
        let bias = weights.tensor(&format!("{name}.bias"), &shape[..1])?;
        Ok(Self {
            weight: weights.tensor(&format!("{name}.weight"), &shape)?,
            bias: bias
                .unsqueeze(1)
                .map_err(|source| LoadError::Build { source })?,
            stride,
        })
    }

    fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let x = x.conv1d(&self.weight, 1, self.stride, 1, 1)?;
        x.broadcast_add(&self.bias)?.gelu_erf()
    }
}

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
        index: usize,
    ) -> Result<Self, LoadError> {
        let name = format!("model.encoder.layers.{index}");
        let part = |part: &str| format!("{name}.{part}");
        let (width, inner) = (config.d_model, config.encoder_ffn_dim);
        let heads = config.encoder_attention_heads;
        Ok(Self {
            attention_norm: norm(weights, &part("self_attn_layer_norm"), width)?,
            attention: attention(pool, weights, &part("self_attn"), width, heads)?,
            norm: norm(weights, &part("final_layer_norm"), width)?,
            feed: feed(pool, weights, &name, [width, inner])?,
        })
    }

    fn forward(&self, pool: &mut Pool, x: &Tensor) -> candle_core::Result<Tensor> {
        let inner = self.attention_norm.forward(x)?;
        let seen = self.attention.seen(pool, &inner)?;
        let x = x.add(&self.attention.attend(pool, &inner, &seen, None)?)?;
        x.add(&self.feed.forward(pool, &self.norm.forward(&x)?)?)
    }
}
