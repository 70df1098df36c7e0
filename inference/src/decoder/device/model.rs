//! The weights on a device, and one pass over them.

use std::sync::Arc;

use gpu::kernels::{Attention, Choose, Gate, Heads, Norm, Parts, Place};
use gpu::{Buffer, Device, Error, Matrix, Product, Rows};

use super::super::attention::{Attention as HostAttention, View};
use super::super::feed::Gated;
use super::super::part::Output as HostOutput;
use super::super::{Attend, Decoder, Feed};
use super::plan::Plan;
use super::room::Room;
use crate::kernel::matrix::{Format, Matrix as HostMatrix};
use crate::kernel::row::Activation;
use crate::linear::Linear as HostLinear;

/// Weights and shape.
#[derive(Debug)]
pub(super) struct Model {
    embedding: Matrix,
    embedding_scale: f32,
    layers: Vec<Layer>,
    norm: Buffer,
    head: Linear,
    hidden: usize,
    /// What queries are multiplied with.
    scale: f32,
    epsilon: f32,
    /// Of no layer in particular.
    heads: Heads,
}

#[derive(Debug)]
struct Layer {
    attend_norm: Buffer,
    qkv: Linear,
    q_norm: Buffer,
    k_norm: Buffer,
    attended: Output,
    view: View,
    feed_norm: Buffer,
    gate_up: Linear,
    gelu: bool,
    inner: usize,
    down: Output,
}

/// Matrices, one below the other, and a bias.
#[derive(Debug)]
struct Linear {
    parts: Vec<Matrix>,
    biases: Vec<Buffer>,
    outputs: usize,
}

/// The last product of a part, and the norm of its result, if there is one.
#[derive(Debug)]
struct Output {
    linear: Linear,
    norm: Buffer,
}

impl Model {
    /// Takes the layers of `decoder`, one after the other.
    pub(super) fn upload(
        decoder: &mut Decoder,
        device: &mut dyn Device,
        pages: usize,
    ) -> Result<Self, Error> {
        let shape = decoder.shape.clone();
        let embedding = matrix(device, &decoder.embedding)?;
        let (head, _) = decoder.head.parts();
        let head = match head.first() {
            Some(head) if Arc::ptr_eq(head, &decoder.embedding) => Linear {
                outputs: embedding.outputs(),
                parts: vec![embedding],
                biases: vec![Buffer::EMPTY],
            },
            _ => linear(device, &decoder.head)?,
        };
        let mut heads = Heads {
            memory: Buffer::EMPTY,
            queries: shape.heads.query,
            heads: shape.heads.kv,
            width: shape.heads.width,
            layer: 0,
            layers: shape.layers,
        };
        let bytes = heads.page_bytes()?.saturating_mul(pages);
        let mut layers = Vec::with_capacity(decoder.layers.len());
        for layer in decoder.layers.drain(..) {
            if let (Attend::Heads(attention), Feed::All(feed)) = (&layer.attend, &layer.feed) {
                let norm = vector(device, &layer.feed_norm)?;
                layers.push(Layer::upload(device, attention, feed, norm)?);
            }
        }
        heads.memory = device.allocate(bytes)?;
        Ok(Self {
            embedding,
            embedding_scale: decoder.embedding_scale,
            layers,
            norm: vector(device, &decoder.norm)?,
            head,
            hidden: shape.hidden,
            scale: shape.scale,
            epsilon: shape.epsilon,
            heads,
        })
    }

    /// A page of keys and values of all layers.
    pub(super) fn page(&self, page: usize) -> Result<Buffer, Error> {
        let bytes = self.heads.page_bytes()?;
        self.heads.memory.part(page.saturating_mul(bytes), bytes)
    }

    /// Bytes that the largest matrix needs as halves.
    pub(super) fn halves(&self) -> usize {
        let of = |layer: &Layer| {
            let parts = [
                &layer.qkv,
                &layer.attended.linear,
                &layer.gate_up,
                &layer.down.linear,
            ];
            parts
                .into_iter()
                .flat_map(|linear| &linear.parts)
                .map(Matrix::halves)
                .max()
        };
        let head = self.head.parts.iter().map(Matrix::halves);
        self.layers
            .iter()
            .filter_map(of)
            .chain(head)
            .max()
            .unwrap_or(0)
    }

    /// One pass, of what the room has been given.
    pub(super) fn run(
        &self,
        device: &mut dyn Device,
        room: &Room,
        plan: &Plan,
    ) -> Result<(), Error> {
        let step = plan.place(room.step)?;
        let rows = step.sequences.rows;
        self.embedding
            .embed(device, step.tokens, rows, self.embedding_scale, room.x)?;
        let norm = |device: &mut dyn Device, weight| {
            let norm = self.norm(room.x, weight, room.narrow, rows);
            norm.run(device)
        };
        for (index, layer) in self.layers.iter().enumerate() {
            let heads = Heads {
                layer: index,
                ..self.heads
            };
            norm(device, layer.attend_norm)?;
            layer.qkv.run(
                device,
                room,
                (room.narrow, rows, self.hidden),
                (room.wide, false),
                plan.exact,
            )?;
            let (cosines, sines) = step.angles(layer.view.angles)?;
            let place = Place {
                qkv: room.wide,
                q_norm: layer.q_norm,
                k_norm: layer.k_norm,
                cosines,
                sines,
                scale: self.scale,
                epsilon: self.epsilon,
            };
            place.run(device, &step.sequences, &heads)?;
            let attention = Attention {
                qkv: room.wide,
                y: room.narrow,
                window: layer.view.window,
                parts: plan.parts.map(|count| Parts {
                    count,
                    values: room.parts,
                    sums: room.sums,
                }),
            };
            attention.run(device, &step.sequences, &heads)?;
            let queries = heads.queries.saturating_mul(heads.width);
            self.add(device, &layer.attended, room, queries, rows, plan)?;

            norm(device, layer.feed_norm)?;
            layer.gate_up.run(
                device,
                room,
                (room.narrow, rows, self.hidden),
                (room.wide, false),
                plan.exact,
            )?;
            let gate = Gate {
                x: room.wide,
                y: room.narrow,
                rows,
                width: layer.inner,
                gelu: layer.gelu,
            };
            gate.run(device)?;
            self.add(device, &layer.down, room, layer.inner, rows, plan)?;
        }
        if plan.wanted == 0 {
            return Ok(());
        }
        let last = Norm {
            sources: step.sources,
            ..self.norm(room.x, self.norm, room.narrow, plan.wanted)
        };
        last.run(device)?;
        let logits = room.logits()?;
        self.head.run(
            device,
            room,
            (room.narrow, plan.wanted, self.hidden),
            (logits, false),
            plan.exact,
        )?;
        if plan.best == 0 {
            return Ok(());
        }
        let (best, tokens) = room.best(plan)?;
        let choose = Choose {
            logits,
            best,
            tokens,
            rows: plan.wanted,
            width: self.head.outputs,
            count: plan.best,
        };
        choose.run(device)
    }

