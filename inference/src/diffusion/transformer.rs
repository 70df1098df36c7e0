//! Attention of pixels to each other and to the text.

use candle_core::{D, Module as _, Tensor};
use candle_nn::GroupNorm;

use super::block::{Conv, Source, pixels, rows};
use crate::encoder::{Attention, Norm, project};
use crate::error::LoadError;
use crate::kernel::pool::Pool;
use crate::linear::Linear;

/// What a transformer is like.
#[derive(Clone, Copy, Debug)]
pub(super) struct Form {
    pub(super) heads: usize,
    /// Width of the text's states.
    pub(super) text: usize,
    /// Whether rows are projected, or pixels.
    pub(super) linear: bool,
}

#[derive(Debug)]
pub(super) struct Transformer {
    norm: GroupNorm,
    enter: Projection,
    own_norm: Norm,
    own: Attention,
    text_norm: Norm,
    text: Attention,
    inner_norm: Norm,
    up: Linear,
    down: Linear,
    leave: Projection,
}

#[derive(Debug)]
enum Projection {
    Pixels(Conv),
    Rows(Linear),
}

impl Transformer {
    pub(super) fn load(
        source: &mut Source<'_>,
        name: &str,
        channels: usize,
        form: Form,
    ) -> Result<Self, LoadError> {
        let part = |part: &str| format!("{name}.{part}");
        let block = |part: &str| format!("{name}.transformer_blocks.0.{part}");
        let project = |source: &mut Source<'_>, name: &str| match form.linear {
            true => source
                .linear(name, [channels; 2], true)
                .map(Projection::Rows),
            false => source.conv(name, [channels; 2], 1).map(Projection::Pixels),
        };
        let norm = |source: &mut Source<'_>, name| {
            Norm::load(source.weights, &block(name), channels, 1e-5)
        };
        let inner = channels.saturating_mul(4);
        let heads = form.heads;
        Ok(Self {
            norm: source.norm_with(&part("norm"), channels, 1e-6)?,
            enter: project(source, &part("proj_in"))?,
            own_norm: norm(source, "norm1")?,
            own: attention(source, &block("attn1"), [channels, channels], heads)?,
            text_norm: norm(source, "norm2")?,
            text: attention(source, &block("attn2"), [form.text, channels], heads)?,
            inner_norm: norm(source, "norm3")?,
            up: source.linear(
                &block("ff.net.0.proj"),
                [channels, inner.saturating_mul(2)],
                true,
            )?,
            down: source.linear(&block("ff.net.2"), [inner, channels], true)?,
            leave: project(source, &part("proj_out"))?,
        })
    }

    pub(super) fn forward(
        &self,
        pool: &mut Pool,
        x: &Tensor,
        text: &Tensor,
    ) -> candle_core::Result<Tensor> {
        let inner = self.norm.forward(x)?;
        let mut y = match &self.enter {
            Projection::Pixels(conv) => rows(&conv.forward(&inner)?)?,
            Projection::Rows(linear) => project(pool, linear, &rows(&inner)?)?,
        };
        let inner = self.own_norm.forward(&y)?;
        let seen = self.own.seen(pool, &inner)?;
        y = y.add(&self.own.attend(pool, &inner, &seen, None)?)?;
        let inner = self.text_norm.forward(&y)?;
        let seen = self.text.seen(pool, text)?;
        y = y.add(&self.text.attend(pool, &inner, &seen, None)?)?;
        let inner = project(pool, &self.up, &self.inner_norm.forward(&y)?)?;
        let [value, gate] = inner
            .chunk(2, D::Minus1)?
            .try_into()
            .map_err(|_| candle_core::Error::Msg("a product that cannot be halved".into()))?;
        let inner = value.contiguous()?.mul(&gate.contiguous()?.gelu_erf()?)?;
        y = y.add(&project(pool, &self.down, &inner)?)?;
        let y = match &self.leave {
            Projection::Pixels(conv) => conv.forward(&pixels(&y, x)?)?,
            Projection::Rows(linear) => pixels(&project(pool, linear, &y)?, x)?,
        };
        x.add(&y)
    }
}

fn attention(
    source: &mut Source<'_>,
    name: &str,
    [seen, channels]: [usize; 2],
    heads: usize,
) -> Result<Attention, LoadError> {
    let part = |part: &str| format!("{name}.{part}");
    Ok(Attention {
        query: source.linear(&part("to_q"), [channels, channels], false)?,
        key: source.linear(&part("to_k"), [seen, channels], false)?,
        value: source.linear(&part("to_v"), [seen, channels], false)?,
        output: source.linear(&part("to_out.0"), [channels, channels], true)?,
        heads,
    })
}
