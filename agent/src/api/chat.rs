//! `POST /v1/chat/completions`
//!
//! * Honoured: `model`, `messages` (roles system, developer, user, assistant; text,
//!   or a list of text parts, joined by line breaks), `max_tokens` or
//!   `max_completion_tokens`, `temperature`, `top_p`, `presence_penalty`,
//!   `frequency_penalty`, `logit_bias`, `n` up to 8, `stop`, `seed`, `stream`,
//!   `stream_options.include_usage`; and as other servers have them `top_k`, `min_p`
//!   and `repetition_penalty`.
//! * Without effect: [`IGNORED`].
//! * Refused unless they say what happens anyway: [`neutral`].
//! * Refused: everything else.
//!
//! A model may come with its own defaults for `temperature`, `top_p`, `top_k`,
//! `min_p` and `repetition_penalty` (generation_config.json). Choice `i` of several uses `seed + i`.

use axum::body::Bytes;
use axum::extract::State;
use axum::extract::rejection::BytesRejection;
use axum::http::HeaderMap;
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json};
use futures_util::StreamExt as _;
use inference::{Answer, ChatRequest, Event, FinishReason, Message, Role, Sampling, Tenant};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::task::spawn_blocking;
use zeroize::Zeroizing;

use super::error::ApiError;
use super::fields::{Fields, wrong_type};
use super::models::Models;
use super::{random_id, stream, unix_time};

pub(super) async fn create(
    State(models): State<Models>,
    tenant: Option<Extension<Tenant>>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let fields = Fields::read(&headers, body)?;
    // Long prompts take long to tokenise.
    let tenant = tenant.map(|Extension(tenant)| tenant).unwrap_or_default();
    let begun = spawn_blocking(move || begin(&models, tenant, fields));
    let Begun {
        head,
        answers,
        delivery,
    } = begun.await.map_err(|_| ApiError::internal())??;
    match delivery {
        Delivery::Stream { include_usage } => {
            Ok(stream::respond(head, answers, include_usage).into_response())
        }
        Delivery::Whole => Ok(Json(collect(head, answers).await?).into_response()),
    }
}

/// Answers under way, and how they are to be delivered.
struct Begun {
    head: Head,
    answers: Vec<Answer>,
    delivery: Delivery,
}

enum Delivery {
    Stream { include_usage: bool },
    Whole,
}

/// What a response and every chunk of a stream begin with.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Head {
    id: String,
    pub(super) object: &'static str,
    created: u64,
    model: String,
    system_fingerprint: Option<String>,
}

fn begin(models: &Models, tenant: Tenant, mut fields: Fields) -> Result<Begun, ApiError> {
    let name: String = fields.require("model", "a string")?;
    let model = models.get(&name)?;
    let choices = fields.take("n", "an integer")?.unwrap_or(1);
    if !(1..=MAX_CHOICES).contains(&choices) {
        let message = format!("Invalid value for 'n': expected 1 to {MAX_CHOICES}.");
        return Err(ApiError::invalid("n", "invalid_value", message));
    }
    let delivery = delivery(&mut fields)?;
    let request = ChatRequest {
        tenant,
        ..request(&mut fields)?
    };
    fields.ignore(IGNORED);
    fields.allow_only(&neutral())?;
    fields.finish()?;

    let engine = &model.model.engine;
    // If one is refused, the others are dropped, and with that cancelled.
    let answers = (0..choices).map(|choice| {
        let mut request = request.clone();
        request.sampling.seed = request.sampling.seed.map(|seed| seed.wrapping_add(choice));
        engine.chat(request)
    });
    Ok(Begun {
        answers: answers.collect::<Result<_, _>>()?,
        delivery,
        head: Head {
            id: random_id("chatcmpl-"),
            object: "chat.completion",
            created: unix_time(),
            system_fingerprint: model.fingerprint(),
            model: name,
        },
    })
}

fn delivery(fields: &mut Fields) -> Result<Delivery, ApiError> {
    let stream = fields.take("stream", "a boolean")?.unwrap_or(false);
    let options = fields.take::<Value>("stream_options", "an object")?;
    let include_usage = match options {
        None => false,
        Some(_) if !stream => {
            let message = "The 'stream_options' parameter is only allowed when 'stream' is true.";
            return Err(ApiError::invalid(
                "stream_options",
                "invalid_value",
                message,
            ));
        }
        Some(options) => {
            let mut options = Fields::nested("stream_options", options)?;
            let include_usage = options.take("include_usage", "a boolean")?;
            options.ignore(&["include_obfuscation"]);
            options.finish()?;
            include_usage.unwrap_or(false)
        }
    };
    Ok(match stream {
        true => Delivery::Stream { include_usage },
        false => Delivery::Whole,
    })
}

fn request(fields: &mut Fields) -> Result<ChatRequest, ApiError> {
    let messages: Vec<Value> = fields.require("messages", "an array of objects")?;
    let messages = (0_usize..)
        .zip(messages)
        .map(|(index, value)| message(index, value));
    let messages = messages.collect::<Result<_, _>>()?;
    let old = fields.take("max_tokens", "an integer of at least 0")?;
    let new = fields.take("max_completion_tokens", "an integer of at least 0")?;
    if old.is_some() && new.is_some() {
        let message = "'max_tokens' and 'max_completion_tokens' cannot both be set.";
        return Err(ApiError::invalid(
            "max_tokens",
            "invalid_parameter_combination",
            message,
        ));
    }
    let stop = fields.take("stop", "a string or an array of strings")?;
    let seed: Option<i64> = fields.take("seed", "an integer")?;
    Ok(ChatRequest {
        messages,
        max_tokens: old.or(new),
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
        ..ChatRequest::default()
    })
}

