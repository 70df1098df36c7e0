//! What encoders of texts, sounds and images share: attention of rows to rows, layers
//! that are matrix products, two of them with something between, and norms.
//!
//! The bits of a row depend on no thread: each is computed by one, in one order.

mod attention;
pub(crate) mod by_head;
mod feed;

use candle_core::{Device, Tensor};
use candle_nn::ops::layer_norm;

pub(crate) use self::feed::{Activation, Feed};
use crate::error::LoadError;
use crate::kernel::input::{Quantise, Row};
use crate::kernel::pool::Pool;
use crate::linear::Linear;
use crate::weights::Weights;

/// The matrices of attention.
#[derive(Debug)]
pub(crate) struct Attention {
    pub(crate) query: Linear,
    pub(crate) key: Linear,
    pub(crate) value: Linear,
    pub(crate) output: Linear,
    pub(crate) heads: usize,
}

/// A layer `y = x W^T + b` of a file.
pub(crate) fn linear(
    pool: &mut Pool,
    weights: &mut Weights,
    name: &str,
    shape: [usize; 2],
    biased: bool,
) -> Result<Linear, LoadError> {
    let weight = weights.matrix(pool, &format!("{name}.weight"), shape, |row| row)?;
    let bias = match biased {
        true => weights.vector(&format!("{name}.bias"), weight.outputs())?,
        false => Vec::new(),
    };
    Linear::new(vec![weight], bias)
}

/// A row of the layer's outputs for each row of `x`.
pub(crate) fn project(pool: &mut Pool, linear: &Linear, x: &Tensor) -> candle_core::Result<Tensor> {
    let (cpu, forms) = (pool.cpu(), linear.forms());
    let rows = x.to_vec2()?.into_iter().map(|numbers| {
        let mut row = Row {
            numbers,
            ..Row::default()
        };
        cpu.run(Quantise {
            row: &mut row,
            forms,
        });
        row
    });
    let rows: Vec<_> = rows.collect();
    let mut y = Vec::new();
    linear.set(pool, &rows, &mut y)?;
    Tensor::from_vec(y, (rows.len(), linear.outputs()), &Device::Cpu)
}

/// A norm of rows, with weights and biases.
#[derive(Debug)]
pub(crate) struct Norm {
    weight: Tensor,
    bias: Tensor,
    epsilon: f32,
}

impl Norm {
    #[cfg(test)]
    pub(crate) fn of_ones(width: usize) -> Self {
        let ones = || Tensor::ones(width, candle_core::DType::F32, &candle_core::Device::Cpu);
        Self {
            weight: ones().unwrap(),
            bias: ones().unwrap(),
            epsilon: 1.0,
        }
    }

    pub(crate) fn load(
        weights: &mut Weights,
        name: &str,
        width: usize,
        epsilon: f32,
    ) -> Result<Self, LoadError> {
        let mut take = |part| weights.tensor(&format!("{name}.{part}"), &[width]);
        Ok(Self {
            weight: take("weight")?,
            bias: take("bias")?,
            epsilon,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        layer_norm(x, &self.weight, &self.bias, self.epsilon)
    }
}
