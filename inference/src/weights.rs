//! The tensors of a model's files, found by name and read when asked for.
//!
//! Nothing is allocated before its size agrees with the file and with the caller,
//! and no more than the tile that is being packed is in memory twice.

pub(crate) mod gguf;
mod quantise;
mod safetensors;
mod source;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::ops::Range;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::{Device, Tensor};

pub use self::quantise::Quantise;
use self::source::Source;
use crate::error::LoadError;
use crate::kernel::level::from_half;
use crate::kernel::matrix::{Format, Matrix, f8};
use crate::kernel::pool::Pool;
use crate::model_dir::ModelDir;

/// Open files whose headers are consistent.
#[derive(Debug)]
pub(crate) struct Weights {
    files: Vec<Open>,
    entries: BTreeMap<String, Entry>,
    parameters: u64,
    /// Whether matrices may be FP8, with a scale for each square of 128 by 128.
    pub(crate) scaled: bool,
    /// What matrices that are not in blocks are brought into.
    pub(crate) quantise: Option<Quantise>,
}

#[derive(Debug)]
struct Open {
    path: PathBuf,
    file: File,
}

/// What a model's numbers are.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    /// How many there are.
    pub(crate) parameters: u64,
    /// How most of them are held, as the files call it, if they are of one model.
    pub(crate) format: Option<String>,
}

/// A tensor in a file.
#[derive(Debug)]
struct Entry {
    /// Which of the files.
    file: usize,
    start: u64,
    size: u64,
    shape: Vec<usize>,
    /// As the file calls it, and as we do, if we know it.
    dtype: String,
    format: Option<Format>,
}

impl Open {
    fn new(path: PathBuf) -> Result<(Self, u64), LoadError> {
        let open = || {
            let file = File::open(&path)?;
            let size = file.metadata()?.len();
            Ok((file, size))
        };
        let (file, size) = open().map_err(|source| read_error(&path, source))?;
        Ok((Self { path, file }, size))
    }
}

impl Weights {
    /// Of `model.safetensors`, or of the parts that its index lists.
    pub(crate) fn open(dir: &ModelDir) -> Result<Self, LoadError> {
        Self::open_as(dir, "model")
    }

    /// The same, of files that have another name than `model`.
    pub(crate) fn open_as(dir: &ModelDir, name: &str) -> Result<Self, LoadError> {
        safetensors::open(dir, name)
    }

    pub(crate) fn contains(&self, name: &str) -> bool {
        self.entries.contains_key(name)
    }

    /// What has been read so far.
    pub(crate) fn tally(&self) -> Tally {
        Tally {
            parameters: self.parameters,
            format: self.most(),
        }
    }

    /// How most of the numbers are held.
    fn most(&self) -> Option<String> {
        let mut counts = BTreeMap::<_, usize>::new();
        for entry in self.entries.values() {
            let numbers = entry
                .shape
                .iter()
                .fold(1, |size: usize, side| size.saturating_mul(*side));
            let to = match (entry.format, entry.shape.as_slice()) {
                (Some(format), [_, inputs]) => self.becomes(format, *inputs),
                _ => None,
            };
            let name = match to {
                Some(Format::Q4K) => "Q4_K",
                Some(_) => "Q8_0",
                None => &entry.dtype,
            };
            let count = counts.entry(name).or_default();
            *count = count.saturating_add(numbers);
        }
        let most = counts.into_iter().max_by_key(|(_, count)| *count);
        most.map(|(name, _)| name.to_owned())
    }

    /// What a matrix is brought into, if it is.
    fn becomes(&self, format: Format, inputs: usize) -> Option<Format> {
        let dense = matches!(
            format,
            Format::Bf16 | Format::F8 | Format::F16 | Format::F32
        );
        self.quantise.filter(|_| dense)?.format(inputs)
    }

    /// Packs rows, which `read` writes as they are in a file, and quantises them if they
    /// are to be. Not what experts are chosen by: that is small, and felt.
    fn pack(
        &self,
        pool: &mut Pool,
        name: &str,
        format: Format,
        shape: [usize; 2],
        read: impl Fn(usize, &mut [u8]) -> io::Result<()> + Sync,
    ) -> io::Result<Matrix> {
        let [_, inputs] = shape;
        let to = self.becomes(format, inputs);
        let Some(to) = to.filter(|_| !name.ends_with("gate.weight")) else {
            return Matrix::pack(pool, format, shape, read);
        };
        let number = number(format).ok_or(io::ErrorKind::InvalidInput)?;
        let (_, width) = format.block();
        Matrix::pack(pool, to, shape, |row, bytes| {
            let mut dense = vec![0; inputs.saturating_mul(width)];
            read(row, &mut dense)?;
            let numbers = dense.chunks_exact(width).map(number);
            quantise::write(to, numbers.collect(), bytes)
        })
    }

    /// The shape of a tensor, if it is there.
    pub(crate) fn shape(&self, name: &str) -> Option<&[usize]> {
        self.entries.get(name).map(|entry| entry.shape.as_slice())
    }

