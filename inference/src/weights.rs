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
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::PathBuf;

use candle_core::{DType, Device, Tensor};
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
        let read = |source| LoadError::Read {
            path: self.path.clone(),
            source,
        };
        let [begin, end] = entry.data_offsets;
        let mut bytes = Vec::new();
        self.file
            .seek(SeekFrom::Start(self.data.saturating_add(begin)))
            .map_err(read)?;
        (&self.file)
            .take(end.saturating_sub(begin))
            .read_to_end(&mut bytes)
            .map_err(read)?;
        self.parameters = self
            .parameters
            .saturating_add(entry.elements().unwrap_or(0));
        Tensor::from_raw_buffer(&bytes, entry.dtype.into(), shape, &Device::Cpu)
            .and_then(|tensor| tensor.to_dtype(DType::F32))
            .map_err(|source| LoadError::Build { source })
    }

    /// Numbers read so far.
    pub(crate) fn parameters(&self) -> u64 {
        self.parameters
    }
}

#[derive(Debug, Deserialize)]
struct Entry {
    dtype: Dtype,
    shape: Vec<usize>,
    data_offsets: [u64; 2],
}

impl Entry {
    fn read(name: &str, entry: Value, length: u64) -> Result<Self, LoadError> {
        let entry: Self = serde_json::from_value(entry).map_err(|error| LoadError::Weights {
            what: format!("entry of {name}"),
            found: error.to_string(),
            expected: "dtype BF16, F16, F32 or I64, shape and data_offsets".into(),
        })?;
        entry.check(name, length)?;
        Ok(entry)
    }

    /// Checks that the tensor lies in `length` bytes of data and fills its range.
    fn check(&self, name: &str, length: u64) -> Result<(), LoadError> {
        let [begin, end] = self.data_offsets;
        let expected = self
            .elements()
            .and_then(|elements| elements.checked_mul(self.dtype.width()))
            .and_then(|size| begin.checked_add(size))
            .filter(|expected| *expected <= length);
        match expected {
            Some(expected) if expected == end => Ok(()),
            Some(expected) => Err(LoadError::Weights {
                what: format!("end of {name}"),
                found: end.to_string(),
                expected: expected.to_string(),
            }),
            None => Err(LoadError::Weights {
                what: format!("extent of {name}"),
                found: format!("{:?} from {begin}", self.shape),
                expected: format!("at most {length} bytes of data"),
            }),
        }
    }

    fn elements(&self) -> Option<u64> {
        self.shape.iter().try_fold(1_u64, |product, side| {
            product.checked_mul(u64::try_from(*side).ok()?)
        })
    }
}

#[derive(Clone, Copy, Debug, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
enum Dtype {
    Bf16,
    F16,
    F32,
    I64,
}

impl Dtype {
    fn width(self) -> u64 {
        match self {
            Self::Bf16 | Self::F16 => 2,
            Self::F32 => 4,
            Self::I64 => 8,
        }
    }
}

impl From<Dtype> for DType {
    fn from(dtype: Dtype) -> Self {
        match dtype {
            Dtype::Bf16 => Self::BF16,
            Dtype::F16 => Self::F16,
            Dtype::F32 => Self::F32,
            Dtype::I64 => Self::I64,
        }
    }
}

/// The header of a model with 100,000 tensors has about 12 MB.
const MAX_HEADER: u64 = 16 << 20;
