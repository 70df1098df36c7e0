//! Angles of the rotary embedding, in f64 and rounded once: they hold at any
//! position. The functions are those of a library in Rust, not of the system, whose
//! bits differ from one processor to the next.

use serde::Deserialize;

/// How fast the numbers of a head turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rope {
    pub(crate) theta: f64,
    pub(crate) scaling: Scaling,
}

/// How angles are changed for a longer context.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Scaling {
    None,
    /// All turn so much slower.
    Linear(f64),
    Llama3(Llama3),
    Yarn(Yarn),
}

/// What Llama 3.1 does to slow angles.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Llama3 {
    factor: f64,
    low_freq_factor: f64,
    high_freq_factor: f64,
    original_max_position_embeddings: f64,
}

/// YaRN, <https://arxiv.org/abs/2309.00071>, with what DeepSeek added to it.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Yarn {
    pub(crate) factor: f64,
    pub(crate) original_max_position_embeddings: f64,
    pub(crate) beta_fast: Option<f64>,
    pub(crate) beta_slow: Option<f64>,
    pub(crate) attention_factor: Option<f64>,
    pub(crate) mscale: Option<f64>,
    pub(crate) mscale_all_dim: Option<f64>,
}

/// What angles are made from.
#[derive(Clone, Debug)]
pub(crate) struct Frequencies {
    /// Of each pair of numbers in a head.
    pub(crate) turns: Vec<f64>,
    /// What cosines and sines are multiplied with.
    scale: f64,
}

/// Cosines and sines of all rows.
#[derive(Debug, Default)]
pub(crate) struct Angles {
    pub(crate) cos: Vec<f32>,
    pub(crate) sin: Vec<f32>,
}

impl Rope {
    /// `theta^(-2i/width)` for each pair of numbers in a head, scaled.
    pub(crate) fn frequencies(self, width: usize) -> Frequencies {
        let width = f64::from(u32::try_from(width).unwrap_or(u32::MAX));
        let pairs = (0_u32..).map(f64::from);
        let pairs = pairs.take_while(|pair| 2.0 * pair < width);
        let turns = pairs.map(|pair| {
            let turn = libm::pow(self.theta, -2.0 * pair / width);
            match self.scaling {
                Scaling::None => turn,
                Scaling::Linear(factor) => turn / factor,
                Scaling::Llama3(scaling) => scaling.apply(turn),
                Scaling::Yarn(yarn) => turn * yarn.share(pair, width, self.theta),
            }
        });
        let scale = match self.scaling {
            Scaling::Yarn(yarn) => yarn.scale(),
            _ => 1.0,
        };
        Frequencies {
            turns: turns.collect(),
            scale,
        }
    }

    /// What DeepSeek's scores are multiplied with, beside the root of their width.
    ///
    /// Source: `yarn_apply_mscale` in modeling_deepseek_v3.py of transformers.
    pub(crate) fn sharpness(self) -> f64 {
        let Scaling::Yarn(yarn) = self.scaling else {
            return 1.0;
        };
        let scale = yarn
            .mscale_all_dim
            .map_or(1.0, |all| magnitude(yarn.factor, all));
        scale * scale
    }
}

impl Llama3 {
    /// Source: `_compute_llama3_parameters` of Hugging Face transformers.
    fn apply(self, frequency: f64) -> f64 {
        let turns = self.original_max_position_embeddings * frequency / std::f64::consts::TAU;
        let width = self.high_freq_factor - self.low_freq_factor;
        if turns < self.low_freq_factor {
            frequency / self.factor
        } else if turns > self.high_freq_factor {
            frequency
        } else {
            let smooth = (turns - self.low_freq_factor) / width;
            (1.0 - smooth) * frequency / self.factor + smooth * frequency
        }
    }
}

/// Source: `_compute_yarn_parameters` of Hugging Face transformers.
impl Yarn {
    /// What is left of the frequency of a pair: all of those that turn often in the
    /// original context, a `factor`th of those that hardly turn, and some in between.
    fn share(self, pair: f64, width: f64, theta: f64) -> f64 {
        let context = self.original_max_position_embeddings;
        let turning = |times: f64| {
            let wave = context / (times * std::f64::consts::TAU);
            width * libm::log(wave) / (2.0 * libm::log(theta))
        };
        let first = libm::floor(turning(self.beta_fast.unwrap_or(32.0))).max(0.0);
        let last = libm::ceil(turning(self.beta_slow.unwrap_or(1.0))).min(width - 1.0);
        let last = if first == last { last + 0.001 } else { last };
        let slow = ((pair - first) / (last - first)).clamp(0.0, 1.0);
        slow / self.factor + 1.0 - slow
    }

    fn scale(self) -> f64 {
        let by_parts = || {
            let (mscale, all) = self.mscale.zip(self.mscale_all_dim)?;
            let parts = mscale != 0.0 && all != 0.0;
            parts.then(|| magnitude(self.factor, mscale) / magnitude(self.factor, all))
        };
        let scale = self.attention_factor.or_else(by_parts);
        scale.unwrap_or_else(|| magnitude(self.factor, 1.0))
    }
}

fn magnitude(factor: f64, mscale: f64) -> f64 {
    match factor > 1.0 {
        true => 0.1 * mscale * libm::log(factor) + 1.0,
        false => 1.0,
    }
}

impl Angles {
    /// Of rows at these positions.
    pub(crate) fn fill(
        &mut self,
        frequencies: &Frequencies,
        positions: impl Iterator<Item = usize>,
    ) {
        self.cos.clear();
        self.sin.clear();
        for position in positions {
            let position = f64::from(u32::try_from(position).unwrap_or(u32::MAX));
            for turn in &frequencies.turns {
                let (sine, cosine) = libm::sincos(position * turn);
                self.cos.push(super::to_f32(cosine * frequencies.scale));
                self.sin.push(super::to_f32(sine * frequencies.scale));
            }
        }
    }
}
