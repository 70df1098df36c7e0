//! Attention: of heads with their own queries, in groups that share keys and values.

use std::sync::{Mutex, PoisonError};

use super::part::{Output, Parts, interleaved, prepare};
use super::rope::Angles;
use super::shape::Shape;
use super::step::{Span, Workspace, part_of};
use crate::error::LoadError;
use crate::kernel::attention::{Append, Attend, Head, Heads};
use crate::kernel::input::Quantise;
use crate::kernel::level::Cpu;
use crate::kernel::pool::Pool;
use crate::kernel::row::{Norm, rotate};
use crate::linear::Linear;

/// The layer's norm and products.
#[derive(Debug)]
pub(super) struct Attention {
    pub(super) norm: Vec<f32>,
    /// Queries, keys and values.
    pub(super) qkv: Linear,
    /// Weights of the norms of each head of queries and of keys; empty if there are none.
    pub(super) q_norm: Vec<f32>,
    pub(super) k_norm: Vec<f32>,
    pub(super) output: Output,
    pub(super) view: View,
}

/// How far a layer sees, and by which angles.
#[derive(Clone, Copy, Debug)]
pub(super) struct View {
    pub(super) window: usize,
    pub(super) angles: usize,
}

impl View {
    pub(super) const ALL: Self = Self {
        window: usize::MAX,
        angles: 0,
    };
}

impl Attention {
    pub(super) fn load(parts: &mut Parts<'_>) -> Result<Self, LoadError> {
        let Shape {
            hidden,
            heads,
            family,
            interleaved: turned,
            ..
        } = *parts.shape;
        let width = heads.width;
        let query = heads.query.saturating_mul(width);
        let kv = heads.kv.saturating_mul(width);
        let norm = parts.norm("input_layernorm.weight", hidden)?;
        let (mut q_norm, mut k_norm, mut bias) = (Vec::new(), Vec::new(), Vec::new());
        if family.head_norm {
            q_norm = parts.norm("self_attn.q_norm.weight", width)?;
            k_norm = parts.norm("self_attn.k_norm.weight", width)?;
        }
        if family.bias {
            for (part, length) in [("q", query), ("k", kv), ("v", kv)] {
                bias.extend(parts.vector(&format!("self_attn.{part}_proj.bias"), length)?);
            }
        }
        let order = |row| match turned {
            true => interleaved(row, width),
            false => row,
        };
        let all = "self_attn.qkv_proj.weight";
        let qkv = match parts.contains(all) {
            true => vec![parts.matrix(all, [query.saturating_add(kv).saturating_add(kv), hidden])?],
            false => vec![
                parts.ordered("self_attn.q_proj.weight", [query, hidden], order)?,
                parts.ordered("self_attn.k_proj.weight", [kv, hidden], order)?,
                parts.matrix("self_attn.v_proj.weight", [kv, hidden])?,
            ],
        };
        let after = "post_attention_layernorm.weight";
        let window = parts.shape.window.as_ref();
        let window = window.filter(|window| window.layers.get(parts.layer) == Some(&true));
        Ok(Self {
            norm,
            qkv: Linear::new(qkv, bias)?,
            q_norm,
            k_norm,
            output: parts.output("self_attn.o_proj.weight", query, after)?,
            view: window.map_or(View::ALL, |window| View {
                window: window.size,
                angles: 1,
            }),
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
        let forms = self.qkv.forms();
        prepare(
            pool,
            &mut work.rows,
            &work.x,
            &self.norm,
            shape.epsilon,
            forms,
        );
        self.qkv.set(pool, &work.rows, &mut work.wide)?;
        let Some(angles) = work.angles.get(self.view.angles) else {
            return Ok(());
        };
        let projected = Projected {
            layer: self,
            shape,
            qkv: &work.wide,
            angles,
            cpu: pool.cpu(),
        };
        work.attending
            .run(pool, shape, self.view, cache, batch, &projected);

        let (cpu, forms) = (pool.cpu(), self.output.linear.forms());
        let attended = &work.attending;
        pool.each_mut(&mut work.rows, |index, row| {
            row.numbers.clear();
            row.numbers.extend_from_slice(attended.row(shape, index));
            cpu.run(Quantise { row, forms });
        });
        let Workspace { rows, wide, x, .. } = work;
        self.output.add(pool, rows, wide, x, shape.epsilon)
    }
}

/// Where attention finds queries, keys and values of all rows.
pub(super) trait Source: Sync {
    /// Appends the query of a head, turned.
    fn query(&self, row: usize, head: usize, to: &mut Vec<f32>);

    /// Appends the key of a head, turned.
    fn key(&self, row: usize, head: usize, to: &mut Vec<f32>);

    fn value(&self, row: usize, head: usize) -> &[f32];
}

/// As the product gives them.
struct Projected<'a> {
    layer: &'a Attention,
    shape: &'a Shape,
    qkv: &'a [f32],
    angles: &'a Angles,
    cpu: Cpu,
}

impl Projected<'_> {
    /// Head `head` of all that a row has of queries, keys and values.
    fn head(&self, row: usize, head: usize) -> &[f32] {
        let all = part_of(self.qkv, row, self.layer.qkv.outputs());
        part_of(all, head, self.shape.heads.width)
    }

