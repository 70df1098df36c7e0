//! Attention of causal models over keys and values that are kept in pages.
//!
//! ```text
//! page of a head   keys    [width][PAGE]    halves, transposed
//!                  values  [PAGE][values]   halves
//! ```
//!
//! Sums run over the numbers of a head and over positions, in their order: a query
//! gives the same bits whichever others are with it. What a page holds beyond the
//! positions that a query sees is finite, and weighs nothing.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::inline_always,
    reason = "places in pages, which the caller has; a kernel must be one piece"
)]

use std::ops::Range;

use zeroize::Zeroize as _;

use super::level::{Kernel, LANES, Level};
use super::row::softmax;

/// Positions in a page.
pub(crate) const PAGE: usize = 32;

/// How a row of queries, keys or values divides into heads.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heads {
    /// Query heads; a multiple of `kv`.
    pub(crate) query: usize,
    /// Key and value heads.
    pub(crate) kv: usize,
    /// Numbers in a query and a key; a multiple of [`LANES`].
    pub(crate) width: usize,
    /// Numbers in a value; a multiple of [`LANES`].
    pub(crate) values: usize,
}

impl Heads {
    /// Query heads that share keys and values.
    pub(crate) fn group(self) -> usize {
        self.query / self.kv.max(1)
    }
}

/// Keys and values of one head of one layer, in all pages there are.
#[derive(Debug, Default)]
pub(crate) struct Head {
    pages: Vec<Page>,
}

#[derive(Debug)]
struct Page {
    keys: Box<[[u16; PAGE]]>,
    values: Box<[u16]>,
}

impl Head {
    /// One more page, of zeros.
    pub(crate) fn grow(&mut self, heads: Heads) {
        self.pages.push(Page {
            keys: vec![[0; PAGE]; heads.width].into(),
            values: vec![0; heads.values * PAGE].into(),
        });
    }

    /// Forgets what a page holds.
    pub(crate) fn wipe(&mut self, page: usize) {
        if let Some(page) = self.pages.get_mut(page) {
            page.keys.as_flattened_mut().zeroize();
            page.values.zeroize();
        }
    }
}

/// Puts a key and a value at a position.
pub(crate) struct Append<'a> {
    pub(crate) head: &'a mut Head,
    /// Pages of the sequence, in order.
    pub(crate) pages: &'a [usize],
    pub(crate) position: usize,
    pub(crate) key: &'a [f32],
    pub(crate) value: &'a [f32],
}

impl Kernel for Append<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Level>(self, level: L) {
        let page = &mut self.head.pages[self.pages[self.position / PAGE]];
        let slot = self.position % PAGE;
        let (keys, _) = self.key.as_chunks::<LANES>();
        for (columns, key) in page.keys.chunks_exact_mut(LANES).zip(keys) {
            let key = level.to_halves(level.load(key));
            for (column, key) in columns.iter_mut().zip(key) {
                column[slot] = key;
            }
        }
        let width = self.value.len();
        let (to, _) = page.values[slot * width..(slot + 1) * width].as_chunks_mut::<LANES>();
        for (to, value) in to.iter_mut().zip(self.value.as_chunks().0) {
            *to = level.to_halves(level.load(value));
        }
    }
}

/// Lets queries of one sequence and heads of one group attend.
pub(crate) struct Attend<'a> {
    pub(crate) head: &'a Head,
    /// Pages of the sequence, in order.
    pub(crate) pages: &'a [usize],
    /// Position of the first row of queries; those after it follow.
    pub(crate) position: usize,
    /// Queries in a row.
    pub(crate) group: usize,
    pub(crate) heads: Heads,
    /// What scores are multiplied with.
    pub(crate) scale: f32,
    /// Positions that a query sees: its own and those before it.
    pub(crate) window: usize,
    /// One after the other.
    pub(crate) queries: &'a mut [f32],
    /// A sum of values for each query.
    pub(crate) output: &'a mut Vec<f32>,
    pub(crate) scores: &'a mut Vec<f32>,
}

