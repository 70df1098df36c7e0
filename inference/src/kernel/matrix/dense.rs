//! Numbers as they are: f32, or halves of two kinds, which become f32 when used.

use std::fmt;

use super::{LANES, Level, Row, Tile};

/// Sixteen outputs of one input after the other.
#[derive(Debug)]
pub(super) struct Dense<N: Number> {
    numbers: Vec<[N::Stored; LANES]>,
}

/// A kind of number.
pub(super) trait Number: fmt::Debug + Send + Sync {
    type Stored: Copy + Default + fmt::Debug + Send + Sync;

    /// One of a row of bytes.
    fn read(row: &[u8], index: usize) -> Self::Stored;

    fn load<L: Level>(level: L, x: &[Self::Stored; LANES]) -> L::F;

    fn number(x: Self::Stored) -> f32;

    /// The opposite of [`Self::read`].
    #[cfg(any(test, feature = "cuda"))]
    fn write(x: Self::Stored, bytes: &mut Vec<u8>);
}

#[derive(Debug)]
pub(super) struct F32;

#[derive(Debug)]
pub(super) struct F16;

#[derive(Debug)]
pub(super) struct Bf16;

impl Number for F32 {
    type Stored = f32;

    fn read(row: &[u8], index: usize) -> f32 {
        row.as_chunks()
            .0
            .get(index)
            .map_or(0.0, |bytes| f32::from_le_bytes(*bytes))
    }

    #[inline(always)]
    fn load<L: Level>(level: L, x: &[f32; LANES]) -> L::F {
        level.load(x)
    }

    fn number(x: f32) -> f32 {
        x
    }

    #[cfg(any(test, feature = "cuda"))]
    fn write(x: f32, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&x.to_le_bytes());
    }
}

impl Number for F16 {
    type Stored = u16;

    fn read(row: &[u8], index: usize) -> u16 {
        half(row, index)
    }

    #[inline(always)]
    fn load<L: Level>(level: L, x: &[u16; LANES]) -> L::F {
        level.halves(x)
    }

    fn number(x: u16) -> f32 {
        super::super::level::from_half(x)
    }

    #[cfg(any(test, feature = "cuda"))]
    fn write(x: u16, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&x.to_le_bytes());
    }
}

impl Number for Bf16 {
    type Stored = u16;

    fn read(row: &[u8], index: usize) -> u16 {
        half(row, index)
    }

    #[inline(always)]
    fn load<L: Level>(level: L, x: &[u16; LANES]) -> L::F {
        level.upper_halves(x)
    }

    fn number(x: u16) -> f32 {
        f32::from_bits(u32::from(x) << 16)
    }

    #[cfg(any(test, feature = "cuda"))]
    fn write(x: u16, bytes: &mut Vec<u8>) {
        bytes.extend_from_slice(&x.to_le_bytes());
    }
}

fn half(row: &[u8], index: usize) -> u16 {
    row.as_chunks()
        .0
        .get(index)
        .map_or(0, |bytes| u16::from_le_bytes(*bytes))
}

impl<N: Number> Tile for Dense<N> {
    fn pack(rows: &[&[u8]; LANES]) -> Self {
        let inputs = rows[0].len() / size_of::<N::Stored>();
        let numbers = (0..inputs).map(|input| rows.map(|row| N::read(row, input)));
        Self {
            numbers: numbers.collect(),
        }
    }

    #[inline(always)]
    fn multiply<L: Level, const M: usize>(
        &self,
        level: L,
        rows: &[Row; M],
        _: Option<&Self>,
    ) -> [L::F; M] {
        let x = std::array::from_fn(|m| rows[m].numbers.as_slice());
        dots::<N, L, M>(level, &self.numbers, x)
    }

    fn unpack(&self, lane: usize, numbers: &mut [f32]) {
        for (number, lanes) in numbers.iter_mut().zip(&self.numbers) {
            *number = N::number(lanes[lane]);
        }
    }

    #[cfg(any(test, feature = "cuda"))]
    fn write(&self, lane: usize, bytes: &mut Vec<u8>) {
        for lanes in &self.numbers {
            N::write(lanes[lane], bytes);
        }
    }
}

/// The products with the beginnings of `x`. Two sums each, of the even inputs and of the
/// odd ones, so that one addition need not wait for the other.
#[inline(always)]
pub(super) fn dots<N: Number, L: Level, const M: usize>(
    level: L,
    numbers: &[[N::Stored; LANES]],
    x: [&[f32]; M],
) -> [L::F; M] {
    let mut sums = [[level.splat(0.0); 2]; M];
    let (pairs, rest) = numbers.as_chunks::<2>();
    let whole = x.map(|x| x.as_chunks::<2>().0);
    for (index, pair) in pairs.iter().enumerate() {
        for side in 0..2 {
            let weight = N::load(level, &pair[side]);
            for m in 0..M {
                let x = level.splat(whole[m][index][side]);
                sums[m][side] = level.add(sums[m][side], level.mul(weight, x));
            }
        }
    }
    if let [weight] = rest {
        let weight = N::load(level, weight);
        for m in 0..M {
            let x = level.splat(x[m][numbers.len() - 1]);
            sums[m][0] = level.add(sums[m][0], level.mul(weight, x));
        }
    }
    sums.map(|[even, odd]| level.add(even, odd))
}
