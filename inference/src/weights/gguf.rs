//! GGUF files: configuration, tokenizer and weights in one.
//!
//! ```text
//! magic "GGUF", version u32 = 2 or 3, tensor count u64, pair count u64
//! pairs    key string, type u32, value
//! tensors  name string, dimensions u32, sizes u64 (the innermost first),
//!          type u32, offset u64
//! data     from the next multiple of general.alignment on; offsets count from here
//! ```
//!
//! A string is its length, u64, and its bytes. Integers are little-endian. Tensors
//! get the names that the same model has in safetensors.
//!
//! Source: docs/gguf.md in the repository of ggml.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::path::PathBuf;

use super::{Entry, Open, Weights, read_error};
use crate::error::LoadError;
use crate::kernel::matrix::Format;

/// What stands before the data.
#[derive(Debug)]
pub(crate) struct Gguf {
    pairs: BTreeMap<String, Value>,
    pub(crate) weights: Weights,
}

/// A value of the pairs; of lists, those that models need.
#[derive(Clone, Debug, PartialEq)]
enum Value {
    Bool(bool),
    Float(f64),
    Integer(i64),
    Integers(Vec<i64>),
    Text(String),
    Texts(Vec<String>),
    Other,
}

impl Gguf {
    pub(crate) fn open(path: PathBuf) -> Result<Self, LoadError> {
        let (open, size) = Open::new(path)?;
        let mut reader = Reader {
            file: BufReader::new(&open.file),
            left: size.min(MAX_HEADER),
        };
        let read = reader.header();
        let (pairs, tensors) = read.map_err(|problem| match problem {
            Problem::Io(source) => read_error(&open.path, source),
            Problem::Form {
                what,
                found,
                expected,
            } => LoadError::Weights {
                what,
                found,
                expected,
            },
        })?;
        let consumed = size.min(MAX_HEADER).saturating_sub(reader.left);
        let gguf = Self {
            pairs,
            weights: Weights {
                files: Vec::new(),
                entries: BTreeMap::new(),
                parameters: 0,
                scaled: false,
                quantise: None,
            },
        };
        gguf.locate(open, tensors, consumed, size)
    }

    /// Finds each tensor's place in the file.
    fn locate(
        mut self,
        open: Open,
        tensors: Vec<Tensor>,
        header: u64,
        size: u64,
    ) -> Result<Self, LoadError> {
        let alignment = self.integer("general.alignment").unwrap_or(32);
        let alignment = u64::try_from(alignment)
            .ok()
            .filter(|a| a.is_power_of_two());
        let alignment = alignment.ok_or_else(|| LoadError::Weights {
            what: "general.alignment".into(),
            found: format!("{:?}", self.pairs.get("general.alignment")),
            expected: "a power of two".into(),
        })?;
        let data = header
            .checked_next_multiple_of(alignment)
            .unwrap_or(u64::MAX);
        let architecture = self.text("general.architecture").unwrap_or_default();
        let architecture = architecture.to_owned();
        for tensor in tensors {
            let (dtype, format) = format(tensor.kind);
            let bytes =
                tensor
                    .shape
                    .split_last()
                    .zip(format)
                    .and_then(|((inputs, outer), format)| {
                        let bytes = format.row_bytes(*inputs)?;
                        let bytes = outer
                            .iter()
                            .try_fold(bytes, |bytes, side| bytes.checked_mul(*side))?;
                        u64::try_from(bytes).ok()
                    });
            // What cannot be sized cannot be asked for either.
            let bytes = bytes.unwrap_or(0);
            let start = data.checked_add(tensor.offset);
            let end = start.and_then(|start| start.checked_add(bytes));
            let Some((start, _)) = start.zip(end.filter(|end| *end <= size)) else {
                return Err(LoadError::Weights {
                    what: format!("offset of {}", tensor.name),
                    found: tensor.offset.to_string(),
                    expected: format!("one with {bytes} bytes in a file of {size}"),
                });
            };
            let entry = Entry {
                file: 0,
                start,
                size: bytes,
                shape: tensor.shape,
                dtype,
                format,
            };
            let name = hub_name(&architecture, &tensor.name);
            match name.split_once("experts.*") {
                Some(around) => self.weights.entries.extend(experts(around, &entry)),
                None => drop(self.weights.entries.insert(name, entry)),
            }
        }
        self.weights.files.push(open);
        Ok(self)
    }