fn message(index: usize, value: Value) -> Result<Message, ApiError> {
    let mut fields = Fields::nested(&format!("messages[{index}]"), value)?;
    let role: String = fields.require("role", "a string")?;
    let role = match role.as_str() {
        "assistant" => Role::Assistant,
        "system" | "developer" => Role::System,
        "user" => Role::User,
        _ => {
            let name = fields.name("role");
            let message = format!(
                "Invalid value for '{name}': expected 'system', 'developer', 'user' or 'assistant'.",
            );
            return Err(ApiError::invalid(name, "invalid_value", message));
        }
    };
    let place = fields.name("content");
    let content = match fields.require("content", "a string or an array of text parts")? {
        Value::String(text) => Zeroizing::new(text),
        Value::Array(parts) => join(&place, parts)?,
        _ => return Err(wrong_type(&place, "a string or an array of text parts")),
    };
    fields.ignore(&["annotations", "name", "refusal"]);
    fields.allow_only(&[
        ("audio", vec![]),
        ("function_call", vec![]),
        ("tool_calls", vec![json!([])]),
    ])?;
    fields.finish()?;
    Ok(Message { role, content })
}

fn join(place: &str, parts: Vec<Value>) -> Result<Zeroizing<String>, ApiError> {
    let mut content = Zeroizing::new(String::new());
    for (index, part) in (0_usize..).zip(parts) {
        let mut fields = Fields::nested(&format!("{place}[{index}]"), part)?;
        let kind: String = fields.require("type", "a string")?;
        if kind != "text" {
            let name = fields.name("type");
            let message = format!("Invalid value for '{name}': this model takes 'text' only.");
            return Err(ApiError::invalid(name, "invalid_value", message));
        }
        let text: String = fields.require("text", "a string")?;
        if index > 0 {
            content.push('\n');
        }
        content.push_str(&Zeroizing::new(text));
        fields.finish()?;
    }
    Ok(content)
}

/// A string, or a list of them.
#[derive(Deserialize)]
#[serde(untagged)]
pub(super) enum Texts {
    One(String),
    Several(Vec<String>),
}

/// Waits for whole answers.
async fn collect(head: Head, answers: Vec<Answer>) -> Result<Completion, ApiError> {
    let mut usage = Usage::default();
    let mut choices = Vec::with_capacity(answers.len());
    for (index, mut answer) in (0_usize..).zip(answers) {
        let mut content = String::new();
        let mut finish_reason = None;
        while let Some(event) = answer.next().await {
            match event? {
                Event::Text(text) => content.push_str(&text),
                Event::Finish { reason, usage: own } => {
                    finish_reason = Some(reason_name(reason));
                    usage.add(own);
                }
            }
        }
        choices.push(Choice {
            index,
            message: AssistantMessage {
                role: "assistant",
                content,
                refusal: None,
            },
            logprobs: None,
            finish_reason,
        });
    }
    Ok(Completion {
        head,
        choices,
        usage,
    })
}

pub(super) fn reason_name(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Length => "length",
        FinishReason::Stop => "stop",
    }
}

#[derive(Serialize)]
struct Completion {
    #[serde(flatten)]
    head: Head,
    choices: Vec<Choice>,
    usage: Usage,
}

#[derive(Serialize)]
struct Choice {
    index: usize,
    message: AssistantMessage,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

#[derive(Serialize)]
struct AssistantMessage {
    role: &'static str,
    content: String,
    refusal: Option<()>,
}

/// Tokens of all choices; the prompt counts once.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Usage {
    prompt_tokens: usize,
    completion_tokens: usize,
    total_tokens: usize,
    prompt_tokens_details: PromptDetails,
    completion_tokens_details: CompletionDetails,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct PromptDetails {
    cached_tokens: usize,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
struct CompletionDetails {
    reasoning_tokens: usize,
}

impl Usage {
    /// Adds what one choice cost.
    pub(super) fn add(&mut self, choice: inference::Usage) {
        self.prompt_tokens = choice.prompt;
        self.prompt_tokens_details.cached_tokens = choice.cached;
        self.completion_tokens = self.completion_tokens.saturating_add(choice.completion);
        self.total_tokens = self.prompt_tokens.saturating_add(self.completion_tokens);
    }
}

const MAX_CHOICES: u64 = 8;

/// They concern the account, the log or the cache of a provider.
const IGNORED: &[&str] = &[
    "metadata",
    "prompt_cache_key",
    "prompt_cache_retention",
    "safety_identifier",
    "service_tier",
    "store",
    "user",
];

/// Values that ask for nothing more than is done.
fn neutral() -> [(&'static str, Vec<Value>); 7] {
    [
        ("logprobs", vec![json!(false)]),
        ("modalities", vec![json!(["text"])]),
        ("parallel_tool_calls", vec![json!(true), json!(false)]),
        ("response_format", vec![json!({"type": "text"})]),
        ("tool_choice", vec![json!("none")]),
        ("tools", vec![json!([])]),
        ("top_logprobs", vec![json!(0)]),
    ]
}
