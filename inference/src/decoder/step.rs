//! One pass over the layers, for the rows of all sequences.

use super::attention::Attending;
use super::part::{prepare, prepare_row};
use super::rope::Angles;
use super::{Attend, Decoder, Feed, experts, latent};
use crate::kernel::input::Row;
use crate::kernel::pool::Pool;
use crate::memory::Memory;
use crate::vision::Sight;

/// Tokens of one sequence that the model has not seen.
#[derive(Debug)]
pub(crate) struct Span<'a> {
    /// At least one.
    pub(crate) tokens: &'a [u32],
    /// Position of the first of them.
    pub(crate) position: usize,
    /// Pages of the sequence, enough for all of them.
    pub(crate) pages: &'a [usize],
    /// Images in the sequence; those among the tokens have been seen.
    pub(crate) sights: &'a [Sight],
    /// Whether the logits after the last of them are wanted.
    pub(crate) wanted: bool,
    /// How many of them are enough, the largest, if not all. A GPU then gives minus
    /// infinity for the others; the processor gives all.
    #[cfg_attr(
        not(any(test, feature = "cuda")),
        expect(dead_code, reason = "see there")
    )]
    pub(crate) best: Option<usize>,
}

/// Room for what is computed on the way, kept from step to step.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    /// What layers add to, a row for each token.
    pub(super) x: Vec<f32>,
    pub(super) rows: Vec<Row>,
    pub(super) wide: Vec<f32>,
    /// By the kinds of layers.
    pub(super) angles: Vec<Angles>,
    pub(super) attending: Attending,
    pub(super) latent: latent::Room,
    pub(super) experts: experts::Room,
    pub(super) logits: Vec<f32>,
}

impl Decoder {
    /// Reads the spans; gives the logits of those that want them, one after another.
    pub(crate) fn forward<'a>(
        &mut self,
        pool: &mut Pool,
        memory: &mut Memory,
        batch: &[Span<'_>],
        work: &'a mut Workspace,
    ) -> candle_core::Result<&'a mut [f32]> {
        #[cfg(any(test, feature = "cuda"))]
        if let Some(device) = &mut self.device {
            let done = device.forward(memory, batch, &mut work.angles, &mut work.logits);
            done.map_err(candle_core::Error::wrap)?;
            return Ok(&mut work.logits);
        }
        self.begin(pool, batch, work);
        let shape = &self.shape;
        for (layer, cache) in self.layers.iter().zip(memory.layers()) {
            match &layer.attend {
                Attend::Heads(attention) => attention.forward(pool, shape, cache, batch, work)?,
                Attend::Latent(latent) => latent.forward(pool, shape, cache, batch, work)?,
            }
            let forms = match &layer.feed {
                Feed::All(network) => network.forms(),
                Feed::Experts(experts) => experts.forms(),
            };
            let Workspace { rows, x, .. } = &mut *work;
            prepare(pool, rows, x, &layer.feed_norm, shape.epsilon, forms);
            match &layer.feed {
                Feed::All(network) => network.add(pool, shape, work, |_| 1.0)?,
                Feed::Experts(experts) => experts.add(pool, shape, work)?,
            }
        }
        let ends = batch.iter().scan(0_usize, |end, span| {
            *end = end.saturating_add(span.tokens.len());
            Some((*end, span.wanted))
        });
        let wanted = ends.filter(|(_, wanted)| *wanted);
        let mut count = 0_usize;
        for ((end, _), row) in wanted.zip(&mut work.rows) {
            let from = part_of(&work.x, end.saturating_sub(1), shape.hidden);
            let forms = self.head.forms();
            prepare_row(pool.cpu(), row, from, &self.norm, shape.epsilon, forms);
            count = count.saturating_add(1);
        }
        let rows = work.rows.get(..count).unwrap_or_default();
        self.head.set(pool, rows, &mut work.logits)?;
        Ok(&mut work.logits)
    }

    /// Embeds the tokens and divides the work of attention.
    fn begin(&self, pool: &Pool, batch: &[Span<'_>], work: &mut Workspace) {
        let tokens = || batch.iter().flat_map(|span| span.tokens.iter().copied());
        let count = tokens().count();
        let hidden = self.shape.hidden;
        work.x.resize(count.saturating_mul(hidden), 0.0);
        for (token, x) in tokens().zip(work.x.chunks_exact_mut(hidden)) {
            let token = usize::try_from(token).unwrap_or(usize::MAX);
            self.embedding.row(token, x);
            x.iter_mut().for_each(|x| *x *= self.embedding_scale);
        }
        let mut x = work.x.as_mut_slice();
        for span in batch {
            let own = span.tokens.len().saturating_mul(hidden).min(x.len());
            let (own, rest) = x.split_at_mut(own);
            for sight in span.sights {
                sight.place(span.position, hidden, own);
            }
            x = rest;
        }
        work.rows.resize_with(count, Row::default);
        work.angles
            .resize_with(self.frequencies.len(), Angles::default);
        for (angles, frequencies) in work.angles.iter_mut().zip(&self.frequencies) {
            let positions = batch
                .iter()
                .flat_map(|span| (span.position..).take(span.tokens.len()));
            angles.fill(frequencies, positions);
        }
        work.attending.divide(pool, self.shape.heads, batch);
    }
}

/// Numbers of a row; they are there, by the shapes of the weights.
pub(super) fn part_of(numbers: &[f32], index: usize, width: usize) -> &[f32] {
    let start = index.saturating_mul(width);
    numbers
        .get(start..start.saturating_add(width))
        .unwrap_or_default()
}
