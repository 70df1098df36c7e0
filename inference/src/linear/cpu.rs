//! The matrix product of a layer, by the kernels of this crate.

use std::sync::Arc;

use super::Job;
use crate::kernel::input::{Forms, Row};
use crate::kernel::level::{Cpu, LANES};
use crate::kernel::matrix::{Matrix, Then};
use crate::kernel::pool::{Columns, Pool};

/// Matrices, one below the other.
#[derive(Debug)]
pub(super) struct Product(Vec<Arc<Matrix>>);

impl Product {
    #[expect(clippy::unnecessary_wraps, reason = "a GPU may refuse")]
    pub(super) fn new(parts: Vec<Arc<Matrix>>) -> candle_core::Result<Self> {
        Ok(Self(parts))
    }

    #[cfg(test)]
    pub(super) fn leave(&mut self) {
        self.0.clear();
    }

    #[cfg(test)]
    pub(super) fn parts(&self) -> Vec<Arc<Matrix>> {
        self.0.clone()
    }

    pub(super) fn forms(&self) -> Forms {
        let parts = self.0.iter().map(|part| part.forms());
        parts.fold(Forms::default(), Forms::and)
    }

    /// The columns from `first` up to `last`.
    fn multiply(
        &self,
        cpu: Cpu,
        rows: &[Row],
        (first, last): (usize, usize),
        columns: &mut Columns<'_>,
        then: Then<'_>,
    ) {
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
                part.multiply(cpu, rows, outputs, columns, offset, then);
            }
            start = end;
        }
    }
}

/// A processor does not fail.
pub(super) fn is_lost() -> bool {
    false
}

#[expect(clippy::unnecessary_wraps, reason = "a GPU may fail")]
pub(super) fn apply(pool: &mut Pool, mut jobs: Vec<Job<'_>>) -> candle_core::Result<()> {
    let cpu = pool.cpu();
    // Enough blocks that nobody waits long for the last one.
    let tiles: usize = jobs.iter().map(|job| job.width.div_ceil(LANES)).sum();
    let blocks = pool.threads().saturating_mul(BLOCKS);
    let block = tiles.div_ceil(blocks).clamp(1, TILES).saturating_mul(LANES);
    let parts = jobs.iter().map(|job| (job.product, job.rows, job.then));
    let parts: Vec<_> = parts.collect();
    let tables = jobs.iter_mut().map(|job| (&mut *job.y, job.width));
    pool.columns(tables, block, |table, first, mut columns| {
        if let Some((product, rows, then)) = parts.get(table) {
            let last = first.saturating_add(block);
            product.multiply(cpu, rows, (first, last), &mut columns, *then);
        }
    });
    Ok(())
}

/// Blocks for each thread.
const BLOCKS: usize = 4;

/// Most tiles in a block.
const TILES: usize = 32;
