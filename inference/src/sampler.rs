//! Chooses the next token.
//!
//! The draw for token `i` of an answer depends on the seed and `i` alone, and
//! equal probabilities are ordered by token id: nothing else can change a choice.
//! The order is that of vLLM: bias and penalties change the logits, then a grammar
//! takes tokens away, then come temperature, top-k, top-p and min-p. A token less likely than the likeliest by
//! a factor of 2^40 is never chosen.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};

use crate::error::EngineError;
use crate::grammar::Grammar;
use crate::kernel::level::{Cpu, Kernel, LANES, Level};
use crate::kernel::row::for_lanes;
use crate::request::Sampling;

/// Settings of one answer, complete, and what has been said in it.
#[derive(Clone, Debug)]
pub(crate) struct Sampler {
    settings: Settings,
    seed: u64,
    random: SplitMix64,
    /// Tokens of the prompt, where they matter.
    read: BTreeSet<u32>,
    /// Tokens of the answer, and how often each came.
    said: BTreeMap<u32, u32>,
    /// What the answer has to be.
    grammar: Option<Grammar>,
}

/// How to choose.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Settings {
    pub(crate) temperature: f64,
    pub(crate) top_p: f64,
    pub(crate) top_k: usize,
    pub(crate) min_p: f64,
    pub(crate) repetition_penalty: f64,
    pub(crate) presence_penalty: f64,
    pub(crate) frequency_penalty: f64,
    pub(crate) logit_bias: BTreeMap<u32, f64>,
}

impl Default for Settings {
    /// The model's own distribution.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            logit_bias: BTreeMap::new(),
        }
    }
}

impl Sampler {
    pub(crate) fn new(settings: Settings, seed: u64, prompt: &[u32]) -> Self {
        let matter = settings.repetition_penalty != 1.0;
        Self {
            read: prompt.iter().copied().filter(|_| matter).collect(),
            said: BTreeMap::new(),
            grammar: None,
            settings,
            seed,
            random: SplitMix64(seed),
        }
    }

    /// The same, for an answer that has to be of a form.
    pub(crate) fn under(self, grammar: Option<Grammar>) -> Self {
        Self { grammar, ..self }
    }

    /// The settings, as a request would have to name them to choose the same tokens.
    pub(crate) fn sampling(&self) -> Sampling {
        let settings = self.settings.clone();
        Sampling {
            temperature: Some(settings.temperature),
            top_p: Some(settings.top_p),
            top_k: Some(settings.top_k),
            min_p: Some(settings.min_p),
            repetition_penalty: Some(settings.repetition_penalty),
            presence_penalty: Some(settings.presence_penalty),
            frequency_penalty: Some(settings.frequency_penalty),
            logit_bias: settings.logit_bias,
            seed: Some(self.seed),
        }
    }

    /// How many of the largest logits choose the same token as all would, if few are enough.
    pub(crate) fn enough(&self) -> Option<usize> {
        let Settings {
            temperature,
            top_k,
            repetition_penalty,
            presence_penalty,
            frequency_penalty,
            ref logit_bias,
            ..
        } = self.settings;
        let changed = repetition_penalty != 1.0
            || presence_penalty != 0.0
            || frequency_penalty != 0.0
            || !logit_bias.is_empty()
            || self.grammar.is_some();
        match (changed, temperature == 0.0, top_k) {
            (true, ..) => None,
            (_, true, _) => Some(1),
            (_, _, 1..=FEW) => Some(top_k),
            _ => None,
        }
    }

    /// The chosen token; a fault if a logit is not a number or all are minus infinity.
    pub(crate) fn next(&mut self, cpu: Cpu, logits: &mut [f32]) -> Result<u32, EngineError> {
        let draw = self.random.next_unit();
        self.change(logits);
        if let Some(grammar) = &mut self.grammar {
            grammar.mask(logits)?;
        }
        let most = cpu.run(Most { logits }).ok_or(EngineError::Fault)?;
        let token = match self.settings.temperature == 0.0 {
            true => first(logits, most).ok_or(EngineError::Fault)?,
            false => self.draw(draw, logits, f64::from(most)),
        };
        if let Some(grammar) = &mut self.grammar {
            grammar.accept(token)?;
        }
        let count = self.said.entry(token).or_default();
        *count = count.saturating_add(1);
        Ok(token)
    }

    /// Whether the form of the answer leaves no room for more.
    pub(crate) fn is_over(&self) -> bool {
        self.grammar.as_ref().is_some_and(Grammar::is_over)
    }

