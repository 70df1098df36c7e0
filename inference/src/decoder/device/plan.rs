//! What a step is of, as it goes to the device at once.
//!
//! ```text
//! tokens      [rows]            u32
//! positions   [rows]            of rows that fill the batch up 2^32 - 1
//! tables      [rows]            where in `pages` those of the row begin
//! sources     [wanted]          rows whose logits are wanted, those first of which all are
//! angles      [kinds][2][rows][width / 2]   cosines, then sines, f32
//! pages       the rest          those of each sequence, in order
//! ```
//!
//! A step in which each sequence reads one token is filled up to the next power of two,
//! in rows, in parts of attention and in likeliest tokens: such steps are few, and a
//! device keeps each.

use gpu::kernels::Sequences;
use gpu::{Buffer, Error};

use super::Most;
use super::room::{PARTS, Room, SPLIT};
use crate::decoder::rope::Angles;
use crate::decoder::step::Span;

/// Sizes, and what is wanted.
#[derive(Debug)]
pub(super) struct Plan {
    /// Rows, those that fill up included.
    pub(super) rows: usize,
    /// Rows whose logits are computed; likewise.
    pub(super) wanted: usize,
    /// How many of the likeliest tokens of each are looked for.
    pub(super) best: usize,
    /// Parts of attention, if they are done apart.
    pub(super) parts: Option<usize>,
    pub(super) exact: bool,
    /// Whether each sequence reads one token, and wants its logits.
    decodes: bool,
    /// Rows and places among what is wanted, in the order of the device.
    order: Vec<Wanted>,
    kinds: usize,
    /// Half the numbers of a head.
    half: usize,
}

#[derive(Clone, Copy, Debug)]
struct Wanted {
    row: usize,
    /// Which of those that want logits.
    place: usize,
    best: Option<usize>,
}

/// Where on the device it is.
#[derive(Debug)]
pub(super) struct Step {
    pub(super) tokens: Buffer,
    pub(super) sources: Buffer,
    pub(super) sequences: Sequences,
    all_angles: Buffer,
    /// Bytes of the cosines of a kind.
    angle_bytes: usize,
}

impl Step {
    /// Cosines and sines of a kind of layers.
    pub(super) fn angles(&self, kind: usize) -> Result<(Buffer, Buffer), Error> {
        let bytes = self.angle_bytes;
        let start = kind.saturating_mul(2).saturating_mul(bytes);
        let cosines = self.all_angles.part(start, bytes)?;
        let sines = self.all_angles.part(start.saturating_add(bytes), bytes)?;
        Ok((cosines, sines))
    }
}

