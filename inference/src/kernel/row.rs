//! What is done to one row of numbers.

#![expect(
    clippy::as_conversions,
    clippy::cast_precision_loss,
    clippy::indexing_slicing,
    clippy::inline_always,
    reason = "floats do not overflow, lengths are exact in f32, and a kernel must be one piece"
)]

use super::level::{Kernel, LANES, Level};

/// `x / rms(x) * weight`.
pub(crate) struct Norm<'a> {
    pub(crate) x: &'a mut [f32],
    pub(crate) weight: &'a [f32],
    pub(crate) epsilon: f32,
}

impl Kernel for Norm<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Level>(self, level: L) {
        let mut sum = level.splat(0.0);
        for_lanes(self.x, 0.0, |lanes| {
            let lanes = level.load(lanes);
            sum = level.add(sum, level.mul(lanes, lanes));
        });
        let mean = total(level, sum) / self.x.len() as f32;
        let scale = 1.0 / (mean + self.epsilon).sqrt();
        for (x, weight) in self.x.iter_mut().zip(self.weight) {
            *x = *x * scale * weight;
        }
    }
}

/// What the gate of a feed-forward network does to a number.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Activation {
    /// `x * sigmoid(x)`
    Silu,
    /// `x * (1 + tanh(sqrt(2/pi) * (x + 0.044715 x^3))) / 2`
    Gelu,
}

/// `activation(gate) * up * factor`, of a row that holds `gate` and then `up`.
pub(crate) struct Gated<'a> {
    pub(crate) row: &'a [f32],
    pub(crate) to: &'a mut [f32],
    pub(crate) activation: Activation,
    pub(crate) factor: f32,
}

impl Kernel for Gated<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Level>(self, level: L) {
        let (gate, up) = self.row.split_at(self.to.len());
        let (gate, _) = gate.as_chunks();
        let (up, _) = up.as_chunks();
        let (to, _) = self.to.as_chunks_mut();
        let factor = level.splat(self.factor);
        for ((gate, up), to) in gate.iter().zip(up).zip(to) {
            let (gate, up) = (level.load(gate), level.load(up));
            let steep = match self.activation {
                Activation::Silu => gate,
                // (1 + tanh x) / 2 = sigmoid(2 x)
                Activation::Gelu => {
                    let square = level.mul(level.mul(gate, gate), level.splat(0.044_715));
                    let cubic = level.mul(gate, level.add(level.splat(1.0), square));
                    level.mul(cubic, level.splat(1.595_769_2))
                }
            };
            let opened = level.div(gate, inverse_sigmoid(level, steep));
            level.store(level.mul(level.mul(opened, up), factor), to);
        }
    }
}

/// `sigmoid(x)` of each number.
pub(crate) struct Sigmoid<'a>(pub(crate) &'a mut [f32]);

impl Kernel for Sigmoid<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Level>(self, level: L) {
        for chunk in self.0.chunks_mut(LANES) {
            let mut lanes = [0.0; LANES];
            lanes[..chunk.len()].copy_from_slice(chunk);
            let sigmoid = level.div(level.splat(1.0), inverse_sigmoid(level, level.load(&lanes)));
            level.store(sigmoid, &mut lanes);
            chunk.copy_from_slice(&lanes[..chunk.len()]);
        }
    }
}

/// `1 / sigmoid(x)`
#[inline(always)]
fn inverse_sigmoid<L: Level>(level: L, x: L::F) -> L::F {
    let power = exp(level, level.sub(level.splat(0.0), x));
    level.add(level.splat(1.0), power)
}

/// Powers of numbers as shares of their sum.
pub(crate) struct Softmax<'a>(pub(crate) &'a mut [f32]);

impl Kernel for Softmax<'_> {
    type Output = ();

    #[inline(always)]
    fn run<L: Level>(self, level: L) {
        softmax(level, self.0);
    }
}

/// As [`Softmax`].
#[inline(always)]
pub(crate) fn softmax<L: Level>(level: L, scores: &mut [f32]) {
    let mut most = level.splat(f32::NEG_INFINITY);
    for_lanes(scores, f32::NEG_INFINITY, |lanes| {
        most = level.max(most, level.load(lanes));
    });
    let mut lanes = [0.0; LANES];
    level.store(most, &mut lanes);
    let most = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
    let mut sum = level.splat(0.0);
    let power = |lanes: &[f32; LANES]| exp(level, level.sub(level.load(lanes), level.splat(most)));
    let (whole, rest) = scores.as_chunks_mut();
    for lanes in whole {
        let power = power(lanes);
        sum = level.add(sum, power);
        level.store(power, lanes);
    }
    if !rest.is_empty() {
        let mut lanes = [0.0; LANES];
        lanes[..rest.len()].copy_from_slice(rest);
        let power = power(&lanes);
        level.store(power, &mut lanes);
        lanes[rest.len()..].fill(0.0);
        rest.copy_from_slice(&lanes[..rest.len()]);
        sum = level.add(sum, level.load(&lanes));
    }
    let scale = 1.0 / total(level, sum);
    scores.iter_mut().for_each(|x| *x *= scale);
}