impl Kernel for Attend<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Level>(self, level: L) {
        let Heads { width, values, .. } = self.heads;
        let count = self.queries.len() / width;
        self.queries.iter_mut().for_each(|x| *x *= self.scale);
        let last = self.position + count.div_ceil(self.group);
        let unseen = (self.position + 1).saturating_sub(self.window) / PAGE;
        let pages = &self.pages[unseen..last.div_ceil(PAGE)];
        let stride = pages.len() * PAGE;
        self.output.clear();
        self.output.resize(count * values, 0.0);
        self.scores.clear();
        self.scores.resize(4.min(count) * stride, 0.0);
        let mut first = 0;
        while first < count {
            let part = Part {
                head: self.head,
                pages,
                width,
                values,
                queries: &self.queries[first * width..],
                scores: self.scores,
                output: &mut self.output[first * values..],
            };
            let visible = |query: usize| {
                let end = self.position + (first + query) / self.group + 1;
                end.saturating_sub(self.window) - unseen * PAGE..end - unseen * PAGE
            };
            first += match count - first {
                4.. => part.attend::<L, 4>(level, visible),
                2.. => part.attend::<L, 2>(level, visible),
                _ => part.attend::<L, 1>(level, visible),
            };
        }
    }
}

/// Some queries.
struct Part<'a> {
    head: &'a Head,
    pages: &'a [usize],
    width: usize,
    values: usize,
    queries: &'a [f32],
    scores: &'a mut [f32],
    output: &'a mut [f32],
}

impl Part<'_> {
    /// Lets `Q` of them attend; gives their number.
    #[inline(always)]
    fn attend<L: Level, const Q: usize>(
        self,
        level: L,
        visible: impl Fn(usize) -> Range<usize>,
    ) -> usize {
        let stride = self.pages.len() * PAGE;
        let queries: [_; Q] =
            std::array::from_fn(|q| &self.queries[q * self.width..(q + 1) * self.width]);
        for (index, page) in self.pages.iter().enumerate() {
            let mut sums = [[level.splat(0.0); 2]; Q];
            for (number, keys) in self.head.pages[*page].keys.iter().enumerate() {
                accumulate(level, &mut sums, queries.map(|query| query[number]), keys);
            }
            for (q, sums) in sums.into_iter().enumerate() {
                let at = q * stride + index * PAGE;
                put(level, sums, &mut self.scores[at..at + PAGE]);
            }
        }
        for (q, scores) in self.scores.chunks_exact_mut(stride).take(Q).enumerate() {
            let visible = visible(q);
            scores[..visible.start].fill(0.0);
            scores[visible.end..].fill(0.0);
            softmax(level, &mut scores[visible]);
        }
        for (index, page) in self.pages.iter().enumerate() {
            let weights: [_; Q] = std::array::from_fn(|q| {
                let at = q * stride + index * PAGE;
                &self.scores[at..at + PAGE]
            });
            let values = &self.head.pages[*page].values;
            for column in (0..self.values).step_by(LANES) {
                let mut sums = [[level.splat(0.0)]; Q];
                for (q, [sum]) in sums.iter_mut().enumerate() {
                    let at = q * self.values + column;
                    *sum = get(level, &self.output[at..at + LANES]);
                }
                for (slot, values) in values.chunks_exact(self.values).enumerate() {
                    let weights = weights.map(|weights| weights[slot]);
                    accumulate(level, &mut sums, weights, &values[column..column + LANES]);
                }
                for (q, sums) in sums.into_iter().enumerate() {
                    let at = q * self.values + column;
                    put(level, sums, &mut self.output[at..at + LANES]);
                }
            }
        }
        Q
    }
}

/// Adds a row of halves to `Q` sums, each with a factor of its own.
#[inline(always)]
fn accumulate<L: Level, const Q: usize, const N: usize>(
    level: L,
    sums: &mut [[L::F; N]; Q],
    factors: [f32; Q],
    row: &[u16],
) {
    let (row, _) = row.as_chunks::<LANES>();
    for n in 0..N {
        let row = level.halves(&row[n]);
        for q in 0..Q {
            let product = level.mul(level.splat(factors[q]), row);
            sums[q][n] = level.add(sums[q][n], product);
        }
    }
}

#[inline(always)]
fn get<L: Level>(level: L, from: &[f32]) -> L::F {
    from.as_chunks()
        .0
        .first()
        .map_or(level.splat(0.0), |lanes| level.load(lanes))
}

#[inline(always)]
fn put<L: Level, const N: usize>(level: L, sums: [L::F; N], to: &mut [f32]) {
    for (sum, to) in sums.into_iter().zip(to.as_chunks_mut().0) {
        level.store(sum, to);
    }
}
