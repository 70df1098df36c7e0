//! The Qwen3 decoder (dense), on any number of sequences at once.
//!
//! Rows of all sequences lie one after another in one tensor; only attention has to
//! tell them apart. A row's bits depend on the rows before it in its sequence, and
//! not on the step in which each was read or on what else was. Angles of the rotary
//! embedding are computed in f64 and rounded once, so that they hold at any position.
//!
//! Source: `Qwen3ForCausalLM` of Hugging Face transformers.

use candle_core::{Device, Tensor};
use candle_nn::ops::{rms_norm, silu};
use candle_nn::rotary_emb::rope_thd;
use serde::Deserialize;
use serde_json::Value;

use crate::attention::{Heads, Mask, Memory};
use crate::error::LoadError;
use crate::linear::Linear;
use crate::model_dir::ModelDir;
use crate::weights::Weights;

/// Weights and shape.
#[derive(Debug)]
pub(crate) struct Qwen3 {
    embedding: Tensor,
    layers: Vec<Layer>,
    norm: Tensor,
    head: Linear,
    heads: Heads,
    epsilon: f32,
    frequencies: Vec<f64>,
    shape: Shape,
    parameters: u64,
}

/// The sizes that callers need.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Shape {
    /// Tokens that a sequence can have.
    pub(crate) context: usize,
    /// Numbers that the model gives for the next token.
    pub(crate) vocabulary: usize,
}

/// What the model remembers of one sequence; wiped when dropped.
#[derive(Debug)]
pub(crate) struct Cache {
    layers: Vec<Memory>,
    rows: usize,
}

/// Tokens of one sequence that the model has not seen, and what it remembers.
#[derive(Debug)]
pub(crate) struct Span<'a> {
    /// At least one.
    pub(crate) tokens: &'a [u32],
    pub(crate) cache: &'a mut Cache,
}

impl Qwen3 {
    /// As `architectures` in config.json has it.
    pub(crate) const ARCHITECTURE: &'static str = "Qwen3ForCausalLM";

    pub(crate) fn load(dir: &ModelDir) -> Result<Self, LoadError> {
        let config: Config = dir.json("config.json")?;
        config.check()?;
        let mut weights = Weights::open(dir)?;
        let hidden = config.hidden_size;
        let table = [config.vocab_size, hidden];
        let embedding = weights.take("model.embed_tokens.weight", &table)?;
        let layers = (0..config.num_hidden_layers)
            .map(|index| Layer::load(&mut weights, &config, index))
            .collect::<Result<_, _>>()?;
        let norm = weights.take("model.norm.weight", &[hidden])?;
        let head = match config.tie_word_embeddings {
            true => Linear::tied(&embedding)?,
            false => Linear::load(&mut weights, "lm_head", table)?,
        };
        Ok(Self {
            embedding,
            layers,
            norm,
            head,
            heads: config.heads(),
            epsilon: config.rms_norm_eps,
            frequencies: config.frequencies(),
            shape: Shape {
                context: config.max_position_embeddings,
                vocabulary: config.vocab_size,
            },
            parameters: weights.parameters(),
        })
    }

    pub(crate) fn shape(&self) -> Shape {
        self.shape
    }

    pub(crate) fn parameters(&self) -> u64 {
        self.parameters
    }

    /// An empty memory with room for `capacity` tokens.
    pub(crate) fn cache(&self, capacity: usize) -> Cache {
        let memory = |_: &Layer| Memory::new(self.heads, capacity);
        Cache {
            layers: self.layers.iter().map(memory).collect(),
            rows: 0,
        }
    }

    /// Reads the spans; gives the logits after the last token of each.
    pub(crate) fn forward(&self, batch: &mut [Span<'_>]) -> candle_core::Result<Vec<Vec<f32>>> {
        let tokens: Vec<u32> = batch.iter().flat_map(|span| span.tokens).copied().collect();
        let tokens = Tensor::from_slice(&tokens, tokens.len(), &Device::Cpu)?;
        let angles = self.angles(batch)?;

        let mut x = self.embedding.index_select(&tokens, 0)?;
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x, index, &angles, self, batch)?;
        }
        for span in batch.iter_mut() {
            span.cache.rows = span.cache.rows.saturating_add(span.tokens.len());
        }

