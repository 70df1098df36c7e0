//! Counts for Prometheus. No label but those below: nothing of a request gets in.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// What has passed; its clones count together.
#[derive(Clone, Debug, Default)]
pub(super) struct Metrics(Arc<Mutex<Counts>>);

impl Metrics {
    /// A request was answered, its first byte after so long.
    pub(super) fn answered(&self, key: &str, status: u16, first_byte: Duration) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        add(counts.requests.entry((key.into(), status)).or_default(), 1);
        let micros = u64::try_from(first_byte.as_micros()).unwrap_or(u64::MAX);
        add(&mut counts.waited, micros);
        for (bound, count) in BOUNDS.iter().zip(&mut counts.within) {
            add(count, u64::from(micros <= *bound));
        }
    }

    /// An answer took so many tokens.
    pub(super) fn took(&self, key: &str, tokens: u64) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        add(counts.tokens.entry(key.into()).or_default(), tokens);
    }

    /// As Prometheus reads them.
    pub(super) fn show(&self) -> String {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::new();
        // A String takes whatever is written to it.
        counts.write(&mut text).unwrap_or_default();
        text
    }
}

#[derive(Debug, Default)]
struct Counts {
    requests: BTreeMap<(String, u16), u64>,
    tokens: BTreeMap<String, u64>,
    within: [u64; BOUNDS.len()],
    waited: u64,
}

impl Counts {
    fn write(&self, text: &mut String) -> std::fmt::Result {
        writeln!(text, "# TYPE cocoon_gateway_requests_total counter")?;
        for ((key, status), count) in &self.requests {
            writeln!(
                text,
                "cocoon_gateway_requests_total{{key={key:?},status=\"{status}\"}} {count}"
            )?;
        }
        writeln!(text, "# TYPE cocoon_gateway_tokens_total counter")?;
        for (key, count) in &self.tokens {
            writeln!(text, "cocoon_gateway_tokens_total{{key={key:?}}} {count}")?;
        }
        let name = "cocoon_gateway_first_byte_seconds";
        writeln!(text, "# TYPE {name} histogram")?;
        for (bound, count) in BOUNDS.iter().zip(&self.within) {
            writeln!(text, "{name}_bucket{{le=\"{}\"}} {count}", seconds(*bound))?;
        }
        let all: u64 = self.requests.values().sum();
        writeln!(text, "{name}_bucket{{le=\"+Inf\"}} {all}")?;
        writeln!(text, "{name}_sum {}", seconds(self.waited))?;
        writeln!(text, "{name}_count {all}")
    }
}

fn add(count: &mut u64, more: u64) {
    *count = count.saturating_add(more);
}

fn seconds(micros: u64) -> f64 {
    Duration::from_micros(micros).as_secs_f64()
}

/// Microseconds.
const BOUNDS: [u64; 8] = [
    10_000, 50_000, 100_000, 500_000, 1_000_000, 5_000_000, 10_000_000, 60_000_000,
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_written_as_prometheus_reads_them() {
        let metrics = Metrics::default();
        metrics.answered("bot", 200, Duration::from_millis(20));
        metrics.answered("bot", 429, Duration::from_millis(5));
        metrics.took("bot", 7);
        let shown = metrics.show();
        for line in [
            "cocoon_gateway_requests_total{key=\"bot\",status=\"200\"} 1",
            "cocoon_gateway_tokens_total{key=\"bot\"} 7",
            "cocoon_gateway_first_byte_seconds_bucket{le=\"0.01\"} 1",
            "cocoon_gateway_first_byte_seconds_bucket{le=\"0.05\"} 2",
            "cocoon_gateway_first_byte_seconds_bucket{le=\"+Inf\"} 2",
            "cocoon_gateway_first_byte_seconds_sum 0.025",
        ] {
            assert!(shown.lines().any(|shown| shown == line), "{line}\n{shown}");
        }
    }
}
