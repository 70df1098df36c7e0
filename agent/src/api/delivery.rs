//! Chat and text completions on their way to the client.

use axum::Json;
use axum::response::{IntoResponse as _, Response};
use inference::{FinishReason, Logprob};
use serde::Serialize;
use serde_json::Value;

use super::answers::{Answers, Usage, Whole};
use super::error::ApiError;
use super::fields::Fields;
use super::{Head, stream};

/// Answers under way, and how they are wanted.
pub(super) struct Completion<C> {
    pub(super) head: Head,
    pub(super) answers: Answers,
    pub(super) delivery: Delivery,
    pub(super) choices: C,
}

impl<C: Choices> Completion<C> {
    pub(super) async fn respond(self) -> Result<Response, ApiError> {
        let Self {
            head,
            answers,
            delivery,
            mut choices,
        } = self;
        match delivery {
            Delivery::Stream { include_usage } => {
                Ok(stream::respond(head, answers, include_usage, choices).into_response())
            }
            Delivery::Whole => {
                let (wholes, usage) = answers.collect().await?;
                let wholes = (0..).zip(wholes);
                let choices = wholes.map(|(index, whole)| choices.whole(index, whole));
                Ok(Json(Object {
                    head,
                    choices: choices.collect(),
                    usage,
                })
                .into_response())
            }
        }
    }
}

#[derive(Serialize)]
struct Object<W> {
    #[serde(flatten)]
    head: Head,
    choices: Vec<W>,
    usage: Usage,
}

/// What differs between the kinds of completions. It sees one choice after
/// another, each from its beginning.
pub(super) trait Choices: Send + 'static {
    /// A choice in a chunk.
    type Chunk: Serialize;

    /// A choice in one piece.
    type Whole: Serialize;

    /// All of a choice.
    fn whole(&mut self, index: usize, whole: Whole) -> Self::Whole;

    /// What comes before any text.
    fn begin(&mut self, index: usize) -> Option<Self::Chunk>;

    /// More of a choice.
    fn text(&mut self, index: usize, text: String, logprobs: Vec<Logprob>) -> Self::Chunk;

    /// A call that begins; only chats have calls.
    fn call(&mut self, _index: usize, _name: String) -> Option<Self::Chunk> {
        None
    }

    /// More of the arguments of the call that began last.
    fn arguments(&mut self, _index: usize, _more: String) -> Option<Self::Chunk> {
        None
    }

    /// The end of a choice.
    fn finish(&mut self, index: usize, reason: FinishReason) -> Self::Chunk;
}

/// How answers reach the client.
#[derive(Clone, Copy, Debug)]
pub(super) enum Delivery {
    /// As events, if asked for with the usage at the end.
    Stream { include_usage: bool },
    /// In one piece.
    Whole,
}

impl Delivery {
    /// `stream` and `stream_options`
    pub(super) fn read(fields: &mut Fields) -> Result<Self, ApiError> {
        let stream = fields.take("stream", "a boolean")?.unwrap_or(false);
        let options = fields.take::<Value>("stream_options", "an object")?;
        let include_usage = match options {
            None => false,
            Some(_) if !stream => {
                let message =
                    "The 'stream_options' parameter is only allowed when 'stream' is true.";
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
            true => Self::Stream { include_usage },
            false => Self::Whole,
        })
    }
}
