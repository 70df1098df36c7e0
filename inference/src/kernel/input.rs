//! Rows of numbers that are multiplied with weights.
//!
//! Quantised weights are multiplied in integers, so the row is quantised too: to
//! -127..=127, with a scale for each 32 or 256 numbers as the weights have them.
//! A number that is none makes the scale of its block none, and so the results.

#![expect(clippy::as_conversions, reason = "a byte is read as signed")]

use super::level::{Kernel, LANES, Level};
use super::row::{ROUND, ROUND_BITS};

/// A row, as it is and quantised.
#[derive(Clone, Debug, Default)]
pub(crate) struct Row {
    pub(crate) numbers: Vec<f32>,
    pub(crate) by_32: Quantised,
    pub(crate) by_256: Quantised,
}

/// Which forms of a row are wanted beside the numbers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Forms {
    pub(crate) by_32: bool,
    pub(crate) by_256: bool,
}

impl Forms {
    /// What either wants.
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            by_32: self.by_32 || other.by_32,
            by_256: self.by_256 || other.by_256,
        }
    }
}

#[derive(Clone, Debug, Default)]
pub(crate) struct Quantised {
    /// Four numbers each, the first in the lowest byte.
    pub(crate) words: Vec<i32>,
    /// What a number of the block is to be multiplied with.
    pub(crate) scales: Vec<f32>,
    /// Sums of sixteen numbers.
    pub(crate) sums: Vec<i32>,
}

/// Brings a row into its other forms.
pub(crate) struct Quantise<'a> {
    pub(crate) row: &'a mut Row,
    pub(crate) forms: Forms,
}

impl Kernel for Quantise<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Level>(self, level: L) {
        if self.forms.by_32 {
            quantise::<L, 2>(level, &self.row.numbers, &mut self.row.by_32);
        }
        if self.forms.by_256 {
            quantise::<L, 16>(level, &self.row.numbers, &mut self.row.by_256);
        }
    }
}

/// With a scale for each `N` times sixteen numbers.
#[inline(always)]
fn quantise<L: Level, const N: usize>(level: L, numbers: &[f32], to: &mut Quantised) {
    to.words.clear();
    to.scales.clear();
    to.sums.clear();
    let (chunks, _) = numbers.as_chunks::<LANES>();
    let (blocks, _) = chunks.as_chunks::<N>();
    let zero = level.splat(0.0);
    for block in blocks {
        let (mut most, mut probe) = (zero, zero);
        for x in block {
            let x = level.load(x);
            most = level.max(most, level.max(x, level.sub(zero, x)));
            probe = level.add(probe, level.mul(x, zero));
        }
        let (mut all, mut probes) = ([0.0; LANES], [0.0; LANES]);
        level.store(most, &mut all);
        level.store(probe, &mut probes);
        let most = all.iter().fold(0.0, |a, b| if *b > a { *b } else { a });
        let probe: f32 = probes.iter().sum();
        let inverse = if most > TINY { 127.0 / most } else { 0.0 };
        to.scales
            .push(if most > TINY { most / 127.0 } else { 0.0 } + probe);
        for x in block {
            let x = level.mul(level.load(x), level.splat(inverse));
            let x = level.bits(level.add(x, level.splat(ROUND)));
            let bytes = level.narrow(level.sub_int(x, level.splat_int(ROUND_BITS)));
            let (words, _) = bytes.as_chunks();
            to.words
                .extend(words.iter().map(|word| i32::from_le_bytes(*word)));
            to.sums
                .push(bytes.iter().map(|byte| i32::from(*byte as i8)).sum());
        }
    }
}

/// Below this the inverse is infinite; it is far below what a model can mean.
const TINY: f32 = 1e-30;