        let last: Vec<u32> = batch
            .iter()
            .scan(0_u32, |end, span| {
                *end = end.checked_add(u32::try_from(span.tokens.len()).ok()?)?;
                end.checked_sub(1)
            })
            .collect();
        let last = Tensor::from_slice(&last, last.len(), &Device::Cpu)?;
        let x = rms_norm(&x.index_select(&last, 0)?, &self.norm, self.epsilon)?;
        self.head.forward(&x)?.to_vec2()
    }

    /// Cosines and sines for the position of each row.
    fn angles(&self, batch: &[Span<'_>]) -> candle_core::Result<[Tensor; 2]> {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for span in batch {
            let first = span.cache.rows;
            for position in (first..).take(span.tokens.len()) {
                let position = f64::from(u32::try_from(position).unwrap_or(u32::MAX));
                for frequency in &self.frequencies {
                    let (sine, cosine) = (position * frequency).sin_cos();
                    cos.push(to_f32(cosine));
                    sin.push(to_f32(sine));
                }
            }
        }
        let width = self.frequencies.len();
        let tensor = |values: Vec<f32>| Tensor::from_vec(values, ((), width), &Device::Cpu);
        Ok([tensor(cos)?, tensor(sin)?])
    }
}

/// One block: attention, then the gated feed-forward network.
#[derive(Debug)]
struct Layer {
    input_norm: Tensor,
    q: Linear,
    k: Linear,
    v: Linear,
    q_norm: Tensor,
    k_norm: Tensor,
    o: Linear,
    post_norm: Tensor,
    gate: Linear,
    up: Linear,
    down: Linear,
}

impl Layer {
    fn load(weights: &mut Weights, config: &Config, index: usize) -> Result<Self, LoadError> {
        let name = |part: &str| format!("model.layers.{index}.{part}");
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let Heads { query, kv, width } = config.heads();
        let (query, kv) = (query.saturating_mul(width), kv.saturating_mul(width));
        let mut norm = |part, size| weights.take(&name(part), &[size]);
        let input_norm = norm("input_layernorm.weight", hidden)?;
        let q_norm = norm("self_attn.q_norm.weight", width)?;
        let k_norm = norm("self_attn.k_norm.weight", width)?;
        let post_norm = norm("post_attention_layernorm.weight", hidden)?;
        let mut linear = |part, shape| Linear::load(weights, &name(part), shape);
        Ok(Self {
            input_norm,
            q: linear("self_attn.q_proj", [query, hidden])?,
            k: linear("self_attn.k_proj", [kv, hidden])?,
            v: linear("self_attn.v_proj", [kv, hidden])?,
            q_norm,
            k_norm,
            o: linear("self_attn.o_proj", [hidden, query])?,
            post_norm,
            gate: linear("mlp.gate_proj", [inner, hidden])?,
            up: linear("mlp.up_proj", [inner, hidden])?,
            down: linear("mlp.down_proj", [hidden, inner])?,
        })
    }

