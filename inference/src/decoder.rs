//! Decoders of the Llama line, on any number of sequences at once.
//!
//! Rows of all sequences lie one after another; only attention has to tell them
//! apart. A row's bits depend on the rows before it in its sequence, and not on the
//! step in which each was read, on what else was, or on how many threads work.
//!
//! Source: `LlamaForCausalLM`, `Qwen2ForCausalLM` and `Qwen3ForCausalLM` of Hugging
//! Face transformers.

mod rope;
mod shape;
mod step;
#[cfg(test)]
mod tests;

use std::sync::Arc;

pub(crate) use self::shape::{FAMILIES, Family, Shape};
pub(crate) use self::step::{Span, Workspace};
use crate::error::LoadError;
use crate::kernel::matrix::Matrix;
use crate::kernel::pool::Pool;
use crate::linear::Linear;
use crate::weights::Weights;

/// Weights and shape.
#[derive(Debug)]
pub(crate) struct Decoder {
    shape: Shape,
    embedding: Arc<Matrix>,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    head: Linear,
    frequencies: Vec<f64>,
    parameters: u64,
}

/// One block: attention, then the gated feed-forward network.
#[derive(Debug)]
struct Layer {
    input_norm: Vec<f32>,
    /// Queries, keys and values.
    qkv: Linear,
    /// Weights of the norms of each head of queries and of keys; empty if there are none.
    q_norm: Vec<f32>,
    k_norm: Vec<f32>,
    o: Linear,
    post_norm: Vec<f32>,
    gate_up: Linear,
    down: Linear,
}

impl Decoder {
    pub(crate) fn load(
        pool: &mut Pool,
        shape: Shape,
        mut weights: Weights,
    ) -> Result<Self, LoadError> {
        let table = [shape.vocabulary, shape.hidden];
        let embedding = weights.matrix(pool, "model.embed_tokens.weight", table, |row| row)?;
        let layers = (0..shape.layers)
            .map(|index| Layer::load(pool, &mut weights, &shape, index))
            .collect::<Result<_, _>>()?;
        let norm = weights.vector("model.norm.weight", shape.hidden)?;
        let head = match shape.tied {
            true => Arc::clone(&embedding),
            false => weights.matrix(pool, "lm_head.weight", table, |row| row)?,
        };
        let mut frequencies = rope::frequencies(shape.heads.width, shape.theta, shape.scaling);
        if weights.contains(FACTORS) {
            let factors = weights.vector(FACTORS, frequencies.len())?;
            for (frequency, factor) in frequencies.iter_mut().zip(factors) {
                *frequency /= f64::from(factor);
            }
        }
        Ok(Self {
            embedding,
            layers,
            norm,
            head: Linear::new(vec![head], Vec::new())?,
            frequencies,
            parameters: weights.parameters(),
            shape,
        })
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    pub(crate) fn parameters(&self) -> u64 {
        self.parameters
    }
}

impl Layer {
    fn load(
        pool: &mut Pool,
        weights: &mut Weights,
        shape: &Shape,
        index: usize,
    ) -> Result<Self, LoadError> {
        let name = |part: &str| format!("model.layers.{index}.{part}");
        let (hidden, inner, width) = (shape.hidden, shape.inner, shape.heads.width);
        let query = shape.heads.query.saturating_mul(width);
        let kv = shape.heads.kv.saturating_mul(width);
        let mut vector = |part: &str, length| weights.vector(&name(part), length);
        let input_norm = vector("input_layernorm.weight", hidden)?;
        let post_norm = vector("post_attention_layernorm.weight", hidden)?;
        let (mut q_norm, mut k_norm, mut bias) = (Vec::new(), Vec::new(), Vec::new());
        if shape.head_norm {
            q_norm = vector("self_attn.q_norm.weight", width)?;
            k_norm = vector("self_attn.k_norm.weight", width)?;
        }
        if shape.bias {
            for (part, length) in [("q", query), ("k", kv), ("v", kv)] {
                bias.extend(vector(&format!("self_attn.{part}_proj.bias"), length)?);
            }
        }

        let as_is = |row| row;
        let turned = |row| match shape.interleaved {
            true => interleaved(row, width),
            false => row,
        };
        let mut matrix = |part: &str, outputs, inputs, turns| {
            let name = name(&format!("{part}.weight"));
            match turns {
                true => weights.matrix(pool, &name, [outputs, inputs], turned),
                false => weights.matrix(pool, &name, [outputs, inputs], as_is),
            }
        };
        let qkv = vec![
            matrix("self_attn.q_proj", query, hidden, true)?,
            matrix("self_attn.k_proj", kv, hidden, true)?,
            matrix("self_attn.v_proj", kv, hidden, false)?,
        ];
        let o = matrix("self_attn.o_proj", hidden, query, false)?;
        let gate = matrix("mlp.gate_proj", inner, hidden, false)?;
        let up = matrix("mlp.up_proj", inner, hidden, false)?;
        let down = matrix("mlp.down_proj", hidden, inner, false)?;
        Ok(Self {
            input_norm,
            qkv: Linear::new(qkv, bias)?,
            q_norm,
            k_norm,
            o: Linear::new(vec![o], Vec::new())?,
            post_norm,
            gate_up: Linear::new(vec![gate, up], Vec::new())?,
            down: Linear::new(vec![down], Vec::new())?,
        })
    }
}

/// Where the file has row `row`, if number `i` of a head stands beside `i + width / 2`.
fn interleaved(row: usize, width: usize) -> usize {
    let place = row.checked_rem(width).unwrap_or(0);
    let half = width.checked_div(2).unwrap_or(0);
    let side = usize::from(place >= half);
    let within = place.saturating_sub(side.saturating_mul(half));
    row.saturating_sub(place)
        .saturating_add(within.saturating_mul(2))
        .saturating_add(side)
}

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "rounding to the nearest is what is wanted"
)]
fn to_f32(x: f64) -> f32 {
    x as f32
}

/// What GGUF divides frequencies by, instead of [`rope::Scaling`].
const FACTORS: &str = "rope_freqs.weight";
