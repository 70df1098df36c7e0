//! The Vision Transformer as classifier: the row of the class, and a score for each
//! label.
//!
//! Source: `ViTForImageClassification` of Hugging Face transformers.

use std::collections::BTreeMap;
use std::sync::Arc;

use media::Pixels;
use serde::Deserialize;

use super::encoder::{self, Encoder, Names};
use super::processor::Processor;
use super::resize::Filter;
use crate::config::{FILE, unsupported};
use crate::encoder::{Norm, linear, project};
use crate::error::LoadError;
use crate::kernel::pool::Pool;
use crate::linear::Linear;
use crate::model_dir::ModelDir;
use crate::weights::{Tally, Weights};

/// Weights and labels.
#[derive(Debug)]
pub(crate) struct Vit {
    processor: Arc<Processor>,
    patch: usize,
    encoder: Encoder,
    norm: Norm,
    head: Linear,
    labels: Vec<Arc<str>>,
    tally: Tally,
}

impl Vit {
    /// As `architectures` in config.json has it.
    pub(crate) const ARCHITECTURE: &'static str = "ViTForImageClassification";

    pub(crate) fn load(pool: &mut Pool, dir: &ModelDir) -> Result<Self, LoadError> {
        let config: Config = dir.json(FILE)?;
        let labels = config.labels()?;
        let config = config.encoder;
        let mut weights = Weights::open(dir)?;
        let layers = config.num_hidden_layers;
        let encoder = Encoder::load(pool, &mut weights, &config, &NAMES, "vit.", layers)?;
        let epsilon = config.layer_norm_eps.unwrap_or(NAMES.epsilon);
        let hidden = config.hidden_size;
        let norm = Norm::load(&mut weights, "vit.layernorm", hidden, epsilon)?;
        let shape = [labels.len(), hidden];
        let head = linear(pool, &mut weights, "classifier", shape, true)?;
        Ok(Self {
            processor: Arc::new(Processor::load(dir, config.image_size, Filter::Bilinear)?),
            patch: config.patch_size,
            encoder,
            norm,
            head,
            labels,
            tally: weights.tally(),
        })
    }

    pub(crate) fn tally(&self) -> &Tally {
        &self.tally
    }

    pub(crate) fn labels(&self) -> &[Arc<str>] {
        &self.labels
    }

    /// What makes an image fit.
    pub(crate) fn processor(&self) -> Arc<Processor> {
        Arc::clone(&self.processor)
    }

    /// The logit of each label, for an image that fits.
    pub(crate) fn logits(&self, pool: &mut Pool, image: &Pixels) -> candle_core::Result<Vec<f32>> {
        let patches = self.processor.patches(image, self.patch);
        let rows = self.encoder.forward(pool, &patches)?;
        let class = self.norm.forward(&rows.narrow(0, 0, 1)?)?;
        project(pool, &self.head, &class)?.flatten_all()?.to_vec1()
    }
}

#[derive(Debug, Deserialize)]
struct Config {
    #[serde(flatten)]
    encoder: encoder::Config,
    id2label: BTreeMap<usize, String>,
}

impl Config {
    fn labels(&self) -> Result<Vec<Arc<str>>, LoadError> {
        let count = self.id2label.len();
        if !(1..=MAX_LABELS).contains(&count) || !self.id2label.keys().copied().eq(0..count) {
            let expected = format!("1 to {MAX_LABELS}, numbered from 0");
            return Err(unsupported(
                FILE,
                "id2label",
                format!("{count} labels"),
                expected,
            ));
        }
        let labels = self.id2label.values();
        Ok(labels.map(|label| Arc::from(label.as_str())).collect())
    }
}

/// More than any list of kinds of things in use.
const MAX_LABELS: usize = 1 << 16;

const NAMES: Names = Names {
    patches: "embeddings.patch_embeddings.projection",
    patch_bias: true,
    class: Some("embeddings.cls_token"),
    positions: "embeddings.position_embeddings",
    pre_norm: None,
    layers: "encoder.layer",
    attention: [
        "attention.attention.query",
        "attention.attention.key",
        "attention.attention.value",
        "attention.output.dense",
    ],
    norms: ["layernorm_before", "layernorm_after"],
    feed: ["intermediate.dense", "output.dense"],
    activation: "gelu",
    epsilon: 1e-12,
};

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::level::Cpu;

    #[derive(Deserialize)]
    struct Expected {
        logits: Vec<f32>,
    }

    fn logits(threads: usize, cpu: Cpu) -> Vec<f32> {
        let dir = ModelDir::new(&super::super::reference("vit"));
        let mut pool = Pool::with(threads, cpu).unwrap();
        let model = Vit::load(&mut pool, &dir).unwrap();
        let image = model.processor().fit(&crate::vision::sample()).unwrap();
        model.logits(&mut pool, &image).unwrap()
    }

    #[test]
    fn logits_are_those_of_transformers() {
        let path = super::super::reference("vit").join("expected.json");
        let expected = std::fs::read(path).unwrap();
        let expected: Expected = serde_json::from_slice(&expected).unwrap();
        let found = logits(2, Cpu::detect());
        assert_eq!(found.len(), expected.logits.len());
        for (found, expected) in found.iter().zip(&expected.logits) {
            assert!((found - expected).abs() < 1e-4, "{found} is not {expected}");
        }
    }

    #[test]
    fn an_image_gives_the_same_bits_on_any_processor() {
        let expected = logits(1, Cpu::PORTABLE);
        for cpu in Cpu::all() {
            for threads in [1, 3] {
                assert!(logits(threads, cpu) == expected, "{cpu:?} {threads}");
            }
        }
    }
}