    fn forward(
        &self,
        x: &Tensor,
        index: usize,
        angles: &[Tensor; 2],
        model: &Qwen3,
        batch: &mut [Span<'_>],
    ) -> candle_core::Result<Tensor> {
        let heads = model.heads;
        let input = rms_norm(x, &self.input_norm, model.epsilon)?;
        let rotated = |linear: &Linear, norm, count| {
            let x = linear.forward(&input)?;
            let x = x.reshape((1, (), count, heads.width))?;
            let x = rms_norm(&x, norm, model.epsilon)?;
            let [cos, sin] = angles;
            rope_thd(&x, cos, sin)?.flatten_all()?.to_vec1::<f32>()
        };
        let queries = rotated(&self.q, &self.q_norm, heads.query)?;
        let keys = rotated(&self.k, &self.k_norm, heads.kv)?;
        let values = self.v.forward(&input)?.flatten_all()?.to_vec1()?;
        let attended = attend(heads, index, batch, &queries, &keys, &values)?;
        let x = x.add(&self.o.forward(&attended)?)?;

        let input = rms_norm(&x, &self.post_norm, model.epsilon)?;
        let gate = silu(&self.gate.forward(&input)?)?;
        let inner = gate.mul(&self.up.forward(&input)?)?;
        x.add(&self.down.forward(&inner)?)
    }
}

/// Each sequence remembers its new rows in layer `index` and attends to its own.
fn attend(
    heads: Heads,
    index: usize,
    batch: &mut [Span<'_>],
    mut queries: &[f32],
    mut keys: &[f32],
    mut values: &[f32],
) -> candle_core::Result<Tensor> {
    let row = heads.query.saturating_mul(heads.width);
    let kv_row = heads.kv.saturating_mul(heads.width);
    let mut output = Vec::with_capacity(queries.len());
    for span in batch {
        if let Some(memory) = span.cache.layers.get_mut(index) {
            let rows = span.tokens.len();
            let kv = rows.saturating_mul(kv_row);
            memory.append(split_off(&mut keys, kv), split_off(&mut values, kv));
            let own = split_off(&mut queries, rows.saturating_mul(row));
            memory.attend(heads, own, Mask::Causal, &mut output);
        }
    }
    Tensor::from_vec(output, ((), row), &Device::Cpu)
}

/// Takes the first `count` numbers; they are there, by the shapes of the weights.
fn split_off<'a>(numbers: &mut &'a [f32], count: usize) -> &'a [f32] {
    numbers.split_off(..count).unwrap_or_default()
}

#[derive(Debug, Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    num_key_value_heads: usize,
    head_dim: usize,
    max_position_embeddings: usize,
    rms_norm_eps: f32,
    rope_theta: f64,
    hidden_act: String,
    #[serde(default)]
    tie_word_embeddings: bool,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    use_sliding_window: bool,
    rope_scaling: Option<Value>,
    quantization_config: Option<Value>,
}

impl Config {
    /// Refuses sizes that no real model has and settings that are not implemented.
    fn check(&self) -> Result<(), LoadError> {
        let sizes = [
            ("vocab_size", self.vocab_size, 1 << 20),
            ("hidden_size", self.hidden_size, 1 << 16),
            ("intermediate_size", self.intermediate_size, 1 << 18),
            ("num_hidden_layers", self.num_hidden_layers, 1 << 10),
            ("num_attention_heads", self.num_attention_heads, 1 << 10),
            ("num_key_value_heads", self.num_key_value_heads, 1 << 10),
            ("head_dim", self.head_dim, 1 << 10),
            (
                "max_position_embeddings",
                self.max_position_embeddings,
                1 << 22,
            ),
        ];
        for (key, found, limit) in sizes {
            if !(1..=limit).contains(&found) {
                return Err(unsupported(key, found, format!("1 to {limit}")));
            }
        }
        let kv = self.num_key_value_heads;
        if self.num_attention_heads.checked_rem(kv) != Some(0) {
            let expected = format!(
                "a divisor of num_attention_heads, {}",
                self.num_attention_heads
            );
            return Err(unsupported("num_key_value_heads", kv, expected));
        }
        if self.head_dim.checked_rem(2) != Some(0) {
            return Err(unsupported("head_dim", self.head_dim, "an even number"));
        }
        if self.hidden_act != "silu" {
            return Err(unsupported("hidden_act", &self.hidden_act, "silu"));
        }
        for (key, found) in [
            ("attention_bias", self.attention_bias),
            ("use_sliding_window", self.use_sliding_window),
        ] {
            if found {
                return Err(unsupported(key, found, "false"));
            }
        }
        for (key, found) in [
            ("rope_scaling", &self.rope_scaling),
            ("quantization_config", &self.quantization_config),
        ] {
            if let Some(found) = found {
                return Err(unsupported(key, found, "null"));
            }
        }
        Ok(())
    }

    fn heads(&self) -> Heads {
        Heads {
            query: self.num_attention_heads,
            kv: self.num_key_value_heads,
            width: self.head_dim,
        }
    }

    /// `theta^(-2i/d)` for each pair of numbers in a head.
    fn frequencies(&self) -> Vec<f64> {
        let width = u32::try_from(self.head_dim).unwrap_or(u32::MAX);
        (0..width)
            .step_by(2)
            .map(|i| self.rope_theta.powf(-f64::from(i) / f64::from(width)))
            .collect()
    }
}