    /// One of several models in the files: what stands under `name`, without it.
    pub(crate) fn only(mut self, name: &str) -> Self {
        let entries = std::mem::take(&mut self.entries).into_iter();
        let inside = entries.filter_map(|(key, entry)| {
            let (before, after) = key.split_once(name)?;
            Some((format!("{before}{after}"), entry))
        });
        self.entries = inside.collect();
        self
    }

    /// Gives tensors whose names begin with `from` names that begin with `to`.
    pub(crate) fn rename(&mut self, from: &str, to: &str) {
        let entries = std::mem::take(&mut self.entries).into_iter();
        let renamed = entries.map(|(name, entry)| match name.strip_prefix(from) {
            Some(rest) => (format!("{to}{rest}"), entry),
            None => (name, entry),
        });
        self.entries = renamed.collect();
    }

    /// Reads the matrix `name`, which must have exactly this shape. Row `i` of it
    /// is row `order(i)` of the file.
    pub(crate) fn matrix(
        &mut self,
        pool: &mut Pool,
        name: &str,
        shape: [usize; 2],
        order: impl Fn(usize) -> usize + Sync,
    ) -> Result<Arc<Matrix>, LoadError> {
        self.part(pool, name, &shape, shape, order)
    }

    /// As [`Self::matrix`], of a larger tensor, which must have exactly the shape
    /// `whole`, and as long rows.
    pub(crate) fn part(
        &mut self,
        pool: &mut Pool,
        name: &str,
        whole: &[usize],
        shape: [usize; 2],
        order: impl Fn(usize) -> usize + Sync,
    ) -> Result<Arc<Matrix>, LoadError> {
        let source = self.source(name, whole)?;
        let matrix = match self.quantise {
            None => self.pack(pool, name, source.format, shape, |row, bytes| {
                source.read(order(row), bytes)
            }),
            Some(_) => self.pack(pool, name, source.dense(), shape, |row, bytes| {
                source.read_dense(order(row), bytes)
            }),
        };
        let matrix = matrix.map_err(|error| source.error(error))?;
        let [outputs, inputs] = shape;
        self.count(outputs.saturating_mul(inputs));
        Ok(Arc::new(matrix))
    }

    /// As [`Self::part`], of a matrix, whose `rows` become columns.
    pub(crate) fn turned(
        &mut self,
        pool: &mut Pool,
        name: &str,
        whole: [usize; 2],
        rows: Range<usize>,
    ) -> Result<Arc<Matrix>, LoadError> {
        let source = self.source(name, &whole)?;
        let format = source.dense();
        let (1, width) = format.block() else {
            let (entry, _) = self.locate(name, &whole)?;
            return Err(not_dense(name, entry));
        };
        let [_, outputs] = whole;
        let stride = outputs.saturating_mul(width);
        let mut bytes = vec![0; rows.len().saturating_mul(stride)];
        let mut places = rows.clone().zip(bytes.chunks_exact_mut(stride.max(1)));
        let read = places.try_for_each(|(row, bytes)| source.read_dense(row, bytes));
        read.map_err(|error| source.error(error))?;
        let column = |column: usize, to: &mut [u8]| {
            let numbers = bytes.chunks_exact(stride.max(1));
            for (to, row) in to.chunks_exact_mut(width).zip(numbers) {
                let number = row.chunks_exact(width).nth(column);
                to.copy_from_slice(number.ok_or(io::ErrorKind::InvalidInput)?);
            }
            Ok(())
        };
        let matrix = self.pack(pool, name, format, [outputs, rows.len()], column);
        let matrix = matrix.map_err(|error| source.error(error))?;
        self.count(outputs.saturating_mul(rows.len()));
        Ok(Arc::new(matrix))
    }

    /// Reads the vector `name`, which must have exactly this length.
    pub(crate) fn vector(&mut self, name: &str, length: usize) -> Result<Vec<f32>, LoadError> {
        self.numbers(name, &[length])
    }

    /// Reads the tensor `name`, which must have exactly this shape.
    pub(crate) fn tensor(&mut self, name: &str, shape: &[usize]) -> Result<Tensor, LoadError> {
        let numbers = self.numbers(name, shape)?;
        Tensor::from_vec(numbers, shape, &Device::Cpu).map_err(|source| LoadError::Build { source })
    }

    /// Reads a table of `shape`, around which the file may have more dimensions of one.
    pub(crate) fn rows(&mut self, name: &str, shape: [usize; 2]) -> Result<Tensor, LoadError> {
        if let Some(entry) = self.entries.get_mut(name) {
            let bare = |shape: &[usize]| shape.iter().copied().filter(|side| *side != 1).collect();
            let found: Vec<_> = bare(&entry.shape);
            if found == bare(&shape) {
                entry.shape = shape.into();
            }
        }
        self.tensor(name, &shape)
    }

    /// Makes the tensor `name`, if it has exactly this shape, a matrix with as many rows.
    pub(crate) fn flatten(&mut self, name: &str, shape: &[usize]) -> Result<(), LoadError> {
        self.locate(name, shape)?;
        let rows = shape.first().copied().unwrap_or(0);
        let columns = shape.iter().skip(1).product();
        if let Some(entry) = self.entries.get_mut(name) {
            entry.shape = vec![rows, columns];
        }
        Ok(())
    }