    pub(crate) fn integer(&self, key: &str) -> Option<i64> {
        match self.pairs.get(key)? {
            Value::Integer(value) => Some(*value),
            _ => None,
        }
    }

    pub(crate) fn float(&self, key: &str) -> Option<f64> {
        match self.pairs.get(key)? {
            Value::Float(value) => Some(*value),
            _ => None,
        }
    }

    pub(crate) fn text(&self, key: &str) -> Option<&str> {
        match self.pairs.get(key)? {
            Value::Text(value) => Some(value),
            _ => None,
        }
    }

    /// A list of texts; empty if it is not there.
    pub(crate) fn texts(&self, key: &str) -> &[String] {
        match self.pairs.get(key) {
            Some(Value::Texts(values)) => values,
            _ => &[],
        }
    }

    /// Takes a list out, which may be long.
    pub(crate) fn take_texts(&mut self, key: &str) -> Option<Vec<String>> {
        match self.pairs.remove(key)? {
            Value::Texts(values) => Some(values),
            _ => None,
        }
    }

    /// As [`Self::take_texts`].
    pub(crate) fn take_integers(&mut self, key: &str) -> Option<Vec<i64>> {
        match self.pairs.remove(key)? {
            Value::Integers(values) => Some(values),
            _ => None,
        }
    }
}

/// The parts of a tensor that holds those of all experts, one after the other.
fn experts<'a>(
    (before, after): (&'a str, &'a str),
    whole: &'a Entry,
) -> impl Iterator<Item = (String, Entry)> + 'a {
    let (count, shape) = match whole.shape.split_first() {
        Some((count, shape)) if *count <= MAX_EXPERTS => (*count, shape),
        _ => (0, [].as_slice()),
    };
    let count = u64::try_from(count).unwrap_or(0);
    let size = whole.size.checked_div(count).unwrap_or(0);
    (0..count).map(move |index| {
        let entry = Entry {
            file: whole.file,
            start: whole.start.saturating_add(index.saturating_mul(size)),
            size,
            shape: shape.to_vec(),
            dtype: whole.dtype.clone(),
            format: whole.format,
        };
        (format!("{before}experts.{index}{after}"), entry)
    })
}

/// `blk.3.attn_q.weight` is `model.layers.3.self_attn.q_proj.weight`; `*` stands for
/// the number of an expert.
fn hub_name(architecture: &str, name: &str) -> String {
    let whole = match name {
        "token_embd.weight" => "model.embed_tokens.weight",
        "output_norm.weight" => "model.norm.weight",
        "output.weight" => "lm_head.weight",
        _ => name,
    };
    let layer = name
        .strip_prefix("blk.")
        .and_then(|rest| rest.split_once('.'));
    let Some((layer, (part, kind))) =
        layer.and_then(|(layer, rest)| Some((layer, rest.rsplit_once('.')?)))
    else {
        return whole.into();
    };
    let part = match part {
        "attn_k" => "self_attn.k_proj",
        "attn_k_norm" => "self_attn.k_norm",
        "attn_norm" => "input_layernorm",
        "attn_output" => "self_attn.o_proj",
        "attn_q" => "self_attn.q_proj",
        "attn_q_norm" => "self_attn.q_norm",
        "attn_v" => "self_attn.v_proj",
        "ffn_down" => "mlp.down_proj",
        "ffn_down_exps" => "mlp.experts.*.down_proj",
        "ffn_down_shexp" => "mlp.shared_expert.down_proj",
        "ffn_gate" => "mlp.gate_proj",
        "ffn_gate_exps" => "mlp.experts.*.gate_proj",
        "ffn_gate_inp" => "mlp.gate",
        "ffn_gate_inp_shexp" => "mlp.shared_expert_gate",
        "ffn_gate_shexp" => "mlp.shared_expert.gate_proj",
        "ffn_norm" if architecture == "gemma3" => "pre_feedforward_layernorm",
        "ffn_norm" => "post_attention_layernorm",
        "ffn_up" => "mlp.up_proj",
        "ffn_up_exps" => "mlp.experts.*.up_proj",
        "ffn_up_shexp" => "mlp.shared_expert.up_proj",
        "post_attention_norm" => "post_attention_layernorm",
        "post_ffw_norm" => "post_feedforward_layernorm",
        part => part,
    };
    format!("model.layers.{layer}.{part}.{kind}")
}