/// The rotary embedding: number `i` of a head turns with `i + width / 2`.
pub(crate) fn rotate(head: &mut [f32], cos: &[f32], sin: &[f32]) {
    let (a, b) = head.split_at_mut(head.len() / 2);
    for (((a, b), cos), sin) in a.iter_mut().zip(b).zip(cos).zip(sin) {
        (*a, *b) = (*a * cos - *b * sin, *b * cos + *a * sin);
    }
}

/// `e^x` to some two units in the last place; between `e^-87` and `e^88`.
///
/// `x = n ln 2 + r`, and a polynomial for `e^r`: S. L. Moshier, Cephes, `expf`.
#[inline(always)]
pub(crate) fn exp<L: Level>(level: L, x: L::F) -> L::F {
    let times = |a, b: f32| level.mul(a, level.splat(b));
    let x = level.min(level.splat(88.0), level.max(level.splat(-87.0), x));
    // Adding it rounds to a whole number, which then stands in the low bits.
    let magic = level.splat(ROUND);
    let shifted = level.add(times(x, std::f32::consts::LOG2_E), magic);
    let n = level.sub(shifted, magic);
    let r = level.sub(x, times(n, 0.693_359_4));
    let r = level.sub(r, times(n, -2.121_944_4e-4));
    let mut p = level.splat(1.987_569_1e-4);
    for coefficient in [
        1.398_199_9e-3,
        8.333_452e-3,
        4.166_579_6e-2,
        1.666_666_5e-1,
        0.5,
    ] {
        p = level.add(level.mul(p, r), level.splat(coefficient));
    }
    let p = level.add(
        level.mul(level.mul(p, r), r),
        level.add(r, level.splat(1.0)),
    );
    let n = level.sub_int(level.bits(shifted), level.splat_int(ROUND_BITS - 127));
    level.mul(p, level.of_bits(level.exponent(n)))
}

/// Adding 1.5 * 2^23 to a small f32 rounds it to the nearest whole number.
pub(crate) const ROUND: f32 = 12_582_912.0;
pub(crate) const ROUND_BITS: i32 = ROUND.to_bits().cast_signed();

/// The sum of the lanes, in their order.
#[inline(always)]
pub(crate) fn total<L: Level>(level: L, x: L::F) -> f32 {
    let mut lanes = [0.0; LANES];
    level.store(x, &mut lanes);
    lanes.iter().sum()
}

/// Sixteen numbers at a time; `fill` stands for those that are missing at the end.
#[inline(always)]
pub(crate) fn for_lanes(x: &[f32], fill: f32, mut f: impl FnMut(&[f32; LANES])) {
    let (whole, rest) = x.as_chunks();
    for lanes in whole {
        f(lanes);
    }
    if !rest.is_empty() {
        let mut lanes = [fill; LANES];
        lanes[..rest.len()].copy_from_slice(rest);
        f(&lanes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::level::Cpu;

    struct Exp<'a>(&'a mut [f32; LANES]);

    impl Kernel for Exp<'_> {
        type Output = ();

        #[inline(always)]
        fn run<L: Level>(self, level: L) {
            let power = exp(level, level.load(self.0));
            level.store(power, self.0);
        }
    }

    #[test]
    fn powers_are_right_on_every_level() {
        for start in -870..880 {
            let x = std::array::from_fn(|i| start as f32 / 10.0 + i as f32 / 160.0);
            let [mut first, ..] = [x; 1];
            Cpu::PORTABLE.run(Exp(&mut first));
            for (x, found) in x.iter().zip(first) {
                let expected = f64::from(x.min(88.0)).exp();
                let error = (f64::from(found) - expected).abs() / expected;
                assert!(error < 2e-7, "e^{x} is not {found}");
            }
            for cpu in Cpu::all() {
                let mut found = x;
                cpu.run(Exp(&mut found));
                assert_eq!(found.map(f32::to_bits), first.map(f32::to_bits));
            }
        }
    }

    #[test]
    fn what_is_not_a_number_stays_one() {
        for cpu in Cpu::all() {
            let mut x = [f32::NAN; LANES];
            cpu.run(Exp(&mut x));
            assert!(x.iter().all(|x| x.is_nan()));
        }
    }
}
