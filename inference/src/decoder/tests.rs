//! Decoders, through their own interface.

#![expect(clippy::arithmetic_side_effects, reason = "numbers of a test")]

mod device;
mod families;

use serde::Deserialize;
use serde_json::Value;

use super::*;
use crate::kernel::level::Cpu;
use crate::memory::Memory;
use crate::model_dir::ModelDir;

/// A model with its memory, which reads sequences as a test wants it.
pub(crate) struct Reader {
    pub(crate) model: Decoder,
    pub(crate) pool: Pool,
    pub(crate) memory: Memory,
    work: Workspace,
}

/// Tokens that have been read, and where they are.
#[derive(Default)]
struct Read {
    count: usize,
    pages: Vec<usize>,
}

impl Reader {
    pub(crate) fn tiny(threads: usize, cpu: Cpu) -> Self {
        Self::open(&crate::self_test::tiny(), threads, cpu).unwrap()
    }

    fn open(path: &std::path::Path, threads: usize, cpu: Cpu) -> Result<Self, LoadError> {
        let dir = ModelDir::new(path);
        Self::load(dir.json("config.json")?, Weights::open(&dir)?, threads, cpu)
    }

    fn load(config: Value, weights: Weights, threads: usize, cpu: Cpu) -> Result<Self, LoadError> {
        let family = Family::find(config["architectures"][0].as_str().unwrap()).unwrap();
        Self::with(Shape::of_config(family, config)?, weights, threads, cpu)
    }

    fn with(shape: Shape, weights: Weights, threads: usize, cpu: Cpu) -> Result<Self, LoadError> {
        let mut pool = Pool::with(threads, cpu).unwrap();
        Ok(Self {
            memory: Memory::new(shape.heads, shape.layers, 1 << 28),
            model: Decoder::load(&mut pool, shape, weights)?,
            pool,
            work: Workspace::default(),
        })
    }

    /// The logits after the last token of each span.
    fn step(&mut self, batch: &mut [(&mut Read, &[u32])]) -> Vec<Vec<f32>> {
        self.step_for(batch, &vec![None; batch.len()])
    }

    /// The same, of some no more than so many of the largest.
    fn step_for(
        &mut self,
        batch: &mut [(&mut Read, &[u32])],
        best: &[Option<usize>],
    ) -> Vec<Vec<f32>> {
        for (read, tokens) in batch.iter_mut() {
            let needed = (read.count + tokens.len()).div_ceil(crate::kernel::attention::PAGE);
            while read.pages.len() < needed {
                read.pages.push(self.memory.page().unwrap());
            }
        }
        let spans: Vec<_> = batch
            .iter()
            .zip(best)
            .map(|((read, tokens), best)| Span {
                tokens,
                position: read.count,
                pages: &read.pages,
                sights: &[],
                wanted: true,
                best: *best,
            })
            .collect();
        let (pool, memory, work) = (&mut self.pool, &mut self.memory, &mut self.work);
        let logits = self.model.forward(pool, memory, &spans, work).unwrap();
        let logits = logits
            .chunks(self.model.shape.vocabulary)
            .map(<[f32]>::to_vec)
            .collect();
        for (read, tokens) in batch {
            read.count += tokens.len();
        }
        logits
    }

    /// The same, computed by a device.
    pub(crate) fn on(mut self, device: gpu::Double, exact: bool) -> Self {
        let most = device::MOST;
        let most = super::device::Most { exact, ..most };
        assert!(self.model.can_move());
        let (model, memory) = (&mut self.model, &mut self.memory);
        model.move_to(Box::new(device), memory, most).unwrap();
        self
    }

    fn logits(&mut self, read: &mut Read, tokens: &[u32]) -> Vec<f32> {
        self.best(read, tokens, None)
    }

    fn best(&mut self, read: &mut Read, tokens: &[u32], best: Option<usize>) -> Vec<f32> {
        self.step_for(&mut [(read, tokens)], &[best]).pop().unwrap()
    }
}

/// Made by reference/qwen3.py, which shares nothing with this file.
const REFERENCE: &str = include_str!("../../reference/qwen3.json");

#[derive(Deserialize)]
struct Case {
    name: String,
    ids: Vec<u32>,
    every_61st: Vec<f32>,
    top: Vec<usize>,
    top_logits: Vec<f32>,
}

