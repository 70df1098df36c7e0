//! FP8 with four bits of exponent (E4M3), and a scale for each 128 numbers.
//!
//! ```text
//! offset  size  field
//!      0     4  scale, f32
//!      4   128  numbers, E4M3; fewer at the end of a row
//! ```
//!
//! Files have numbers and scales in two tensors, and there a scale is for 128 rows,
//! too. There are no infinities; 0x7f and 0xff are not numbers, and must not come.
//!
//! Source: "FP8 Formats for Deep Learning", 2022; DeepSeek-V3's `weight_scale_inv`.

use super::super::level::from_half;
use super::dense::{Number, dots};
use super::{LANES, Level, Row, Tile};

#[derive(Debug)]
pub(super) struct F8 {
    numbers: Vec<[u8; LANES]>,
    /// Times 2^8, of each block.
    scales: Vec<[f32; LANES]>,
}

/// Numbers of a block; the last of a row may have fewer.
pub(crate) const BLOCK: usize = 128;

/// Bytes of a scale.
pub(crate) const SCALE: usize = 4;

/// The number that `byte` stands for.
pub(crate) fn e4m3(byte: u8) -> f32 {
    E4M3::number(byte) * SHIFTED
}

/// Whether `byte` stands for a number.
pub(crate) fn is_number(byte: u8) -> bool {
    byte & 0x7f != 0x7f
}

/// A number, shifted into a half: 2^-8 of it, since the exponents' biases are 7 and 15.
#[derive(Debug)]
struct E4M3;

const SHIFTED: f32 = 256.0;

impl Number for E4M3 {
    type Stored = u8;

    fn read(row: &[u8], index: usize) -> u8 {
        row.get(index).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn load<L: Level>(level: L, x: &[u8; LANES]) -> L::F {
        level.halves(&x.map(half))
    }

    fn number(x: u8) -> f32 {
        from_half(half(x))
    }

    #[cfg(any(test, feature = "cuda"))]
    fn write(x: u8, bytes: &mut Vec<u8>) {
        bytes.push(x);
    }
}

#[inline(always)]
fn half(x: u8) -> u16 {
    let x = u16::from(x);
    (x & 0x80) << 8 | (x & 0x7f) << 7
}

impl Tile for F8 {
    fn pack(rows: &[&[u8]; LANES]) -> Self {
        let bytes = rows[0].len();
        let blocks = bytes.div_ceil(SCALE + BLOCK);
        let inputs = bytes.saturating_sub(blocks * SCALE);
        let number =
            |row: &[u8], input: usize| E4M3::read(row, input + (input / BLOCK + 1) * SCALE);
        let scale = |row: &[u8], block: usize| {
            let bytes = row.get(block * (SCALE + BLOCK)..);
            let bytes = bytes.and_then(<[u8]>::first_chunk);
            bytes.map_or(0.0, |bytes| f32::from_le_bytes(*bytes)) * SHIFTED
        };
        Self {
            numbers: (0..inputs)
                .map(|input| rows.map(|row| number(row, input)))
                .collect(),
            scales: (0..blocks)
                .map(|block| rows.map(|row| scale(row, block)))
                .collect(),
        }
    }

    #[inline(always)]
    fn multiply<L: Level, const M: usize>(
        &self,
        level: L,
        rows: &[Row; M],
        _: Option<&Self>,
    ) -> [L::F; M] {
        let mut sums = [level.splat(0.0); M];
        let blocks = self.numbers.chunks(BLOCK).zip(&self.scales);
        for (index, (numbers, scales)) in blocks.enumerate() {
            let scales = level.load(scales);
            let x = std::array::from_fn(|m| &rows[m].numbers[index * BLOCK..]);
            let products = dots::<E4M3, L, M>(level, numbers, x);
            for m in 0..M {
                sums[m] = level.add(sums[m], level.mul(products[m], scales));
            }
        }
        sums
    }

    fn unpack(&self, lane: usize, numbers: &mut [f32]) {
        let blocks = self.numbers.chunks(BLOCK).zip(&self.scales);
        for (to, (block, scales)) in numbers.chunks_mut(BLOCK).zip(blocks) {
            for (to, lanes) in to.iter_mut().zip(block) {
                *to = E4M3::number(lanes[lane]) * scales[lane];
            }
        }
    }

    #[cfg(any(test, feature = "cuda"))]
    fn write(&self, lane: usize, bytes: &mut Vec<u8>) {
        for (block, scales) in self.numbers.chunks(BLOCK).zip(&self.scales) {
            bytes.extend_from_slice(&(scales[lane] / SHIFTED).to_le_bytes());
            bytes.extend(block.iter().map(|lanes| lanes[lane]));
        }
    }
}
