//! Normal noise that is a function of the seed and of the place.
//!
//! Numbers `2i` and `2i + 1` of a seed are `r cos a` and `r sin a` (Box and Muller), with
//! `r = sqrt(-2 ln u)` and `a = 2 pi v`; `u` and `v` are the upper 53 bits of words
//! `2i` and `2i + 1`, `u` counted from 2^-53. Word `j` is `mix(mix(seed) + j g)`, where
//! `mix` is the finaliser of SplitMix64 and `g` its odd constant. All in f64, rounded
//! once.

use candle_core::{Device, Tensor};

/// A tensor of noise.
pub(super) fn normal(seed: u64, shape: [usize; 4]) -> candle_core::Result<Tensor> {
    let count: usize = shape.iter().product();
    let pairs = (0_u64..).flat_map(|pair| {
        let word = |half: u64| {
            let place = pair.wrapping_mul(2).wrapping_add(half);
            unit(mix(mix(seed).wrapping_add(place.wrapping_mul(GOLDEN))))
        };
        let radius = libm::sqrt(-2.0 * libm::log(1.0 - word(0)));
        let angle = std::f64::consts::TAU * word(1);
        [radius * libm::cos(angle), radius * libm::sin(angle)]
    });
    Tensor::from_iter(pairs.take(count).map(narrow), &Device::Cpu)?.reshape(&shape)
}

/// From 0 to 1, without 1.
#[expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    reason = "53 bits are exact in f64"
)]
fn unit(word: u64) -> f64 {
    (word >> 11) as f64 / (1_u64 << 53) as f64
}

#[expect(
    clippy::as_conversions,
    clippy::cast_possible_truncation,
    reason = "rounded once"
)]
fn narrow(x: f64) -> f32 {
    x as f32
}

fn mix(mut x: u64) -> u64 {
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;
