//! The BERT encoder as sentence embedder: mean of the last layer, length one.
//!
//! One text at a time, so that neither padding nor the rest of a batch can touch
//! its numbers.
//!
//! Source: `BertModel` of Hugging Face transformers, and the modules Transformer,
//! Pooling and Normalize of sentence-transformers.

use candle_core::{Device, Tensor};
use serde::Deserialize;

use crate::config::{FILE, check_sizes, unsupported};
use crate::encoder::{Activation, Attention, Feed, Norm, linear};
use crate::error::LoadError;
use crate::kernel::pool::Pool;
use crate::model_dir::ModelDir;
use crate::weights::{Tally, Weights};

/// Weights and shape.
#[derive(Debug)]
pub(crate) struct Bert {
    words: Tensor,
    positions: Tensor,
    /// All tokens are of the first segment.
    segment: Tensor,
    norm: Norm,
    layers: Vec<Layer>,
    context: usize,
    vocabulary: usize,
    tally: Tally,
}

impl Bert {
    /// As `architectures` in config.json has it.
    pub(crate) const ARCHITECTURE: &'static str = "BertModel";

    pub(crate) fn load(pool: &mut Pool, dir: &ModelDir) -> Result<Self, LoadError> {
        let config: Config = dir.json("config.json")?;
        config.check()?;
        dir.json::<Pooling>(POOLING)?.check()?;
        let context = dir
            .json::<SentenceBert>("sentence_bert_config.json")?
            .check(config.max_position_embeddings)?;

        let mut weights = Weights::open(dir)?;
        let hidden = config.hidden_size;
        let mut table = |name, rows| weights.tensor(name, &[rows, hidden]);
        let words = table("embeddings.word_embeddings.weight", config.vocab_size)?;
        let positions = table(
            "embeddings.position_embeddings.weight",
            config.max_position_embeddings,
        )?;
        let segment = table(
            "embeddings.token_type_embeddings.weight",
            config.type_vocab_size,
        )?;
        let segment = segment
            .get(0)
            .map_err(|source| LoadError::Build { source })?;
        let norm = Norm::load(
            &mut weights,
            "embeddings.LayerNorm",
            hidden,
            config.layer_norm_eps,
        )?;
        let layers = (0..config.num_hidden_layers)
            .map(|index| Layer::load(pool, &mut weights, &config, index))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            words,
            positions,
            segment,
            norm,
            layers,
            context,
            vocabulary: config.vocab_size,
            tally: weights.tally(),
        })
    }

    /// One without layers, which knows no token.
    #[cfg(test)]
    pub(crate) fn bare() -> Self {
        let none = || Tensor::zeros((1, 16), candle_core::DType::F32, &Device::Cpu).unwrap();
        Self {
            words: none(),
            positions: none(),
            segment: none(),
            norm: Norm::of_ones(16),
            layers: Vec::new(),
            context: 0,
            vocabulary: 0,
            tally: Tally {
                parameters: 0,
                format: None,
            },
        }
    }

    /// Tokens that a text can have.
    pub(crate) fn context(&self) -> usize {
        self.context
    }

    /// Tokens that there are.
    pub(crate) fn vocabulary(&self) -> usize {
        self.vocabulary
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    /// Embeds one text of at least one token.
    pub(crate) fn embed(&self, pool: &mut Pool, tokens: &[u32]) -> candle_core::Result<Vec<f32>> {
        let rows = tokens.len();
        let tokens = Tensor::from_slice(tokens, rows, &Device::Cpu)?;
        let x = self.words.index_select(&tokens, 0)?;
        let x = x.add(&self.positions.narrow(0, 0, rows)?)?;
        let mut x = self.norm.forward(&x.broadcast_add(&self.segment)?)?;
        for layer in &self.layers {
            x = layer.forward(pool, &x)?;
        }
        let mean = x.mean(0)?;
        let length = mean.sqr()?.sum_all()?.sqrt()?;
        mean.broadcast_div(&length)?.to_vec1()
    }
}

/// One block: attention, then the feed-forward network, each added and normalised.
#[derive(Debug)]
struct Layer {
    attention: Attention,
    attention_norm: Norm,
    feed: Feed,
    norm: Norm,
}

