//! Whisper: speech to text, in its language or in English.
//!
//! ```text
//! sound -> log-mel features -> encoder -> states, for a window of thirty seconds
//! states, prompt, language, task -> decoder -> tokens, some of which are times
//! ```
//!
//! One sound at a time, window after window; where the next one begins is what the
//! last times said.
//!
//! Numbers and tokens are those of transformers (`tests.rs`), the bits those of this
//! kind of processor: products of tensors are the tensor library's.
//!
//! Source: `WhisperForConditionalGeneration` and `WhisperFeatureExtractor` of Hugging
//! Face transformers.

mod block;
mod config;
mod decoder;
mod encoder;
mod features;
mod rules;
mod segment;
#[cfg(test)]
mod tests;
mod transcript;
mod vocabulary;
mod worker;

use std::sync::Arc;

use crate::error::LoadError;
use crate::kernel::pool::Pool;
use crate::model_dir::ModelDir;
use crate::weights::{Tally, Weights};
use config::Config;
use decoder::Decoder;
use encoder::Encoder;
use features::Extractor;
pub use transcript::{Segment, Transcript, TranscriptRequest};
pub(crate) use vocabulary::Vocabulary;
pub(crate) use worker::{Job, Worker};

/// Weights, and what is needed to use them.
#[derive(Debug)]
pub(crate) struct Whisper {
    extractor: Extractor,
    encoder: Encoder,
    decoder: Decoder,
    /// Frames of features that the encoder sees at a time; 10 ms each.
    window: usize,
    /// Tokens that the decoder can see.
    context: usize,
    vocabulary: usize,
    tally: Tally,
}

impl Whisper {
    /// As `architectures` in config.json has it.
    pub(crate) const ARCHITECTURE: &'static str = "WhisperForConditionalGeneration";

    pub(crate) fn load(pool: &mut Pool, dir: &ModelDir) -> Result<Self, LoadError> {
        let config = Config::load(dir)?;
        let mut weights = Weights::open(dir)?;
        let encoder = Encoder::load(pool, &mut weights, &config)?;
        let decoder = Decoder::load(pool, &mut weights, &config)?;
        let extractor = Extractor::new(config.num_mel_bins);
        Ok(Self {
            extractor: extractor.map_err(|source| LoadError::Build { source })?,
            encoder,
            decoder,
            window: config.window(),
            context: config.max_target_positions,
            vocabulary: config.vocab_size,
            tally: weights.tally(),
        })
    }

    /// Tokens that a transcript of one window can have, prompt included.
    pub(crate) fn context(&self) -> usize {
        self.context
    }

    /// The control tokens, which must be among those that there are.
    pub(crate) fn vocabulary(
        &self,
        dir: &ModelDir,
        tokens: &crate::tokens::Tokens,
    ) -> Result<Arc<Vocabulary>, LoadError> {
        Vocabulary::load(dir, tokens, self.vocabulary).map(Arc::new)
    }

    /// Tokens that there are.
    pub(crate) fn tokens(&self) -> usize {
        self.vocabulary
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }
}
