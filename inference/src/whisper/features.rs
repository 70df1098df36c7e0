//! Log-mel features: how loud each of some bands is, every 10 ms.
//!
//! ```text
//! 400 samples around each 160th, under a Hann window -> power at 201 frequencies
//! -> 80 or 128 triangles on the Slaney mel scale, of equal area -> log10
//! -> nothing lower than the loudest less 8 -> (x + 4) / 4
//! ```
//!
//! The sound is followed by silence up to one window and mirrored at both ends. The
//! transform is a matrix product in f64: no library is needed, and what is quiet
//! beside what is loud keeps its digits.

#![expect(
    clippy::arithmetic_side_effects,
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "a sound has less than 2^25 samples"
)]

use std::f64::consts::TAU;

use candle_core::{DType, Device, Tensor};
use media::Audio;

/// The constant matrices.
#[derive(Debug)]
pub(super) struct Extractor {
    /// `[400, 2 * 201]`: the window, with cosines and then sines.
    waves: Tensor,
    /// `[201, bins]`
    bands: Tensor,
}

impl Extractor {
    pub(super) fn new(bins: usize) -> candle_core::Result<Self> {
        let mut waves = Vec::with_capacity(SPAN * 2 * FREQUENCIES);
        for n in 0..SPAN {
            let window = 0.5 - 0.5 * libm::cos(TAU * n as f64 / SPAN as f64);
            for wave in [libm::cos, libm::sin] {
                for k in 0..FREQUENCIES {
                    // The product is reduced first, which keeps the angle exact.
                    let turn = (n * k % SPAN) as f64 / SPAN as f64;
                    waves.push(window * wave(TAU * turn));
                }
            }
        }
        Ok(Self {
            waves: Tensor::from_vec(waves, (SPAN, 2 * FREQUENCIES), &Device::Cpu)?,
            bands: Tensor::from_vec(bands(bins), (FREQUENCIES, bins), &Device::Cpu)?,
        })
    }

    /// `[bins, frames]` of a sound and the silence after it, `window` frames at least.
    pub(super) fn features(&self, samples: &[f32], window: usize) -> candle_core::Result<Tensor> {
        let length = samples.len().max(window * HOP);
        let frames = length / HOP;
        // Frames after these are silent; one is computed to stand for them.
        let heard = (samples.len() + SPAN / 2).div_ceil(HOP) + 1;
        let heard = heard.min(frames);
        let mut logs = Vec::new();
        for first in (0..heard).step_by(BLOCK) {
            let last = (first + BLOCK).min(heard);
            let spans = (first..last)
                .flat_map(|frame| (0..SPAN).map(move |n| mirrored(frame * HOP + n, length)));
            let spans = spans.map(|at| f64::from(samples.get(at).copied().unwrap_or(0.0)));
            let spans = Tensor::from_iter(spans, &Device::Cpu)?.reshape((last - first, SPAN))?;
            let parts = spans.matmul(&self.waves)?.sqr()?;
            let [real, imaginary] = [0, FREQUENCIES].map(|at| parts.narrow(1, at, FREQUENCIES));
            let bands = (real? + imaginary?)?.matmul(&self.bands)?;
            let bands = bands.flatten_all()?.to_vec1::<f64>()?;
            logs.extend(bands.into_iter().map(|x| libm::log10(x.max(1e-10))));
        }
        let bins = self.bands.dim(1)?;
        let silence = logs.len().saturating_sub(bins);
        for _ in heard..frames {
            logs.extend_from_within(silence..silence + bins);
        }
        let floor = logs.iter().copied().fold(f64::MIN, f64::max) - 8.0;
        let features = logs.into_iter().map(|x| (x.max(floor) + 4.0) / 4.0);
        let features = Tensor::from_iter(features, &Device::Cpu)?.reshape((frames, bins))?;
        features.t()?.contiguous()?.to_dtype(DType::F32)
    }
}

/// Where the sample at `at` of a sound with mirrored ends is.
fn mirrored(at: usize, length: usize) -> usize {
    let at = at.abs_diff(SPAN / 2);
    match at < length {
        true => at,
        false => (2 * (length - 1)).saturating_sub(at),
    }
}

/// `[201, bins]`: what a frequency adds to a band.
fn bands(bins: usize) -> Vec<f64> {
    let nyquist = f64::from(Audio::RATE) / 2.0;
    let top = mel(nyquist);
    let edges = (0..bins + 2).map(|edge| hertz(top * edge as f64 / (bins + 1) as f64));
    let edges: Vec<_> = edges.collect();
    let frequencies = (0..FREQUENCIES).map(|k| nyquist * k as f64 / (FREQUENCIES - 1) as f64);
    frequencies
        .flat_map(|f| {
            edges.array_windows().map(move |[low, middle, high]| {
                let (rising, falling) = ((f - low) / (middle - low), (high - f) / (high - middle));
                rising.min(falling).max(0.0) * 2.0 / (high - low)
            })
        })
        .collect()
}

/// Slaney's scale: even up to 1000 Hz, in even ratios above.
fn mel(hertz: f64) -> f64 {
    match hertz < 1000.0 {
        true => 3.0 * hertz / 200.0,
        false => 15.0 + libm::log(hertz / 1000.0) * 27.0 / libm::log(6.4),
    }
}

fn hertz(mel: f64) -> f64 {
    match mel < 15.0 {
        true => 200.0 * mel / 3.0,
        false => 1000.0 * libm::exp((mel - 15.0) * libm::log(6.4) / 27.0),
    }
}

/// Samples of a frame.
const SPAN: usize = 400;

/// Samples from one frame to the next.
pub(super) const HOP: usize = 160;

const FREQUENCIES: usize = SPAN / 2 + 1;

/// Frames that are transformed at a time.
const BLOCK: usize = 1000;
