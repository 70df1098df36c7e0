//! How a model wants to be sampled, where a request says nothing.

use serde::Deserialize;

use crate::config::unsupported;
use crate::error::{LoadError, RequestError};
use crate::model_dir::ModelDir;
use crate::request::Sampling;
use crate::sampler::{Sampler, Settings};

/// What `generation_config.json` says; it need not be there.
#[derive(Debug)]
pub(crate) struct Generation {
    /// Tokens that end an answer.
    pub(crate) ends: Option<Ids>,
    pub(crate) defaults: Defaults,
}

impl Generation {
    pub(crate) fn load(dir: &ModelDir) -> Result<Self, LoadError> {
        let file: File = dir.optional_json(FILE)?.unwrap_or_default();
        let temperature = match file.do_sample {
            Some(false) => 0.0,
            _ => file.temperature.unwrap_or(1.0),
        };
        let top_p = file.top_p.unwrap_or(1.0);
        let min_p = file.min_p.unwrap_or(0.0);
        let repetition_penalty = file.repetition_penalty.unwrap_or(1.0);
        for (key, found, low, high) in [
            ("temperature", temperature, 0.0, 2.0),
            ("top_p", top_p, 0.0, 1.0),
            ("min_p", min_p, 0.0, 1.0),
            ("repetition_penalty", repetition_penalty, 0.01, 2.0),
        ] {
            if !(low..=high).contains(&found) {
                return Err(unsupported(FILE, key, found, format!("{low} to {high}")));
            }
        }
        Ok(Self {
            ends: file.eos_token_id,
            defaults: Defaults {
                temperature,
                top_p,
                top_k: file.top_k.unwrap_or(0),
                min_p,
                repetition_penalty,
            },
        })
    }
}

/// What is used where a request says nothing.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Defaults {
    temperature: f64,
    top_p: f64,
    top_k: usize,
    min_p: f64,
    repetition_penalty: f64,
}

impl Defaults {
    /// Settings for one answer, complete.
    pub(crate) fn sampler(self, asked: Sampling, prompt: &[u32]) -> Result<Sampler, RequestError> {
        let seed = match asked.seed {
            Some(seed) => seed,
            None => getrandom::u64().map_err(|_| RequestError::NoRandomness)?,
        };
        let settings = Settings {
            temperature: asked.temperature.unwrap_or(self.temperature),
            top_p: asked.top_p.unwrap_or(self.top_p),
            top_k: asked.top_k.unwrap_or(self.top_k),
            min_p: asked.min_p.unwrap_or(self.min_p),
            repetition_penalty: asked.repetition_penalty.unwrap_or(self.repetition_penalty),
            presence_penalty: asked.presence_penalty.unwrap_or(0.0),
            frequency_penalty: asked.frequency_penalty.unwrap_or(0.0),
            logit_bias: asked.logit_bias,
        };
        Ok(Sampler::new(settings, seed, prompt))
    }
}

/// One token id or several.
#[derive(Clone, Debug, Deserialize)]
#[serde(untagged)]
pub(crate) enum Ids {
    One(u32),
    Several(Vec<u32>),
}

impl From<Ids> for Vec<u32> {
    fn from(ids: Ids) -> Self {
        match ids {
            Ids::One(id) => vec![id],
            Ids::Several(ids) => ids,
        }
    }
}

#[derive(Debug, Default, Deserialize)]
struct File {
    eos_token_id: Option<Ids>,
    do_sample: Option<bool>,
    temperature: Option<f64>,
    top_p: Option<f64>,
    top_k: Option<usize>,
    min_p: Option<f64>,
    repetition_penalty: Option<f64>,
}

const FILE: &str = "generation_config.json";

#[cfg(test)]
mod tests {
    use super::*;

    fn load(json: Option<&str>) -> Result<Generation, LoadError> {
        let dir = tempfile::tempdir().unwrap();
        if let Some(json) = json {
            std::fs::write(dir.path().join(FILE), json).unwrap();
        }
        Generation::load(&ModelDir::new(dir.path()))
    }

    #[test]
    fn the_defaults_are_the_models_own() {
        for (json, temperature, top_p) in [
            (None, 1.0, 1.0),
            (Some(r#"{"temperature": 0.6, "top_p": 0.95}"#), 0.6, 0.95),
            (
                Some(r#"{"do_sample": false, "temperature": 0.6}"#),
                0.0,
                1.0,
            ),
        ] {
            let defaults = load(json).unwrap().defaults;
            assert_eq!((defaults.temperature, defaults.top_p), (temperature, top_p));
        }
    }

    #[test]
    fn one_end_may_stand_alone() {
        for (json, ends) in [
            (r#"{"eos_token_id": 7}"#, vec![7]),
            (r#"{"eos_token_id": [7, 8]}"#, vec![7, 8]),
        ] {
            assert_eq!(Vec::from(load(Some(json)).unwrap().ends.unwrap()), ends);
        }
    }

    #[test]
    fn a_default_out_of_range_is_refused() {
        let error = load(Some(r#"{"top_p": 1.5}"#)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "generation_config.json: top_p is 1.5, expected 0 to 1",
        );
    }
}
