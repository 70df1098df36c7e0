//! Q6_K: blocks of 256 numbers in sixteen parts; a number is
//! `scale * part_scale * (q - 32)`, with `q` of six bits.
//!
//! ```text
//! offset  size  field
//!      0   128  low four bits of q: bytes 64 h.. have numbers 128 h.. in their
//!               low bits, and numbers 128 h + 64.. in their high bits
//!    128    64  high two bits of q: bytes 32 h.. have numbers 128 h + 32 i.. in
//!               bits 2 i
//!    192    16  part scales, i8
//!    208     2  scale, a half
//! ```
//!
//! Source: `block_q6_K` of ggml.

use super::super::level::from_half;
#[cfg(any(test, feature = "cuda"))]
use super::word_of;
use super::{LANES, Level, Line, Row, Tile, interleave, u16s};

#[derive(Debug)]
pub(super) struct Q6K {
    blocks: Vec<Block>,
}

#[derive(Debug)]
struct Block {
    /// For each half of the numbers.
    low: [[Line; 16]; 2],
    high: [[Line; 8]; 2],
    scales: [[u8; LANES]; 16],
    scale: [u16; LANES],
}

/// Bytes of a block in a file.
const BLOCK: usize = 210;

impl Tile for Q6K {
    fn pack(rows: &[&[u8]; LANES]) -> Self {
        let blocks = (0..rows[0].len() / BLOCK).map(|block| {
            let rows = rows.map(|row| row.get(block * BLOCK..).unwrap_or_default());
            Block {
                low: std::array::from_fn(|half| {
                    std::array::from_fn(|word| interleave(&rows, half * 16 + word))
                }),
                high: std::array::from_fn(|half| {
                    std::array::from_fn(|word| interleave(&rows, 32 + half * 8 + word))
                }),
                scales: std::array::from_fn(|part| {
                    rows.map(|row| row.get(192 + part).copied().unwrap_or(0))
                }),
                scale: u16s(&rows, 208),
            }
        });
        Self {
            blocks: blocks.collect(),
        }
    }

    #[inline(always)]
    fn multiply<L: Level, const M: usize>(
        &self,
        level: L,
        rows: &[Row; M],
        next: Option<&Self>,
    ) -> [L::F; M] {
        let next = next.map_or(&[][..], |next| &next.blocks);
        let mut results = [level.splat(0.0); M];
        let words: [_; M] = std::array::from_fn(|m| rows[m].by_256.words.as_chunks::<64>().0);
        let halves: [_; M] = std::array::from_fn(|m| rows[m].by_256.sums.as_chunks::<16>().0);
        for (index, block) in self.blocks.iter().enumerate() {
            if let Some(block) = next.get(index) {
                level.prefetch(&block.scale);
                for line in block
                    .low
                    .as_flattened()
                    .iter()
                    .chain(block.high.as_flattened())
                {
                    level.prefetch(line);
                }
            }
            let mut sums = [level.splat_int(0); M];
            for part in 0..16 {
                let (half, first) = (part / 8, part % 8 * 4);
                let q: [_; 4] = std::array::from_fn(|i| {
                    let word = first + i;
                    let low = level.bytes(&block.low[half][word % 16].0);
                    let low = match word / 16 {
                        0 => level.low_nibbles(low),
                        _ => level.high_nibbles(low),
                    };
                    let high = level.bytes(&block.high[half][word % 8].0);
                    level.or(low, level.bit_pair(high, part % 8 / 2))
                });
                let scale = level.signed(&block.scales[part]);
                for m in 0..M {
                    let (words, _) = words[m][index].as_chunks::<4>();
                    let mut dot = level.splat_int(-32 * halves[m][index][part]);
                    for (q, x) in q.iter().zip(&words[part]) {
                        dot = level.dot_small(dot, *q, *x);
                    }
                    sums[m] = level.add_int(sums[m], level.mul_int(dot, scale));
                }
            }
            let scale = level.halves(&block.scale);
            for m in 0..M {
                let scale = level.mul(scale, level.splat(rows[m].by_256.scales[index]));
                let sum = level.mul(level.to_float(sums[m]), scale);
                results[m] = level.add(results[m], sum);
            }
        }
        results
    }

    fn unpack(&self, lane: usize, numbers: &mut [f32]) {
        let (blocks, _) = numbers.as_chunks_mut::<256>();
        for (to, block) in blocks.iter_mut().zip(&self.blocks) {
            let scale = from_half(block.scale[lane]);
            for (index, to) in to.iter_mut().enumerate() {
                let (half, place, byte) = (index / 128, index % 128, lane * 4 + index % 4);
                let low = block.low[half][place % 64 / 4].0[byte] >> (place / 64 * 4);
                let high = block.high[half][place % 32 / 4].0[byte] >> (place / 32 * 2);
                let q = (low & 0x0f) | ((high & 3) << 4);
                let part = f32::from(block.scales[index / 16][lane].cast_signed());
                *to = scale * part * (f32::from(q) - 32.0);
            }
        }
    }

    #[cfg(any(test, feature = "cuda"))]
    fn write(&self, lane: usize, bytes: &mut Vec<u8>) {
        for block in &self.blocks {
            let (low, high) = (block.low.as_flattened(), block.high.as_flattened());
            for line in low.iter().chain(high) {
                bytes.extend(word_of(line, lane));
            }
            bytes.extend(block.scales.iter().map(|scales| scales[lane]));
            bytes.extend_from_slice(&block.scale[lane].to_le_bytes());
        }
    }
}
