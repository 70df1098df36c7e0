//! Attention over one small row for all heads, as DeepSeek has it.
//!
//! Memory holds that row, and not the keys and values of each head that it stands
//! for. So that these need never be made, a query is brought to where the row is, and
//! the sum of rows to where values are: `q (K c) = (q K) c` and `V c1 + V c2 =
//! V (c1 + c2)`. Beside it stands a part of the key that turns and is the same for
//! all heads. This is done for prompts too, so that a token's bits are the same
//! however it was read.

use super::attention::{Source, View};
use super::part::{Output, Parts, interleaved, prepare, prepare_row};
use super::rope::Angles;
use super::shape::{Latent as Widths, Shape};
use super::step::{Span, Workspace, part_of};
use crate::error::LoadError;
use crate::kernel::attention::Head;
use crate::kernel::input::{Forms, Quantise, Row};
use crate::kernel::pool::Pool;
use crate::kernel::row::Norm;
use crate::linear::Linear;

/// The layer's norm and products.
#[derive(Debug)]
pub(super) struct Latent {
    widths: Widths,
    norm: Vec<f32>,
    /// Queries, or the row that they are made from; then the row that is kept, and
    /// the part of the key that turns.
    down: Linear,
    /// Norm of the row that queries are made from, and the product.
    queries: Option<(Vec<f32>, Linear)>,
    row_norm: Vec<f32>,
    /// `K`, transposed, and `V`, of each head.
    keys: Vec<Linear>,
    values: Vec<Linear>,
    output: Output,
}

/// Room for what is computed on the way.
#[derive(Debug, Default)]
pub(super) struct Room {
    queries: Vec<f32>,
    /// What memory holds of each row.
    kept: Vec<f32>,
    /// A row for each head and row.
    spread: Vec<Row>,
    products: Vec<f32>,
}

impl Latent {
    pub(super) fn load(parts: &mut Parts<'_>, widths: Widths) -> Result<Self, LoadError> {
        let Shape {
            hidden,
            heads,
            interleaved: turned,
            ..
        } = *parts.shape;
        let Widths {
            row,
            still,
            turning,
            value,
            ..
        } = widths;
        let head = still.saturating_add(turning);
        // The part that turns stands after `still` numbers in each `period`.
        let order = |still: usize, period: usize| {
            move |row: usize| match row.checked_rem(period).and_then(|at| at.checked_sub(still)) {
                Some(at) if turned => row
                    .saturating_sub(at)
                    .saturating_add(interleaved(at, turning)),
                _ => row,
            }
        };
        let all = heads.query.saturating_mul(head);
        let (first, queries) = match widths.query {
            None => {
                let name = "self_attn.q_proj.weight";
                (
                    parts.ordered(name, [all, hidden], order(still, head))?,
                    None,
                )
            }
            Some(width) => {
                let norm = parts.norm("self_attn.q_a_layernorm.weight", width)?;
                let name = "self_attn.q_b_proj.weight";
                let product = parts.ordered(name, [all, width], order(still, head))?;
                let product = Linear::new(vec![product], Vec::new())?;
                let first = parts.matrix("self_attn.q_a_proj.weight", [width, hidden])?;
                (first, Some((norm, product)))
            }
        };
        let kept = row.saturating_add(turning);
        let name = "self_attn.kv_a_proj_with_mqa.weight";
        let kept = parts.ordered(name, [kept, hidden], order(row, kept))?;
        let both = still.saturating_add(value);
        let whole = [heads.query.saturating_mul(both), row];
        let name = parts.name("self_attn.kv_b_proj.weight");
        let (mut keys, mut values) = (Vec::new(), Vec::new());
        for head in 0..heads.query {
            let start = head.saturating_mul(both);
            let middle = start.saturating_add(still);
            let key = parts
                .weights
                .turned(parts.pool, &name, whole, start..middle)?;
            keys.push(Linear::new(vec![key], Vec::new())?);
            let rows = |row: usize| middle.saturating_add(row);
            let matrix = parts
                .weights
                .part(parts.pool, &name, &whole, [value, row], rows)?;
            values.push(Linear::new(vec![matrix], Vec::new())?);
        }
        let inputs = heads.query.saturating_mul(value);
        Ok(Self {
            widths,
            norm: parts.norm("input_layernorm.weight", hidden)?,
            down: Linear::new(vec![first, kept], Vec::new())?,
            queries,
            row_norm: parts.norm("self_attn.kv_a_layernorm.weight", row)?,
            keys,
            values,
            output: parts.output("self_attn.o_proj.weight", inputs, "")?,
        })
    }