/// Name and form of a number of `ggml_type`.
fn format(kind: u32) -> (String, Option<Format>) {
    match kind {
        0 => ("F32".into(), Some(Format::F32)),
        1 => ("F16".into(), Some(Format::F16)),
        8 => ("Q8_0".into(), Some(Format::Q8_0)),
        12 => ("Q4_K".into(), Some(Format::Q4K)),
        14 => ("Q6_K".into(), Some(Format::Q6K)),
        30 => ("BF16".into(), Some(Format::Bf16)),
        _ => (format!("{kind} of ggml"), None),
    }
}

#[derive(Debug)]
struct Tensor {
    name: String,
    shape: Vec<usize>,
    kind: u32,
    offset: u64,
}

/// What stops a reader.
enum Problem {
    Io(std::io::Error),
    Form {
        what: String,
        found: String,
        expected: String,
    },
}

impl From<std::io::Error> for Problem {
    fn from(error: std::io::Error) -> Self {
        Self::Io(error)
    }
}

fn form(what: &str, found: impl ToString, expected: impl Into<String>) -> Problem {
    Problem::Form {
        what: what.into(),
        found: found.to_string(),
        expected: expected.into(),
    }
}

/// Reads values, and counts.
struct Reader<R> {
    file: R,
    /// Bytes that may still come.
    left: u64,
}

impl<R: Read> Reader<R> {
    fn header(&mut self) -> Result<(BTreeMap<String, Value>, Vec<Tensor>), Problem> {
        let magic: [u8; 4] = self.array()?;
        if &magic != b"GGUF" {
            return Err(form("magic", magic.escape_ascii(), "GGUF"));
        }
        let version = self.u32()?;
        if !(2..=3).contains(&version) {
            return Err(form("version", version, "2 or 3"));
        }
        let (tensor_count, pair_count) = (self.u64()?, self.u64()?);
        let mut pairs = BTreeMap::new();
        for _ in 0..pair_count {
            let key = self.string()?;
            let kind = self.u32()?;
            let value = self.value(kind)?;
            pairs.insert(key, value);
        }
        let mut tensors = Vec::new();
        for _ in 0..tensor_count {
            tensors.push(self.tensor()?);
        }
        Ok((pairs, tensors))
    }

    fn tensor(&mut self) -> Result<Tensor, Problem> {
        let name = self.string()?;
        let dimensions = self.u32()?;
        if !(1..=4).contains(&dimensions) {
            return Err(form(&format!("dimensions of {name}"), dimensions, "1 to 4"));
        }
        let mut shape = Vec::new();
        for _ in 0..dimensions {
            let side = self.u64()?;
            let side = usize::try_from(side);
            shape.push(side.map_err(|_| form(&format!("a size of {name}"), "above 2^63", "less"))?);
        }
        shape.reverse();
        let (kind, offset) = (self.u32()?, self.u64()?);
        Ok(Tensor {
            name,
            shape,
            kind,
            offset,
        })
    }