impl Layer {
    fn load(
        pool: &mut Pool,
        weights: &mut Weights,
        config: &Config,
        index: usize,
    ) -> Result<Self, LoadError> {
        let name = |part: &str| format!("encoder.layer.{index}.{part}");
        let (hidden, inner) = (config.hidden_size, config.intermediate_size);
        let mut norm = |part: &str| Norm::load(weights, &name(part), hidden, config.layer_norm_eps);
        let attention_norm = norm("attention.output.LayerNorm")?;
        let norm = norm("output.LayerNorm")?;
        let mut square = |part| linear(pool, weights, &name(part), [hidden, hidden], true);
        Ok(Self {
            attention: Attention {
                query: square("attention.self.query")?,
                key: square("attention.self.key")?,
                value: square("attention.self.value")?,
                output: square("attention.output.dense")?,
                heads: config.num_attention_heads,
            },
            attention_norm,
            feed: Feed::load(
                pool,
                weights,
                [&name("intermediate.dense"), &name("output.dense")],
                [hidden, inner, hidden],
                Activation::Gelu,
                true,
            )?,
            norm,
        })
    }

    fn forward(&self, pool: &mut Pool, x: &Tensor) -> candle_core::Result<Tensor> {
        let attended = self.attention.forward(pool, x)?;
        let x = self.attention_norm.forward(&x.add(&attended)?)?;
        self.norm.forward(&x.add(&self.feed.forward(pool, &x)?)?)
    }
}

#[derive(Debug, Deserialize)]
struct Config {
    vocab_size: usize,
    hidden_size: usize,
    intermediate_size: usize,
    num_hidden_layers: usize,
    num_attention_heads: usize,
    max_position_embeddings: usize,
    type_vocab_size: usize,
    layer_norm_eps: f32,
    hidden_act: String,
    #[serde(default = "absolute")]
    position_embedding_type: String,
}

/// The default of transformers.
fn absolute() -> String {
    "absolute".into()
}

impl Config {
    /// Refuses sizes that no real model has and settings that are not implemented.
    fn check(&self) -> Result<(), LoadError> {
        check_sizes(
            FILE,
            [
                ("vocab_size", self.vocab_size, 1 << 20),
                ("hidden_size", self.hidden_size, 1 << 14),
                ("intermediate_size", self.intermediate_size, 1 << 16),
                ("num_hidden_layers", self.num_hidden_layers, 1 << 8),
                ("num_attention_heads", self.num_attention_heads, 1 << 8),
                (
                    "max_position_embeddings",
                    self.max_position_embeddings,
                    1 << 16,
                ),
                ("type_vocab_size", self.type_vocab_size, 1 << 8),
            ],
        )?;
        for (key, found, expected) in [
            ("hidden_act", &self.hidden_act, "gelu"),
            (
                "position_embedding_type",
                &self.position_embedding_type,
                "absolute",
            ),
        ] {
            if found != expected {
                return Err(unsupported(FILE, key, found, expected));
            }
        }
        let heads = self.num_attention_heads;
        if self.hidden_size.checked_rem(heads) != Some(0) {
            let expected = format!("a divisor of hidden_size, {}", self.hidden_size);
            return Err(unsupported(FILE, "num_attention_heads", heads, expected));
        }
        Ok(())
    }
}

/// How the vectors of the tokens become one.
#[derive(Debug, Deserialize)]
struct Pooling {
    pooling_mode_cls_token: bool,
    pooling_mode_mean_tokens: bool,
    pooling_mode_max_tokens: bool,
    pooling_mode_mean_sqrt_len_tokens: bool,
}

impl Pooling {
    fn check(&self) -> Result<(), LoadError> {
        for (key, found, expected) in [
            ("pooling_mode_cls_token", self.pooling_mode_cls_token, false),
            (
                "pooling_mode_mean_tokens",
                self.pooling_mode_mean_tokens,
                true,
            ),
            (
                "pooling_mode_max_tokens",
                self.pooling_mode_max_tokens,
                false,
            ),
            (
                "pooling_mode_mean_sqrt_len_tokens",
                self.pooling_mode_mean_sqrt_len_tokens,
                false,
            ),
        ] {
            if found != expected {
                return Err(unsupported(POOLING, key, found, expected.to_string()));
            }
        }
        Ok(())
    }
}

#[derive(Debug, Deserialize)]
struct SentenceBert {
    max_seq_length: usize,
}

impl SentenceBert {
    fn check(&self, positions: usize) -> Result<usize, LoadError> {
        match self.max_seq_length {
            found if (1..=positions).contains(&found) => Ok(found),
            found => Err(unsupported(
                "sentence_bert_config.json",
                "max_seq_length",
                found,
                format!("1 to {positions}, max_position_embeddings"),
            )),
        }
    }
}

const POOLING: &str = "1_Pooling/config.json";
