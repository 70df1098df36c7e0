//! Chooses the next token.
//!
//! The draw for token `i` of an answer depends on the seed and `i` alone, and
//! equal probabilities are ordered by token id: nothing else can change a choice.

use std::cmp::Ordering;

/// Settings of one answer, complete.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sampler {
    temperature: f64,
    top_p: f64,
    random: SplitMix64,
}

impl Sampler {
    pub(crate) fn new(temperature: f64, top_p: f64, seed: u64) -> Self {
        Self {
            temperature,
            top_p,
            random: SplitMix64(seed),
        }
    }

    /// The chosen token, or `None` if a logit is not a number or all are minus infinity.
    pub(crate) fn next(&mut self, logits: &[f32]) -> Option<u32> {
        let draw = self.random.next_unit();
        let (best, max) = argmax(logits)?;
        if self.temperature == 0.0 {
            return Some(best);
        }
        let weight = |logit: f32| ((f64::from(logit) - max) / self.temperature).exp();
        let mut candidates: Vec<(u32, f64)> =
            (0..).zip(logits.iter().copied().map(weight)).collect();
        if self.top_p < 1.0 {
            candidates.sort_unstable_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
            let kept = self.top_p * total(&candidates);
            let mut sum = 0.0;
            let nucleus = candidates.iter().take_while(|(_, weight)| {
                let short = sum < kept;
                sum += weight;
                short
            });
            let nucleus = nucleus.count().max(1);
            candidates.truncate(nucleus);
        }
        let mut left = draw * total(&candidates);
        let chosen = candidates.iter().find(|(_, weight)| {
            left -= weight;
            left < 0.0
        });
        // Rounding may leave a crumb after the last one.
        Some(chosen.map_or(best, |(token, _)| *token))
    }
}

fn total(candidates: &[(u32, f64)]) -> f64 {
    candidates.iter().map(|(_, weight)| weight).sum()
}

/// The first of the largest.
fn argmax(logits: &[f32]) -> Option<(u32, f64)> {
    if logits.iter().any(|logit| logit.is_nan()) {
        return None;
    }
    let better = |a: &(u32, f32), b: &(u32, f32)| match a.1.total_cmp(&b.1) {
        Ordering::Equal => b.0.cmp(&a.0),
        order => order,
    };
    let (token, max) = (0..).zip(logits.iter().copied()).max_by(better)?;
    max.is_finite().then_some((token, f64::from(max)))
}

/// Steele, Lea and Flood, "Fast splittable pseudorandom number generators", 2014.
#[derive(Clone, Copy, Debug)]
struct SplitMix64(u64);

impl SplitMix64 {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = self.0;
        let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Uniform in `0..1`.
    fn next_unit(&mut self) -> f64 {
        // The mantissa of a number in 1..2.
        f64::from_bits((self.next() >> 12) | 1.0_f64.to_bits()) - 1.0
    }
}

#[cfg(test)]
#[expect(clippy::as_conversions, reason = "numbers of a test")]
mod tests {
    use super::*;

    const LOGITS: [f32; 4] = [1.0, 3.0, 2.0, 3.0];

    #[test]
    fn without_temperature_the_first_of_the_likeliest_wins() {
        assert_eq!(Sampler::new(0.0, 1.0, 1).next(&LOGITS), Some(1));
    }

    #[test]
    fn the_same_seed_chooses_the_same_tokens() {
        let draw = |seed| {
            let mut sampler = Sampler::new(1.0, 1.0, seed);
            (0..64)
                .map(|_| sampler.next(&LOGITS).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let mut sampler = Sampler::new(1.0, 1.0, 42);
        let mut counts = [0_u32; 4];
        for _ in 0..40_000 {
            counts[sampler.next(&LOGITS).unwrap() as usize] += 1;
        }
        let total: f64 = LOGITS.iter().map(|l| f64::from(*l).exp()).sum();
        for (count, logit) in counts.iter().zip(LOGITS) {
            let expected = f64::from(logit).exp() / total;
            assert!((f64::from(*count) / 40_000.0 - expected).abs() < 0.01);
        }
    }

    #[test]
    fn top_p_cuts_the_tail() {
        let mut sampler = Sampler::new(1.0, 0.75, 42);
        let seen: std::collections::BTreeSet<_> =
            (0..1000).map(|_| sampler.next(&LOGITS).unwrap()).collect();
        assert_eq!(seen, [1, 3].into());
    }

    #[test]
    fn top_p_of_zero_keeps_one() {
        let mut sampler = Sampler::new(2.0, 0.0, 42);
        assert!((0..100).all(|_| sampler.next(&LOGITS) == Some(1)));
    }

    #[test]
    fn numbers_that_are_none_are_not_sampled() {
        let mut sampler = Sampler::new(1.0, 1.0, 1);
        assert_eq!(sampler.next(&[1.0, f32::NAN]), None);
        assert_eq!(sampler.next(&[f32::NEG_INFINITY; 2]), None);
        assert_eq!(sampler.next(&[f32::INFINITY, 0.0]), None);
        assert_eq!(sampler.next(&[]), None);
    }

    #[test]
    fn the_generator_gives_the_published_numbers() {
        // First outputs for seed 1234567, from the reference implementation in C.
        let mut random = SplitMix64(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }
}