    fn value(&mut self, kind: u32) -> Result<Value, Problem> {
        if kind != ARRAY {
            return self.scalar(kind);
        }
        let (kind, count) = (self.u32()?, self.u64()?);
        let (mut texts, mut integers) = (Vec::new(), Vec::new());
        for _ in 0..count {
            match self.scalar(kind)? {
                Value::Text(text) => texts.push(text),
                Value::Integer(integer) => integers.push(integer),
                _ => {}
            }
        }
        Ok(match (texts.is_empty(), integers.is_empty()) {
            (false, _) => Value::Texts(texts),
            (true, false) => Value::Integers(integers),
            (true, true) => Value::Other,
        })
    }

    /// A value that is no array; arrays of arrays are in no model.
    fn scalar(&mut self, kind: u32) -> Result<Value, Problem> {
        Ok(match kind {
            0 => Value::Integer(i64::from(u8::from_le_bytes(self.array()?))),
            1 => Value::Integer(i64::from(i8::from_le_bytes(self.array()?))),
            2 => Value::Integer(i64::from(u16::from_le_bytes(self.array()?))),
            3 => Value::Integer(i64::from(i16::from_le_bytes(self.array()?))),
            4 => Value::Integer(i64::from(self.u32()?)),
            5 => Value::Integer(i64::from(i32::from_le_bytes(self.array()?))),
            6 => Value::Float(f64::from(f32::from_le_bytes(self.array()?))),
            7 => Value::Bool(self.array::<1>()? != [0]),
            8 => Value::Text(self.string()?),
            10 => Value::Integer(i64::try_from(self.u64()?).unwrap_or(i64::MAX)),
            11 => Value::Integer(i64::from_le_bytes(self.array()?)),
            12 => Value::Float(f64::from_le_bytes(self.array()?)),
            _ => return Err(form("type of a value", kind, "0 to 12")),
        })
    }

    fn string(&mut self) -> Result<String, Problem> {
        let length = self.u64()?;
        if length > self.left {
            return Err(form(
                "length of a string",
                length,
                format!("at most {}", self.left),
            ));
        }
        let mut bytes = Vec::new();
        let read = (&mut self.file).take(length).read_to_end(&mut bytes)?;
        self.left = self
            .left
            .saturating_sub(u64::try_from(read).unwrap_or(u64::MAX));
        if u64::try_from(read) != Ok(length) {
            return Err(std::io::Error::from(std::io::ErrorKind::UnexpectedEof).into());
        }
        String::from_utf8(bytes).map_err(|_| form("a string", "not UTF-8", "UTF-8"))
    }

    fn u32(&mut self) -> Result<u32, Problem> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Result<u64, Problem> {
        self.array().map(u64::from_le_bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Problem> {
        let mut bytes = [0; N];
        self.file.read_exact(&mut bytes)?;
        self.left = self
            .left
            .saturating_sub(u64::try_from(N).unwrap_or(u64::MAX));
        Ok(bytes)
    }
}

const ARRAY: u32 = 9;

/// More than any model has.
pub(crate) const MAX_EXPERTS: usize = 1 << 12;

/// The header of a model with 250,000 tokens has about 12 MB.
const MAX_HEADER: u64 = 64 << 20;

#[cfg(test)]
#[expect(clippy::arithmetic_side_effects, reason = "numbers of a test")]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn open(bytes: &[u8]) -> Result<Gguf, LoadError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("model.gguf");
        std::fs::write(&path, bytes).unwrap();
        Gguf::open(path)
    }

    fn string(text: &str) -> Vec<u8> {
        let length = u64::try_from(text.len()).unwrap().to_le_bytes();
        [length.as_slice(), text.as_bytes()].concat()
    }

    fn pair(key: &str, kind: u32, value: &[u8]) -> Vec<u8> {
        [string(key).as_slice(), &kind.to_le_bytes(), value].concat()
    }

