//! Memory of a device for what one step needs, kept from step to step.
//!
//! ```text
//! result   logits of the likeliest tokens, the tokens, and from a fixed place on all
//!          logits of rows, those first of which all are wanted
//! ```

use gpu::kernels::Heads;
use gpu::{Buffer, Device, Error, Room as Forms};

use super::Most;
use super::model::Model;
use super::plan::Plan;
use crate::decoder::Shape;
use crate::decoder::step::Span;
use crate::kernel::attention::PAGE;
use crate::sampler::FEW;

/// The room.
#[derive(Debug)]
pub(super) struct Room {
    /// What a step is of, as [`Plan::pack`] makes it.
    pub(super) step: Buffer,
    /// What layers add to, a row for each token.
    pub(super) x: Buffer,
    /// Rows that are multiplied, and the products of all but the narrowest matrices.
    pub(super) narrow: Buffer,
    pub(super) wide: Buffer,
    /// Parts of attention.
    pub(super) parts: Buffer,
    pub(super) sums: Buffer,
    pub(super) forms: Forms,
    pub(super) result: Buffer,
    pub(super) vocabulary: usize,
    most: Most,
    /// Whether something could not be wiped.
    stained: bool,
}

impl Room {
    pub(super) fn new(
        device: &mut dyn Device,
        shape: &Shape,
        model: &Model,
        most: Most,
        pages: usize,
    ) -> Result<Self, Error> {
        let Most { rows, spans, exact } = most;
        let heads = shape.heads;
        let queries = heads.query.saturating_mul(heads.width);
        let kv = heads.kv.saturating_mul(heads.width);
        let narrow = shape.hidden.max(shape.inner).max(queries);
        let both = shape.inner.saturating_mul(2);
        let wide = queries
            .saturating_add(kv.saturating_mul(2))
            .max(both)
            .max(shape.hidden);
        let context = shape.context.div_ceil(PAGE).min(pages).saturating_add(1);
        let step =
            Plan::words(rows, spans, heads.width).saturating_add(spans.saturating_mul(context));
        let parts = heads.query.saturating_mul(PARTS);
        let result = shape.vocabulary.saturating_add(FEW.saturating_mul(2));
        let mut floats = |count: usize, each: usize| {
            device.allocate(count.saturating_mul(each).saturating_mul(4))
        };
        Ok(Self {
            step: floats(step, 1)?,
            x: floats(rows, shape.hidden)?,
            narrow: floats(rows, narrow)?,
            wide: floats(rows, wide)?,
            parts: floats(parts, heads.width)?,
            sums: floats(parts, 2)?,
            result: floats(spans, result)?,
            forms: Forms::new(device, rows, narrow, if exact { 0 } else { model.halves() })?,
            vocabulary: shape.vocabulary,
            most,
            stained: false,
        })
    }

    /// Whether something could not be wiped, so that no step is taken any more.
    pub(super) fn is_stained(&self) -> bool {
        self.stained
    }

    /// Refuses a step that it has no room for, or of a token that there is not: of that a
    /// kernel would read what is elsewhere, or end the work of the whole card.
    pub(super) fn check(&self, plan: &Plan, batch: &[Span<'_>]) -> Result<(), Error> {
        if self.stained {
            return Err(Error::Driver {
                doing: "use memory that could not be wiped",
                source: "an earlier error".into(),
            });
        }
        let mut tokens = batch.iter().flat_map(|span| span.tokens);
        let known = |token| usize::try_from(token).is_ok_and(|token| token < self.vocabulary);
        if let Some(found) = tokens.find(|token| !known(**token)) {
            return Err(Error::Size {
                what: "a token",
                found: usize::try_from(*found).unwrap_or(usize::MAX),
                expected: "one of the vocabulary",
            });
        }
        for (what, found, most) in [
            ("the number of rows in a step", plan.rows, self.most.rows),
            (
                "the number of rows whose logits are wanted",
                plan.wanted,
                self.most.spans,
            ),
        ] {
            if found > most {
                return Err(Error::Size {
                    what,
                    found,
                    expected: "what the engine was loaded for",
                });
            }
        }
        Ok(())
    }

    /// Wipes all of it; if it cannot, it is not used any more.
    pub(super) fn clear(&mut self, device: &mut dyn Device) {
        for buffer in [
            self.step,
            self.x,
            self.narrow,
            self.wide,
            self.parts,
            self.sums,
            self.result,
        ]
        .into_iter()
        .chain(self.forms.of_rows())
        {
            self.stained |= device.zero(buffer).is_err();
        }
    }

    /// Where all logits are.
    pub(super) fn logits(&self) -> Result<Buffer, Error> {
        let start = self.logits_at();
        self.result
            .part(start, self.result.bytes().saturating_sub(start))
    }

    fn logits_at(&self) -> usize {
        self.most.spans.saturating_mul(FEW).saturating_mul(8)
    }

    /// Where the likeliest are: their logits, and which they are.
    pub(super) fn best(&self, plan: &Plan) -> Result<(Buffer, Buffer), Error> {
        let bytes = plan.best_bytes();
        Ok((self.result.part(0, bytes)?, self.result.part(bytes, bytes)?))
    }

    /// What is to come back of the result.
    pub(super) fn result_bytes(&self, plan: &Plan) -> Result<usize, Error> {
        let row = self.vocabulary.saturating_mul(4);
        let bytes = match plan.whole() {
            0 => plan.best_bytes().saturating_mul(2),
            whole => self.logits_at().saturating_add(whole.saturating_mul(row)),
        };
        self.result.part(0, bytes).map(Buffer::bytes)
    }

    /// The result's logits.
    pub(super) fn logits_of<'a>(&self, result: &'a [u8]) -> &'a [u8] {
        result.get(self.logits_at()..).unwrap_or_default()
    }
}

/// Parts of attention, of all rows, that there is room for.
pub(super) const PARTS: usize = 4096;

/// Positions in such a part.
pub(super) const SPLIT: usize = Heads::SPLIT;
