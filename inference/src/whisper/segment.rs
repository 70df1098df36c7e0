//! What a window has said, cut where its times say.
//!
//! Times are frames of 10 ms. A pair of times ends a segment; what follows the last
//! pair, in the middle of the sound, is left to the next window, which begins there.
//!
//! Source: `_retrieve_segment` in Hugging Face transformers.

use std::ops::Range;

/// A part of the tokens, and when it was said, from the beginning of the window.
#[derive(Debug, Eq, PartialEq)]
pub(super) struct Piece {
    pub(super) tokens: Range<usize>,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// The pieces of a window of `frames`, and how many frames further the next one
/// begins. `first` is the token of time zero.
pub(super) fn cut(tokens: &[u32], first: u32, frames: usize) -> (Vec<Piece>, usize) {
    let time = |at: usize| {
        let steps = tokens.get(at).and_then(|token| token.checked_sub(first));
        steps
            .and_then(|steps| usize::try_from(steps).ok())
            .map(|steps| steps.saturating_mul(2))
    };
    let pairs = (1..tokens.len()).filter(|at| time(at.saturating_sub(1)).and(time(*at)).is_some());
    let mut ends: Vec<_> = pairs.collect();
    let last = tokens.len().saturating_sub(1);
    let Some(last_pair) = ends.last_mut() else {
        let said = (0..tokens.len())
            .rev()
            .find_map(time)
            .filter(|time| *time > 0);
        let whole = Piece {
            tokens: 0..tokens.len(),
            start: 0,
            end: said.unwrap_or(frames),
        };
        return (vec![whole], frames);
    };
    // A single time at the end: nothing is said after it.
    let finished = time(last).is_some() && time(last.saturating_sub(1)).is_none();
    let resume = match finished {
        true => {
            ends.push(tokens.len());
            frames
        }
        false => {
            let time = time(last_pair.saturating_sub(1)).filter(|time| *time > 0);
            // The second of the pair shows that there was one.
            *last_pair = last_pair.saturating_add(1);
            time.unwrap_or(frames)
        }
    };
    let mut from = 0;
    let count = ends.len();
    let pieces = (1..).zip(ends).map(|(index, to)| {
        let tokens = std::mem::replace(&mut from, to)..to;
        let back = if index < count || finished { 1 } else { 2 };
        Piece {
            start: time(tokens.start).unwrap_or(0),
            end: time(to.saturating_sub(back)).unwrap_or(frames),
            tokens,
        }
    });
    (pieces.collect(), resume)
}