    fn tensor(name: &str, shape: &[u64], kind: u32, offset: u64) -> Vec<u8> {
        let dimensions = u32::try_from(shape.len()).unwrap().to_le_bytes();
        let shape: Vec<u8> = shape.iter().flat_map(|side| side.to_le_bytes()).collect();
        let (kind, offset) = (kind.to_le_bytes(), offset.to_le_bytes());
        [string(name).as_slice(), &dimensions, &shape, &kind, &offset].concat()
    }

    /// A file, padded to the data.
    fn file(pairs: &[Vec<u8>], tensors: &[Vec<u8>], data: &[u8]) -> Vec<u8> {
        let count = |list: &[Vec<u8>]| u64::try_from(list.len()).unwrap().to_le_bytes();
        let mut file = b"GGUF\x03\0\0\0".to_vec();
        file.extend(count(tensors));
        file.extend(count(pairs));
        file.extend(pairs.concat());
        file.extend(tensors.concat());
        file.resize(file.len().next_multiple_of(32), 0);
        file.extend(data);
        file
    }

    fn sample() -> Vec<u8> {
        let texts = [
            8_u32.to_le_bytes().to_vec(),
            2_u64.to_le_bytes().to_vec(),
            string("a"),
            string("b"),
        ];
        let pairs = [
            pair("general.architecture", 8, &string("llama")),
            pair("llama.block_count", 4, &2_u32.to_le_bytes()),
            pair("llama.rope.freq_base", 6, &1e4_f32.to_le_bytes()),
            pair("tokens", ARRAY, &texts.concat()),
        ];
        let tensors = [
            tensor("blk.3.attn_q.weight", &[2, 1], 0, 0),
            tensor("output_norm.weight", &[2], 1, 32),
        ];
        let data = [1.5_f32, -2.0].map(f32::to_le_bytes).concat();
        let data = [data, vec![0; 24], vec![0, 0x3c, 0, 0xc0]].concat();
        file(&pairs, &tensors, &data)
    }

    #[test]
    fn a_file_is_read() {
        let mut gguf = open(&sample()).unwrap();
        assert_eq!(gguf.text("general.architecture"), Some("llama"));
        assert_eq!(gguf.integer("llama.block_count"), Some(2));
        assert_eq!(gguf.float("llama.rope.freq_base"), Some(1e4));
        assert_eq!(gguf.take_texts("tokens").unwrap(), ["a", "b"]);
        assert_eq!(gguf.take_texts("tokens"), None);
        let name = "model.layers.3.self_attn.q_proj.weight";
        let weights = &mut gguf.weights;
        let tensor = weights.tensor(name, &[1, 2]).unwrap();
        assert_eq!(tensor.to_vec2::<f32>().unwrap(), [[1.5, -2.0]]);
        assert_eq!(weights.vector("model.norm.weight", 2).unwrap(), [1.0, -2.0]);
    }

    #[test]
    fn experts_that_stand_together_are_found_one_by_one() {
        let name = "blk.0.ffn_gate_exps.weight";
        let data = [1.0_f32, 2.0, 3.0, 4.0].map(f32::to_le_bytes).concat();
        let bytes = file(&[], &[tensor(name, &[1, 2, 2], 0, 0)], &data);
        let mut weights = open(&bytes).unwrap().weights;
        for (expert, numbers) in [(0, [[1.0], [2.0]]), (1, [[3.0], [4.0]])] {
            let name = format!("model.layers.0.mlp.experts.{expert}.gate_proj.weight");
            let tensor = weights.tensor(&name, &[2, 1]).unwrap();
            assert_eq!(tensor.to_vec2::<f32>().unwrap(), numbers);
        }
        assert!(!weights.contains("model.layers.0.mlp.experts.2.gate_proj.weight"));
    }

    #[test]
    fn more_experts_than_any_model_has_take_no_room() {
        let tensor = tensor("blk.0.ffn_gate_exps.weight", &[0, 0, 1 << 60], 0, 0);
        let weights = open(&file(&[], &[tensor], &[])).unwrap().weights;
        assert!(weights.entries.is_empty());
    }

