//! Numbers that count for less the older they are, in integers and in steps: after sixteen
//! of them half is left, however often it was looked in between.

use std::time::Duration;

/// Since when something has not been made less.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Age {
    since: Duration,
}

impl Age {
    /// From a moment on.
    #[must_use]
    pub const fn new(since: Duration) -> Self {
        Self { since }
    }

    /// That moment.
    #[must_use]
    pub const fn since(&self) -> Duration {
        self.since
    }

    /// Whole steps that have passed.
    #[must_use]
    pub fn steps(&self, now: Duration, half_life: Duration) -> u32 {
        let age = now.saturating_sub(self.since).as_micros();
        let step = (half_life.as_micros() / STEPS).max(1);
        let steps = age.checked_div(step).unwrap_or_default();
        steps.try_into().unwrap_or(u32::MAX)
    }

    /// The same, and they count no more; what is left of the last one does.
    pub fn pass(&mut self, now: Duration, half_life: Duration) -> u32 {
        let steps = self.steps(now, half_life);
        let step = half_life.checked_div(16).unwrap_or_default();
        self.since = self.since.saturating_add(step.saturating_mul(steps));
        steps
    }
}

/// What is left of a value after so many steps.
#[must_use]
pub fn halved(value: u64, steps: u32) -> u64 {
    let whole = value.checked_shr(steps >> 4).unwrap_or_default();
    let part = usize::try_from(steps & 15).unwrap_or_default();
    let left = LEFT.get(part).copied().unwrap_or_default();
    u64::try_from(u128::from(whole).saturating_mul(left) >> 16).unwrap_or(whole)
}

const STEPS: u128 = 16;

/// 2^(-n/16), of 65536.
const LEFT: [u128; 16] = [
    65536, 62757, 60097, 57549, 55109, 52773, 50535, 48393, 46341, 44376, 42495, 40693, 38968,
    37316, 35734, 34219,
];

/// What one place was seen to take, as moving averages that go back to what is typical
/// elsewhere while nothing is seen.
#[derive(Clone, Copy, Debug, Default)]
pub struct Speed {
    first: u64,
    token: u64,
    at: Option<Duration>,
}

impl Speed {
    /// One more measurement.
    pub fn add(&mut self, first: Duration, token: Duration, now: Duration) {
        let new = !self.is_known();
        let moved = |before: u64, seen: Duration| {
            let seen = u64::try_from(seen.as_micros()).unwrap_or(u64::MAX);
            match (new, seen >= before) {
                (true, _) => seen,
                (_, true) => before.saturating_add(seen.saturating_sub(before) / GAIN),
                (_, false) => before.saturating_sub(before.saturating_sub(seen) / GAIN),
            }
        };
        self.first = moved(self.first, first);
        self.token = moved(self.token, token);
        self.at = Some(now);
    }

    /// Whether there was a measurement.
    #[must_use]
    pub const fn is_known(&self) -> bool {
        self.at.is_some()
    }

    /// What so many tokens take from now on, in microseconds.
    #[must_use]
    pub fn answer(&self, tokens: u64, typical: &Self, now: Duration) -> u64 {
        let whole = |speed: &Self| {
            speed
                .first
                .saturating_add(speed.token.saturating_mul(tokens))
        };
        let typical = match typical.is_known() {
            true => whole(typical),
            false => whole(&UNKNOWN),
        };
        let Some(at) = self.at else {
            return typical;
        };
        let (seen, age) = (whole(self), Age::new(at).steps(now, FORGET));
        match seen.checked_sub(typical) {
            Some(slower) => typical.saturating_add(halved(slower, age)),
            None => {
                let faster = typical.saturating_sub(seen);
                typical.saturating_sub(halved(faster, age))
            }
        }
    }
}

/// How much a measurement moves an average: one part of so many.
const GAIN: u64 = 8;

/// When half of a measurement is forgotten.
const FORGET: Duration = Duration::from_secs(60);

/// Before anything was measured anywhere.
const UNKNOWN: Speed = Speed {
    first: 500_000,
    token: 20_000,
    at: None,
};

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn half_is_left_after_a_half_life_however_often_it_was_looked() {
        let left = |age| halved(1000, Age::default().steps(seconds(age), seconds(16)));
        assert_eq!([0, 8, 16, 32, 9999].map(left), [1000, 707, 500, 250, 0]);
        let (mut age, mut value) = (Age::default(), 1_000_000);
        for millis in 0..=16_000 {
            let steps = age.pass(Duration::from_millis(millis), seconds(16));
            value = halved(value, steps);
        }
        assert!((499_900..=500_000).contains(&value), "{value}");
    }

    #[test]
    fn a_place_that_was_slow_is_typical_again_after_a_while() {
        let (mut typical, mut slow) = (Speed::default(), Speed::default());
        typical.add(seconds(1), Duration::ZERO, seconds(0));
        slow.add(seconds(9), Duration::ZERO, seconds(0));
        let answer = |at| slow.answer(1, &typical, seconds(at));
        assert_eq!([0, 60, 120].map(answer), [9_000_000, 5_000_000, 3_000_000]);
        assert_eq!(answer(1_000_000), 1_000_000);
        assert_eq!(Speed::default().answer(1, &typical, seconds(3)), 1_000_000);
    }

    proptest! {
        #[test]
        fn an_average_stays_between_what_was_seen_and_what_is_typical(
            seen: Vec<(u64, u64)>,
            typical: (u64, u64),
            age: Duration,
            tokens: u64,
        ) {
            let (mut speed, mut usual) = (Speed::default(), Speed::default());
            let micros = Duration::from_micros;
            usual.add(micros(typical.0), micros(typical.1), Duration::ZERO);
            let (mut low, mut high) = (typical, typical);
            for (first, token) in &seen {
                speed.add(micros(*first), micros(*token), Duration::ZERO);
                low = (low.0.min(*first), low.1.min(*token));
                high = (high.0.max(*first), high.1.max(*token));
            }
            let whole = |(first, token): (u64, u64)| first.saturating_add(token.saturating_mul(tokens));
            let answer = speed.answer(tokens, &usual, age);
            prop_assert!((whole(low)..=whole(high)).contains(&answer), "{answer}");
        }

        #[test]
        fn what_is_older_is_never_more(value: u64, age: u32, more: u32) {
            prop_assert!(halved(value, age.saturating_add(more)) <= halved(value, age));
        }
    }
}
