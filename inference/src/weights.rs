//! Tensors of a safetensors file, one at a time.
//!
//! ```text
//! offset  size  field
//!      0     8  n: length of the header, little-endian
//!      8     n  JSON: name -> {dtype, shape, data_offsets: [begin, end]}
//!  8 + n        data; offsets count from here
//! ```
//!
//! Everything becomes f32. No more than one tensor is in memory twice, and none
//! is allocated before its size agrees with the file and with the caller.
//!
//! Source: the format description in the repository of huggingface/safetensors.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

use candle_core::{Device, Tensor};
use serde::Deserialize;
use serde_json::Value;

use crate::error::LoadError;
use crate::model_dir::ModelDir;

/// An open file whose header is consistent.
#[derive(Debug)]
pub(crate) struct Weights {
    path: PathBuf,
    file: File,
    data: u64,
    entries: BTreeMap<String, Entry>,
    parameters: u64,
}

impl Weights {
    pub(crate) fn open(dir: &ModelDir) -> Result<Self, LoadError> {
        let path = dir.path("model.safetensors");
        let read = |source| LoadError::Read {
            path: path.clone(),
            source,
        };
        let mut file = File::open(&path).map_err(read)?;
        let size = file.metadata().map_err(read)?.len();
        let mut length = [0; 8];
        file.read_exact(&mut length).map_err(read)?;
        let header = u64::from_le_bytes(length);
        let rest = size.saturating_sub(8);
        if header > rest.min(MAX_HEADER) {
            return Err(LoadError::Weights {
                what: "header length".into(),
                found: header.to_string(),
                expected: format!("at most {}", rest.min(MAX_HEADER)),
            });
        }
        let mut json = Vec::new();
        (&file).take(header).read_to_end(&mut json).map_err(read)?;
        let mut header: BTreeMap<String, Value> =
            serde_json::from_slice(&json).map_err(|source| LoadError::Json {
                path: path.clone(),
                source,
            })?;
        header.remove("__metadata__");
        let length = rest.saturating_sub(u64::try_from(json.len()).unwrap_or(rest));
        let entries = header
            .into_iter()
            .map(|(name, entry)| {
                let entry = Entry::read(&name, entry, length)?;
                Ok((name, entry))
            })
            .collect::<Result<_, _>>()?;
        Ok(Self {
            path,
            file,
            data: size.saturating_sub(length),
            entries,
            parameters: 0,
        })
    }

    /// Reads the tensor `name`, which must have exactly this shape.
    pub(crate) fn take(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        let entry = self.entries.get(name).ok_or_else(|| LoadError::Tensor {
            name: name.into(),
            found: "no entry".into(),
            expected: format!("shape {shape:?}"),
        })?;
        if entry.shape != shape {
            return Err(LoadError::Tensor {
                name: name.into(),
                found: format!("shape {:?}", entry.shape),
                expected: format!("shape {shape:?}"),
            });
        }
        let [begin, end] = entry.data_offsets;
        let (width, number): (u64, fn(&[u8]) -> f32) = match entry.dtype.as_str() {
            "BF16" => (2, bf16),
            "F32" => (4, f32),
            _ => {
                return Err(LoadError::Tensor {
                    name: name.into(),
                    found: format!("dtype {}", entry.dtype),
                    expected: "BF16 or F32".into(),
                });
            }
        };
        let size = end.saturating_sub(begin);
        let needed = shape.iter().try_fold(width, |product, side| {
            product.checked_mul(u64::try_from(*side).ok()?)
        });
        if needed != Some(size) {
            return Err(LoadError::Tensor {
                name: name.into(),
                found: format!("{size} bytes"),
                expected: format!("shape {shape:?} of {}", entry.dtype),
            });
        }
        let start = self.data.saturating_add(begin);
        let numbers = read_numbers(&mut self.file, start, size, width, number);
        let numbers = numbers.map_err(|source| LoadError::Read {
            path: self.path.clone(),
            source,
        })?;
        let count = u64::try_from(numbers.len()).unwrap_or(u64::MAX);
        self.parameters = self.parameters.saturating_add(count);
        Tensor::from_vec(numbers, shape, &Device::Cpu).map_err(|source| LoadError::Build { source })
    }

    /// Numbers read so far.
    pub(crate) fn parameters(&self) -> u64 {
        self.parameters
    }
}

/// Reads `size` bytes from `start`, some at a time.
fn read_numbers(
    file: &mut File,
    start: u64,
    size: u64,
    width: u64,
    number: fn(&[u8]) -> f32,
) -> io::Result<Vec<f32>> {
    file.seek(SeekFrom::Start(start))?;
    let width = usize::try_from(width).map_err(io::Error::other)?;
    let mut left = usize::try_from(size).map_err(io::Error::other)?;
    let mut numbers = Vec::with_capacity(left.checked_div(width).unwrap_or(0));
    let mut buffer = vec![0; 1 << 16];
    while left > 0 {
        let piece = left.min(buffer.len());
        let bytes = buffer.get_mut(..piece).unwrap_or_default();
        file.read_exact(bytes)?;
        numbers.extend(bytes.chunks_exact(width).map(number));
        left = left.saturating_sub(piece);
    }
    Ok(numbers)
}

/// The upper half of an f32.
fn bf16(bytes: &[u8]) -> f32 {
    let bits = bytes
        .first_chunk()
        .map_or(0, |bytes| u16::from_le_bytes(*bytes));
    f32::from_bits(u32::from(bits) << 16)
}

fn f32(bytes: &[u8]) -> f32 {
    bytes
        .first_chunk()
        .map_or(0.0, |bytes| f32::from_le_bytes(*bytes))
}