    /// Applies bias and penalties.
    fn change(&self, logits: &mut [f32]) {
        let mut change = |token: u32, f: &dyn Fn(f64) -> f64| {
            let place = usize::try_from(token).ok();
            if let Some(logit) = place.and_then(|place| logits.get_mut(place)) {
                *logit = to_f32(f(f64::from(*logit)));
            }
        };
        let settings = &self.settings;
        for (token, bias) in &settings.logit_bias {
            change(*token, &|logit| logit + bias);
        }
        if settings.repetition_penalty != 1.0 {
            let said = self.said.keys().filter(|token| !self.read.contains(token));
            for token in self.read.iter().chain(said) {
                change(*token, &|logit| match logit > 0.0 {
                    true => logit / settings.repetition_penalty,
                    false => logit * settings.repetition_penalty,
                });
            }
        }
        if settings.presence_penalty != 0.0 || settings.frequency_penalty != 0.0 {
            for (token, count) in &self.said {
                let often = f64::from(*count) * settings.frequency_penalty;
                change(*token, &|logit| logit - settings.presence_penalty - often);
            }
        }
    }

    fn draw(&self, draw: f64, logits: &[f32], most: f64) -> u32 {
        let Settings {
            temperature,
            top_p,
            top_k,
            min_p,
            ..
        } = self.settings;
        let least = most - temperature * NEVER;
        let weight = |logit: f32| libm::exp((f64::from(logit) - most) / temperature);
        let mut candidates: Vec<(u32, f64)> = (0..)
            .zip(logits)
            .filter(|(_, logit)| f64::from(**logit) >= least)
            .map(|(token, logit)| (token, weight(*logit)))
            .collect();
        if (1..candidates.len()).contains(&top_k) {
            candidates.select_nth_unstable_by(top_k, order);
            candidates.truncate(top_k);
            candidates.sort_unstable_by_key(|(token, _)| *token);
        }
        if top_p < 1.0 {
            let nucleus = nucleus(&mut candidates, top_p);
            candidates.truncate(nucleus);
        }
        candidates.retain(|(_, weight)| *weight >= min_p);
        let mut left = draw * total(&candidates);
        let chosen = candidates.iter().find(|(_, weight)| {
            left -= weight;
            left < 0.0
        });
        // Rounding may leave a crumb after the last one.
        let chosen = chosen.or(candidates.iter().min_by(|a, b| order(a, b)));
        chosen.map_or(0, |(token, _)| *token)
    }
}

/// The likeliest first; of equals, the first.
fn order(a: &(u32, f64), b: &(u32, f64)) -> Ordering {
    b.1.total_cmp(&a.1).then(a.0.cmp(&b.0))
}

/// Brings the likeliest to the front, in order, and gives how many of them have `top_p`
/// of what all weigh together; one at least.
///
/// What all weigh is by definition the sum in their order, but only those in front are
/// brought into it: the sum in another order differs by its roundings at most. If these
/// could matter, all are sorted.
fn nucleus(candidates: &mut [(u32, f64)], top_p: f64) -> usize {
    let all = total(candidates);
    // Of each order's sum: half an epsilon for each addition.
    let count = u32::try_from(candidates.len()).map_or(f64::INFINITY, f64::from);
    let doubt = 2.0 * count * f64::EPSILON;
    let (least, most) = (top_p * all * (1.0 - doubt), top_p * all * (1.0 + doubt));
    let mut sums = [0.0_f64; 1 << 10];
    for (_, weight) in &*candidates {
        if let Some(sum) = sums.get_mut(rank(*weight)) {
            *sum += weight;
        }
    }
    let mut sum = 0.0_f64;
    let enough = sums.iter().take_while(|more| {
        let short = sum <= most;
        sum += **more;
        short
    });
    let enough = enough.count();
    let mut front = 0_usize;
    for place in 0..candidates.len() {
        if candidates
            .get(place)
            .is_some_and(|(_, weight)| rank(*weight) < enough)
        {
            candidates.swap(front, place);
            front = front.saturating_add(1);
        }
    }
    let (front, _) = candidates.split_at_mut(front);
    front.sort_unstable_by(order);
    let mut sum = 0.0_f64;
    for (place, (_, weight)) in front.iter().enumerate() {
        if sum >= most {
            return place.max(1);
        }
        if sum >= least {
            break;
        }
        sum += weight;
    }
    sorted_nucleus(candidates, top_p)
}

/// Of weights from 1 down to 2^-40: sixteen ranks for each power of two.
fn rank(weight: f64) -> usize {
    let rank = 1.0_f64.to_bits().saturating_sub(weight.to_bits()) >> 48;
    usize::try_from(rank).unwrap_or(usize::MAX)
}

/// As [`nucleus`], all in order.
fn sorted_nucleus(candidates: &mut [(u32, f64)], top_p: f64) -> usize {
    candidates.sort_unstable_by(order);
    let kept = top_p * total(candidates);
    let mut sum = 0.0;
    let nucleus = candidates.iter().take_while(|(_, weight)| {
        let short = sum < kept;
        sum += weight;
        short
    });
    nucleus.count().max(1)
}

