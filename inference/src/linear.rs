//! A layer that is a matrix product, on the processor or on a GPU.

#[cfg(not(feature = "cuda"))]
mod product;
#[cfg(feature = "cuda")]
#[path = "linear/product_cuda.rs"]
mod product;

use candle_core::Tensor;

use self::product::Product;
use crate::error::LoadError;
use crate::weights::Weights;

/// `y = x W^T + b`, on rows that lie one after another.
#[derive(Debug)]
pub(crate) struct Linear {
    product: Product,
    bias: Option<Tensor>,
}

impl Linear {
    pub(crate) fn load(
        weights: &mut Weights,
        name: &str,
        [outputs, inputs]: [usize; 2],
    ) -> Result<Self, LoadError> {
        let weight = weights.take(&format!("{name}.weight"), &[outputs, inputs])?;
        Self::tied(&weight)
    }

    pub(crate) fn load_with_bias(
        weights: &mut Weights,
        name: &str,
        [outputs, inputs]: [usize; 2],
    ) -> Result<Self, LoadError> {
        let linear = Self::load(weights, name, [outputs, inputs])?;
        let bias = weights.take(&format!("{name}.bias"), &[outputs])?;
        Ok(Self {
            bias: Some(bias),
            ..linear
        })
    }

    /// Uses the numbers of a matrix `[out, in]` that is also something else.
    pub(crate) fn tied(weight: &Tensor) -> Result<Self, LoadError> {
        let product = Product::new(weight).map_err(|source| LoadError::Build { source })?;
        Ok(Self {
            product,
            bias: None,
        })
    }

    pub(crate) fn forward(&self, x: &Tensor) -> candle_core::Result<Tensor> {
        let product = self.product.apply(x)?;
        match &self.bias {
            Some(bias) => product.broadcast_add(bias),
            None => Ok(product),
        }
    }
}
