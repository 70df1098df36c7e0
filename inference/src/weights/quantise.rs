//! Numbers of a file, brought into blocks while they are read.
//!
//! The blocks are those that the tensor library makes, row by row, and so those of a
//! GGUF file that it writes.

use std::fmt;
use std::io;
use std::str::FromStr;

use candle_core::quantized::{GgmlDType, QTensor};
use candle_core::{Device, Tensor};

use crate::kernel::matrix::Format;

/// What the matrices of a decoder can be brought into.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Quantise {
    /// Of 4.5 bits for each number; rows that are no multiple of 256 become [`Self::Q8_0`].
    Q4K,
    /// Of 8.5 bits; rows that are no multiple of 32 stay as they are.
    Q8_0,
}

impl Quantise {
    /// Of rows of `inputs` numbers, if they can be.
    pub(super) fn format(self, inputs: usize) -> Option<Format> {
        match self {
            Self::Q4K if inputs.is_multiple_of(256) => Some(Format::Q4K),
            _ if inputs.is_multiple_of(32) => Some(Format::Q8_0),
            _ => None,
        }
    }
}

/// As receipts name it.
impl fmt::Display for Quantise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Q4K => "q4_k",
            Self::Q8_0 => "q8_0",
        })
    }
}

impl FromStr for Quantise {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        [Self::Q4K, Self::Q8_0]
            .into_iter()
            .find(|one| one.to_string() == text)
            .ok_or(())
    }
}

/// A row in `format`, which is one of [`Quantise::format`].
pub(super) fn write(format: Format, row: Vec<f32>, bytes: &mut [u8]) -> io::Result<()> {
    if !row.iter().all(|x| x.is_finite()) {
        return Err(io::Error::new(io::ErrorKind::InvalidData, NO_NUMBER));
    }
    let kind = match format {
        Format::Q4K => GgmlDType::Q4K,
        _ => GgmlDType::Q8_0,
    };
    let count = row.len();
    let row = Tensor::from_vec(row, count, &Device::Cpu);
    let blocks = row.and_then(|row| QTensor::quantize(&row, kind));
    let blocks = blocks.map_err(io::Error::other)?;
    let blocks = blocks.data().map_err(io::Error::other)?;
    match blocks.len() == bytes.len() {
        true => bytes.copy_from_slice(&blocks),
        false => return Err(io::ErrorKind::InvalidData.into()),
    }
    Ok(())
}

const NO_NUMBER: &str = "a weight that is to be quantised is not a finite number";

#[cfg(test)]
#[expect(clippy::as_conversions, reason = "numbers of a test")]
mod tests {
    use super::*;

    fn row(count: usize) -> Vec<f32> {
        (0..count).map(|i| (i as f32 * 0.618).sin()).collect()
    }

    #[test]
    fn rows_become_blocks_where_they_are_whole_ones() {
        let [q4, q8] = [Quantise::Q4K, Quantise::Q8_0].map(|to| move |inputs| to.format(inputs));
        assert_eq!(
            [512, 96, 40].map(q4),
            [Some(Format::Q4K), Some(Format::Q8_0), None]
        );
        assert_eq!(
            [512, 96, 40].map(q8),
            [Some(Format::Q8_0), Some(Format::Q8_0), None]
        );
        assert_eq!("q4_k".parse(), Ok(Quantise::Q4K));
        assert_eq!("q8_0".parse(), Ok(Quantise::Q8_0));
        assert_eq!("bf16".parse::<Quantise>(), Err(()));
    }

    #[test]
    fn blocks_are_near_their_numbers() {
        use crate::kernel::level::Cpu;
        use crate::kernel::matrix::Matrix;
        use crate::kernel::pool::Pool;

        let mut pool = Pool::with(1, Cpu::detect()).unwrap();
        for (format, most) in [(Format::Q4K, 0.08), (Format::Q8_0, 0.005)] {
            let read = |_, bytes: &mut [u8]| write(format, row(512), bytes);
            let matrix = Matrix::pack(&mut pool, format, [3, 512], read).unwrap();
            let mut found = vec![0.0; 512];
            matrix.row(2, &mut found);
            for (found, number) in found.iter().zip(row(512)) {
                assert!(
                    (found - number).abs() < most,
                    "{format:?}: {found} {number}"
                );
            }
        }
    }

    #[test]
    fn what_is_not_finite_is_refused() {
        for bad in [f32::NAN, f32::INFINITY] {
            let mut row = row(32);
            row[7] = bad;
            let error = write(Format::Q8_0, row, &mut [0; 34]).unwrap_err();
            assert_eq!(error.to_string(), NO_NUMBER);
        }
    }
}
