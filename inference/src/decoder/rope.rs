//! Angles of the rotary embedding, in f64 and rounded once: they hold at any
//! position. The functions are those of a library in Rust, not of the system, whose
//! bits differ from one processor to the next.

use serde::Deserialize;

/// How Llama 3.1 stretches slow angles to a longer context.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(crate) struct Scaling {
    factor: f64,
    low_freq_factor: f64,
    high_freq_factor: f64,
    original_max_position_embeddings: f64,
}

impl Scaling {
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

/// `theta^(-2i/width)` for each pair of numbers in a head.
pub(crate) fn frequencies(width: usize, theta: f64, scaling: Option<Scaling>) -> Vec<f64> {
    let width = u32::try_from(width).unwrap_or(u32::MAX);
    let frequency = |i| libm::pow(theta, -f64::from(i) / f64::from(width));
    let scaled = |frequency| scaling.map_or(frequency, |scaling| scaling.apply(frequency));
    (0..width).step_by(2).map(frequency).map(scaled).collect()
}

/// Cosines and sines at a position, appended.
pub(crate) fn angles(frequencies: &[f64], position: usize, cos: &mut Vec<f32>, sin: &mut Vec<f32>) {
    let position = f64::from(u32::try_from(position).unwrap_or(u32::MAX));
    for frequency in frequencies {
        let (sine, cosine) = libm::sincos(position * frequency);
        cos.push(super::to_f32(cosine));
        sin.push(super::to_f32(sine));
    }
}
