//! The shape of a Whisper model, checked.

use serde::Deserialize;

use crate::config::{FILE, check_multiple, check_sizes, unsupported};
use crate::error::LoadError;
use crate::model_dir::ModelDir;

/// What config.json says.
#[derive(Debug, Deserialize)]
pub(super) struct Config {
    pub(super) vocab_size: usize,
    pub(super) num_mel_bins: usize,
    pub(super) d_model: usize,
    pub(super) encoder_layers: usize,
    pub(super) encoder_attention_heads: usize,
    pub(super) encoder_ffn_dim: usize,
    pub(super) decoder_layers: usize,
    pub(super) decoder_attention_heads: usize,
    pub(super) decoder_ffn_dim: usize,
    pub(super) max_source_positions: usize,
    pub(super) max_target_positions: usize,
    activation_function: String,
    #[serde(default)]
    scale_embedding: bool,
    #[serde(default = "tied")]
    tie_word_embeddings: bool,
}

fn tied() -> bool {
    true
}

impl Config {
    /// Reads it, and what the features are to be like.
    pub(super) fn load(dir: &ModelDir) -> Result<Self, LoadError> {
        let config: Self = dir.json(FILE)?;
        config.check()?;
        dir.json::<Preprocessor>(PREPROCESSOR)?.check(&config)?;
        Ok(config)
    }

    /// Frames that the encoder sees: two for each of its positions.
    pub(super) fn window(&self) -> usize {
        self.max_source_positions.saturating_mul(2)
    }

    /// Refuses sizes that no real model has and settings that are not implemented.
    fn check(&self) -> Result<(), LoadError> {
        check_sizes(
            FILE,
            [
                ("vocab_size", self.vocab_size, 1 << 20),
                ("d_model", self.d_model, 1 << 13),
                ("encoder_layers", self.encoder_layers, 1 << 8),
                ("encoder_ffn_dim", self.encoder_ffn_dim, 1 << 16),
                ("decoder_layers", self.decoder_layers, 1 << 8),
                ("decoder_ffn_dim", self.decoder_ffn_dim, 1 << 16),
                ("max_source_positions", self.max_source_positions, 1500),
                ("max_target_positions", self.max_target_positions, 1 << 12),
            ],
        )?;
        for (key, heads) in [
            ("encoder_attention_heads", self.encoder_attention_heads),
            ("decoder_attention_heads", self.decoder_attention_heads),
        ] {
            check_sizes(FILE, [(key, heads, 1 << 8)])?;
            check_multiple(FILE, "d_model", self.d_model, heads)?;
        }
        if ![80, 128].contains(&self.num_mel_bins) {
            return Err(unsupported(
                FILE,
                "num_mel_bins",
                self.num_mel_bins,
                "80 or 128",
            ));
        }
        // A prompt may fill half of them; control tokens and an answer need room too.
        if self.max_target_positions < 16 {
            let found = self.max_target_positions;
            return Err(unsupported(
                FILE,
                "max_target_positions",
                found,
                "16 at least",
            ));
        }
        if self.activation_function != "gelu" {
            let found = &self.activation_function;
            return Err(unsupported(FILE, "activation_function", found, "gelu"));
        }
        for (key, found, expected) in [
            ("scale_embedding", self.scale_embedding, false),
            ("tie_word_embeddings", self.tie_word_embeddings, true),
        ] {
            if found != expected {
                return Err(unsupported(FILE, key, found, expected.to_string()));
            }
        }
        Ok(())
    }
}

/// What preprocessor_config.json says.
#[derive(Debug, Deserialize)]
struct Preprocessor {
    chunk_length: usize,
    feature_size: usize,
    hop_length: usize,
    n_fft: usize,
    sampling_rate: usize,
    #[serde(default)]
    padding_value: f64,
    #[serde(default)]
    dither: f64,
    #[serde(default)]
    do_normalize: bool,
}

impl Preprocessor {
    fn check(&self, config: &Config) -> Result<(), LoadError> {
        let seconds = config.window() / 100;
        for (key, found, expected) in [
            ("chunk_length", self.chunk_length, seconds),
            ("feature_size", self.feature_size, config.num_mel_bins),
            ("hop_length", self.hop_length, 160),
            ("n_fft", self.n_fft, 400),
            ("sampling_rate", self.sampling_rate, 16_000),
        ] {
            if found != expected {
                return Err(unsupported(PREPROCESSOR, key, found, expected.to_string()));
            }
        }
        for (key, found) in [
            ("padding_value", self.padding_value),
            ("dither", self.dither),
        ] {
            if found != 0.0 {
                return Err(unsupported(PREPROCESSOR, key, found, "0"));
            }
        }
        match self.do_normalize {
            false => Ok(()),
            true => Err(unsupported(PREPROCESSOR, "do_normalize", "true", "false")),
        }
    }
}

const PREPROCESSOR: &str = "preprocessor_config.json";
