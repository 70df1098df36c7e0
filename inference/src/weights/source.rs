//! Rows of a tensor, read from its file as [`Matrix`] packs them.
//!
//! [`Matrix`]: crate::kernel::matrix::Matrix

use std::io;
use std::os::unix::fs::FileExt as _;

use super::{Open, read_error};
use crate::error::LoadError;
use crate::kernel::matrix::Format;
use crate::kernel::matrix::f8;

/// Where the rows are.
pub(super) struct Source<'a> {
    pub(super) open: &'a Open,
    pub(super) start: u64,
    /// Numbers in a row.
    pub(super) inputs: usize,
    pub(super) format: Format,
    /// Of FP8: of each square of numbers, one row of squares after the other.
    pub(super) scales: Vec<f32>,
}

impl Source<'_> {
    /// Row `row`, in its format.
    pub(super) fn read(&self, row: usize, bytes: &mut [u8]) -> io::Result<()> {
        if self.format != Format::F8 {
            return self.read_at(row, bytes);
        }
        let (numbers, scales) = (self.numbers(row)?, self.scales_of(row));
        let blocks = bytes.chunks_mut(f8::SCALE.saturating_add(f8::BLOCK));
        for ((block, numbers), scale) in blocks.zip(numbers.chunks(f8::BLOCK)).zip(scales) {
            if let Some((to, block)) = block.split_first_chunk_mut() {
                *to = scale.to_le_bytes();
                block.copy_from_slice(numbers);
            }
        }
        Ok(())
    }

    /// Row `row`, in [`Self::dense`].
    pub(super) fn read_dense(&self, row: usize, bytes: &mut [u8]) -> io::Result<()> {
        if self.format != Format::F8 {
            return self.read_at(row, bytes);
        }
        let (numbers, scales) = (self.numbers(row)?, self.scales_of(row));
        let scales = scales.flat_map(|scale| std::iter::repeat_n(scale, f8::BLOCK));
        let (to, _) = bytes.as_chunks_mut();
        for ((to, byte), scale) in to.iter_mut().zip(numbers).zip(scales) {
            *to = (f8::e4m3(byte) * scale).to_le_bytes();
        }
        Ok(())
    }

    /// Its format, or the one that holds its numbers each by itself.
    pub(super) fn dense(&self) -> Format {
        match self.format {
            Format::F8 => Format::F32,
            format => format,
        }
    }

    pub(super) fn error(&self, source: io::Error) -> LoadError {
        read_error(&self.open.path, source)
    }

    /// Of a row of FP8, before they are multiplied.
    fn numbers(&self, row: usize) -> io::Result<Vec<u8>> {
        let mut numbers = vec![0; self.inputs];
        self.read_at(row, &mut numbers)?;
        match numbers.iter().all(|byte| f8::is_number(*byte)) {
            true => Ok(numbers),
            false => Err(io::Error::new(io::ErrorKind::InvalidData, NO_NUMBER)),
        }
    }

    /// Of a row's blocks.
    fn scales_of(&self, row: usize) -> impl Iterator<Item = f32> {
        let width = self.inputs.div_ceil(f8::BLOCK);
        let squares = row.checked_div(f8::BLOCK).unwrap_or(0);
        let scales = self.scales.iter().skip(squares.saturating_mul(width));
        scales.take(width).copied()
    }

    /// Of a tensor whose rows have as many bytes.
    fn read_at(&self, row: usize, bytes: &mut [u8]) -> io::Result<()> {
        let offset = row.checked_mul(bytes.len());
        let offset = offset.and_then(|at| u64::try_from(at).ok());
        let offset = offset.and_then(|at| self.start.checked_add(at));
        let offset = offset.ok_or(io::ErrorKind::InvalidInput)?;
        self.open.file.read_exact_at(bytes, offset)
    }
}

const NO_NUMBER: &str = "a weight is not a number";