    fn turned(&self, row: usize, head: usize, norm: &[f32], to: &mut Vec<f32>) {
        let start = to.len();
        to.extend_from_slice(self.head(row, head));
        let x = to.get_mut(start..).unwrap_or_default();
        if !norm.is_empty() {
            self.cpu.run(Norm {
                x,
                weight: norm,
                epsilon: self.shape.epsilon,
            });
        }
        self.angles.turn(row, x);
    }
}

impl Source for Projected<'_> {
    fn query(&self, row: usize, head: usize, to: &mut Vec<f32>) {
        self.turned(row, head, &self.layer.q_norm, to);
    }

    fn key(&self, row: usize, head: usize, to: &mut Vec<f32>) {
        let head = self.shape.heads.query.saturating_add(head);
        self.turned(row, head, &self.layer.k_norm, to);
    }

    fn value(&self, row: usize, head: usize) -> &[f32] {
        let Heads { query, kv, .. } = self.shape.heads;
        self.head(row, query.saturating_add(kv).saturating_add(head))
    }
}

impl Angles {
    /// Turns a head of a row.
    pub(super) fn turn(&self, row: usize, head: &mut [f32]) {
        let half = head.len().checked_div(2).unwrap_or(0);
        rotate(
            head,
            part_of(&self.cos, row, half),
            part_of(&self.sin, row, half),
        );
    }
}

/// The work of attention, divided, and its result.
#[derive(Debug, Default)]
pub(super) struct Attending {
    shares: Vec<Share>,
    scores: Mutex<Vec<Vec<f32>>>,
    /// A sum of values for each row and head of queries.
    output: Vec<f32>,
}

/// Rows of one span and some heads, which attend together.
#[derive(Debug, Default)]
struct Share {
    span: usize,
    /// The first of the heads.
    head: usize,
    row: usize,
    count: usize,
    position: usize,
    queries: Vec<f32>,
    output: Vec<f32>,
}

