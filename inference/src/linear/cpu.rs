//! The matrix product of a layer, by the kernels of this crate.

use std::sync::Arc;

use crate::kernel::input::{Forms, Row};
use crate::kernel::level::LANES;
use crate::kernel::matrix::{Matrix, Then};
use crate::kernel::pool::Pool;

/// Matrices, one below the other.
#[derive(Debug)]
pub(super) struct Product(Vec<Arc<Matrix>>);

impl Product {
    #[expect(clippy::unnecessary_wraps, reason = "a GPU may refuse")]
    pub(super) fn new(parts: Vec<Arc<Matrix>>) -> candle_core::Result<Self> {
        Ok(Self(parts))
    }

    pub(super) fn forms(&self) -> Forms {
        let mut forms = Forms::default();
        for part in &self.0 {
            forms.by_32 |= part.forms().by_32;
            forms.by_256 |= part.forms().by_256;
        }
        forms
    }

    #[expect(clippy::unnecessary_wraps, reason = "a GPU may fail")]
    pub(super) fn apply(
        &self,
        pool: &mut Pool,
        rows: &[Row],
        y: &mut [f32],
        width: usize,
        then: Then<'_>,
    ) -> candle_core::Result<()> {
        let cpu = pool.cpu();
        // Enough blocks that nobody waits long for the last one.
        let tiles = width.div_ceil(LANES);
        let blocks = pool.threads().saturating_mul(BLOCKS);
        let block = tiles.div_ceil(blocks).clamp(1, TILES).saturating_mul(LANES);
        pool.columns(y, width, block, |first, mut columns| {
            let last = first.saturating_add(block);
            let mut start = 0_usize;
            for part in &self.0 {
                let end = start.saturating_add(part.outputs());
                let (from, to) = (first.max(start), last.min(end));
                if from < to {
                    let outputs = from.saturating_sub(start)..to.saturating_sub(start);
                    let offset = from.saturating_sub(first);
                    let then = match then {
                        Then::Set(bias) => Then::Set(bias.get(first..).unwrap_or_default()),
                        Then::Add => Then::Add,
                    };
                    part.multiply(cpu, rows, outputs, &mut columns, offset, then);
                }
                start = end;
            }
        });
        Ok(())
    }
}

/// Blocks for each thread.
const BLOCKS: usize = 4;

/// Most tiles in a block.
const TILES: usize = 32;
