//! One pass over the layers, for the rows of all sequences.

use std::sync::{Mutex, PoisonError};

use super::{Decoder, Layer, rope};
use crate::kernel::attention::{Append, Attend};
use crate::kernel::input::{Forms, Quantise, Row};
use crate::kernel::pool::Pool;
use crate::kernel::row::{Gated, Norm, rotate};
use crate::memory::Memory;

/// Tokens of one sequence that the model has not seen.
#[derive(Debug)]
pub(crate) struct Span<'a> {
    /// At least one.
    pub(crate) tokens: &'a [u32],
    /// Position of the first of them.
    pub(crate) position: usize,
    /// Pages of the sequence, enough for all of them.
    pub(crate) pages: &'a [usize],
    /// Whether the logits after the last of them are wanted.
    pub(crate) wanted: bool,
}

/// Room for what is computed on the way, kept from step to step.
#[derive(Debug, Default)]
pub(crate) struct Workspace {
    /// What layers add to, a row for each token.
    x: Vec<f32>,
    rows: Vec<Row>,
    wide: Vec<f32>,
    angles: Angles,
    parts: Vec<Part>,
    scores: Mutex<Vec<Vec<f32>>>,
    logits: Vec<f32>,
}

/// Of each row.
#[derive(Debug, Default)]
struct Angles {
    cos: Vec<f32>,
    sin: Vec<f32>,
}

/// Rows of one span and one group of heads, which attend together.
#[derive(Debug, Default)]
struct Part {
    span: usize,
    head: usize,
    row: usize,
    count: usize,
    position: usize,
    queries: Vec<f32>,
    output: Vec<f32>,
}

