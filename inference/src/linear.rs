//! A matrix product that does not see what else is in the batch.

use candle_core::Tensor;

use crate::error::LoadError;
use crate::weights::Weights;

/// `y = x W^T + b`, on rows that lie one after another.
#[derive(Debug)]
pub(crate) struct Linear {
    /// `[in, out]`, a view of the file's `[out, in]`.
    transposed: Tensor,
    bias: Option<Tensor>,
}

impl Linear {
    pub(crate) fn load(
        weights: &mut Weights,
        name: &str,
        [out, input]: [usize; 2],
    ) -> Result<Self, LoadError> {
        let weight = weights.take(&format!("{name}.weight"), &[out, input])?;
        Self::tied(&weight)
    }

    pub(crate) fn load_with_bias(
        weights: &mut Weights,
        name: &str,
        [out, input]: [usize; 2],
    ) -> Result<Self, LoadError> {
        let linear = Self::load(weights, name, [out, input])?;
        let bias = weights.take(&format!("{name}.bias"), &[out])?;
        Ok(Self {
            bias: Some(bias),
            ..linear
        })
    }

    /// Shares a matrix that another layer owns.
    pub(crate) fn tied(weight: &Tensor) -> Result<Self, LoadError> {
        Ok(Self {
            transposed: weight.t().map_err(|source| LoadError::Build { source })?,
            bias: None,
        })
    }

    /// Multiplies the rows of each sequence apart.
    ///
    /// The library chooses its kernel, and with it the order of the additions,
    /// by the number of rows. `rows` holds how many belong to each sequence, so
    /// a sequence's bits depend on its own rows alone.
    pub(crate) fn forward(&self, x: &Tensor, rows: &[usize]) -> candle_core::Result<Tensor> {
        let product = match rows {
            [_] => x.matmul(&self.transposed)?,
            _ => {
                let mut start = 0_usize;
                let parts = rows.iter().map(|&rows| {
                    let part = x.narrow(0, start, rows)?.matmul(&self.transposed);
                    start = start.saturating_add(rows);
                    part
                });
                Tensor::cat(&parts.collect::<candle_core::Result<Vec<_>>>()?, 0)?
            }
        };
        match &self.bias {
            Some(bias) => product.broadcast_add(bias),
            None => Ok(product),
        }
    }
}
