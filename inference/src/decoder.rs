//! Decoders of language models, on any number of sequences at once.
//!
//! Rows of all sequences lie one after another; only attention has to tell them
//! apart. A row's bits depend on the rows before it in its sequence, and not on the
//! step in which each was read, on what else was, or on how many threads work.
//!
//! Source: the models named in [`FAMILIES`] of Hugging Face transformers.

mod attention;
#[cfg(any(test, feature = "cuda"))]
mod device;
mod experts;
mod feed;
mod latent;
mod part;
mod rope;
mod shape;
mod step;
#[cfg(test)]
pub(crate) mod tests;

use std::sync::Arc;

use self::attention::Attention;
#[cfg(feature = "cuda")]
pub(crate) use self::device::Most;
use self::experts::Experts;
use self::feed::Gated;
use self::latent::Latent;
use self::part::Parts;
use self::rope::Frequencies;
pub(crate) use self::shape::{FAMILIES, Family, Shape};
pub(crate) use self::step::{Span, Workspace};
use crate::error::LoadError;
use crate::kernel::matrix::Matrix;
use crate::kernel::pool::Pool;
use crate::linear::Linear;
use crate::weights::{Tally, Weights};

/// Weights and shape.
#[derive(Debug)]
pub(crate) struct Decoder {
    shape: Shape,
    embedding: Arc<Matrix>,
    embedding_scale: f32,
    layers: Vec<Layer>,
    norm: Vec<f32>,
    head: Linear,
    /// Of layers that see everything, and of those that do not.
    frequencies: Vec<Frequencies>,
    tally: Tally,
    /// Where the weights are, if not here.
    #[cfg(any(test, feature = "cuda"))]
    device: Option<Box<device::OnDevice>>,
}

/// One block: attention, then the feed-forward network.
#[derive(Debug)]
struct Layer {
    attend: Attend,
    feed_norm: Vec<f32>,
    feed: Feed,
}

#[derive(Debug)]
enum Attend {
    Heads(Attention),
    Latent(Latent),
}

#[derive(Debug)]
enum Feed {
    All(Gated),
    Experts(Experts),
}

impl Decoder {
    pub(crate) fn load(pool: &mut Pool, shape: Shape, weights: Weights) -> Result<Self, LoadError> {
        let mut weights = match shape.family.kind {
            shape::Kind::NestedGemma => weights.only("language_model."),
            _ => weights,
        };
        weights.scaled = shape.scaled;
        let table = [shape.vocabulary, shape.hidden];
        let embedding = weights.matrix(pool, "model.embed_tokens.weight", table, |row| row)?;
        let layers = (0..shape.layers)
            .map(|index| Layer::load(&mut Parts::new(pool, &mut weights, &shape, index)))
            .collect::<Result<_, _>>()?;
        let mut norm = weights.vector("model.norm.weight", shape.hidden)?;
        norm.iter_mut().for_each(|x| *x += shape.norm_offset);
        let head = match shape.tied {
            true => Arc::clone(&embedding),
            false => weights.matrix(pool, "lm_head.weight", table, |row| row)?,
        };
        let turning = shape
            .latent
            .map_or(shape.heads.width, |latent| latent.turning);
        let local = shape.window.iter().map(|window| window.rope);
        let ropes = std::iter::once(shape.rope).chain(local);
        let mut frequencies: Vec<_> = ropes.map(|rope| rope.frequencies(turning)).collect();
        if let (true, Some(all)) = (weights.contains(FACTORS), frequencies.first_mut()) {
            let factors = weights.vector(FACTORS, all.turns.len())?;
            for (turn, factor) in all.turns.iter_mut().zip(factors) {
                *turn /= f64::from(factor);
            }
        }
        Ok(Self {
            embedding,
            embedding_scale: match shape.family.is_gemma() {
                true => to_f32(f64::from(u32::try_from(shape.hidden).unwrap_or(0)).sqrt()),
                false => 1.0,
            },
            layers,
            norm,
            head: Linear::new(vec![head], Vec::new())?,
            frequencies,
            tally: weights.tally(),
            #[cfg(any(test, feature = "cuda"))]
            device: None,
            shape,
        })
    }

    pub(crate) fn shape(&self) -> &Shape {
        &self.shape
    }

    /// Whether a device that it computes on has failed for good.
    pub(crate) fn is_lost(&self) -> bool {
        #[cfg(any(test, feature = "cuda"))]
        if self.device.as_ref().is_some_and(|device| device.is_lost()) {
            return true;
        }
        crate::linear::is_lost()
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }
}

impl Layer {
    fn load(parts: &mut Parts<'_>) -> Result<Self, LoadError> {
        let attend = match parts.shape.latent {
            Some(widths) => Attend::Latent(Latent::load(parts, widths)?),
            None => Attend::Heads(Attention::load(parts)?),
        };
        let mixture = parts.shape.mixture.as_ref();
        let mixture = mixture.filter(|mixture| mixture.layers.get(parts.layer) == Some(&true));
        let feed = match mixture {
            Some(mixture) => Feed::Experts(Experts::load(parts, mixture)?),
            None => Feed::All(Gated::load(parts, "mlp", parts.shape.inner)?),
        };
        let norm = match parts.shape.family.is_gemma() {
            true => "pre_feedforward_layernorm.weight",
            false => "post_attention_layernorm.weight",
        };
        Ok(Self {
            attend,
            feed_norm: parts.norm(norm, parts.shape.hidden)?,
            feed,
        })
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

/// What GGUF divides frequencies by, instead of [`rope::Scaling`].
const FACTORS: &str = "rope_freqs.weight";
