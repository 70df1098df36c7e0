//! Q4_K: blocks of 256 numbers in eight parts; a number is
//! `scale * part_scale * q - min * part_min`, with `q` of four bits.
//!
//! ```text
//! offset  size  field
//!      0     2  scale, a half
//!      2     2  min, a half
//!      4    12  part scales and part mins, six bits each
//!     16   128  q: bytes 32 i.. have part 2 i in the low bits, 2 i + 1 in the high
//! ```
//!
//! Source: `block_q4_K` of ggml.

use super::super::level::from_half;
#[cfg(any(test, feature = "cuda"))]
use super::word_of;
use super::{LANES, Level, Line, Row, Tile, interleave, u16s};

#[derive(Debug)]
pub(super) struct Q4K {
    blocks: Vec<Block>,
}

#[derive(Debug)]
struct Block {
    /// For each pair of parts and word.
    lines: [[Line; 8]; 4],
    scales: [[u8; LANES]; 8],
    mins: [[u8; LANES]; 8],
    scale: [u16; LANES],
    min: [u16; LANES],
}

/// Bytes of a block in a file.
const BLOCK: usize = 144;

impl Tile for Q4K {
    fn pack(rows: &[&[u8]; LANES]) -> Self {
        let blocks = (0..rows[0].len() / BLOCK).map(|block| {
            let rows = rows.map(|row| row.get(block * BLOCK..).unwrap_or_default());
            let parts = rows.map(|row| {
                row.get(4..)
                    .and_then(<[u8]>::first_chunk)
                    .map_or([[0; 8]; 2], parts)
            });
            Block {
                lines: std::array::from_fn(|pair| {
                    std::array::from_fn(|word| interleave(&rows, 4 + pair * 8 + word))
                }),
                scales: std::array::from_fn(|part| parts.map(|[scales, _]| scales[part])),
                mins: std::array::from_fn(|part| parts.map(|[_, mins]| mins[part])),
                scale: u16s(&rows, 0),
                min: u16s(&rows, 2),
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
            for line in next
                .get(index)
                .into_iter()
                .flat_map(|block| block.lines.as_flattened())
            {
                level.prefetch(line);
            }
            let mut sums = [level.splat_int(0); M];
            let mut mins = [level.splat_int(0); M];
            for (pair, lines) in block.lines.iter().enumerate() {
                let lines: [_; 8] = std::array::from_fn(|i| level.bytes(&lines[i].0));
                for side in 0..2 {
                    let part = pair * 2 + side;
                    let q = lines.map(|line| match side {
                        0 => level.low_nibbles(line),
                        _ => level.high_nibbles(line),
                    });
                    let scale = level.unsigned(&block.scales[part]);
                    let min = level.unsigned(&block.mins[part]);
                    for m in 0..M {
                        let (words, _) = words[m][index].as_chunks::<8>();
                        let mut dot = level.splat_int(0);
                        for (q, x) in q.iter().zip(&words[part]) {
                            dot = level.dot_small(dot, *q, *x);
                        }
                        sums[m] = level.add_int(sums[m], level.mul_int(dot, scale));
                        let (halves, _) = halves[m][index].as_chunks();
                        let [a, b] = halves[part];
                        let min = level.mul_int(min, level.splat_int(a + b));
                        mins[m] = level.add_int(mins[m], min);
                    }
                }
            }
            let (scale, min) = (level.halves(&block.scale), level.halves(&block.min));
            for m in 0..M {
                let x = level.splat(rows[m].by_256.scales[index]);
                let sum = level.mul(level.to_float(sums[m]), level.mul(scale, x));
                let min = level.mul(level.to_float(mins[m]), level.mul(min, x));
                results[m] = level.add(results[m], level.sub(sum, min));
            }
        }
        results
    }

    fn unpack(&self, lane: usize, numbers: &mut [f32]) {
        let (blocks, _) = numbers.as_chunks_mut::<256>();
        for (to, block) in blocks.iter_mut().zip(&self.blocks) {
            let (scale, min) = (from_half(block.scale[lane]), from_half(block.min[lane]));
            for (part, to) in to.as_chunks_mut::<32>().0.iter_mut().enumerate() {
                let scale = scale * f32::from(block.scales[part][lane]);
                let min = min * f32::from(block.mins[part][lane]);
                let lines = to
                    .as_chunks_mut::<4>()
                    .0
                    .iter_mut()
                    .zip(&block.lines[part / 2]);
                for (to, line) in lines {
                    for (to, byte) in to.iter_mut().zip(&line.0[lane * 4..]) {
                        *to = f32::from((byte >> (4 * (part % 2))) & 0x0f) * scale - min;
                    }
                }
            }
        }
    }

    #[cfg(any(test, feature = "cuda"))]
    fn write(&self, lane: usize, bytes: &mut Vec<u8>) {
        for block in &self.blocks {
            bytes.extend_from_slice(&block.scale[lane].to_le_bytes());
            bytes.extend_from_slice(&block.min[lane].to_le_bytes());
            let of = |parts: &[[u8; LANES]; 8], part: usize| parts[part][lane];
            let low = |parts| move |part| of(parts, part) | (of(parts, part + 4) >> 4) << 6;
            bytes.extend((0..4).map(low(&block.scales)));
            bytes.extend((0..4).map(low(&block.mins)));
            let rest = |part| of(&block.scales, part) & 0x0f | of(&block.mins, part) << 4;
            bytes.extend((4..8).map(rest));
            for line in block.lines.as_flattened() {
                bytes.extend(word_of(line, lane));
            }
        }
    }
}

/// Scales and mins of the parts. Those of the last four have their upper two bits
/// above those of the first four.
fn parts(packed: &[u8; 12]) -> [[u8; 8]; 2] {
    let (mut scales, mut mins) = ([0; 8], [0; 8]);
    for part in 0..4 {
        let (scale, min, rest) = (packed[part], packed[part + 4], packed[part + 8]);
        scales[part] = scale & 0x3f;
        mins[part] = min & 0x3f;
        scales[part + 4] = (rest & 0x0f) | ((scale >> 6) << 4);
        mins[part + 4] = (rest >> 4) | ((min >> 6) << 4);
    }
    [scales, mins]
}
