//! `POST /v1/completions`: texts continued as they stand, by no chat template.
//!
//! * Honoured: `model`, `prompt` (a text, several, the ids of tokens of this model,
//!   or several lists of those; with `n` of each, no more answers than one client may
//!   have waiting), `max_tokens` (16 if absent), `n` up to 8, `echo`, `logprobs` up to 5,
//!   `stop`, `stream`, `stream_options` and what chat has for sampling.
//! * Without effect: [`IGNORED`].
//! * Refused unless they say what happens anyway: `best_of`, `suffix`; `echo` with
//!   `logprobs`, since a prompt is read without its probabilities.
//! * Refused: everything else.
//!
//! Choice `n * p + i` is the `i`-th of prompt `p`, and uses `seed + i`.

use axum::extract::State;
use axum::response::Response;
use inference::{Engine, FinishReason, Logprob, Prompt, Request};
use serde::{Deserialize, Serialize};
use serde_json::json;
use zeroize::Zeroizing;

use super::answers::{Answers, Whole, reason_name};
use super::asker::Asker;
use super::delivery::{Choices, Completion, Delivery};
use super::error::ApiError;
use super::fields::Fields;
use super::logprobs::{TextLogprobs, characters};
use super::models::Models;
use super::options::{self, IGNORED};
use super::{Head, aside};

pub(super) async fn create(
    State(models): State<Models>,
    asker: Asker,
    fields: Fields,
) -> Result<Response, ApiError> {
    // Long prompts take long to tokenise.
    let tenant = asker.tenant.clone();
    let begun = aside(&tenant, move || begin(&models, &asker, fields)).await?;
    begun.respond().await
}

fn begin(
    models: &Models,
    asker: &Asker,
    mut fields: Fields,
) -> Result<Completion<Texts>, ApiError> {
    let name: String = fields.require("model", "a string")?;
    let model = models.get(&name)?;
    let choices = options::choices(&mut fields)?;
    let delivery = Delivery::read(&mut fields, asker)?;
    let prompts = prompts(&mut fields)?;
    check_count(model.engine(), prompts.len(), choices)?;
    let echo = fields.take("echo", "a boolean")?.unwrap_or(false);
    let logprobs = logprobs(&mut fields, echo)?;
    let max_tokens = fields.take("max_tokens", "an integer of at least 0")?;
    let head = Head::new("cmpl-", "text_completion", model);
    let request = Request {
        max_tokens: Some(max_tokens.unwrap_or(MAX_TOKENS)),
        logprobs,
        tenant: asker.tenant.clone(),
        witness: asker.witness(model, Some(&head.id)),
        ..options::request(&mut fields)?
    };
    fields.ignore(IGNORED);
    fields.allow_only(&[("best_of", vec![json!(1)]), ("suffix", vec![])])?;
    fields.finish()?;

    let mut texts = Texts {
        with_logprobs: logprobs.is_some(),
        echoes: Vec::new(),
        offsets: Vec::new(),
    };
    let mut answers = Vec::new();
    for prompt in prompts {
        let echo = match echo {
            true => text(model.engine(), &prompt)?,
            false => Zeroizing::default(),
        };
        let request = Request {
            prompt,
            ..request.clone()
        };
        let begun = model.engine().answers(&request, choices);
        let begun = begun.map_err(|error| {
            // The same limits, of another parameter.
            ApiError::from(error)
                .of("messages", "prompt")
                .of("top_logprobs", "logprobs")
        })?;
        for answer in begun {
            answers.push(answer);
            texts.echoes.push(echo.clone());
            texts.offsets.push(0);
        }
    }
    let answers = Answers {
        answers,
        per_prompt: usize::try_from(choices).unwrap_or(1),
    };
    Ok(Completion {
        head,
        answers,
        delivery,
        choices: texts,
    })
}

fn prompts(fields: &mut Fields) -> Result<Vec<Prompt>, ApiError> {
    let text = |text: String| Prompt::Text(Zeroizing::new(text));
    let ids = |ids: Vec<u32>| Prompt::Tokens(Zeroizing::new(ids));
    let prompts = fields.require(
        "prompt",
        "a string, an array of strings, of token ids, or of arrays of token ids",
    )?;
    Ok(match prompts {
        Prompts::Text(one) => vec![text(one)],
        Prompts::Tokens(one) if !one.is_empty() => vec![ids(one)],
        Prompts::Tokens(_) => Vec::new(),
        Prompts::Texts(several) => several.into_iter().map(text).collect(),
        Prompts::TokenLists(several) => several.into_iter().map(ids).collect(),
    })
}

