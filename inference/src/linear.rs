//! A layer that is a matrix product, on the processor or on a GPU.

#[cfg(not(feature = "cuda"))]
#[path = "linear/cpu.rs"]
mod product;
#[cfg(feature = "cuda")]
#[path = "linear/cuda.rs"]
mod product;

use std::sync::Arc;

use self::product::Product;
use crate::error::LoadError;
use crate::kernel::input::{Forms, Row};
use crate::kernel::matrix::{Matrix, Then};
use crate::kernel::pool::Pool;

/// `y = x W^T + b`, where `W` may be several matrices, one below the other.
#[derive(Debug)]
pub(crate) struct Linear {
    product: Product,
    /// Empty if there is none.
    bias: Vec<f32>,
    outputs: usize,
}

impl Linear {
    /// All but the last matrix must have a multiple of sixteen outputs.
    pub(crate) fn new(parts: Vec<Arc<Matrix>>, bias: Vec<f32>) -> Result<Self, LoadError> {
        let outputs = parts.iter().map(|part| part.outputs()).sum();
        let product = Product::new(parts).map_err(|source| LoadError::Build { source })?;
        Ok(Self {
            product,
            bias,
            outputs,
        })
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    /// The forms of a row that it needs.
    pub(crate) fn forms(&self) -> Forms {
        self.product.forms()
    }

    /// One row of `y` for each of `rows`.
    pub(crate) fn set(
        &self,
        pool: &mut Pool,
        rows: &[Row],
        y: &mut Vec<f32>,
    ) -> candle_core::Result<()> {
        y.resize(rows.len().saturating_mul(self.outputs), 0.0);
        self.product
            .apply(pool, rows, y, self.outputs, Then::Set(&self.bias))
    }

    /// Adds a row to one of `y` for each of `rows`; there is no bias.
    pub(crate) fn add(
        &self,
        pool: &mut Pool,
        rows: &[Row],
        y: &mut [f32],
    ) -> candle_core::Result<()> {
        self.product.apply(pool, rows, y, self.outputs, Then::Add)
    }
}
