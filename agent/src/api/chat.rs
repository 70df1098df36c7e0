//! `POST /v1/chat/completions`
//!
//! * Honoured: `model`, `messages` (roles system, developer, user, assistant with its
//!   `tool_calls`, tool; text, or a list of text parts, joined by line breaks, and of
//!   images for models that see, as `image_url` parts with `data:` URLs), `tools`,
//!   `tool_choice`, `parallel_tool_calls`, `response_format` (a schema is always
//!   strict), `max_tokens` or `max_completion_tokens`, `temperature`, `top_p`,
//!   `presence_penalty`, `frequency_penalty`, `logit_bias`, `n` up to 8, `stop`, `seed`,
//!   `logprobs`, `top_logprobs` up to 20, `stream`, `stream_options`; and as other
//!   servers have them `top_k`, `min_p` and `repetition_penalty`.
//! * Without effect: [`IGNORED`], and `store`.
//! * Refused unless they say what happens anyway: [`neutral`].
//! * Refused: everything else.
//!
//! A call follows the schema of its tool, whether the request asks for one or the model
//! chooses to make it. Of a schema that no grammar can be made of, the arguments are any
//! object, and only a tool that is `strict` is refused for it, as OpenAI does it. JSON
//! that names none of the tools is content. Tools need a model whose template has them.
//!
//! A model may come with its own defaults for `temperature`, `top_p`, `top_k`,
//! `min_p` and `repetition_penalty` (generation_config.json). Choice `i` of several uses `seed + i`.

use std::collections::BTreeMap;

use axum::extract::State;
use axum::response::Response;
use inference::{FinishReason, Logprob, Prompt, Request};
use serde::Serialize;
use serde_json::{Value, json};

use super::answers::{Answers, Call, Whole, reason_name};
use super::asker::Asker;
use super::delivery::{Choices, Completion, Delivery};
use super::error::ApiError;
use super::fields::Fields;
use super::logprobs::ChatLogprobs;
use super::models::Models;
use super::options::{self, IGNORED};
use super::{Head, aside, messages, tools};

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

fn begin(models: &Models, asker: &Asker, mut fields: Fields) -> Result<Completion<Chat>, ApiError> {
    let name: String = fields.require("model", "a string")?;
    let model = models.get(&name)?;
    let choices = options::choices(&mut fields)?;
    let delivery = Delivery::read(&mut fields, asker)?;
    let logprobs = logprobs(&mut fields)?;
    let object = match delivery {
        Delivery::Stream(_) => "chat.completion.chunk",
        Delivery::Whole => "chat.completion",
    };
    let head = Head::new("chatcmpl-", object, model);
    let request = Request {
        prompt: Prompt::Chat(messages::read(&mut fields, model.engine().info().images)?),
        tools: tools::read(&mut fields, true)?,
        format: tools::response_format(&mut fields)?,
        max_tokens: max_tokens(&mut fields)?,
        logprobs,
        tenant: asker.tenant.clone(),
        witness: asker.witness(model, Some(&head.id)),
        ..options::request(&mut fields)?
    };
    fields.ignore(IGNORED);
    fields.ignore(&["store"]);
    fields.allow_only(&neutral())?;
    fields.finish()?;

    let answers = model.engine().answers(&request, choices)?;
    Ok(Completion {
        head,
        answers: Answers {
            per_prompt: answers.len(),
            answers,
        },
        delivery,
        choices: Chat {
            with_logprobs: logprobs.is_some(),
            calls: BTreeMap::new(),
        },
    })
}

fn max_tokens(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
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
    Ok(old.or(new))
}

fn logprobs(fields: &mut Fields) -> Result<Option<usize>, ApiError> {
    let wanted = fields.take("logprobs", "a boolean")?.unwrap_or(false);
    let top: Option<usize> = fields.take("top_logprobs", "an integer of at least 0")?;
    match (wanted, top) {
        (true, top) => Ok(Some(top.unwrap_or(0))),
        (false, None | Some(0)) => Ok(None),
        (false, Some(_)) => {
            let message = "The 'top_logprobs' parameter is only allowed when 'logprobs' is true.";
            Err(ApiError::invalid("top_logprobs", "invalid_value", message))
        }
    }
}

