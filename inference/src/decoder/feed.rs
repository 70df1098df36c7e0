//! The feed-forward network of all tokens: a gate beside a product.

use super::part::{Output, Parts};
use super::shape::Shape;
use super::step::{Workspace, part_of};
use crate::error::LoadError;
use crate::kernel::input::{Forms, Quantise, Row};
use crate::kernel::pool::Pool;
use crate::kernel::row::{Activation, Gated as Gate};
use crate::linear::Linear;

/// The network.
#[derive(Debug)]
pub(super) struct Gated {
    pub(super) gate_up: Linear,
    pub(super) down: Output,
    pub(super) inner: usize,
    pub(super) activation: Activation,
}

impl Gated {
    /// The network `name`.
    pub(super) fn load(parts: &mut Parts<'_>, name: &str, inner: usize) -> Result<Self, LoadError> {
        let hidden = parts.shape.hidden;
        let activation = match parts.shape.family.is_gemma() {
            true => Activation::Gelu,
            false => Activation::Silu,
        };
        let both = format!("{name}.gate_up_proj.weight");
        let gate_up = match parts.contains(&both) {
            true => vec![parts.matrix(&both, [inner.saturating_mul(2), hidden])?],
            false => ["gate", "up"]
                .map(|part| parts.matrix(&format!("{name}.{part}_proj.weight"), [inner, hidden]))
                .into_iter()
                .collect::<Result<_, _>>()?,
        };
        let down = format!("{name}.down_proj.weight");
        Ok(Self {
            gate_up: Linear::new(gate_up, Vec::new())?,
            down: parts.output(&down, inner, "post_feedforward_layernorm.weight")?,
            inner,
            activation,
        })
    }

    /// The forms of rows that it needs.
    pub(super) fn forms(&self) -> Forms {
        self.gate_up.forms()
    }

    /// Adds to what rows were made from, each with a factor.
    pub(super) fn add(
        &self,
        pool: &mut Pool,
        shape: &Shape,
        work: &mut Workspace,
        factor: impl Fn(usize) -> f32 + Sync,
    ) -> candle_core::Result<()> {
        let Workspace { rows, wide, x, .. } = work;
        self.gate_up.set(pool, rows, wide)?;
        let (cpu, forms, outputs) = (pool.cpu(), self.down.linear.forms(), self.gate_up.outputs());
        let wide_of = &*wide;
        pool.each_mut(rows, |index, row: &mut Row| {
            row.numbers.resize(self.inner, 0.0);
            cpu.run(Gate {
                row: part_of(wide_of, index, outputs),
                to: &mut row.numbers,
                activation: self.activation,
                factor: factor(index),
            });
            cpu.run(Quantise { row, forms });
        });
        self.down.add(pool, rows, wide, x, shape.epsilon)
    }
}
