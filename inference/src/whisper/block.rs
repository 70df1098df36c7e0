//! What blocks of encoder and decoder are made of.

use crate::encoder::{Activation, Attention, Feed, Norm, linear};
use crate::error::LoadError;
use crate::kernel::pool::Pool;
use crate::weights::Weights;

/// The attention `name`; its keys have no bias.
pub(super) fn attention(
    pool: &mut Pool,
    weights: &mut Weights,
    name: &str,
    width: usize,
    heads: usize,
) -> Result<Attention, LoadError> {
    let mut part = |part, biased| {
        let name = format!("{name}.{part}_proj");
        linear(pool, weights, &name, [width, width], biased)
    };
    Ok(Attention {
        query: part("q", true)?,
        key: part("k", false)?,
        value: part("v", true)?,
        output: part("out", true)?,
        heads,
    })
}

/// The feed-forward network of the block `name`.
pub(super) fn feed(
    pool: &mut Pool,
    weights: &mut Weights,
    name: &str,
    [width, inner]: [usize; 2],
) -> Result<Feed, LoadError> {
    let names = ["fc1", "fc2"].map(|layer| format!("{name}.{layer}"));
    let names = names.each_ref().map(String::as_str);
    let widths = [width, inner, width];
    Feed::load(pool, weights, names, widths, Activation::Gelu, true)
}

pub(super) fn norm(weights: &mut Weights, name: &str, width: usize) -> Result<Norm, LoadError> {
    // As PyTorch's norms have it where nothing is said.
    Norm::load(weights, name, width, 1e-5)
}
