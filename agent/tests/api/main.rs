//! The OpenAI API, without a socket.

#![cfg(test)]
#![allow(
    clippy::arithmetic_side_effects,
    clippy::indexing_slicing,
    clippy::panic,
    clippy::unwrap_used,
    reason = "helpers of tests"
)]

mod bodies;
mod chat;
mod classify;
mod completions;
mod embeddings;
mod engine;
mod images;
mod models;
mod padding;
mod parameters;
mod responses;
mod served;
mod sight;
mod stream;
mod tools;
mod transcriptions;