/// Most logits that are few.
pub(crate) const FEW: usize = 64;

fn total(candidates: &[(u32, f64)]) -> f64 {
    candidates.iter().map(|(_, weight)| weight).sum()
}

/// The first token with this logit.
fn first(logits: &[f32], most: f32) -> Option<u32> {
    let place = logits.iter().position(|logit| *logit == most);
    place.and_then(|place| u32::try_from(place).ok())
}

/// The largest logit; `None` if it is infinite or any is not a number.
struct Most<'a> {
    logits: &'a [f32],
}

impl Kernel for Most<'_> {
    type Output = Option<f32>;

    #[inline(always)]
    fn run<L: Level>(self, level: L) -> Option<f32> {
        let lowest = level.splat(f32::NEG_INFINITY);
        let (mut most, mut probe) = (lowest, level.splat(0.0));
        for_lanes(self.logits, f32::NEG_INFINITY, |lanes| {
            let lanes = level.load(lanes);
            most = level.max(most, lanes);
            // Not a number from the first one that is none; zero before it.
            let finite = level.max(level.splat(0.0), lanes);
            probe = level.add(probe, level.sub(finite, finite));
        });
        let (mut lanes, mut probes) = ([0.0; LANES], [0.0; LANES]);
        level.store(most, &mut lanes);
        level.store(probe, &mut probes);
        let most = lanes.into_iter().fold(f32::NEG_INFINITY, f32::max);
        (most.is_finite() && probes.iter().all(|probe| *probe == 0.0)).then_some(most)
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

/// ln 2^40.
const NEVER: f64 = 27.725_887_222_397_812;

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
    use proptest::prelude::*;

    const LOGITS: [f32; 4] = [1.0, 3.0, 2.0, 3.0];

    fn sampler(temperature: f64, top_p: f64, seed: u64) -> Sampler {
        with(
            Settings {
                temperature,
                top_p,
                ..Settings::default()
            },
            seed,
        )
    }

    fn with(settings: Settings, seed: u64) -> Sampler {
        Sampler::new(settings, seed, &[1])
    }

    /// What comes out in a thousand draws, each the first of its answer.
    fn seen(settings: &Settings) -> BTreeSet<u32> {
        let draw = |seed| with(settings.clone(), seed).next(Cpu::detect(), &mut LOGITS.clone());
        (0..1000).map(|seed| draw(seed).unwrap()).collect()
    }

    #[test]
    fn top_k_and_min_p_cut_the_tail() {
        let base = Settings::default;
        for (settings, expected) in [
            (Settings { top_k: 1, ..base() }, vec![1]),
            (Settings { top_k: 3, ..base() }, vec![1, 2, 3]),
            (Settings { top_k: 9, ..base() }, vec![0, 1, 2, 3]),
            (
                Settings {
                    min_p: 0.3,
                    ..base()
                },
                vec![1, 2, 3],
            ),
            (
                Settings {
                    min_p: 1.0,
                    ..base()
                },
                vec![1, 3],
            ),
        ] {
            assert_eq!(seen(&settings), expected.into_iter().collect());
        }
    }

    #[test]
    fn bias_and_penalties_change_the_choice() {
        let greedy = || Settings {
            temperature: 0.0,
            ..Settings::default()
        };
        let chosen = |settings| {
            let mut sampler = with(settings, 1);
            (0..4)
                .map(|_| sampler.next(Cpu::detect(), &mut LOGITS.clone()).unwrap())
                .collect::<Vec<_>>()
        };
        let biased = Settings {
            logit_bias: [(0, 5.0), (7, 100.0)].into(),
            ..greedy()
        };
        assert_eq!(chosen(biased), [0, 0, 0, 0]);
        // Token 1 is in the prompt.
        let repetition = Settings {
            repetition_penalty: 2.0,
            ..greedy()
        };
        assert_eq!(chosen(repetition), [3, 2, 1, 1]);
        let presence = Settings {
            presence_penalty: 1.5,
            ..greedy()
        };
        assert_eq!(chosen(presence), [1, 3, 2, 1]);
        let frequency = Settings {
            frequency_penalty: 0.75,
            ..greedy()
        };
        assert_eq!(chosen(frequency), [1, 3, 1, 3]);
    }

    #[test]
    fn the_few_that_are_enough_choose_what_all_would() {
        let base = Settings::default;
        let greedy = Settings {
            temperature: 0.0,
            ..base()
        };
        let two = Settings { top_k: 2, ..base() };
        let nucleus = Settings {
            top_p: 0.4,
            ..two.clone()
        };
        for (settings, count) in [(greedy.clone(), 1), (two, 2), (nucleus, 2)] {
            assert_eq!(with(settings.clone(), 1).enough(), Some(count));
            // The likeliest are tokens 1 and 3, in this order.
            let mut few = [f32::NEG_INFINITY; 4];
            [1, 3][..count]
                .iter()
                .for_each(|token| few[*token] = LOGITS[*token]);
            for seed in 0..200 {
                let next = |mut logits: [f32; 4]| {
                    with(settings.clone(), seed).next(Cpu::detect(), &mut logits)
                };
                assert_eq!(next(few), next(LOGITS));
            }
        }
        for settings in [
            base(),
            Settings {
                top_k: FEW + 1,
                ..base()
            },
            Settings {
                logit_bias: [(0, 5.0)].into(),
                ..greedy.clone()
            },
            Settings {
                repetition_penalty: 2.0,
                ..greedy.clone()
            },
            Settings {
                presence_penalty: 1.0,
                ..greedy.clone()
            },
            Settings {
                frequency_penalty: 1.0,
                ..greedy
            },
        ] {
            assert_eq!(with(settings, 1).enough(), None);
        }
    }

    #[test]
    fn without_temperature_the_first_of_the_likeliest_wins() {
        assert_eq!(
            sampler(0.0, 1.0, 1).next(Cpu::detect(), &mut LOGITS.clone()),
            Ok(1)
        );
    }

    #[test]
    fn the_same_seed_chooses_the_same_tokens() {
        let draw = |seed| {
            let mut sampler = sampler(1.0, 1.0, seed);
            (0..64)
                .map(|_| sampler.next(Cpu::detect(), &mut LOGITS.clone()).unwrap())
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn frequencies_follow_the_softmax() {
        let mut sampler = sampler(1.0, 1.0, 42);
        let mut counts = [0_u32; 4];
        for _ in 0..40_000 {
            counts[sampler.next(Cpu::detect(), &mut LOGITS.clone()).unwrap() as usize] += 1;
        }
        let total: f64 = LOGITS.iter().map(|l| f64::from(*l).exp()).sum();
        for (count, logit) in counts.iter().zip(LOGITS) {
            let expected = f64::from(logit).exp() / total;
            assert!((f64::from(*count) / 40_000.0 - expected).abs() < 0.01);
        }
    }

    #[test]
    fn top_p_cuts_the_tail() {
        let mut sampler = sampler(1.0, 0.75, 42);
        let seen: std::collections::BTreeSet<_> = (0..1000)
            .map(|_| sampler.next(Cpu::detect(), &mut LOGITS.clone()).unwrap())
            .collect();
        assert_eq!(seen, [1, 3].into());
    }

    proptest! {
        /// Few values make many equals, and sums that are exactly what is kept.
        #[test]
        fn the_nucleus_is_that_of_all_in_order(
            levels in prop::collection::vec(0_u8..40, 1..3000),
            step in prop::sample::select(vec![0.0, 1e-9, 0.1, 0.5]),
            top_p in prop_oneof![
                0.0..1.0,
                prop::sample::select(vec![0.0, 0.25, 0.5, 0.9, 0.95, 1.0 - f64::EPSILON]),
            ],
        ) {
            let weights = levels.iter().map(|level| libm::exp(-f64::from(*level) * step));
            let candidates: Vec<_> = (0..).zip(weights).collect();
            let (mut some, mut all) = (candidates.clone(), candidates);
            let found = nucleus(&mut some, top_p);
            let expected = sorted_nucleus(&mut all, top_p);
            prop_assert_eq!(&some[..found], &all[..expected]);
        }
    }

    #[test]
    fn top_p_of_zero_keeps_one() {
        let mut sampler = sampler(2.0, 0.0, 42);
        assert!((0..100).all(|_| sampler.next(Cpu::detect(), &mut LOGITS.clone()) == Ok(1)));
    }

    #[test]
    fn numbers_that_are_none_are_not_sampled() {
        let next = |logits: &[f32]| sampler(1.0, 1.0, 1).next(Cpu::detect(), &mut logits.to_vec());
        assert_eq!(next(&[1.0, f32::NAN]), Err(EngineError::Fault));
        assert_eq!(next(&[f32::NEG_INFINITY; 2]), Err(EngineError::Fault));
        assert_eq!(next(&[f32::INFINITY, 0.0]), Err(EngineError::Fault));
        assert_eq!(next(&[]), Err(EngineError::Fault));
    }

    #[test]
    fn the_generator_gives_the_published_numbers() {
        // First outputs for seed 1234567, from the reference implementation in C.
        let mut random = SplitMix64(1_234_567);
        assert_eq!(random.next(), 6_457_827_717_110_365_317);
        assert_eq!(random.next(), 3_203_168_211_198_807_973);
    }
}