/// Values that ask for nothing more than is done.
fn neutral() -> [(&'static str, Vec<Value>); 1] {
    [("modalities", vec![json!(["text"])])]
}

#[derive(Serialize)]
struct Choice {
    index: usize,
    message: AssistantMessage,
    logprobs: Option<ChatLogprobs>,
    finish_reason: &'static str,
}

#[derive(Serialize)]
struct AssistantMessage {
    role: &'static str,
    /// `null` in a message that only calls.
    content: Option<String>,
    refusal: Option<()>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    tool_calls: Vec<ToolCall>,
}

#[derive(Serialize)]
struct ToolCall {
    id: String,
    #[serde(rename = "type")]
    kind: &'static str,
    function: Function,
}

#[derive(Serialize)]
struct Function {
    name: String,
    arguments: String,
}

impl From<Call> for ToolCall {
    fn from(call: Call) -> Self {
        Self {
            id: call.id,
            kind: "function",
            function: Function {
                name: call.name,
                arguments: call.arguments,
            },
        }
    }
}

/// Writes choices.
struct Chat {
    with_logprobs: bool,
    /// How many calls each choice has begun.
    calls: BTreeMap<usize, usize>,
}

impl Choices for Chat {
    type Chunk = Chunk;
    type Whole = Choice;

    fn whole(&mut self, index: usize, whole: Whole) -> Choice {
        Choice {
            index,
            message: AssistantMessage {
                role: "assistant",
                content: Some(whole.text).filter(|text| whole.calls.is_empty() || !text.is_empty()),
                refusal: None,
                tool_calls: whole.calls.into_iter().map(ToolCall::from).collect(),
            },
            logprobs: self.with_logprobs.then(|| whole.logprobs.into()),
            finish_reason: whole.reason,
        }
    }

    fn begin(&mut self, index: usize) -> Option<Chunk> {
        let delta = Delta {
            role: Some("assistant"),
            content: Some(String::new()),
            ..Delta::default()
        };
        Some(Chunk::new(index, delta))
    }

    fn text(&mut self, index: usize, text: String, logprobs: Vec<Logprob>) -> Chunk {
        let delta = Delta {
            content: Some(text),
            ..Delta::default()
        };
        Chunk {
            logprobs: self.with_logprobs.then(|| logprobs.into()),
            ..Chunk::new(index, delta)
        }
    }

    fn call(&mut self, index: usize, name: String) -> Option<Chunk> {
        let count = self.calls.entry(index).or_default();
        let delta = CallDelta::begin(*count, Call::new(name));
        *count = count.saturating_add(1);
        Some(Chunk::new(index, delta.into()))
    }

    fn arguments(&mut self, index: usize, more: String) -> Option<Chunk> {
        let count = self.calls.get(&index)?;
        let delta = CallDelta::more(count.saturating_sub(1), more);
        Some(Chunk::new(index, delta.into()))
    }

    fn finish(&mut self, index: usize, reason: FinishReason) -> Chunk {
        Chunk {
            finish_reason: Some(reason_name(reason)),
            ..Chunk::new(index, Delta::default())
        }
    }
}

#[derive(Serialize)]
struct Chunk {
    index: usize,
    delta: Delta,
    logprobs: Option<ChatLogprobs>,
    finish_reason: Option<&'static str>,
}

impl Chunk {
    fn new(index: usize, delta: Delta) -> Self {
        Self {
            index,
            delta,
            logprobs: None,
            finish_reason: None,
        }
    }
}

#[derive(Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    tool_calls: Option<[CallDelta; 1]>,
}

/// The first one of a call has all but the arguments, the others nothing else.
#[derive(Serialize)]
struct CallDelta {
    index: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(rename = "type", skip_serializing_if = "Option::is_none")]
    kind: Option<&'static str>,
    function: FunctionDelta,
}

#[derive(Serialize)]
struct FunctionDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    arguments: String,
}

impl CallDelta {
    fn begin(index: usize, call: Call) -> Self {
        Self {
            index,
            id: Some(call.id),
            kind: Some("function"),
            function: FunctionDelta {
                name: Some(call.name),
                arguments: call.arguments,
            },
        }
    }

    fn more(index: usize, arguments: String) -> Self {
        Self {
            index,
            id: None,
            kind: None,
            function: FunctionDelta {
                name: None,
                arguments,
            },
        }
    }
}

impl From<CallDelta> for Delta {
    fn from(call: CallDelta) -> Self {
        Self {
            tool_calls: Some([call]),
            ..Self::default()
        }
    }
}
