//! Weights, in the order in which they are read, and the product with rows.
//!
//! Sixteen outputs make a tile, lane by lane. What a file holds in blocks stays in
//! blocks: the arithmetic of a quantised matrix is that of its format, in integers
//! within a block, and one rounding per block, in the order of the inputs.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::inline_always,
    reason = "places in a tile, whose sizes are checked where it is made; a kernel must be one piece"
)]

mod dense;
pub(crate) mod f8;
mod q4_k;
mod q6_k;
mod q8_0;
#[cfg(test)]
mod tests;

use std::ops::Range;

use super::input::{Forms, Row};
use super::level::{Cpu, Kernel, LANES, Level};
use super::pool::{Columns, Pool};
use dense::{Bf16, Dense, F16, F32};
use f8::F8;
use q4_k::Q4K;
use q6_k::Q6K;
use q8_0::Q8_0;

/// How a file holds numbers.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Format {
    Bf16,
    F8,
    F16,
    F32,
    Q4K,
    Q6K,
    Q8_0,
}

impl Format {
    /// Numbers in a block, and its bytes when it is packed.
    pub(crate) fn block(self) -> (usize, usize) {
        match self {
            Self::F32 => (1, 4),
            Self::Bf16 | Self::F16 => (1, 2),
            Self::F8 => (f8::BLOCK, f8::SCALE + f8::BLOCK),
            Self::Q8_0 => (32, 34),
            Self::Q4K => (256, 144),
            Self::Q6K => (256, 210),
        }
    }

    /// Bytes of a row of `inputs` numbers, if it is whole blocks.
    pub(crate) fn row_bytes(self, inputs: usize) -> Option<usize> {
        let (numbers, bytes) = self.block();
        if self == Self::F8 {
            let scales = inputs.div_ceil(numbers).checked_mul(f8::SCALE);
            return scales?.checked_add(inputs);
        }
        let whole = inputs.checked_rem(numbers) == Some(0);
        inputs
            .checked_div(numbers)?
            .checked_mul(bytes)
            .filter(|_| whole)
    }
}

/// A matrix `[outputs, inputs]`.
#[derive(Debug)]
pub(crate) struct Matrix {
    tiles: Tiles,
    outputs: usize,
    #[cfg(any(test, feature = "cuda"))]
    inputs: usize,
}

#[derive(Debug)]
enum Tiles {
    Bf16(Vec<Dense<Bf16>>),
    F8(Vec<F8>),
    F16(Vec<Dense<F16>>),
    F32(Vec<Dense<F32>>),
    Q4K(Vec<Q4K>),
    Q6K(Vec<Q6K>),
    Q8_0(Vec<Q8_0>),
}

/// Sixteen rows of a matrix.
trait Tile: Sized + Send + Sync {
    /// From the bytes of a file, `rows` of the same length; there may be fewer.
    fn pack(rows: &[&[u8]; LANES]) -> Self;

    /// The products with `M` rows; asks memory for the tile that comes `next`, which
    /// is as large, on the way.
    fn multiply<L: Level, const M: usize>(
        &self,
        level: L,
        rows: &[Row; M],
        next: Option<&Self>,
    ) -> [L::F; M];

    /// One of its rows.
    fn unpack(&self, lane: usize, numbers: &mut [f32]);

    /// Appends one of its rows, as a file has it.
    #[cfg(any(test, feature = "cuda"))]
    fn write(&self, lane: usize, bytes: &mut Vec<u8>);
}

/// Does the same for whichever tiles there are.
macro_rules! for_tiles {
    ($tiles:expr, $name:ident => $body:expr) => {
        match $tiles {
            Tiles::Bf16($name) => $body,
            Tiles::F8($name) => $body,
            Tiles::F16($name) => $body,
            Tiles::F32($name) => $body,
            Tiles::Q4K($name) => $body,
            Tiles::Q6K($name) => $body,
            Tiles::Q8_0($name) => $body,
        }
    };
}

