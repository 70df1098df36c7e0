//! Which tokens may come next.
//!
//! With times: they come in pairs, but for the first and the last; they never go
//! back; the first token is one, and not too late; and where a time is likelier
//! than any text, it is a time.
//!
//! Source: `WhisperTimeStampLogitsProcessor` of Hugging Face transformers.

use super::vocabulary::Vocabulary;

/// Makes what may not follow `said` impossible.
pub(super) fn apply(vocabulary: &Vocabulary, times: bool, said: &[u32], logits: &mut [f32]) {
    forbid_each(&vocabulary.never, logits);
    if said.is_empty() {
        forbid_each(&vocabulary.never_first, logits);
    }
    forbid(vocabulary.no_times, vocabulary.no_times, logits);
    let first = vocabulary.times();
    if !times {
        return forbid(first, u32::MAX, logits);
    }
    let is_time = |token: Option<&u32>| token.is_some_and(|token| *token >= first);
    let mut backwards = said.iter().rev();
    let after_time = is_time(backwards.next());
    let after_pair = after_time && backwards.next().is_none_or(|token| *token >= first);
    if after_pair {
        forbid(first, u32::MAX, logits);
    } else if after_time {
        forbid(0, vocabulary.end.saturating_sub(1), logits);
    }
    if let Some(last) = said.iter().rev().find(|token| is_time(Some(*token))) {
        // A pair may be of the same time; a span has a length.
        let ends_span = after_time && !after_pair;
        if let Some(before) = last.checked_sub(u32::from(ends_span)) {
            forbid(first, before, logits);
        }
    }
    if said.is_empty() {
        forbid(0, vocabulary.no_times, logits);
        if let Some(steps) = vocabulary.latest_start {
            let late = first.saturating_add(steps).saturating_add(1);
            forbid(late, u32::MAX, logits);
        }
    }
    if times_are_likelier(first, logits) {
        forbid(0, vocabulary.no_times, logits);
    }
}

/// Whether all times together are likelier than any one other token.
fn times_are_likelier(first: u32, logits: &[f32]) -> bool {
    let first = usize::try_from(first).unwrap_or(usize::MAX);
    let Some((text, times)) = logits.split_at_checked(first) else {
        return false;
    };
    let most = |logits: &[f32]| logits.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let (text, most) = (f64::from(most(text)), f64::from(most(times)));
    let sum: f64 = times.iter().map(|x| libm::exp(f64::from(*x) - most)).sum();
    most.is_finite() && most + libm::log(sum) > text
}

fn forbid_each(tokens: &[u32], logits: &mut [f32]) {
    for token in tokens {
        forbid(*token, *token, logits);
    }
}

/// Both ends are meant.
fn forbid(first: u32, last: u32, logits: &mut [f32]) {
    let place = |token| usize::try_from(token).unwrap_or(usize::MAX);
    let end = place(last).saturating_add(1).min(logits.len());
    if let Some(logits) = logits.get_mut(place(first)..end) {
        logits.fill(f32::NEG_INFINITY);
    }
}