/// Refuses what could wait without end for so much room.
fn check_count(engine: &Engine, prompts: usize, choices: u64) -> Result<(), ApiError> {
    let choices = usize::try_from(choices).unwrap_or(usize::MAX);
    let most = engine.limits().own();
    match (1..=most).contains(&prompts.saturating_mul(choices)) {
        true => Ok(()),
        false => {
            let message = format!(
                "Invalid value for 'prompt': expected 1 to {most} prompts, or fewer of several answers each.",
            );
            Err(ApiError::invalid("prompt", "invalid_value", message))
        }
    }
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Prompts {
    Text(String),
    Tokens(Vec<u32>),
    Texts(Vec<String>),
    TokenLists(Vec<Vec<u32>>),
}

fn logprobs(fields: &mut Fields, echo: bool) -> Result<Option<usize>, ApiError> {
    let logprobs: Option<usize> = fields.take("logprobs", "an integer of at least 0")?;
    match logprobs {
        Some(found) if found > MAX_LOGPROBS => {
            let message = format!("Invalid value for 'logprobs': expected 0 to {MAX_LOGPROBS}.");
            Err(ApiError::invalid("logprobs", "invalid_value", message))
        }
        Some(_) if echo => {
            let message = "Unsupported parameter: 'logprobs' with 'echo'.";
            Err(ApiError::invalid(
                "logprobs",
                "unsupported_parameter",
                message,
            ))
        }
        found => Ok(found),
    }
}

/// A prompt as it is repeated before the answer.
fn text(engine: &Engine, prompt: &Prompt) -> Result<Zeroizing<String>, ApiError> {
    match prompt {
        Prompt::Text(text) => Ok(text.clone()),
        Prompt::Tokens(tokens) => engine.text(tokens).ok_or_else(ApiError::internal),
        Prompt::Chat(_) => Ok(Zeroizing::default()),
    }
}

/// Writes choices, each after what it repeats.
struct Texts {
    with_logprobs: bool,
    echoes: Vec<Zeroizing<String>>,
    /// Characters that have been said of each choice.
    offsets: Vec<usize>,
}

impl Choices for Texts {
    type Chunk = Choice;
    type Whole = Choice;

    fn whole(&mut self, index: usize, whole: Whole) -> Choice {
        let echo = self.begin(index);
        let more = self.text(index, whole.text, whole.logprobs);
        Choice {
            text: echo.map(|echo| echo.text).unwrap_or_default() + &more.text,
            finish_reason: Some(whole.reason),
            ..more
        }
    }

    fn begin(&mut self, index: usize) -> Option<Choice> {
        let echo = self.echoes.get(index).filter(|echo| !echo.is_empty())?;
        let text = echo.as_str().to_owned();
        if let Some(offset) = self.offsets.get_mut(index) {
            *offset = characters(text.as_bytes());
        }
        Some(Choice {
            text,
            index,
            logprobs: None,
            finish_reason: None,
        })
    }

    fn text(&mut self, index: usize, text: String, logprobs: Vec<Logprob>) -> Choice {
        let offset = self.offsets.get(index).copied().unwrap_or(0);
        let bytes = logprobs
            .iter()
            .map(|logprob| characters(&logprob.chosen.bytes));
        let end = offset.saturating_add(bytes.sum());
        if let Some(offset) = self.offsets.get_mut(index) {
            *offset = end;
        }
        Choice {
            text,
            index,
            logprobs: self
                .with_logprobs
                .then(|| TextLogprobs::new(logprobs, offset)),
            finish_reason: None,
        }
    }

    fn finish(&mut self, index: usize, reason: FinishReason) -> Choice {
        Choice {
            text: String::new(),
            index,
            logprobs: None,
            finish_reason: Some(reason_name(reason)),
        }
    }
}

#[derive(Serialize)]
struct Choice {
    text: String,
    index: usize,
    logprobs: Option<TextLogprobs>,
    finish_reason: Option<&'static str>,
}

/// The answer is this long where a request does not say, as with OpenAI.
const MAX_TOKENS: usize = 16;

/// As many as OpenAI gives here.
const MAX_LOGPROBS: usize = 5;