impl Matrix {
    /// Packs rows, which `read` writes as a file of this format has them.
    pub(crate) fn pack<E: Send>(
        pool: &mut Pool,
        format: Format,
        [outputs, inputs]: [usize; 2],
        read: impl Fn(usize, &mut [u8]) -> Result<(), E> + Sync,
    ) -> Result<Self, E> {
        let bytes = format.row_bytes(inputs).unwrap_or(0);
        let shape = (outputs, bytes);
        Ok(Self {
            tiles: match format {
                Format::Bf16 => Tiles::Bf16(pack(pool, shape, read)?),
                Format::F8 => Tiles::F8(pack(pool, shape, read)?),
                Format::F16 => Tiles::F16(pack(pool, shape, read)?),
                Format::F32 => Tiles::F32(pack(pool, shape, read)?),
                Format::Q4K => Tiles::Q4K(pack(pool, shape, read)?),
                Format::Q6K => Tiles::Q6K(pack(pool, shape, read)?),
                Format::Q8_0 => Tiles::Q8_0(pack(pool, shape, read)?),
            },
            outputs,
            #[cfg(any(test, feature = "cuda"))]
            inputs,
        })
    }

    pub(crate) fn outputs(&self) -> usize {
        self.outputs
    }

    #[cfg(any(test, feature = "cuda"))]
    pub(crate) fn inputs(&self) -> usize {
        self.inputs
    }

    /// The forms of a row that its product needs.
    pub(crate) fn forms(&self) -> Forms {
        Forms {
            by_32: matches!(self.tiles, Tiles::Q8_0(_)),
            by_256: matches!(self.tiles, Tiles::Q4K(_) | Tiles::Q6K(_)),
        }
    }

    /// One of its rows, `inputs` numbers.
    pub(crate) fn row(&self, index: usize, numbers: &mut [f32]) {
        let (tile, lane) = (index / LANES, index % LANES);
        for_tiles!(&self.tiles, tiles => {
            if let Some(tile) = tiles.get(tile) {
                tile.unpack(lane, numbers);
            }
        });
    }

    /// One without rows.
    #[cfg(any(test, feature = "cuda"))]
    pub(crate) fn none() -> Self {
        Self {
            tiles: Tiles::F32(Vec::new()),
            outputs: 0,
            inputs: 0,
        }
    }

    /// Its format, and its rows as a file has them.
    #[cfg(any(test, feature = "cuda"))]
    pub(crate) fn file(&self) -> (Format, Vec<u8>) {
        let format = match &self.tiles {
            Tiles::Bf16(_) => Format::Bf16,
            Tiles::F8(_) => Format::F8,
            Tiles::F16(_) => Format::F16,
            Tiles::F32(_) => Format::F32,
            Tiles::Q4K(_) => Format::Q4K,
            Tiles::Q6K(_) => Format::Q6K,
            Tiles::Q8_0(_) => Format::Q8_0,
        };
        let mut bytes =
            Vec::with_capacity(format.row_bytes(self.inputs).unwrap_or(0) * self.outputs);
        for row in 0..self.outputs {
            for_tiles!(&self.tiles, tiles => tiles[row / LANES].write(row % LANES, &mut bytes));
        }
        (format, bytes)
    }

    /// Its rows as BF16: to the nearest, ties to even.
    #[cfg(any(test, feature = "cuda"))]
    pub(crate) fn upper_halves(&self) -> Vec<u8> {
        let mut numbers = vec![0.0_f32; self.inputs];
        let mut bytes = Vec::with_capacity(self.inputs * self.outputs * 2);
        for row in 0..self.outputs {
            self.row(row, &mut numbers);
            for number in &numbers {
                let bits = number.to_bits();
                let [.., low, high] = bits.wrapping_add(0x7fff + (bits >> 16 & 1)).to_le_bytes();
                bytes.extend([low, high]);
            }
        }
        bytes
    }

    /// The products of all rows with some outputs, whole tiles but for the last of
    /// all, put in `columns` from `offset` on.
    pub(crate) fn multiply(
        &self,
        cpu: Cpu,
        rows: &[Row],
        outputs: Range<usize>,
        columns: &mut Columns<'_>,
        offset: usize,
        then: Then<'_>,
    ) {
        let place = offset..offset + outputs.len();
        let tiles = outputs.start / LANES..outputs.end.div_ceil(LANES);
        for_tiles!(&self.tiles, all => {
            let tiles = all.get(tiles).unwrap_or_default();
            cpu.run(Product { tiles, rows, columns, place, then });
        });
    }
}

/// What becomes of a product.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Then<'a> {
    /// It is added to what is there.
    Add,
    /// It is the result, after a bias for these columns is added, if there is one.
    Set(&'a [f32]),
}

