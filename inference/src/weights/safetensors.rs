//! safetensors files: one, or several with an index.
//!
//! ```text
//! offset  size  field
//!      0     8  n: length of the header, little-endian
//!      8     n  JSON: name -> {dtype, shape, data_offsets: [begin, end]}
//!  8 + n        data; offsets count from here
//! ```
//!
//! Source: the format description in the repository of huggingface/safetensors.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;

use serde::Deserialize;
use serde_json::Value;

use super::{Entry, Open, Weights, read_error};
use crate::error::LoadError;
use crate::kernel::matrix::Format;
use crate::model_dir::ModelDir;

pub(super) fn open(dir: &ModelDir, name: &str) -> Result<Weights, LoadError> {
    let index: Option<Index> = dir.optional_json(&format!("{name}.safetensors.index.json"))?;
    let names = match index {
        None => BTreeSet::from([format!("{name}.safetensors")]),
        Some(index) => index.weight_map.into_values().collect(),
    };
    let mut weights = Weights {
        files: Vec::new(),
        entries: BTreeMap::new(),
        parameters: 0,
        scaled: false,
        quantise: None,
    };
    for name in names {
        if name.contains('/') {
            return Err(LoadError::Weights {
                what: "a file in the index".into(),
                found: name,
                expected: "a name without a slash".into(),
            });
        }
        read(&mut weights, dir, &name)?;
    }
    Ok(weights)
}

fn read(weights: &mut Weights, dir: &ModelDir, name: &str) -> Result<(), LoadError> {
    let (open, size) = Open::new(dir.path(name))?;
    let error = |source| read_error(&open.path, source);
    let mut length = [0; 8];
    (&open.file).read_exact(&mut length).map_err(error)?;
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
    (&open.file)
        .take(header)
        .read_to_end(&mut json)
        .map_err(error)?;
    let mut header: BTreeMap<String, Value> =
        serde_json::from_slice(&json).map_err(|source| LoadError::Json {
            path: open.path.clone(),
            source,
        })?;
    header.remove("__metadata__");
    let length = rest.saturating_sub(u64::try_from(json.len()).unwrap_or(rest));
    let data = size.saturating_sub(length);
    for (name, value) in header {
        let entry = Header::read(&name, value, length)?;
        let [begin, end] = entry.data_offsets;
        let entry = Entry {
            file: weights.files.len(),
            start: data.saturating_add(begin),
            size: end.saturating_sub(begin),
            format: match entry.dtype.as_str() {
                "BF16" => Some(Format::Bf16),
                "F16" => Some(Format::F16),
                "F32" => Some(Format::F32),
                "F8_E4M3" => Some(Format::F8),
                _ => None,
            },
            shape: entry.shape,
            dtype: entry.dtype,
        };
        weights.entries.insert(name, entry);
    }
    weights.files.push(open);
    Ok(())
}

#[derive(Debug, Deserialize)]
struct Index {
    /// File by tensor.
    weight_map: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
struct Header {
    dtype: String,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

impl Header {
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
    use crate::kernel::pool::Pool;
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
            .tensor(name, shape)
            .unwrap_err()
            .to_string()
    }

    #[test]
    fn both_types_become_f32() {
        let mut weights = open(&sample()).unwrap();
        let a = weights.tensor("a", &[2, 1]).unwrap();
        assert_eq!(a.to_vec2::<f32>().unwrap(), [[1.5], [-2.0]]);
        let b = weights.tensor("b", &[3]).unwrap();
        assert_eq!(b.to_vec1::<f32>().unwrap(), [1.0, -2.0, 0.25]);
        assert_eq!(weights.tally().parameters, 5);
    }

    #[test]
    fn fp8_that_is_no_matrix_has_no_scales() {
        let header = json!({"a": {"dtype": "F8_E4M3", "shape": [16], "data_offsets": [0, 16]}});
        let mut weights = open(&file(&header, &[0; 16])).unwrap();
        weights.scaled = true;
        let mut pool = Pool::new(true).unwrap();
        let part = weights.part(&mut pool, "a", &[16], [1, 16], |row| row);
        assert_eq!(
            part.unwrap_err().to_string(),
            "weights: a has dtype F8_E4M3, expected F32, F16 or BF16",
        );
    }

    #[test]
    fn a_tensor_that_is_not_as_configured_is_named() {
        for (name, shape, message) in [
            ("c", [3].as_slice(), "c has no entry, expected shape [3]"),
            ("b", &[4], "b has shape [3], expected shape [4]"),
            (
                "ids",
                &[1],
                "ids has dtype I64, expected F32, F16, BF16, Q8_0, Q4_K or Q6_K",
            ),
        ] {
            assert_eq!(error(name, shape), format!("weights: {message}"));
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
                "entry of a is invalid type: integer `7`, expected struct Header, expected dtype, shape and data_offsets",
            ),
        ] {
            let error = open(&file(&header, &[0; 8])).unwrap_err();
            assert_eq!(error.to_string(), format!("weights: {message}"));
        }
        let huge = entry("F32", json!([2]), json!([0, 4]));
        let error = open(&file(&huge, &[0; 8]))
            .unwrap()
            .tensor("a", &[2])
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "weights: a has 4 bytes, expected shape [2] of F32",
        );
    }

    #[test]
    fn a_shape_whose_size_overflows_is_refused() {
        let side = u64::MAX / 2;
        let header = json!({"a": {"dtype": "F32", "shape": [side, side], "data_offsets": [0, 8]}});
        let side = usize::try_from(side).unwrap();
        let taken = open(&file(&header, &[0; 8]))
            .unwrap()
            .tensor("a", &[side, side]);
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
            format!("weights: header length is {}, expected at most 0", u64::MAX),
        );
    }

    proptest! {
        #[test]
        fn arbitrary_headers_never_panic(header in "[\\[\\]{}:,\"0-9a-z_]{0,60}", data in ".{0,20}") {
            let length = u64::try_from(header.len()).unwrap().to_le_bytes();
            let bytes = [&length, header.as_bytes(), data.as_bytes()].concat();
            if let Ok(mut weights) = open(&bytes) {
                drop(weights.tensor("a", &[1]));
            }
        }
    }
}
