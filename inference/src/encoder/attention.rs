//! Attention of all rows to all of them.
//!
//! One query row at a time, in a fixed order of additions.

use candle_core::{Device, Tensor};
use zeroize::Zeroizing;

use super::{Attention, project};
use crate::kernel::pool::Pool;

impl Attention {
    /// Of all rows to all of them.
    pub(crate) fn forward(&self, pool: &mut Pool, x: &Tensor) -> candle_core::Result<Tensor> {
        let [query, key, value] = [&self.query, &self.key, &self.value]
            .map(|linear| project(pool, linear, x)?.flatten_all()?.to_vec1());
        let row = x.dim(1)?;
        let head = row.checked_div(self.heads).unwrap_or(0);
        let attended = attend(pool, [row, head], [&query?, &key?, &value?]);
        let attended = Tensor::from_vec(attended, x.shape(), &Device::Cpu)?;
        project(pool, &self.output, &attended)
    }
}

/// One row for each row of `queries`; the widths are of a row, and of a head's part of it.
fn attend(
    pool: &mut Pool,
    [row, head]: [usize; 2],
    [queries, keys, values]: [&[f32]; 3],
) -> Vec<f32> {
    let mut output = vec![0.0; queries.len()];
    let part = row.saturating_mul(ROWS);
    let parts = queries.chunks(part).zip(output.chunks_mut(part));
    let mut parts: Vec<_> = parts.collect();
    pool.each_mut(&mut parts, |_, (queries, output)| {
        attend_rows([row, head], queries, keys, values, output);
    });
    output
}

fn attend_rows<'a>(
    [row, width]: [usize; 2],
    queries: &[f32],
    keys: &'a [f32],
    values: &'a [f32],
    output: &mut [f32],
) {
    let mut scores = Zeroizing::new(Vec::new());
    let rows = queries.chunks_exact(row).zip(output.chunks_exact_mut(row));
    for (queries, output) in rows {
        let parts = queries
            .chunks_exact(width)
            .zip(output.chunks_exact_mut(width));
        for (head, (query, output)) in parts.enumerate() {
            let start = head.saturating_mul(width);
            let part = |rows: &'a [f32]| {
                rows.chunks_exact(row).map(move |row| {
                    row.get(start..start.saturating_add(width))
                        .unwrap_or_default()
                })
            };
            weigh(query, part(keys), &mut scores);
            for (weight, value) in scores.iter().zip(part(values)) {
                for (sum, value) in output.iter_mut().zip(value) {
                    *sum += weight * value;
                }
            }
        }
    }
}

/// Softmax of the products of `query` with the keys.
#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "a head's width is exact in f32"
)]
fn weigh<'a>(query: &[f32], keys: impl Iterator<Item = &'a [f32]>, scores: &mut Vec<f32>) {
    let scale = (query.len() as f32).sqrt().recip();
    scores.clear();
    scores.extend(keys.map(|key| dot(query, key) * scale));
    let max = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let mut total = 0.0;
    for score in scores.iter_mut() {
        *score = (*score - max).exp();
        total += *score;
    }
    for score in scores.iter_mut() {
        *score /= total;
    }
}

/// Eight sums side by side, which the compiler turns into vector instructions.
fn dot(a: &[f32], b: &[f32]) -> f32 {
    let (a, a_rest) = a.as_chunks::<8>();
    let (b, b_rest) = b.as_chunks::<8>();
    let mut sums = [0.0_f32; 8];
    for (a, b) in a.iter().zip(b) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    let rest: f32 = a_rest.iter().zip(b_rest).map(|(a, b)| a * b).sum();
    sums.iter().sum::<f32>() + rest
}

/// Rows that one thread takes at a time.
const ROWS: usize = 8;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::level::Cpu;

    fn pool() -> Pool {
        Pool::with(2, Cpu::detect()).unwrap()
    }

    #[test]
    fn equal_keys_average_the_values() {
        let queries = [5.0, 3.0, -1.0, 2.0];
        let output = attend(
            &mut pool(),
            [2, 2],
            [&queries, &[1.0; 4], &[2.0, 0.0, 4.0, 8.0]],
        );
        assert_eq!(output, [3.0, 4.0, 3.0, 4.0]);
    }

    #[test]
    fn each_head_has_its_own_keys_and_values() {
        // Head 0 looks at the first row alone, head 1 at the second.
        let output = attend(
            &mut pool(),
            [2, 1],
            [
                &[100.0, 100.0],
                &[1.0, -1.0, -1.0, 1.0],
                &[3.0, 5.0, 7.0, 9.0],
            ],
        );
        assert_eq!(output, [3.0, 9.0]);
    }
}
