//! The arithmetic of models on the processor: the same bits everywhere.
//!
//! A row of a result depends on its own row of input alone. The order of additions
//! is fixed by the sizes of the model, and not by how many rows there are, how many
//! threads work, or which instructions the processor has.
//!
//! All `unsafe` of this crate is here: `level` calls the processor's instructions,
//! `pool` lends a computation to other threads.

#![cfg_attr(
    feature = "cuda",
    allow(dead_code, reason = "the GPU does the products")
)]

pub(crate) mod attention;
pub(crate) mod input;
#[expect(unsafe_code, reason = "calls the processor's instructions")]
pub(crate) mod level;
pub(crate) mod matrix;
#[expect(unsafe_code, reason = "lends a computation to other threads")]
pub(crate) mod pool;
pub(crate) mod row;