#[derive(Debug, Deserialize)]
struct Entry {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

impl Entry {
    /// Reads an entry that must lie in `length` bytes of data.
    fn read(name: &str, entry: Value, length: u64) -> Result<Self, LoadError> {
        let entry: Self = serde_json::from_value(entry).map_err(|error| LoadError::Weights {
            what: format!("entry of {name}"),
            found: error.to_string(),
            expected: "dtype, shape and data_offsets".into(),
        })?;
        let [begin, end] = entry.data_offsets;
        match begin <= end && end <= length {
            true => Ok(entry),
            false => Err(LoadError::Weights {
                what: format!("data_offsets of {name}"),
                found: format!("{:?}", entry.data_offsets),
                expected: format!("a range in {length} bytes"),
            }),
        }
    }
}

/// The header of a model with 100,000 tensors has about 12 MB.
const MAX_HEADER: u64 = 16 << 20;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn open(bytes: &[u8]) -> Result<Weights, LoadError> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("model.safetensors"), bytes).unwrap();
        Weights::open(&ModelDir::new(dir.path()))
    }

    fn file(header: &Value, data: &[u8]) -> Vec<u8> {
        let header = header.to_string();
        let length = u64::try_from(header.len()).unwrap().to_le_bytes();
        [&length, header.as_bytes(), data].concat()
    }

    fn sample() -> Vec<u8> {
        let header = json!({
            "__metadata__": {"format": "pt"},
            "a": {"dtype": "F32", "shape": [2, 1], "data_offsets": [0, 8]},
            "b": {"dtype": "BF16", "shape": [3], "data_offsets": [8, 14]},
            "ids": {"dtype": "I64", "shape": [1], "data_offsets": [14, 22]},
        });
        let a = [1.5_f32, -2.0].map(f32::to_le_bytes).concat();
        let b = [0x3f80_u16, 0xc000, 0x3e80].map(u16::to_le_bytes).concat();
        file(&header, &[a, b, vec![0; 8]].concat())
    }

    fn error(name: &str, shape: &[usize]) -> String {
        open(&sample())
            .unwrap()
            .take(name, shape)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn both_types_become_f32() {
        let mut weights = open(&sample()).unwrap();
        let a = weights.take("a", &[2, 1]).unwrap();
        assert_eq!(a.to_vec2::<f32>().unwrap(), [[1.5], [-2.0]]);
        let b = weights.take("b", &[3]).unwrap();
        assert_eq!(b.to_vec1::<f32>().unwrap(), [1.0, -2.0, 0.25]);
        assert_eq!(weights.parameters(), 5);
    }

    #[test]
    fn a_tensor_that_is_not_as_configured_is_named() {
        for (name, shape, message) in [
            ("c", [3].as_slice(), "c has no entry, expected shape [3]"),
            ("b", &[4], "b has shape [3], expected shape [4]"),
            ("ids", &[1], "ids has dtype I64, expected BF16 or F32"),
        ] {
            assert_eq!(error(name, shape), format!("model.safetensors: {message}"));
        }
    }

    #[test]
    fn a_header_that_does_not_fit_the_file_is_refused() {
        let entry = |dtype: &str, shape: Value, offsets: Value| json!({"a": {"dtype": dtype, "shape": shape, "data_offsets": offsets}});
        for (header, message) in [
            (
                entry("F32", json!([3]), json!([0, 12])),
                "data_offsets of a is [0, 12], expected a range in 8 bytes",
            ),
            (
                entry("F32", json!([0]), json!([8, 4])),
                "data_offsets of a is [8, 4], expected a range in 8 bytes",
            ),
            (
                entry("F32", json!([-1]), json!([0, 8])),
                "entry of a is invalid value: integer `-1`, expected usize, expected dtype, shape and data_offsets",
            ),
            (
                json!({"a": 7}),
                "entry of a is invalid type: integer `7`, expected struct Entry, expected dtype, shape and data_offsets",
            ),
        ] {
            let error = open(&file(&header, &[0; 8])).unwrap_err();
            assert_eq!(error.to_string(), format!("model.safetensors: {message}"));
        }
        let huge = entry("F32", json!([2]), json!([0, 4]));
        let error = open(&file(&huge, &[0; 8]))
            .unwrap()
            .take("a", &[2])
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "model.safetensors: a has 4 bytes, expected shape [2] of F32",
        );
    }

    #[test]
    fn a_shape_whose_size_overflows_is_refused() {
        let side = u64::MAX / 2;
        let header = json!({"a": {"dtype": "F32", "shape": [side, side], "data_offsets": [0, 8]}});
        let side = usize::try_from(side).unwrap();
        let taken = open(&file(&header, &[0; 8]))
            .unwrap()
            .take("a", &[side, side]);
        assert!(matches!(taken, Err(LoadError::Tensor { .. })));
    }

    #[test]
    fn every_proper_prefix_is_refused() {
        let sample = sample();
        for end in 0..sample.len() {
            open(&sample[..end]).unwrap_err();
        }
    }

    #[test]
    fn a_header_longer_than_the_file_is_not_read() {
        let error = open(&u64::MAX.to_le_bytes()).unwrap_err();
        assert_eq!(
            error.to_string(),
            format!(
                "model.safetensors: header length is {}, expected at most 0",
                u64::MAX
            ),
        );
    }

    proptest! {
        #[test]
        fn arbitrary_headers_never_panic(header in "[\\[\\]{}:,\"0-9a-z_]{0,60}", data in ".{0,20}") {
            let length = u64::try_from(header.len()).unwrap().to_le_bytes();
            let bytes = [&length, header.as_bytes(), data.as_bytes()].concat();
            if let Ok(mut weights) = open(&bytes) {
                drop(weights.take("a", &[1]));
            }
        }
    }
}