    fn norm(&self, x: Buffer, weight: Buffer, y: Buffer, rows: usize) -> Norm {
        Norm {
            x,
            weight,
            y,
            sources: Buffer::EMPTY,
            rows,
            width: self.hidden,
            epsilon: self.epsilon,
            add: false,
        }
    }

    /// Adds the product of the rows in `room.narrow`, normalised if it is to be.
    fn add(
        &self,
        device: &mut dyn Device,
        output: &Output,
        room: &Room,
        width: usize,
        rows: usize,
        plan: &Plan,
    ) -> Result<(), Error> {
        let linear = &output.linear;
        if output.norm.bytes() == 0 {
            return linear.run(
                device,
                room,
                (room.narrow, rows, width),
                (room.x, true),
                plan.exact,
            );
        }
        linear.run(
            device,
            room,
            (room.narrow, rows, width),
            (room.wide, false),
            plan.exact,
        )?;
        let norm = Norm {
            add: true,
            ..self.norm(room.wide, output.norm, room.x, rows)
        };
        norm.run(device)
    }
}

impl Layer {
    fn upload(
        device: &mut dyn Device,
        attention: &HostAttention,
        feed: &Gated,
        feed_norm: Buffer,
    ) -> Result<Self, Error> {
        Ok(Self {
            attend_norm: vector(device, &attention.norm)?,
            qkv: linear(device, &attention.qkv)?,
            q_norm: vector(device, &attention.q_norm)?,
            k_norm: vector(device, &attention.k_norm)?,
            attended: output(device, &attention.output)?,
            view: attention.view,
            feed_norm,
            gate_up: linear(device, &feed.gate_up)?,
            gelu: matches!(feed.activation, Activation::Gelu),
            inner: feed.inner,
            down: output(device, &feed.down)?,
        })
    }
}

impl Linear {
    fn run(
        &self,
        device: &mut dyn Device,
        room: &Room,
        (x, rows, width): (Buffer, usize, usize),
        (y, add): (Buffer, bool),
        exact: bool,
    ) -> Result<(), Error> {
        let mut rows = Rows::new(x, rows, width, &room.forms)?;
        let mut offset = 0_usize;
        for (part, bias) in self.parts.iter().zip(&self.biases) {
            let product = Product {
                bias: *bias,
                y,
                stride: self.outputs,
                offset,
                add,
                exact,
            };
            part.multiply(device, &mut rows, &product)?;
            offset = offset.saturating_add(part.outputs());
        }
        Ok(())
    }
}

fn output(device: &mut dyn Device, output: &HostOutput) -> Result<Output, Error> {
    Ok(Output {
        linear: linear(device, &output.linear)?,
        norm: vector(device, &output.norm)?,
    })
}

fn linear(device: &mut dyn Device, linear: &HostLinear) -> Result<Linear, Error> {
    let (parts, bias) = linear.parts();
    let parts: Vec<_> = parts
        .iter()
        .map(|part| matrix(device, part))
        .collect::<Result<_, _>>()?;
    let mut rest = bias;
    let mut biases = Vec::with_capacity(parts.len());
    for part in &parts {
        let (own, after) = rest.split_at(part.outputs().min(rest.len()));
        biases.push(vector(device, own)?);
        rest = after;
    }
    Ok(Linear {
        parts,
        biases,
        outputs: linear.outputs(),
    })
}

fn matrix(device: &mut dyn Device, matrix: &HostMatrix) -> Result<Matrix, Error> {
    let (format, mut rows) = matrix.file();
    let format = match format {
        Format::Bf16 => gpu::Format::Bf16,
        // As DeepSeek converts it where FP8 is not multiplied.
        Format::F8 => {
            rows = matrix.upper_halves();
            gpu::Format::Bf16
        }
        Format::F16 => gpu::Format::F16,
        Format::F32 => gpu::Format::F32,
        Format::Q4K => gpu::Format::Q4K,
        Format::Q6K => gpu::Format::Q6K,
        Format::Q8_0 => gpu::Format::Q8_0,
    };
    Matrix::upload(device, format, [matrix.outputs(), matrix.inputs()], &rows)
}

fn vector(device: &mut dyn Device, numbers: &[f32]) -> Result<Buffer, Error> {
    let bytes: Vec<u8> = numbers.iter().flat_map(|x| x.to_le_bytes()).collect();
    let buffer = device.allocate(bytes.len())?;
    if !bytes.is_empty() {
        device.upload(buffer, &bytes)?;
    }
    Ok(buffer)
}
