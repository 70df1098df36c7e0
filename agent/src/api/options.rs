//! What chat and text completions are both asked for.

use inference::{Request, Sampling};
use serde::Deserialize;

use super::error::ApiError;
use super::fields::Fields;

/// `n`
pub(super) fn choices(fields: &mut Fields) -> Result<u64, ApiError> {
    let choices = fields.take("n", "an integer")?.unwrap_or(1);
    match (1..=MAX_CHOICES).contains(&choices) {
        true => Ok(choices),
        false => {
            let message = format!("Invalid value for 'n': expected 1 to {MAX_CHOICES}.");
            Err(ApiError::invalid("n", "invalid_value", message))
        }
    }
}

/// How to choose tokens and where to stop; a request that has no prompt yet.
pub(super) fn request(fields: &mut Fields) -> Result<Request, ApiError> {
    let stop = fields.take("stop", "a string or an array of strings")?;
    let seed: Option<i64> = fields.take("seed", "an integer")?;
    Ok(Request {
        sampling: Sampling {
            temperature: fields.take("temperature", "a number")?,
            top_p: fields.take("top_p", "a number")?,
            top_k: fields.take("top_k", "an integer of at least 0")?,
            min_p: fields.take("min_p", "a number")?,
            repetition_penalty: fields.take("repetition_penalty", "a number")?,
            presence_penalty: fields.take("presence_penalty", "a number")?,
            frequency_penalty: fields.take("frequency_penalty", "a number")?,
            logit_bias: fields
                .take("logit_bias", "an object of token ids and numbers")?
                .unwrap_or_default(),
            seed: seed.map(i64::cast_unsigned),
        },
        stop: match stop {
            None => Vec::new(),
            Some(Texts::One(text)) => vec![text],
            Some(Texts::Several(texts)) => texts,
        },
        ..Request::default()
    })
}

/// A string, or a list of them.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Texts {
    One(String),
    Several(Vec<String>),
}

const MAX_CHOICES: u64 = 8;

/// They concern the account, the log or the cache of a provider.
pub(super) const IGNORED: &[&str] = &[
    "metadata",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "user",
];
