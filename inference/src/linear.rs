//! A layer that is a matrix product, on the processor or on a GPU.

#[cfg(not(feature = "cuda"))]
#[path = "linear/cpu.rs"]
mod product;
#[cfg(feature = "cuda")]
#[path = "linear/cuda.rs"]
mod product;

use std::sync::Arc;

use self::product::Product;
use crate::error::{EngineError, LoadError};
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

    /// Lets go of its matrices.
    #[cfg(any(test, feature = "cuda"))]
    pub(crate) fn leave(&mut self) {
        self.product.leave();
        self.outputs = 0;
    }

    /// Its matrices, and the bias; not after a GPU has multiplied with them.
    #[cfg(any(test, feature = "cuda"))]
    pub(crate) fn parts(&self) -> (Vec<Arc<Matrix>>, &[f32]) {
        (self.product.parts(), &self.bias)
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
        Self::set_each(pool, vec![(self, rows, y.as_mut_slice())])
    }

    /// As [`Self::set`], of several layers at once, in places that are large enough.
    pub(crate) fn set_each(pool: &mut Pool, shares: Vec<Share<'_>>) -> candle_core::Result<()> {
        let jobs = shares.into_iter().map(|(linear, rows, y)| Job {
            product: &linear.product,
            rows,
            y,
            width: linear.outputs,
            then: Then::Set(&linear.bias),
        });
        apply(pool, jobs.collect())
    }

    /// Adds a row to one of `y` for each of `rows`; there is no bias.
    pub(crate) fn add(
        &self,
        pool: &mut Pool,
        rows: &[Row],
        y: &mut [f32],
    ) -> candle_core::Result<()> {
        let job = Job {
            product: &self.product,
            rows,
            y,
            width: self.outputs,
            then: Then::Add,
        };
        apply(pool, vec![job])
    }
}

/// Whether what multiplies has failed, for good.
pub(crate) fn is_lost() -> bool {
    #[cfg(test)]
    if LOST.get() {
        return true;
    }
    product::is_lost()
}

fn apply(pool: &mut Pool, jobs: Vec<Job<'_>>) -> candle_core::Result<()> {
    #[cfg(test)]
    if LOST.get() {
        candle_core::bail!("lost");
    }
    product::apply(pool, jobs)
}

/// What an engine says when work has failed; that the device is lost, if it is.
pub(crate) fn blame(error: EngineError) -> EngineError {
    match is_lost() {
        true => EngineError::Device,
        false => error,
    }
}

/// Has products of this thread fail from now on, for good.
#[cfg(test)]
pub(crate) fn lose() {
    LOST.set(true);
}

#[cfg(test)]
thread_local! {
    static LOST: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

/// A layer, rows for it, and where their products belong.
pub(crate) type Share<'a> = (&'a Linear, &'a [Row], &'a mut [f32]);

/// A product to compute.
struct Job<'a> {
    product: &'a Product,
    rows: &'a [Row],
    /// A row for each of `rows`, of `width` numbers.
    y: &'a mut [f32],
    width: usize,
    then: Then<'a>,
}
