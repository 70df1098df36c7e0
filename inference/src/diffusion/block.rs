//! What UNet and VAE are built of: convolutions, norms of groups, residual blocks.
//!
//! Tensors are `[1, channels, height, width]`.

use candle_core::{Module as _, Tensor};
use candle_nn::GroupNorm;

use crate::encoder::{linear, project};
use crate::error::LoadError;
use crate::kernel::pool::Pool;
use crate::linear::Linear;
use crate::weights::Weights;

/// What the loader of a network hands down.
pub(super) struct Source<'a> {
    pub(super) pool: &'a mut Pool,
    pub(super) weights: &'a mut Weights,
    pub(super) groups: usize,
    pub(super) epsilon: f64,
    /// Width of the embedding of the time; 0 in a network that knows none.
    pub(super) time: usize,
}

impl Source<'_> {
    pub(super) fn conv(
        &mut self,
        name: &str,
        [from, to]: [usize; 2],
        side: usize,
    ) -> Result<Conv, LoadError> {
        let weight = format!("{name}.weight");
        let bias = self.weights.tensor(&format!("{name}.bias"), &[to])?;
        Ok(Conv {
            weight: self.weights.tensor(&weight, &[to, from, side, side])?,
            bias: bias.reshape((1, to, 1, 1)).map_err(build)?,
            padding: side / 2,
        })
    }

    pub(super) fn norm(&mut self, name: &str, channels: usize) -> Result<GroupNorm, LoadError> {
        let epsilon = self.epsilon;
        self.norm_with(name, channels, epsilon)
    }

    pub(super) fn norm_with(
        &mut self,
        name: &str,
        channels: usize,
        epsilon: f64,
    ) -> Result<GroupNorm, LoadError> {
        let weight = self.weights.vector(&format!("{name}.weight"), channels)?;
        let bias = self.weights.vector(&format!("{name}.bias"), channels)?;
        let tensor = |x: Vec<f32>| Tensor::from_vec(x, channels, &candle_core::Device::Cpu);
        let (weight, bias) = (tensor(weight).map_err(build)?, tensor(bias).map_err(build)?);
        GroupNorm::new(weight, bias, channels, self.groups, epsilon).map_err(build)
    }

    pub(super) fn linear(
        &mut self,
        name: &str,
        [from, to]: [usize; 2],
        biased: bool,
    ) -> Result<Linear, LoadError> {
        linear(self.pool, self.weights, name, [to, from], biased)
    }
}

fn build(source: candle_core::Error) -> LoadError {
    LoadError::Build { source }
}

#[derive(Debug)]
pub(super) struct Conv {
    weight: Tensor,
    bias: Tensor,
    padding: usize,
}

impl Conv {
    pub(super) fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.stride(x, 1)
    }

    /// Half of each side.
    pub(super) fn halve(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        self.stride(x, 2)
    }

    /// Twice each side, before it.
    pub(super) fn double(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let (_, _, height, width) = x.dims4()?;
        let (height, width) = (height.saturating_mul(2), width.saturating_mul(2));
        self.stride(&x.upsample_nearest2d(height, width)?, 1)
    }

    fn stride(&self, x: &Tensor, stride: usize) -> candle_core::Result<Tensor> {
        x.conv2d(&self.weight, self.padding, stride, 1, 1)?
            .broadcast_add(&self.bias)
    }
}

/// Two convolutions, between which the time is added, beside a short way.
#[derive(Debug)]
pub(super) struct Residual {
    norm1: GroupNorm,
    conv1: Conv,
    time: Option<Linear>,
    norm2: GroupNorm,
    conv2: Conv,
    short: Option<Conv>,
}

impl Residual {
    pub(super) fn load(
        source: &mut Source<'_>,
        name: &str,
        [from, to]: [usize; 2],
    ) -> Result<Self, LoadError> {
        let part = |part: &str| format!("{name}.{part}");
        let time = match source.time {
            0 => None,
            time => Some(source.linear(&part("time_emb_proj"), [time, to], true)?),
        };
        let short = match from == to {
            true => None,
            false => Some(source.conv(&part("conv_shortcut"), [from, to], 1)?),
        };
        Ok(Self {
            norm1: source.norm(&part("norm1"), from)?,
            conv1: source.conv(&part("conv1"), [from, to], 3)?,
            time,
            norm2: source.norm(&part("norm2"), to)?,
            conv2: source.conv(&part("conv2"), [to, to], 3)?,
            short,
        })
    }

    /// `time` is `[1, width]`, activated.
    pub(super) fn forward(
        &self,
        pool: &mut Pool,
        x: &Tensor,
        time: Option<&Tensor>,
    ) -> candle_core::Result<Tensor> {
        let mut inner = self.conv1.forward(&self.norm1.forward(x)?.silu()?)?;
        if let (Some(linear), Some(time)) = (&self.time, time) {
            let time = project(pool, linear, time)?;
            inner = inner.broadcast_add(&time.unsqueeze(2)?.unsqueeze(3)?)?;
        }
        let inner = self.conv2.forward(&self.norm2.forward(&inner)?.silu()?)?;
        match &self.short {
            Some(short) => short.forward(x)?.add(&inner),
            None => x.add(&inner),
        }
    }
}

/// `[1, channels, height, width]` to a row for each pixel.
pub(super) fn rows(x: &Tensor) -> candle_core::Result<Tensor> {
    x.squeeze(0)?.flatten_from(1)?.t()?.contiguous()
}

/// Rows back to what has the shape of `like`.
pub(super) fn pixels(rows: &Tensor, like: &Tensor) -> candle_core::Result<Tensor> {
    rows.t()?.contiguous()?.reshape(like.shape())
}
