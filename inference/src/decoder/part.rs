//! What the parts of a layer are made of: norms, products, and what brings their
//! result back to what layers add to.

use super::shape::Shape;
use super::step::part_of;
use crate::error::LoadError;
use crate::kernel::input::{Forms, Quantise, Row};
use crate::kernel::level::Cpu;
use crate::kernel::matrix::Matrix;
use crate::kernel::pool::Pool;
use crate::kernel::row::Norm;
use crate::linear::Linear;
use crate::weights::Weights;
use std::sync::Arc;

/// The weights of one layer.
pub(super) struct Parts<'a> {
    pub(super) pool: &'a mut Pool,
    pub(super) weights: &'a mut Weights,
    pub(super) shape: &'a Shape,
    pub(super) layer: usize,
}

impl<'a> Parts<'a> {
    pub(super) fn new(
        pool: &'a mut Pool,
        weights: &'a mut Weights,
        shape: &'a Shape,
        layer: usize,
    ) -> Self {
        Self {
            pool,
            weights,
            shape,
            layer,
        }
    }

    pub(super) fn name(&self, part: &str) -> String {
        format!("model.layers.{}.{part}", self.layer)
    }

    pub(super) fn contains(&self, part: &str) -> bool {
        self.weights.contains(&self.name(part))
    }

    pub(super) fn vector(&mut self, part: &str, length: usize) -> Result<Vec<f32>, LoadError> {
        self.weights.vector(&self.name(part), length)
    }

    /// The weights of a norm.
    pub(super) fn norm(&mut self, part: &str, length: usize) -> Result<Vec<f32>, LoadError> {
        let mut norm = self.vector(part, length)?;
        norm.iter_mut().for_each(|x| *x += self.shape.norm_offset);
        Ok(norm)
    }

    pub(super) fn matrix(
        &mut self,
        part: &str,
        shape: [usize; 2],
    ) -> Result<Arc<Matrix>, LoadError> {
        self.ordered(part, shape, |row| row)
    }

    /// A matrix whose row `i` is row `order(i)` of the file.
    pub(super) fn ordered(
        &mut self,
        part: &str,
        shape: [usize; 2],
        order: impl Fn(usize) -> usize + Sync,
    ) -> Result<Arc<Matrix>, LoadError> {
        let name = self.name(part);
        self.weights.matrix(self.pool, &name, shape, order)
    }

    pub(super) fn linear(&mut self, part: &str, shape: [usize; 2]) -> Result<Linear, LoadError> {
        Linear::new(vec![self.matrix(part, shape)?], Vec::new())
    }

    /// The last product of a part, and the norm after it, if the family has one.
    pub(super) fn output(
        &mut self,
        part: &str,
        inputs: usize,
        norm: &str,
    ) -> Result<Output, LoadError> {
        let hidden = self.shape.hidden;
        let norm = match self.shape.family.is_gemma() {
            true => self.norm(norm, hidden)?,
            false => Vec::new(),
        };
        let linear = self.linear(part, [hidden, inputs])?;
        Ok(Output { linear, norm })
    }
}

/// The last product of a part.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) linear: Linear,
    /// Of its result; empty if there is none.
    pub(super) norm: Vec<f32>,
}

impl Output {
    /// Adds to each row of `x`; `wide` is room.
    pub(super) fn add(
        &self,
        pool: &mut Pool,
        rows: &[Row],
        wide: &mut Vec<f32>,
        x: &mut [f32],
        epsilon: f32,
    ) -> candle_core::Result<()> {
        if self.norm.is_empty() {
            return self.linear.add(pool, rows, x);
        }
        self.linear.set(pool, rows, wide)?;
        let (cpu, width) = (pool.cpu(), self.linear.outputs().max(1));
        let sums = x.chunks_exact_mut(width).zip(wide.chunks_exact_mut(width));
        pool.each_mut(&mut sums.collect::<Vec<_>>(), |_, (x, more)| {
            cpu.run(Norm {
                x: more,
                weight: &self.norm,
                epsilon,
            });
            x.iter_mut().zip(&**more).for_each(|(x, more)| *x += more);
        });
        Ok(())
    }
}

/// Normalises each row of `x` into `rows`, in the forms that are needed.
pub(super) fn prepare(
    pool: &mut Pool,
    rows: &mut [Row],
    x: &[f32],
    weight: &[f32],
    epsilon: f32,
    forms: Forms,
) {
    let cpu = pool.cpu();
    pool.each_mut(rows, |index, row| {
        prepare_row(
            cpu,
            row,
            part_of(x, index, weight.len()),
            weight,
            epsilon,
            forms,
        );
    });
}

pub(super) fn prepare_row(
    cpu: Cpu,
    row: &mut Row,
    x: &[f32],
    weight: &[f32],
    epsilon: f32,
    forms: Forms,
) {
    row.numbers.clear();
    row.numbers.extend_from_slice(x);
    cpu.run(Norm {
        x: &mut row.numbers,
        weight,
        epsilon,
    });
    cpu.run(Quantise { row, forms });
}

/// Where the file has row `row`, if number `i` of a head stands beside `i + width / 2`.
pub(super) fn interleaved(row: usize, width: usize) -> usize {
    let place = row.checked_rem(width).unwrap_or(0);
    let half = width.checked_div(2).unwrap_or(0);
    let side = usize::from(place >= half);
    let within = place.saturating_sub(side.saturating_mul(half));
    row.saturating_sub(place)
        .saturating_add(within.saturating_mul(2))
        .saturating_add(side)
}
