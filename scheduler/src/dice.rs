//! Many numbers from one: SplitMix64. Nothing here is a secret.

/// A run of numbers that the first one determines.
#[derive(Clone, Copy, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// The next one.
    pub const fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// One below an end; 0 where there is none.
    pub fn below(&mut self, end: usize) -> usize {
        let end = u128::try_from(end).unwrap_or(u128::MAX);
        let scaled = u128::from(self.roll()).saturating_mul(end) >> 64;
        scaled.try_into().unwrap_or_default()
    }

    /// Whether a chance of one in so many was hit.
    pub const fn is_one_in(&mut self, many: u64) -> bool {
        matches!(self.roll().checked_rem(many), Some(0))
    }
}

/// Finaliser of SplitMix64: a permutation without a pattern.
#[must_use]
pub const fn mix(seed: u64) -> u64 {
    let seed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let seed = (seed ^ (seed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    seed ^ (seed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_splitmix64() {
        let mut dice = Dice(0);
        assert_eq!(dice.roll(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(dice.roll(), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn every_number_below_an_end_comes_up_about_as_often() {
        let mut dice = Dice(7);
        let mut counts = [0; 6];
        for _ in 0..6000 {
            counts[dice.below(6)] += 1;
        }
        assert!(
            counts.iter().all(|count| (900..1100).contains(count)),
            "{counts:?}"
        );
        assert_eq!(dice.below(0), 0);
    }
}