fn pack<T: Tile, E: Send>(
    pool: &mut Pool,
    (outputs, bytes): (usize, usize),
    read: impl Fn(usize, &mut [u8]) -> Result<(), E> + Sync,
) -> Result<Vec<T>, E> {
    let mut tiles: Vec<Option<Result<T, E>>> = Vec::new();
    tiles.resize_with(outputs.div_ceil(LANES), || None);
    pool.each_mut(&mut tiles, |index, tile| {
        let first = index.saturating_mul(LANES);
        let rows = outputs.saturating_sub(first).min(LANES);
        let mut buffer = vec![0; bytes.saturating_mul(rows)];
        let mut places = (first..).zip(buffer.chunks_exact_mut(bytes.max(1)));
        let done = places.try_for_each(|(row, bytes)| read(row, bytes));
        *tile = Some(done.map(|()| {
            let mut rows = [[].as_slice(); LANES];
            for (row, bytes) in rows.iter_mut().zip(buffer.chunks_exact(bytes.max(1))) {
                *row = bytes;
            }
            T::pack(&rows)
        }));
    });
    tiles.into_iter().flatten().collect()
}

struct Product<'a, 'b, T> {
    tiles: &'a [T],
    rows: &'a [Row],
    columns: &'a mut Columns<'b>,
    /// Which of the columns the tiles are for.
    place: Range<usize>,
    then: Then<'a>,
}

impl<T: Tile> Kernel for Product<'_, '_, T> {
    type Output = ();

    #[inline(always)]
    fn run<L: Level>(mut self, level: L) {
        for (index, tile) in self.tiles.iter().enumerate() {
            let (eights, rest) = self.rows.as_chunks::<8>();
            let (fours, rest) = rest.as_chunks::<4>();
            let (twos, rest) = rest.as_chunks::<2>();
            let (ones, _) = rest.as_chunks::<1>();
            let row = self.put(level, tile, index, 0, eights);
            let row = self.put(level, tile, index, row, fours);
            let row = self.put(level, tile, index, row, twos);
            self.put(level, tile, index, row, ones);
        }
    }
}

impl<T: Tile> Product<'_, '_, T> {
    /// Multiplies rows, the first of which is row `row`; gives the one after them.
    #[inline(always)]
    fn put<L: Level, const M: usize>(
        &mut self,
        level: L,
        tile: &T,
        index: usize,
        mut row: usize,
        rows: &[[Row; M]],
    ) -> usize {
        let first = self.place.start + index * LANES;
        let columns = first..self.place.end.min(first + LANES);
        for rows in rows {
            // Once for all rows.
            let next = self.tiles.get(index + 1).filter(|_| row == 0);
            for product in tile.multiply(level, rows, next) {
                let mut lanes = [0.0; LANES];
                level.store(product, &mut lanes);
                let to = &mut self.columns.row(row)[columns.clone()];
                match self.then {
                    Then::Add => to.iter_mut().zip(lanes).for_each(|(to, x)| *to += x),
                    Then::Set([]) => to.iter_mut().zip(lanes).for_each(|(to, x)| *to = x),
                    Then::Set(bias) => {
                        let sums = lanes.iter().zip(&bias[columns.clone()]);
                        to.iter_mut()
                            .zip(sums)
                            .for_each(|(to, (x, bias))| *to = x + bias);
                    }
                }
                row += 1;
            }
        }
        row
    }
}

/// The words of sixteen rows, one word of each after the other.
fn interleave(rows: &[&[u8]; LANES], word: usize) -> Line {
    let mut line = [0; 64];
    let (lanes, _) = line.as_chunks_mut::<4>();
    for (lane, row) in lanes.iter_mut().zip(rows) {
        let (words, _) = row.as_chunks();
        if let Some(word) = words.get(word) {
            *lane = *word;
        }
    }
    Line(line)
}

/// The word of one row, of those that [`interleave`] has put together.
#[cfg(any(test, feature = "cuda"))]
fn word_of(line: &Line, lane: usize) -> [u8; 4] {
    line.0.as_chunks().0[lane]
}

/// A number of each of sixteen rows, at byte `at`.
fn u16s(rows: &[&[u8]; LANES], at: usize) -> [u16; LANES] {
    rows.map(|row| {
        let bytes = row.get(at..).and_then(<[u8]>::first_chunk);
        bytes.map_or(0, |bytes| u16::from_le_bytes(*bytes))
    })
}

/// As much as the processor takes from memory at a time.
#[derive(Clone, Copy, Debug)]
#[repr(align(64))]
struct Line([u8; 64]);
