//! Two layers with something between them.

use candle_core::Tensor;

use super::{linear, project};
use crate::config::unsupported;
use crate::error::LoadError;
use crate::kernel::pool::Pool;
use crate::linear::Linear;
use crate::weights::Weights;

/// The feed-forward network of a block.
#[derive(Debug)]
pub(crate) struct Feed {
    up: Linear,
    activation: Activation,
    down: Linear,
}

impl Feed {
    /// Of layers by their names; `widths` are those before, between and after them.
    pub(crate) fn load(
        pool: &mut Pool,
        weights: &mut Weights,
        [up, down]: [&str; 2],
        [before, between, after]: [usize; 3],
        activation: Activation,
        biased: bool,
    ) -> Result<Self, LoadError> {
        Ok(Self {
            up: linear(pool, weights, up, [between, before], biased)?,
            activation,
            down: linear(pool, weights, down, [after, between], biased)?,
        })
    }

    pub(crate) fn forward(&self, pool: &mut Pool, x: &Tensor) -> candle_core::Result<Tensor> {
        let inner = self.activation.apply(&project(pool, &self.up, x)?)?;
        project(pool, &self.down, &inner)
    }
}

/// What stands between two layers.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Activation {
    Gelu,
    /// By a sigmoid.
    Quick,
    /// By a hyperbolic tangent.
    Tanh,
}

impl Activation {
    pub(crate) fn of(file: &'static str, key: &'static str, name: &str) -> Result<Self, LoadError> {
        match name {
            "gelu" => Ok(Self::Gelu),
            "gelu_pytorch_tanh" => Ok(Self::Tanh),
            "quick_gelu" => Ok(Self::Quick),
            _ => Err(unsupported(
                file,
                key,
                name,
                "gelu, gelu_pytorch_tanh or quick_gelu",
            )),
        }
    }

    fn apply(self, x: &Tensor) -> candle_core::Result<Tensor> {
        match self {
            Self::Gelu => x.gelu_erf(),
            Self::Tanh => x.gelu(),
            Self::Quick => x.mul(&candle_nn::ops::sigmoid(&x.affine(1.702, 0.0)?)?),
        }
    }
}