impl Plan {
    pub(super) fn new(batch: &[Span<'_>], most: Most, angles: &[Angles]) -> Self {
        let mut row = 0_usize;
        let mut order = Vec::new();
        let mut last = 0;
        for span in batch {
            row = row.saturating_add(span.tokens.len());
            last = last.max(span.position.saturating_add(span.tokens.len()));
            if span.wanted {
                order.push(Wanted {
                    row: row.saturating_sub(1),
                    place: order.len(),
                    best: span.best,
                });
            }
        }
        order.sort_by_key(|wanted| wanted.best.is_some());
        let decodes = row == order.len() && row <= DECODES;
        let filled = |count: usize, most: usize| match decodes {
            true => count.next_power_of_two().min(most).max(count),
            false => count,
        };
        let rows = filled(row, most.rows.min(most.spans));
        let parts = filled(last.div_ceil(SPLIT), usize::MAX);
        let half = angles.first().map_or(0, |angles| angles.cos.len());
        Self {
            rows,
            wanted: if decodes { rows } else { order.len() },
            best: order
                .iter()
                .filter_map(|wanted| wanted.best?.checked_next_power_of_two())
                .max()
                .unwrap_or(0),
            parts: Some(parts)
                .filter(|parts| row <= DECODES && rows.saturating_mul(*parts) <= PARTS),
            exact: most.exact,
            decodes,
            order,
            kinds: angles.len(),
            half: half.checked_div(row).unwrap_or(0),
        }
    }

    /// Words for so many rows and spans, without pages, with two kinds of angles.
    pub(super) fn words(rows: usize, spans: usize, width: usize) -> usize {
        let row = width.saturating_mul(2).saturating_add(3);
        rows.saturating_mul(row).saturating_add(spans)
    }

    /// What steps have in common that launch the same, if they are worth being kept.
    pub(super) fn key(&self) -> Option<u64> {
        let sizes = [self.rows, self.best, self.parts.unwrap_or(0)];
        let mut key = 0_u64;
        for size in sizes {
            key = key.checked_shl(16)? | u64::from(u16::try_from(size).ok()?);
        }
        Some(key).filter(|_| self.decodes)
    }

    pub(super) fn pack(&self, batch: &[Span<'_>], angles: &[Angles]) -> Vec<u8> {
        let mut words = Vec::new();
        let fill = |words: &mut Vec<u32>, count: usize, with: u32| {
            words.resize(words.len().saturating_add(count), with);
        };
        let tokens = batch.iter().flat_map(|span| span.tokens);
        words.extend(tokens);
        let missing = self.rows.saturating_sub(words.len());
        fill(&mut words, missing, 0);
        for span in batch {
            let positions = (span.position..).take(span.tokens.len());
            words.extend(positions.map(word));
        }
        fill(&mut words, missing, u32::MAX);
        let mut table = 0_usize;
        for span in batch {
            fill(&mut words, span.tokens.len(), word(table));
            table = table.saturating_add(span.pages.len());
        }
        fill(&mut words, missing, 0);
        words.extend(self.order.iter().map(|wanted| word(wanted.row)));
        fill(&mut words, self.wanted.saturating_sub(self.order.len()), 0);
        for numbers in angles.iter().flat_map(|angles| [&angles.cos, &angles.sin]) {
            words.extend(numbers.iter().map(|number| number.to_bits()));
            fill(&mut words, missing.saturating_mul(self.half), 0);
        }
        let pages = batch.iter().flat_map(|span| span.pages);
        words.extend(pages.map(|page| word(*page)));
        words.into_iter().flat_map(u32::to_le_bytes).collect()
    }

    /// Where [`Self::pack`] has put what.
    pub(super) fn place(&self, step: Buffer) -> Result<Step, Error> {
        let mut at = 0_usize;
        let mut next = |words: usize| {
            let bytes = words.saturating_mul(4);
            let part = step.part(at, bytes);
            at = at.saturating_add(bytes);
            part
        };
        let [tokens, positions, tables] = [next(self.rows)?, next(self.rows)?, next(self.rows)?];
        let sources = next(self.wanted)?;
        let angles = self.rows.saturating_mul(self.half);
        let all_angles = next(angles.saturating_mul(2).saturating_mul(self.kinds))?;
        Ok(Step {
            tokens,
            sources,
            sequences: Sequences {
                rows: self.rows,
                positions,
                tables,
                pages: step.part(at, step.bytes().saturating_sub(at))?,
            },
            all_angles,
            angle_bytes: angles.saturating_mul(4),
        })
    }

    /// Rows of which all logits come back.
    pub(super) fn whole(&self) -> usize {
        self.order
            .iter()
            .filter(|wanted| wanted.best.is_none())
            .count()
    }

    /// Bytes of the logits of the likeliest.
    pub(super) fn best_bytes(&self) -> usize {
        self.wanted.saturating_mul(self.best).saturating_mul(4)
    }

    /// The logits of those that want them, in their order.
    pub(super) fn unpack(&self, result: &[u8], room: &Room, logits: &mut Vec<f32>) {
        let width = room.vocabulary;
        let number = |word: &[u8; 4]| u32::from_le_bytes(*word);
        logits.clear();
        logits.resize(self.order.len().saturating_mul(width), f32::NEG_INFINITY);
        let (best, tokens) = result.split_at(self.best_bytes().min(result.len()));
        let (best, _) = best.as_chunks();
        let (tokens, _) = tokens.as_chunks();
        let (whole, _) = room.logits_of(result).as_chunks();
        for (index, wanted) in self.order.iter().enumerate() {
            let row = logits.chunks_exact_mut(width.max(1)).nth(wanted.place);
            let row = row.unwrap_or_default();
            if wanted.best.is_none() {
                let found = whole
                    .chunks_exact(width.max(1))
                    .nth(index)
                    .unwrap_or_default();
                for (to, word) in row.iter_mut().zip(found) {
                    *to = f32::from_bits(number(word));
                }
                continue;
            }
            let own = index.saturating_mul(self.best)..;
            let own = |words| <[[u8; 4]]>::get(words, own.clone()).unwrap_or_default();
            let likeliest = own(tokens).iter().zip(own(best));
            for (token, logit) in likeliest.take(wanted.best.unwrap_or(0)) {
                let place = usize::try_from(number(token)).ok();
                if let Some(to) = place.and_then(|place| row.get_mut(place)) {
                    *to = f32::from_bits(number(logit));
                }
            }
        }
    }
}

/// Rows that decode at most, for steps that are filled up.
const DECODES: usize = 64;

/// It is below 2^32, by the sizes of the model.
fn word(number: usize) -> u32 {
    u32::try_from(number).unwrap_or(u32::MAX)
}
