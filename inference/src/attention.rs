//! Scaled dot-product attention on the CPU, and the keys and values it reads.
//!
//! One query row at a time, in a fixed order of additions: a row gives the same
//! bits in a prompt, in a single step and in any batch. Query heads share the
//! keys and values of their group (GQA), which are stored once.

use zeroize::Zeroizing;

/// How a row of queries, keys or values divides into heads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    /// Query heads; a multiple of `kv`.
    pub(crate) query: usize,
    /// Key and value heads.
    pub(crate) kv: usize,
    /// Numbers in a head.
    pub(crate) width: usize,
}

/// Which keys a query sees.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Mask {
    /// Those up to its own position; the queries are the last rows.
    Causal,
    /// All of them.
    None,
}

/// Keys and values of one layer for one sequence; wiped when dropped.
#[derive(Debug)]
pub(crate) struct Memory {
    heads: Vec<Head>,
    width: usize,
    rows: usize,
}

#[derive(Debug)]
struct Head {
    keys: Zeroizing<Vec<f32>>,
    values: Zeroizing<Vec<f32>>,
}

impl Memory {
    /// Room for `capacity` rows; more would leave copies behind that are not wiped.
    pub(crate) fn new(heads: Heads, capacity: usize) -> Self {
        let room = || Zeroizing::new(Vec::with_capacity(capacity.saturating_mul(heads.width)));
        let head = || Head {
            keys: room(),
            values: room(),
        };
        Self {
            heads: std::iter::repeat_with(head).take(heads.kv).collect(),
            width: heads.width,
            rows: 0,
        }
    }

    /// Appends rows of all heads, as the projections give them.
    pub(crate) fn append(&mut self, keys: &[f32], values: &[f32]) {
        let row = self.width.saturating_mul(self.heads.len());
        for (keys, values) in keys.chunks_exact(row).zip(values.chunks_exact(row)) {
            let parts = keys.chunks_exact(self.width);
            let parts = parts.zip(values.chunks_exact(self.width));
            for (head, (key, value)) in self.heads.iter_mut().zip(parts) {
                head.keys.extend_from_slice(key);
                head.values.extend_from_slice(value);
            }
            self.rows = self.rows.saturating_add(1);
        }
    }

    /// Appends to `output` one row for each row of `queries`.
    pub(crate) fn attend(&self, heads: Heads, queries: &[f32], mask: Mask, output: &mut Vec<f32>) {
        let row = heads.query.saturating_mul(heads.width);
        let group = row.checked_div(heads.kv).unwrap_or(row);
        let queries = queries.chunks_exact(row);
        let hidden = queries.len();
        let mut scores = Zeroizing::new(Vec::with_capacity(self.rows));
        for (index, query) in queries.enumerate() {
            let visible = match mask {
                Mask::Causal => self
                    .rows
                    .saturating_sub(hidden.saturating_sub(index.saturating_add(1))),
                Mask::None => self.rows,
            };
            for (head, group) in self.heads.iter().zip(query.chunks_exact(group)) {
                for query in group.chunks_exact(self.width) {
                    head.weigh(query, visible, &mut scores);
                    head.sum(&scores, self.width, output);
                }
            }
        }
    }
}

impl Head {
    /// Softmax of the products of `query` with the first `visible` keys.
    #[expect(
        clippy::as_conversions,
        clippy::cast_precision_loss,
        reason = "a head's width is exact in f32"
    )]
    fn weigh(&self, query: &[f32], visible: usize, scores: &mut Vec<f32>) {
        let scale = (query.len() as f32).sqrt().recip();
        let keys = self.keys.chunks_exact(query.len()).take(visible);
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

    /// Appends the sum of the values, weighted.
    fn sum(&self, weights: &[f32], width: usize, output: &mut Vec<f32>) {
        let start = output.len();
        output.resize(start.saturating_add(width), 0.0);
        let Some(sum) = output.get_mut(start..) else {
            return;
        };
        for (weight, value) in weights.iter().zip(self.values.chunks_exact(width)) {
            for (sum, value) in sum.iter_mut().zip(value) {
                *sum += weight * value;
            }
        }
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

#[cfg(test)]
#[expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    reason = "numbers of a test"
)]
mod tests {
    use super::*;

    const HEADS: Heads = Heads {
        query: 4,
        kv: 2,
        width: 10,
    };

    #[test]
    fn equal_keys_average_the_values() {
        let heads = Heads {
            query: 1,
            kv: 1,
            width: 2,
        };
        let mut memory = Memory::new(heads, 2);
        memory.append(&[1.0, 1.0, 1.0, 1.0], &[2.0, 0.0, 4.0, 8.0]);
        let mut output = Vec::new();
        memory.attend(heads, &[5.0, 3.0], Mask::None, &mut output);
        assert_eq!(output, [3.0, 4.0]);
    }

    #[test]
    fn a_query_does_not_see_what_comes_after_it() {
        let (queries, keys, values) = (rows(40, 1), rows(20, 2), rows(20, 3));
        let mut whole = Vec::new();
        let mut memory = Memory::new(HEADS, 5);
        memory.append(&keys, &values);
        memory.attend(HEADS, &queries, Mask::Causal, &mut whole);

        let mut stepwise = Vec::new();
        let mut memory = Memory::new(HEADS, 5);
        let steps = keys.chunks(20).zip(values.chunks(20));
        for (query, (key, value)) in queries.chunks(40).zip(steps) {
            memory.append(key, value);
            memory.attend(HEADS, query, Mask::Causal, &mut stepwise);
        }
        assert_eq!(whole, stepwise);
    }

    #[test]
    fn a_group_of_query_heads_reads_its_own_keys() {
        let (queries, keys, values) = (rows(40, 4), rows(20, 5), rows(20, 6));
        let mut memory = Memory::new(HEADS, 5);
        memory.append(&keys, &values);
        let mut output = Vec::new();
        memory.attend(HEADS, &queries, Mask::None, &mut output);

        for row in 0..5 {
            for head in 0..4 {
                let at = row * 40 + head * 10;
                let expected = naive(&queries[at..at + 10], &keys, &values, head / 2);
                for (found, expected) in output[at..at + 10].iter().zip(expected) {
                    assert!((f64::from(*found) - expected).abs() < 1e-6);
                }
            }
        }
    }

    /// Attention of one query head in f64, straight from the definition.
    fn naive(query: &[f32], keys: &[f32], values: &[f32], kv: usize) -> Vec<f64> {
        let part = |row: &[f32]| -> Vec<f64> {
            row[kv * 10..][..10].iter().map(|x| f64::from(*x)).collect()
        };
        let weights: Vec<f64> = keys
            .chunks(20)
            .map(|key| {
                let products = part(key)
                    .into_iter()
                    .zip(query)
                    .map(|(k, q)| k * f64::from(*q));
                (products.sum::<f64>() / 10_f64.sqrt()).exp()
            })
            .collect();
        let total: f64 = weights.iter().sum();
        let mut sum = vec![0.0; 10];
        for (weight, value) in weights.iter().zip(values.chunks(20)) {
            for (sum, value) in sum.iter_mut().zip(part(value)) {
                *sum += weight / total * value;
            }
        }
        sum
    }

    /// Five rows of made-up numbers between -1 and 1.
    fn rows(width: u32, seed: u32) -> Vec<f32> {
        (0..width * 5)
            .map(|i| (f64::from(i * 7919 + seed * 104_729) * 0.618).sin() as f32)
            .collect()
    }
}
