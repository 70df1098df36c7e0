//! Another rate to 16,000 Hz: a sinc under a Blackman-Harris window.
//!
//! Rates are in whole ratios, so the weights of each phase are computed once. What
//! lies below 0.88 of the lower Nyquist frequency passes, what lies above it is
//! damped by 80 dB at least.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    clippy::cast_precision_loss,
    reason = "counts below 2^32 and rates of a short list"
)]

use std::f64::consts::PI;

use zeroize::Zeroizing;

use super::Audio;

/// Takes samples of one rate and keeps those of the other.
pub(super) struct Resampler {
    /// Weights by phase; empty if the rate is right.
    phases: Vec<Vec<f32>>,
    /// Steps of a phase from one output to the next.
    step: usize,
    /// Inputs that outputs still need, the first for the next output.
    inputs: Zeroizing<Vec<f32>>,
    /// Of those, what the next output is past.
    done: usize,
    phase: usize,
    outputs: Zeroizing<Vec<f32>>,
}

impl Resampler {
    /// From a rate, if it is one of those in use.
    pub(super) fn new(rate: u32) -> Option<Self> {
        if !RATES.contains(&rate) {
            return None;
        }
        let common = gcd(rate, Audio::RATE);
        let (count, step) = ((Audio::RATE / common) as usize, (rate / common) as usize);
        let phases: Vec<_> = (0..count)
            .filter(|_| rate != Audio::RATE)
            .map(|phase| weights(rate, phase as f64 / count as f64))
            .collect();
        let ahead = phases.first().map_or(0, Vec::len) / 2;
        Some(Self {
            step,
            inputs: Zeroizing::new(vec![0.0; ahead.saturating_sub(1)]),
            done: 0,
            phase: 0,
            outputs: Zeroizing::new(Vec::new()),
            phases,
        })
    }

    pub(super) fn push(&mut self, sample: f32) {
        match self.phases.is_empty() {
            true => self.outputs.push(sample),
            false => {
                self.inputs.push(sample);
                if self.inputs.len() >= BLOCK {
                    self.advance();
                }
            }
        }
    }

    /// All outputs.
    pub(super) fn finish(mut self) -> Zeroizing<Vec<f32>> {
        let ahead = self.phases.first().map_or(0, Vec::len) / 2;
        self.inputs.extend(std::iter::repeat_n(0.0, ahead));
        self.advance();
        self.outputs
    }

    /// Makes the outputs whose inputs are all there, and forgets what is past.
    fn advance(&mut self) {
        while let Some(weights) = self.phases.get(self.phase) {
            let inputs = self.inputs.get(self.done..).unwrap_or_default();
            let Some(inputs) = inputs.get(..weights.len()) else {
                break;
            };
            let sum = inputs.iter().zip(weights).map(|(x, weight)| x * weight);
            self.outputs.push(sum.sum());
            let next = self.phase + self.step;
            self.phase = next % self.phases.len();
            self.done += next / self.phases.len();
        }
        let past = self.done.min(self.inputs.len());
        self.inputs.drain(..past);
        self.done -= past;
    }
}

/// The weights of the inputs around an output that is `phase` of an input's time
/// after the one before the middle.
fn weights(rate: u32, phase: f64) -> Vec<f32> {
    // Of the source's rate.
    let cutoff = EDGE * (f64::from(Audio::RATE) / f64::from(rate)).min(1.0);
    let half = (CROSSINGS / cutoff).ceil();
    let weights = (0..2 * half as usize).map(|index| {
        let time = index as f64 - (half - 1.0) - phase;
        let sinc = match time * cutoff {
            0.0 => 1.0,
            x => libm::sin(PI * x) / (PI * x),
        };
        cutoff * sinc * window(time / half)
    });
    let weights: Vec<_> = weights.collect();
    // What does not change stays as it is.
    let sum: f64 = weights.iter().sum();
    weights.into_iter().map(|x| (x / sum) as f32).collect()
}

/// Blackman-Harris, from -1 to 1.
fn window(x: f64) -> f64 {
    let term = |n: f64| libm::cos(PI * n * x);
    0.35875 + 0.48829 * term(1.0) + 0.14128 * term(2.0) + 0.01168 * term(3.0)
}

fn gcd(a: u32, b: u32) -> u32 {
    match b {
        0 => a,
        b => gcd(b, a % b),
    }
}

const RATES: [u32; 11] = [
    8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000, 88_200, 96_000,
];

/// Where the filter begins to close, of the lower Nyquist frequency.
const EDGE: f64 = 0.94;

/// Zeros of the sinc on each side.
const CROSSINGS: f64 = 64.0;

const BLOCK: usize = 1 << 14;
