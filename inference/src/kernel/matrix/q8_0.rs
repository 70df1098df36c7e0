//! Q8_0: blocks of 32 numbers, each an i8 times the block's scale.
//!
//! ```text
//! offset  size  field
//!      0     2  scale, a half
//!      2    32  numbers, i8
//! ```
//!
//! Source: `block_q8_0` of ggml.

use super::super::level::from_half;
#[cfg(any(test, feature = "cuda"))]
use super::word_of;
use super::{LANES, Level, Line, Row, Tile, interleave, u16s};

#[derive(Debug)]
pub(super) struct Q8_0 {
    blocks: Vec<[Line; 8]>,
    scales: Vec<[u16; LANES]>,
}

/// Bytes of a block in a file.
const BLOCK: usize = 34;

impl Tile for Q8_0 {
    fn pack(rows: &[&[u8]; LANES]) -> Self {
        let mut tile = Self {
            blocks: Vec::new(),
            scales: Vec::new(),
        };
        let count = rows[0].len() / BLOCK;
        tile.blocks.reserve_exact(count);
        tile.scales.reserve_exact(count);
        for block in 0..count {
            let rows = rows.map(|row| row.get(block * BLOCK..).unwrap_or_default());
            tile.scales.push(u16s(&rows, 0));
            let rows = rows.map(|row| row.get(2..).unwrap_or_default());
            tile.blocks.push(std::array::from_fn(|word| {
                // The instruction wants them unsigned: 128 more.
                Line(interleave(&rows, word).0.map(|byte| byte ^ 0x80))
            }));
        }
        tile
    }

    #[inline(always)]
    fn multiply<L: Level, const M: usize>(
        &self,
        level: L,
        rows: &[Row; M],
        next: Option<&Self>,
    ) -> [L::F; M] {
        let mut sums = [level.splat(0.0); M];
        let words: [_; M] = std::array::from_fn(|m| rows[m].by_32.words.as_chunks::<8>().0);
        let halves: [_; M] = std::array::from_fn(|m| rows[m].by_32.sums.as_chunks::<2>().0);
        for (index, (block, scales)) in self.blocks.iter().zip(&self.scales).enumerate() {
            // For one row memory is in order, and brings the next lines by itself.
            if let Some(next) = next.filter(|_| M > 1) {
                next.scales
                    .get(index)
                    .into_iter()
                    .for_each(|scales| level.prefetch(scales));
                for line in next.blocks.get(index).into_iter().flatten() {
                    level.prefetch(line);
                }
            }
            let block: [_; 8] = std::array::from_fn(|i| level.bytes(&block[i].0));
            let scales = level.halves(scales);
            for m in 0..M {
                let [a, b] = halves[m][index];
                let mut dot = level.splat_int(-128 * (a + b));
                for (weights, x) in block.iter().zip(&words[m][index]) {
                    dot = level.dot(dot, *weights, *x);
                }
                let scale = level.mul(scales, level.splat(rows[m].by_32.scales[index]));
                sums[m] = level.add(sums[m], level.mul(level.to_float(dot), scale));
            }
        }
        sums
    }

    fn unpack(&self, lane: usize, numbers: &mut [f32]) {
        let (blocks, _) = numbers.as_chunks_mut::<32>();
        for ((to, block), scales) in blocks.iter_mut().zip(&self.blocks).zip(&self.scales) {
            let scale = from_half(scales[lane]);
            for (to, line) in to.as_chunks_mut::<4>().0.iter_mut().zip(block) {
                for (to, byte) in to.iter_mut().zip(&line.0[lane * 4..]) {
                    *to = f32::from((byte ^ 0x80).cast_signed()) * scale;
                }
            }
        }
    }

    #[cfg(any(test, feature = "cuda"))]
    fn write(&self, lane: usize, bytes: &mut Vec<u8>) {
        for (block, scales) in self.blocks.iter().zip(&self.scales) {
            bytes.extend_from_slice(&scales[lane].to_le_bytes());
            for line in block {
                bytes.extend(word_of(line, lane).map(|byte| byte ^ 0x80));
            }
        }
    }
}