impl Decoder {
    /// Reads the spans; gives the logits of those that want them, one after another.
    pub(crate) fn forward<'a>(
        &self,
        pool: &mut Pool,
        memory: &mut Memory,
        batch: &[Span<'_>],
        work: &'a mut Workspace,
    ) -> candle_core::Result<&'a mut [f32]> {
        self.begin(pool, batch, work);
        for (layer, heads) in self.layers.iter().zip(memory.layers()) {
            self.attend(pool, layer, heads, batch, work)?;
            self.feed(pool, layer, work)?;
        }
        let ends = batch.iter().scan(0_usize, |end, span| {
            *end = end.saturating_add(span.tokens.len());
            Some((*end, span.wanted))
        });
        let wanted = ends.filter(|(_, wanted)| *wanted);
        let mut count = 0_usize;
        for ((end, _), row) in wanted.zip(&mut work.rows) {
            let from = self.row(&work.x, end.saturating_sub(1));
            prepare(
                pool,
                row,
                from,
                &self.norm,
                self.shape.epsilon,
                self.head.forms(),
            );
            count = count.saturating_add(1);
        }
        let rows = work.rows.get(..count).unwrap_or_default();
        self.head.set(pool, rows, &mut work.logits)?;
        Ok(&mut work.logits)
    }

    /// Embeds the tokens and divides the work of attention.
    fn begin(&self, pool: &mut Pool, batch: &[Span<'_>], work: &mut Workspace) {
        let tokens = || batch.iter().flat_map(|span| span.tokens.iter().copied());
        let count = tokens().count();
        let hidden = self.shape.hidden;
        work.x.resize(count.saturating_mul(hidden), 0.0);
        for (token, x) in tokens().zip(work.x.chunks_exact_mut(hidden)) {
            self.embedding
                .row(usize::try_from(token).unwrap_or(usize::MAX), x);
        }
        work.rows.resize_with(count, Row::default);

        work.angles.cos.clear();
        work.angles.sin.clear();
        let positions = batch
            .iter()
            .flat_map(|span| (span.position..).take(span.tokens.len()));
        for position in positions {
            rope::angles(
                &self.frequencies,
                position,
                &mut work.angles.cos,
                &mut work.angles.sin,
            );
        }

        // Queries of a group of heads share what they read; eight are enough.
        let rows = 8_usize
            .checked_div(self.shape.heads.group())
            .unwrap_or(1)
            .max(1);
        let rows = match pool.threads() {
            1 => usize::MAX,
            _ => rows.saturating_mul(2),
        }
        .min(64);
        let mut used = 0_usize;
        let mut first = 0_usize;
        for (index, span) in batch.iter().enumerate() {
            for start in (0..span.tokens.len()).step_by(rows) {
                for head in 0..self.shape.heads.kv {
                    if work.parts.len() == used {
                        work.parts.push(Part::default());
                    }
                    if let Some(part) = work.parts.get_mut(used) {
                        part.span = index;
                        part.head = head;
                        part.row = first.saturating_add(start);
                        part.count = span.tokens.len().saturating_sub(start).min(rows);
                        part.position = span.position.saturating_add(start);
                    }
                    used = used.saturating_add(1);
                }
            }
            first = first.saturating_add(span.tokens.len());
        }
        work.parts.truncate(used);
    }

    fn attend(
        &self,
        pool: &mut Pool,
        layer: &Layer,
        heads: &mut [crate::kernel::attention::Head],
        batch: &[Span<'_>],
        work: &mut Workspace,
    ) -> candle_core::Result<()> {
        let (epsilon, cpu) = (self.shape.epsilon, pool.cpu());
        let crate::kernel::attention::Heads { query, width, .. } = self.shape.heads;
        let group = self.shape.heads.group();
        let (x, forms) = (&work.x, layer.qkv.forms());
        pool.each_mut(&mut work.rows, |index, row| {
            prepare_on(
                cpu,
                row,
                self.row(x, index),
                &layer.input_norm,
                epsilon,
                forms,
            );
        });
        layer.qkv.set(pool, &work.rows, &mut work.wide)?;

        let outputs = layer.qkv.outputs();
        let qkv = |row: usize| part_of(&work.wide, row, outputs);
        let angles = &work.angles;
        let half = self.frequencies.len();
        let turn = |row: usize, head: &mut [f32], norm: &[f32]| {
            if !norm.is_empty() {
                cpu.run(Norm {
                    x: head,
                    weight: norm,
                    epsilon,
                });
            }
            rotate(
                head,
                part_of(&angles.cos, row, half),
                part_of(&angles.sin, row, half),
            );
        };
        let keys = query.saturating_mul(width);
        let values = keys.saturating_add(heads.len().saturating_mul(width));
        pool.each_mut(heads, |index, head| {
            let mut key = Vec::with_capacity(width);
            let mut row = 0_usize;
            for span in batch {
                for position in (span.position..).take(span.tokens.len()) {
                    let qkv = qkv(row);
                    let of =
                        |start: usize| part_of(qkv.get(start..).unwrap_or_default(), index, width);
                    key.clear();
                    key.extend_from_slice(of(keys));
                    turn(row, &mut key, &layer.k_norm);
                    let (pages, key, value) = (span.pages, key.as_slice(), of(values));
                    cpu.run(Append {
                        head,
                        pages,
                        position,
                        key,
                        value,
                    });
                    row = row.saturating_add(1);
                }
            }
        });

        let scratch = &work.scores;
        let heads = &*heads;
        pool.each_mut(&mut work.parts, |_, part| {
            part.queries.clear();
            for row in (part.row..).take(part.count) {
                let queries = part_of(qkv(row), part.head, group.saturating_mul(width));
                let start = part.queries.len();
                part.queries.extend_from_slice(queries);
                let queries = part.queries.get_mut(start..).unwrap_or_default();
                for query in queries.chunks_exact_mut(width) {
                    turn(row, query, &layer.q_norm);
                }
            }
            let lock = || scratch.lock().unwrap_or_else(PoisonError::into_inner);
            let mut scores = lock().pop().unwrap_or_default();
            if let (Some(head), Some(span)) = (heads.get(part.head), batch.get(part.span)) {
                cpu.run(Attend {
                    head,
                    pages: span.pages,
                    position: part.position,
                    group,
                    width,
                    queries: &mut part.queries,
                    output: &mut part.output,
                    scores: &mut scores,
                });
            }
            lock().push(scores);
        });

        // Parts of all heads follow one another.
        let (parts, forms) = (&work.parts, layer.o.forms());
        let kv = heads.len();
        let mut rows = work.rows.as_mut_slice();
        let mut shares = Vec::new();
        for parts in parts.chunks_exact(kv) {
            let count = parts.first().map_or(0, |part| part.count);
            let (share, rest) = rows.split_at_mut(count.min(rows.len()));
            shares.push((parts, share));
            rows = rest;
        }
        pool.each_mut(&mut shares, |_, (parts, rows)| {
            for (index, row) in rows.iter_mut().enumerate() {
                row.numbers.clear();
                for part in *parts {
                    let output = part_of(&part.output, index, group.saturating_mul(width));
                    row.numbers.extend_from_slice(output);
                }
                cpu.run(Quantise { row, forms });
            }
        });
        layer.o.add(pool, &work.rows, &mut work.x)
    }

    fn feed(
        &self,
        pool: &mut Pool,
        layer: &Layer,
        work: &mut Workspace,
    ) -> candle_core::Result<()> {
        let (epsilon, cpu) = (self.shape.epsilon, pool.cpu());
        let (x, forms) = (&work.x, layer.gate_up.forms());
        pool.each_mut(&mut work.rows, |index, row| {
            prepare_on(
                cpu,
                row,
                self.row(x, index),
                &layer.post_norm,
                epsilon,
                forms,
            );
        });
        layer.gate_up.set(pool, &work.rows, &mut work.wide)?;
        let (wide, forms) = (&work.wide, layer.down.forms());
        pool.each_mut(&mut work.rows, |index, row| {
            row.numbers.resize(self.shape.inner, 0.0);
            let gate_up = part_of(wide, index, layer.gate_up.outputs());
            cpu.run(Gated {
                row: gate_up,
                to: &mut row.numbers,
            });
            cpu.run(Quantise { row, forms });
        });
        layer.down.add(pool, &work.rows, &mut work.x)
    }

    fn row<'a>(&self, x: &'a [f32], row: usize) -> &'a [f32] {
        part_of(x, row, self.shape.hidden)
    }
}

fn prepare(pool: &Pool, row: &mut Row, x: &[f32], weight: &[f32], epsilon: f32, forms: Forms) {
    prepare_on(pool.cpu(), row, x, weight, epsilon, forms);
}

/// Normalises `x` into `row`, in all forms.
fn prepare_on(
    cpu: crate::kernel::level::Cpu,
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

/// Numbers of a row; they are there, by the shapes of the weights.
fn part_of(numbers: &[f32], index: usize, width: usize) -> &[f32] {
    let start = index.saturating_mul(width);
    numbers
        .get(start..start.saturating_add(width))
        .unwrap_or_default()
}