fn unsupported(key: &'static str, found: impl ToString, expected: impl Into<String>) -> LoadError {
    LoadError::Config {
        file: "config.json",
        key,
        found: found.to_string(),
        expected: expected.into(),
    }
}

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "rounding to the nearest is what is wanted"
)]
fn to_f32(x: f64) -> f32 {
    x as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Made by reference/qwen3.py, which shares nothing with this file.
    const REFERENCE: &str = include_str!("../reference/qwen3.json");

    #[derive(Deserialize)]
    struct Case {
        name: String,
        ids: Vec<u32>,
        every_61st: Vec<f32>,
        top: Vec<usize>,
        top_logits: Vec<f32>,
    }

    fn tiny() -> Qwen3 {
        Qwen3::load(&ModelDir::new(&crate::self_test::tiny())).unwrap()
    }

    fn logits(model: &Qwen3, cache: &mut Cache, tokens: &[u32]) -> Vec<f32> {
        let span = Span { tokens, cache };
        model.forward(&mut [span]).unwrap().pop().unwrap()
    }

    #[test]
    fn logits_are_those_of_an_independent_implementation() {
        let model = tiny();
        for case in serde_json::from_str::<Vec<Case>>(REFERENCE).unwrap() {
            let mut cache = model.cache(case.ids.len());
            let found = logits(&model, &mut cache, &case.ids);
            let every_61st = found.iter().step_by(61).zip(&case.every_61st);
            let top = case.top.iter().map(|id| &found[*id]).zip(&case.top_logits);
            for (found, expected) in every_61st.chain(top) {
                let difference = (found - expected).abs();
                assert!(
                    difference < 1e-4,
                    "{}: {found} is not {expected}",
                    case.name
                );
            }
        }
    }

    #[test]
    fn a_prompt_gives_the_same_bits_in_any_pieces() {
        let model = tiny();
        let ids: Vec<u32> = (3..40).collect();
        let whole = logits(&model, &mut model.cache(37), &ids);
        for piece in [1, 8, 20] {
            let mut cache = model.cache(37);
            let pieces = ids.chunks(piece);
            let last = pieces.map(|piece| logits(&model, &mut cache, piece)).last();
            assert_eq!(last.as_ref(), Some(&whole));
        }
    }

    #[test]
    fn a_row_gives_the_same_bits_in_any_batch() {
        let model = tiny();
        let prompts: [Vec<u32>; 4] = [vec![9], (3..20).collect(), (100..300).collect(), vec![7; 9]];
        let alone: Vec<_> = prompts
            .iter()
            .map(|prompt| {
                let mut cache = model.cache(256);
                let first = logits(&model, &mut cache, prompt);
                (first, logits(&model, &mut cache, &[5]))
            })
            .collect();
        let mut caches: Vec<_> = prompts.iter().map(|_| model.cache(256)).collect();
        let mut step = |tokens: &[&[u32]]| {
            let mut spans: Vec<_> = tokens
                .iter()
                .zip(&mut caches)
                .map(|(tokens, cache)| Span { tokens, cache })
                .collect();
            model.forward(&mut spans).unwrap()
        };
        let first = step(&prompts.each_ref().map(Vec::as_slice));
        let second = step(&[[5].as_slice(); 4]);
        let together: Vec<_> = first.into_iter().zip(second).collect();
        assert_eq!(alone, together);
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
                "{}",
                "config.json: rope_scaling is {}, expected null",
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
                "config.json: head_dim is 63, expected an even number",
            ),
            (
                "intermediate_size",
                "577",
                "model.safetensors: model.layers.0.mlp.gate_proj.weight has shape [576, 192], expected shape [577, 192]",
            ),
            (
                "num_hidden_layers",
                "7",
                "model.safetensors: model.layers.6.input_layernorm.weight has no entry, expected shape [192]",
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
            let error = Qwen3::load(&ModelDir::new(dir.path())).unwrap_err();
            assert_eq!(error.to_string(), message);
        }
    }
}