    /// Where the rows of a tensor are.
    fn source(&self, name: &str, shape: &[usize]) -> Result<Source<'_>, LoadError> {
        let (entry, format) = self.locate(name, shape)?;
        let scales = match (format, shape) {
            (Format::F8, [outputs, inputs]) => {
                let squares = [outputs.div_ceil(f8::BLOCK), inputs.div_ceil(f8::BLOCK)];
                self.dense(&format!("{name}_scale_inv"), &squares)?
            }
            (Format::F8, _) => return Err(not_dense(name, entry)),
            _ => Vec::new(),
        };
        let open = self.files.get(entry.file);
        Ok(Source {
            open: open
                .ok_or_else(|| read_error(Path::new(name), io::ErrorKind::NotFound.into()))?,
            start: entry.start,
            inputs: shape.last().copied().unwrap_or(0),
            format,
            scales,
        })
    }

    fn numbers(&mut self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        let numbers = self.dense(name, shape)?;
        self.count(numbers.len());
        Ok(numbers)
    }

    fn dense(&self, name: &str, shape: &[usize]) -> Result<Vec<f32>, LoadError> {
        let (entry, format) = self.locate(name, shape)?;
        let number = number(format).ok_or_else(|| not_dense(name, entry))?;
        let (_, width) = format.block();
        // The size is that of the shape, and inside the file.
        let mut numbers = Vec::with_capacity(shape.iter().product());
        let mut buffer = vec![0; 1 << 16];
        let (mut at, end) = (entry.start, entry.start.saturating_add(entry.size));
        while let (Some(open), true) = (self.files.get(entry.file), at < end) {
            let piece = usize::try_from(end.saturating_sub(at)).unwrap_or(usize::MAX);
            let length = piece.min(buffer.len());
            let bytes = buffer.get_mut(..length).unwrap_or_default();
            let read = open.file.read_exact_at(bytes, at);
            read.map_err(|source| read_error(&open.path, source))?;
            numbers.extend(bytes.chunks_exact(width).map(number));
            at = at.saturating_add(u64::try_from(length).unwrap_or(u64::MAX));
        }
        Ok(numbers)
    }

    /// A tensor of exactly this shape, in a format that we know.
    fn locate(&self, name: &str, shape: &[usize]) -> Result<(&Entry, Format), LoadError> {
        let error = |found: String, expected: String| LoadError::Tensor {
            name: name.into(),
            found,
            expected,
        };
        let Some(entry) = self.entries.get(name) else {
            return Err(error("no entry".into(), format!("shape {shape:?}")));
        };
        if entry.shape != shape {
            return Err(error(
                format!("shape {:?}", entry.shape),
                format!("shape {shape:?}"),
            ));
        }
        let known = entry.format;
        let Some(format) = known.filter(|format| self.scaled || *format != Format::F8) else {
            return Err(error(
                format!("dtype {}", entry.dtype),
                "F32, F16, BF16, Q8_0, Q4_K or Q6_K".into(),
            ));
        };
        let needed = shape.split_last().and_then(|(inputs, outer)| {
            let bytes = match format {
                // Scales are a tensor of their own.
                Format::F8 => *inputs,
                _ => format.row_bytes(*inputs)?,
            };
            outer
                .iter()
                .try_fold(bytes, |product, side| product.checked_mul(*side))
        });
        match needed.and_then(|needed| u64::try_from(needed).ok()) {
            Some(needed) if needed == entry.size => Ok((entry, format)),
            _ => Err(error(
                format!("{} bytes", entry.size),
                format!("shape {shape:?} of {}", entry.dtype),
            )),
        }
    }

    fn count(&mut self, numbers: usize) {
        let numbers = u64::try_from(numbers).unwrap_or(u64::MAX);
        self.parameters = self.parameters.saturating_add(numbers);
    }
}

/// What reads a number that stands by itself.
fn number(format: Format) -> Option<fn(&[u8]) -> f32> {
    match format {
        Format::F32 => Some(f32),
        Format::F16 => Some(f16),
        Format::Bf16 => Some(bf16),
        _ => None,
    }
}

fn not_dense(name: &str, entry: &Entry) -> LoadError {
    LoadError::Tensor {
        name: name.into(),
        found: format!("dtype {}", entry.dtype),
        expected: "F32, F16 or BF16".into(),
    }
}

fn read_error(path: &Path, source: io::Error) -> LoadError {
    LoadError::Read {
        path: path.to_owned(),
        source,
    }
}

fn f32(bytes: &[u8]) -> f32 {
    let bytes = bytes.first_chunk();
    bytes.map_or(0.0, |bytes| f32::from_le_bytes(*bytes))
}

fn half(bytes: &[u8]) -> u16 {
    let bytes = bytes.first_chunk();
    bytes.map_or(0, |bytes| u16::from_le_bytes(*bytes))
}

fn f16(bytes: &[u8]) -> f32 {
    from_half(half(bytes))
}

/// The upper half of an f32.
fn bf16(bytes: &[u8]) -> f32 {
    f32::from_bits(u32::from(half(bytes)) << 16)
}
