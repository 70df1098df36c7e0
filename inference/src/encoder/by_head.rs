//! Attention over tensors, one head at a time.
//!
//! The scores of a single head are in memory, never those of all.

use candle_core::Tensor;
use candle_nn::ops::softmax_last_dim;

use super::{Attention, project};
use crate::kernel::pool::Pool;

impl Attention {
    /// Keys and values of rows.
    pub(crate) fn seen(&self, pool: &mut Pool, x: &Tensor) -> candle_core::Result<Seen> {
        Ok(Seen {
            keys: split(&project(pool, &self.key, x)?, self.heads)?,
            values: split(&project(pool, &self.value, x)?, self.heads)?,
        })
    }

    /// Of rows to what is seen; `mask` is added to the scores.
    pub(crate) fn attend(
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
pub(crate) struct Seen {
    keys: Tensor,
    values: Tensor,
}

impl Seen {
    /// With later rows.
    pub(crate) fn and(&self, more: &Self) -> candle_core::Result<Self> {
        Ok(Self {
            keys: Tensor::cat(&[&self.keys, &more.keys], 1)?,
            values: Tensor::cat(&[&self.values, &more.values], 1)?,
        })
    }
}

/// `[rows, heads * width]` to `[heads, rows, width]`.
fn split(x: &Tensor, heads: usize) -> candle_core::Result<Tensor> {
    let (rows, width) = x.dims2()?;
    let width = width.checked_div(heads).unwrap_or(0);
    x.reshape((rows, heads, width))?
        .transpose(0, 1)?
        .contiguous()
}

/// The attention of `queries` to `keys`, each split, as `[rows, heads * width]`.
/// What `mask` has is added to the scores.
#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "a head's width is exact in f64"
)]
fn attend(
    queries: &Tensor,
    keys: &Tensor,
    values: &Tensor,
    mask: Option<&Tensor>,
) -> candle_core::Result<Tensor> {
    let (heads, rows, width) = queries.dims3()?;
    let queries = queries.affine((width as f64).sqrt().recip(), 0.0)?;
    let attended = (0..heads).map(|head| {
        let scores = queries.get(head)?.matmul(&keys.get(head)?.t()?)?;
        let scores = match mask {
            Some(mask) => scores.add(mask)?,
            None => scores,
        };
        softmax_last_dim(&scores)?.matmul(&values.get(head)?)
    });
    let attended: Vec<_> = attended.collect::<Result<_, _>>()?;
    Tensor::stack(&attended, 1)?.reshape((rows, heads.saturating_mul(width)))
}

/// What hides from each of the last `rows` of `all` rows those after it.
pub(crate) fn causal(rows: usize, all: usize) -> candle_core::Result<Tensor> {
    let first = all.saturating_sub(rows);
    let mask = (first..all).flat_map(|row| {
        (0..all).map(move |key| match key <= row {
            true => 0.0,
            false => f32::NEG_INFINITY,
        })
    });
    Tensor::from_iter(mask, &candle_core::Device::Cpu)?.reshape((rows, all))
}