impl Attending {
    /// Divides the work of a step, which is the same in all layers.
    pub(super) fn divide(&mut self, pool: &Pool, heads: Heads, batch: &[Span<'_>]) {
        let block = block(heads);
        // Queries of a group of heads share what they read; eight are enough.
        let rows = 8_usize.checked_div(block).unwrap_or(1).max(1);
        let rows = match pool.threads() {
            1 => usize::MAX,
            _ => rows.saturating_mul(2),
        }
        .min(64);
        let mut used = 0_usize;
        let mut first = 0_usize;
        for (index, span) in batch.iter().enumerate() {
            for start in (0..span.tokens.len()).step_by(rows) {
                for head in (0..heads.query).step_by(block) {
                    if self.shares.len() == used {
                        self.shares.push(Share::default());
                    }
                    if let Some(share) = self.shares.get_mut(used) {
                        share.span = index;
                        share.head = head;
                        share.row = first.saturating_add(start);
                        share.count = span.tokens.len().saturating_sub(start).min(rows);
                        share.position = span.position.saturating_add(start);
                    }
                    used = used.saturating_add(1);
                }
            }
            first = first.saturating_add(span.tokens.len());
        }
        self.shares.truncate(used);
        let width = heads.query.saturating_mul(heads.values);
        self.output.resize(first.saturating_mul(width), 0.0);
    }

    /// Puts keys and values where they belong, and lets all queries attend.
    pub(super) fn run(
        &mut self,
        pool: &mut Pool,
        shape: &Shape,
        view: View,
        cache: &mut [Head],
        batch: &[Span<'_>],
        source: &impl Source,
    ) {
        let (cpu, heads) = (pool.cpu(), shape.heads);
        pool.each_mut(cache, |index, head| {
            let mut key = Vec::with_capacity(heads.width);
            let mut row = 0_usize;
            for span in batch {
                for position in (span.position..).take(span.tokens.len()) {
                    key.clear();
                    source.key(row, index, &mut key);
                    cpu.run(Append {
                        head,
                        pages: span.pages,
                        position,
                        key: &key,
                        value: source.value(row, index),
                    });
                    row = row.saturating_add(1);
                }
            }
        });

        let (block, scratch, cache) = (block(heads), &self.scores, &*cache);
        pool.each_mut(&mut self.shares, |_, share| {
            share.queries.clear();
            for row in (share.row..).take(share.count) {
                for head in (share.head..).take(block) {
                    source.query(row, head, &mut share.queries);
                }
            }
            let lock = || scratch.lock().unwrap_or_else(PoisonError::into_inner);
            let mut scores = lock().pop().unwrap_or_default();
            let kv = share.head.checked_div(heads.group()).unwrap_or(0);
            if let (Some(head), Some(span)) = (cache.get(kv), batch.get(share.span)) {
                cpu.run(Attend {
                    head,
                    pages: span.pages,
                    position: share.position,
                    group: block,
                    heads,
                    scale: shape.scale,
                    window: view.window,
                    queries: &mut share.queries,
                    output: &mut share.output,
                    scores: &mut scores,
                });
            }
            lock().push(scores);
        });
        self.gather(pool, heads);
    }

    /// Brings the sums of all heads together, row by row.
    fn gather(&mut self, pool: &mut Pool, heads: Heads) {
        let width = block(heads).saturating_mul(heads.values);
        let blocks = heads.query.checked_div(block(heads)).unwrap_or(1).max(1);
        let mut rest = self.output.as_mut_slice();
        let mut tables = Vec::new();
        for shares in self.shares.chunks_exact(blocks) {
            let count = shares.first().map_or(0, |share| share.count);
            let numbers = count.saturating_mul(blocks).saturating_mul(width);
            let (table, after) = rest.split_at_mut(numbers.min(rest.len()));
            tables.push((shares, table));
            rest = after;
        }
        pool.each_mut(&mut tables, |_, (shares, table)| {
            for (index, to) in table.chunks_exact_mut(width.max(1)).enumerate() {
                let row = index.checked_div(blocks).unwrap_or(0);
                let share = index
                    .checked_rem(blocks)
                    .and_then(|block| shares.get(block));
                let output =
                    share.map_or([].as_slice(), |share| part_of(&share.output, row, width));
                if output.len() == to.len() {
                    to.copy_from_slice(output);
                }
            }
        });
    }

    /// The sums of all heads of a row.
    pub(super) fn row(&self, shape: &Shape, row: usize) -> &[f32] {
        let width = shape.heads.query.saturating_mul(shape.heads.values);
        part_of(&self.output, row, width)
    }
}

/// Heads of one group that attend together: eight at most.
fn block(heads: Heads) -> usize {
    let group = heads.group().max(1);
    let divides = |block: &usize| group.is_multiple_of(*block);
    (1..=8).rev().find(divides).unwrap_or(1)
}