    pub(super) fn forward(
        &self,
        pool: &mut Pool,
        shape: &Shape,
        cache: &mut [Head],
        batch: &[Span<'_>],
        work: &mut Workspace,
    ) -> candle_core::Result<()> {
        let Workspace {
            rows,
            wide,
            x,
            latent: room,
            angles,
            attending,
            ..
        } = work;
        let (epsilon, cpu, count) = (shape.epsilon, pool.cpu(), rows.len());
        let Some(angles) = angles.first() else {
            return Ok(());
        };
        prepare(pool, rows, x, &self.norm, epsilon, self.down.forms());
        self.down.set(pool, rows, wide)?;

        let Widths {
            row,
            still,
            turning,
            value,
            ..
        } = self.widths;
        let outputs = self.down.outputs();
        let kept = row.saturating_add(turning);
        let first = outputs.saturating_sub(kept);
        let (made, wide_of) = (&*wide, |index: usize| part_of(wide, index, outputs));
        room.kept.resize(count.saturating_mul(kept), 0.0);
        let mut table: Vec<_> = room.kept.chunks_exact_mut(kept.max(1)).collect();
        pool.each_mut(&mut table, |index, to| {
            to.copy_from_slice(wide_of(index).get(first..).unwrap_or_default());
            let (numbers, turns) = to.split_at_mut(row.min(to.len()));
            cpu.run(Norm {
                x: numbers,
                weight: &self.row_norm,
                epsilon,
            });
            angles.turn(index, turns);
        });
        let (queries, stride) = match &self.queries {
            None => (made, outputs),
            Some((norm, product)) => {
                let forms = product.forms();
                pool.each_mut(rows, |index, row| {
                    let from = wide_of(index).get(..first).unwrap_or_default();
                    prepare_row(cpu, row, from, norm, epsilon, forms);
                });
                product.set(pool, rows, &mut room.queries)?;
                (&room.queries, product.outputs())
            }
        };
        let head = still.saturating_add(turning);
        let query = |row: usize, index: usize| part_of(part_of(queries, row, stride), index, head);
        spread(pool, &mut room.spread, count, &self.keys, |row, head| {
            query(row, head).get(..still).unwrap_or_default()
        });
        each(
            pool,
            &self.keys,
            &room.spread,
            count,
            row,
            &mut room.products,
        )?;

        let brought = Brought {
            widths: self.widths,
            count,
            query: |row: usize, head: usize| query(row, head).get(still..).unwrap_or_default(),
            products: &room.products,
            kept: &room.kept,
            angles,
        };
        attending.run(pool, shape, View::ALL, cache, batch, &brought);

        spread(
            pool,
            &mut room.spread,
            count,
            &self.values,
            |index, head| part_of(attending.row(shape, index), head, row),
        );
        each(
            pool,
            &self.values,
            &room.spread,
            count,
            value,
            &mut room.products,
        )?;
        let (products, forms) = (&room.products, self.output.linear.forms());
        pool.each_mut(rows, |index, row| {
            row.numbers.clear();
            for head in 0..self.values.len() {
                let place = head.saturating_mul(count).saturating_add(index);
                row.numbers
                    .extend_from_slice(part_of(products, place, value));
            }
            cpu.run(Quantise { row, forms });
        });
        self.output.add(pool, rows, wide, x, epsilon)
    }
}

/// Rows for the products of each head, those of the first head first.
fn spread<'a>(
    pool: &mut Pool,
    to: &mut Vec<Row>,
    count: usize,
    heads: &[Linear],
    from: impl Fn(usize, usize) -> &'a [f32] + Sync,
) {
    let cpu = pool.cpu();
    let forms = heads.first().map_or(Forms::default(), Linear::forms);
    to.resize_with(count.saturating_mul(heads.len()), Row::default);
    pool.each_mut(to, |index, row| {
        let head = index.checked_div(count).unwrap_or(0);
        row.numbers.clear();
        row.numbers
            .extend_from_slice(from(index.saturating_sub(head.saturating_mul(count)), head));
        cpu.run(Quantise { row, forms });
    });
}

/// The product of each head with its rows, of `width` numbers each.
fn each(
    pool: &mut Pool,
    heads: &[Linear],
    rows: &[Row],
    count: usize,
    width: usize,
    products: &mut Vec<f32>,
) -> candle_core::Result<()> {
    products.resize(rows.len().saturating_mul(width), 0.0);
    let table = products.chunks_exact_mut(count.saturating_mul(width).max(1));
    let shares = heads.iter().zip(rows.chunks_exact(count.max(1))).zip(table);
    let shares = shares.map(|((linear, rows), to)| (linear, rows, to));
    Linear::set_each(pool, shares.collect())
}

/// Queries where the kept rows are.
struct Brought<'a, Q> {
    widths: Widths,
    /// Rows of the step.
    count: usize,
    /// The part of a query that turns.
    query: Q,
    products: &'a [f32],
    kept: &'a [f32],
    angles: &'a Angles,
}

impl<'a, Q: Fn(usize, usize) -> &'a [f32] + Sync> Source for Brought<'a, Q> {
    fn query(&self, row: usize, head: usize, to: &mut Vec<f32>) {
        let place = head.saturating_mul(self.count).saturating_add(row);
        to.extend_from_slice(part_of(self.products, place, self.widths.row));
        let start = to.len();
        to.extend_from_slice((self.query)(row, head));
        self.angles
            .turn(row, to.get_mut(start..).unwrap_or_default());
    }

    fn key(&self, row: usize, _: usize, to: &mut Vec<f32>) {
        let kept = self.widths.row.saturating_add(self.widths.turning);
        to.extend_from_slice(part_of(self.kept, row, kept));
    }

    fn value(&self, row: usize, _: usize) -> &[f32] {
        let kept = self.widths.row.saturating_add(self.widths.turning);
        let numbers = part_of(self.kept, row, kept);
        numbers.get(..self.widths.row).unwrap_or_default()
    }
}
