//! When a request goes to another worker. Before its first token it may: afterwards the
//! client has seen a part of an answer, and another worker's would not continue it.
//!
//! Who seals the requests decides, as only the client can seal one to another worker. Both
//! rules are those that won in `docs/choice.md`: three attempts, each with another worker;
//! and a second one beside the first when nineteen of twenty have their first token. A
//! share of all requests pays for either, so that what is overloaded is not asked more.

use std::time::Duration;

use crate::dice::Dice;

/// What a client knows of its requests to one model.
#[derive(Clone, Copy, Debug)]
pub struct Patience {
    /// Of times until the first token, in microseconds.
    quantile: u64,
    /// Hundredths of attempts that may be made beyond the first.
    saved: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            quantile: 1_000_000,
            saved: MOST_SAVED,
        }
    }
}

impl Patience {
    /// A request is sent for the first time: when to ask another worker beside the first,
    /// if nothing came until then and [`again`](Self::again) allows it.
    pub fn begin(&mut self) -> Duration {
        self.saved = self.saved.saturating_add(SAVED).min(MOST_SAVED);
        Duration::from_micros(self.quantile)
    }

    /// The first token came, so long after the request.
    pub fn first(&mut self, waited: Duration) {
        let waited = u64::try_from(waited.as_micros()).unwrap_or(u64::MAX);
        let step = self.quantile / 400;
        self.quantile = match waited > self.quantile {
            true => self.quantile.saturating_add(step.saturating_mul(19)),
            false => self.quantile.saturating_sub(step),
        };
        self.quantile = self.quantile.clamp(SOONEST, LATEST);
    }

    /// Whether another worker is asked, after so many were.
    pub fn again(&mut self, attempts: u32) -> bool {
        let Some(left) = self.saved.checked_sub(100) else {
            return false;
        };
        let may = attempts < ATTEMPTS;
        if may {
            self.saved = left;
        }
        may
    }
}

/// How long to wait where all were full and nobody said for how long: longer each time, and
/// not for as long as others.
#[must_use]
pub fn pause(attempts: u32, random: u64) -> Duration {
    let most = 100_000_usize.saturating_mul(1_usize.checked_shl(attempts.min(6)).unwrap_or(1));
    let micros = Dice(random).below(most).saturating_add(most / 2);
    Duration::from_micros(micros.try_into().unwrap_or_default())
}

/// Workers for one request.
const ATTEMPTS: u32 = 3;

/// What a request adds: one of five may be sent again.
const SAVED: u32 = 20;

/// And ten at once.
const MOST_SAVED: u32 = 1000;

/// Microseconds: no worker answers sooner.
const SOONEST: u64 = 20_000;

/// Microseconds.
const LATEST: u64 = 30_000_000;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_is_asked_when_nineteen_of_twenty_have_begun() {
        let mut patience = Patience::default();
        let mut dice = Dice(3);
        for _ in 0..20_000 {
            let waited = dice.below(1000).try_into().unwrap_or_default();
            patience.first(Duration::from_millis(waited));
        }
        let after = patience.begin().as_millis();
        assert!((900..1000).contains(&after), "{after} of 1000 ms");
    }

    #[test]
    fn where_everything_fails_only_one_of_five_is_sent_again() {
        let mut patience = Patience::default();
        let mut extra = 0;
        for _ in 0..1000 {
            patience.begin();
            extra += u32::from(patience.again(1));
        }
        assert_eq!(extra, 209, "ten were saved up");
    }

    #[test]
    fn a_request_goes_to_three_workers_at_most() {
        let mut patience = Patience::default();
        assert_eq!(
            [1, 2, 3, 4].map(|attempts| patience.again(attempts)),
            [true, true, false, false]
        );
    }

    #[test]
    fn pauses_grow_and_differ() {
        let millis = |attempts, random| pause(attempts, random).as_millis();
        assert!((50..150).contains(&millis(0, 1)) && (3200..9600).contains(&millis(9, 1)));
        assert_ne!(millis(0, 1), millis(0, 2));
    }
}