    #[test]
    fn blocks_are_not_turned_into_columns() {
        let tensor = tensor("blk.0.attn_kv_b.weight", &[32, 2], 8, 0);
        let mut weights = open(&file(&[], &[tensor], &[0; 68])).unwrap().weights;
        let mut pool = crate::kernel::pool::Pool::with(1, crate::kernel::level::Cpu::PORTABLE);
        let name = "model.layers.0.attn_kv_b.weight";
        let turned = weights.turned(pool.as_mut().unwrap(), name, [2, 32], 0..1);
        assert_eq!(
            turned.unwrap_err().to_string(),
            format!("weights: {name} has dtype Q8_0, expected F32, F16 or BF16"),
        );
    }

    #[test]
    fn every_proper_prefix_is_refused() {
        let sample = sample();
        for end in 0..sample.len() {
            open(&sample[..end]).unwrap_err();
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let pairs = |pair: Vec<u8>| file(&[pair], &[], &[]);
        let tensors = |tensor: Vec<u8>| file(&[], &[tensor], &[0; 8]);
        for (bytes, message) in [
            (b"GGML".to_vec(), "magic is GGML, expected GGUF"),
            (b"GGUF\x01\0\0\0".to_vec(), "version is 1, expected 2 or 3"),
            (
                pairs(pair("a", 13, &[])),
                "type of a value is 13, expected 0 to 12",
            ),
            (
                pairs(pair("general.alignment", 4, &3_u32.to_le_bytes())),
                "general.alignment is Some(Integer(3)), expected a power of two",
            ),
            (
                pairs(pair("a", 8, &[1, 0, 0, 0, 0, 0, 0, 0, 0xff])),
                "a string is not UTF-8, expected UTF-8",
            ),
            (
                tensors(tensor("a", &[2; 5], 0, 0)),
                "dimensions of a is 5, expected 1 to 4",
            ),
            (
                tensors(tensor("a", &[3], 0, 0)),
                "offset of a is 0, expected one with 12 bytes in a file of 72",
            ),
        ] {
            let error = open(&bytes).unwrap_err();
            assert_eq!(error.to_string(), format!("weights: {message}"));
        }
    }

    #[test]
    fn a_length_above_that_of_the_file_allocates_nothing() {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend([0_u64, 1, u64::MAX].map(u64::to_le_bytes).concat());
        let error = open(&bytes).unwrap_err();
        assert!(
            error
                .to_string()
                .starts_with("weights: length of a string is 18446744073709551615")
        );
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend([u64::MAX; 2].map(u64::to_le_bytes).concat());
        assert!(matches!(open(&bytes), Err(LoadError::Read { .. })));
    }

    #[test]
    fn a_kind_of_tensor_that_we_lack_is_refused_when_it_is_wanted() {
        let bytes = file(
            &[],
            &[tensor("token_embd.weight", &[32, 1], 2, 0)],
            &[0; 18],
        );
        let error = open(&bytes)
            .unwrap()
            .weights
            .vector("model.embed_tokens.weight", 32);
        let message = error.unwrap_err().to_string();
        assert_eq!(
            message,
            "weights: model.embed_tokens.weight has shape [1, 32], expected shape [32]"
        );
        let error = open(&bytes)
            .unwrap()
            .weights
            .tensor("model.embed_tokens.weight", &[1, 32]);
        let message = error.unwrap_err().to_string();
        assert_eq!(
            message,
            "weights: model.embed_tokens.weight has dtype 2 of ggml, expected F32, F16, BF16, Q8_0, Q4_K or Q6_K"
        );
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(open(&[b"GGUF\x03\0\0\0", bytes.as_slice()].concat()));
        }

        #[test]
        fn a_changed_byte_never_panics(at in 0_usize..300, byte in any::<u8>()) {
            let mut bytes = sample();
            let at = at % bytes.len();
            bytes[at] = byte;
            if let Ok(mut gguf) = open(&bytes) {
                drop(gguf.weights.vector("model.norm.weight", 2));
            }
        }
    }
}