#[test]
fn logits_are_those_of_an_independent_implementation() {
    let mut reader = Reader::tiny(1, Cpu::detect());
    for case in serde_json::from_str::<Vec<Case>>(REFERENCE).unwrap() {
        let found = reader.logits(&mut Read::default(), &case.ids);
        let every_61st = found.iter().step_by(61).zip(&case.every_61st);
        let top = case.top.iter().map(|id| &found[*id]).zip(&case.top_logits);
        for (found, expected) in every_61st.chain(top) {
            let difference = (found - expected).abs();
            assert!(
                difference < 5e-3,
                "{}: {found} is not {expected}",
                case.name
            );
        }
    }
}

#[test]
fn a_prompt_gives_the_same_bits_in_any_pieces_on_any_processor() {
    let ids: Vec<u32> = (3..80).collect();
    let whole = Reader::tiny(1, Cpu::PORTABLE).logits(&mut Read::default(), &ids);
    for cpu in Cpu::all() {
        for (piece, threads) in [(1, 1), (8, 3), (20, 2), (77, 4)] {
            let mut reader = Reader::tiny(threads, cpu);
            let mut read = Read::default();
            let pieces = ids.chunks(piece);
            let last = pieces.map(|piece| reader.logits(&mut read, piece)).last();
            assert!(last == Some(whole.clone()), "{cpu:?} {piece} {threads}");
        }
    }
}

#[test]
fn a_row_gives_the_same_bits_in_any_batch() {
    let prompts: [Vec<u32>; 4] = [vec![9], (3..20).collect(), (100..300).collect(), vec![7; 9]];
    let mut reader = Reader::tiny(2, Cpu::detect());
    let mut alone = Vec::new();
    for prompt in &prompts {
        let mut read = Read::default();
        alone.push(reader.logits(&mut read, prompt));
        alone.push(reader.logits(&mut read, &[5]));
    }
    let mut reads: [Read; 4] = Default::default();
    let mut step = |tokens: [&[u32]; 4]| {
        let mut batch: Vec<_> = reads.iter_mut().zip(tokens).collect();
        reader.step(&mut batch)
    };
    let first = step(prompts.each_ref().map(Vec::as_slice));
    let second = step([&[5]; 4]);
    let together: Vec<_> = first
        .into_iter()
        .zip(second)
        .flat_map(<[_; 2]>::from)
        .collect();
    assert!(alone == together);
}

#[test]
fn a_setting_that_is_not_implemented_is_refused_by_name() {
    for (key, value, message) in [
        (
            "hidden_act",
            "\"gelu\"",
            "config.json: hidden_act is gelu, expected silu",
        ),
        (
            "attention_bias",
            "true",
            "config.json: attention_bias is true, expected false",
        ),
        (
            "rope_scaling",
            "{\"type\": \"dynamic\"}",
            "config.json: rope_type is dynamic, expected default, linear, llama3 or yarn",
        ),
        (
            "num_hidden_layers",
            "9999",
            "config.json: num_hidden_layers is 9999, expected 1 to 1024",
        ),
        (
            "num_key_value_heads",
            "2",
            "config.json: num_key_value_heads is 2, expected a divisor of num_attention_heads, 3",
        ),
        (
            "head_dim",
            "63",
            "config.json: head_dim is 63, expected a multiple of 16",
        ),
        (
            "intermediate_size",
            "592",
            "weights: model.layers.0.mlp.gate_proj.weight has shape [576, 192], expected shape [592, 192]",
        ),
        (
            "num_hidden_layers",
            "7",
            "weights: model.layers.6.input_layernorm.weight has no entry, expected shape [192]",
        ),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let tiny = crate::self_test::tiny();
        let config = std::fs::read(tiny.join("config.json")).unwrap();
        let mut config: Value = serde_json::from_slice(&config).unwrap();
        config[key] = serde_json::from_str(value).unwrap();
        std::fs::write(dir.path().join("config.json"), config.to_string()).unwrap();
        let weights = dir.path().join("model.safetensors");
        std::os::unix::fs::symlink(tiny.join("model.safetensors"), weights).unwrap();
        let error = Reader::open(dir.path(), 1, Cpu::detect()).err().unwrap();
        assert_eq!(error.to_string(), message);
    }
}

#[test]
fn rows_that_turn_together_are_found_where_gguf_has_them() {
    let rows = (0..8).map(|row| part::interleaved(row, 4));
    assert_eq!(rows.collect::<Vec<_>>(), [0, 2, 1, 3, 4, 6, 5, 7]);
}
