//! The attention of encoder and decoder.

use candle_core::Tensor;

use crate::encoder::by_head::{attend, split};
use crate::encoder::{linear, project};
use crate::error::LoadError;
use crate::kernel::pool::Pool;
use crate::linear::Linear;
use crate::weights::Weights;

/// Its four matrices.
#[derive(Debug)]
pub(super) struct Attention {
    query: Linear,
    key: Linear,
    value: Linear,
    output: Linear,
    heads: usize,
}

impl Attention {
    pub(super) fn load(
        pool: &mut Pool,
        weights: &mut Weights,
        name: &str,
        width: usize,
        heads: usize,
    ) -> Result<Self, LoadError> {
        let (shape, part) = ([width, width], |part| format!("{name}.{part}_proj"));
        Ok(Self {
            query: linear(pool, weights, &part("q"), shape, true)?,
            key: linear(pool, weights, &part("k"), shape, false)?,
            value: linear(pool, weights, &part("v"), shape, true)?,
            output: linear(pool, weights, &part("out"), shape, true)?,
            heads,
        })
    }

    /// Keys and values of rows.
    pub(super) fn seen(&self, pool: &mut Pool, x: &Tensor) -> candle_core::Result<Seen> {
        Ok(Seen {
            keys: split(&project(pool, &self.key, x)?, self.heads)?,
            values: split(&project(pool, &self.value, x)?, self.heads)?,
        })
    }

    pub(super) fn attend(
        &self,
        pool: &mut Pool,
        x: &Tensor,
        seen: &Seen,
        mask: Option<&Tensor>,
    ) -> candle_core::Result<Tensor> {
        let queries = split(&project(pool, &self.query, x)?, self.heads)?;
        let attended = attend(&queries, &seen.keys, &seen.values, mask)?;
        project(pool, &self.output, &attended)
    }
}

/// What attention looks at, by head.
#[derive(Debug)]
pub(super) struct Seen {
    keys: Tensor,
    values: Tensor,
}

impl Seen {
    /// With later rows.
    pub(super) fn and(&self, more: &Self) -> candle_core::Result<Self> {
        Ok(Self {
            keys: Tensor::cat(&[&self.keys, &more.keys], 1)?,
            values: Tensor::cat(&[&self.values, &more.values], 1)?,
        })
    }
}
