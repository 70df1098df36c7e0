//! The Qwen3 decoder (dense), on any number of sequences at once.
//!
//! Rows of all sequences lie one after another in one tensor. What must not mix
//! is told apart by the number of rows of each: the matrix products and the
//! attention. Angles of the rotary embedding are computed in f64 and rounded
//! once, so that they hold at any position.
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
        let rows: Vec<usize> = batch.iter().map(|span| span.tokens.len()).collect();
        let tokens: Vec<u32> = batch.iter().flat_map(|span| span.tokens).copied().collect();
        let tokens = Tensor::from_slice(&tokens, tokens.len(), &Device::Cpu)?;
        let angles = self.angles(batch)?;

        let mut x = self.embedding.index_select(&tokens, 0)?;
        for (index, layer) in self.layers.iter().enumerate() {
            x = layer.forward(&x, index, &rows, &angles, self, batch)?;
        }
        for span in batch {
            span.cache.rows = span.cache.rows.saturating_add(span.tokens.len());
        }

        let last: Vec<u32> = rows
            .iter()
            .scan(0_u32, |end, rows| {
                *end = end.checked_add(u32::try_from(*rows).ok()?)?;
                end.checked_sub(1)
            })
            .collect();
        let last = Tensor::from_slice(&last, last.len(), &Device::Cpu)?;
        let x = rms_norm(&x.index_select(&last, 0)?, &self.norm, self.epsilon)?;
        self.head.forward(&x, &vec![1; rows.len()])?.to_vec2()
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
        rows: &[usize],
        angles: &[Tensor; 2],
        model: &Qwen3,
        batch: &mut [Span<'_>],
    ) -> candle_core::Result<Tensor> {
        let heads = model.heads;
        let input = rms_norm(x, &self.input_norm, model.epsilon)?;
        let rotated = |linear: &Linear, norm, count| {
            let x = linear.forward(&input, rows)?;
            let x = x.reshape((1, (), count, heads.width))?;
            let x = rms_norm(&x, norm, model.epsilon)?;
            let [cos, sin] = angles;
            rope_thd(&x, cos, sin)?.flatten_all()?.to_vec1::<f32>()
        };
        let queries = rotated(&self.q, &self.q_norm, heads.query)?;
        let keys = rotated(&self.k, &self.k_norm, heads.kv)?;
        let values = self.v.forward(&input, rows)?.flatten_all()?.to_vec1()?;
        let attended = attend(heads, index, batch, &queries, &keys, &values)?;
        let x = x.add(&self.o.forward(&attended, rows)?)?;

        let input = rms_norm(&x, &self.post_norm, model.epsilon)?;
        let gate = silu(&self.gate.forward(&input, rows)?)?;
        let inner = gate.mul(&self.up.forward(&input, rows)?)?;
        x.add(&self.down.forward(&inner, rows)?)
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
