//! Chat and text completions on their way to the client.

use axum::Json;
use axum::response::{IntoResponse as _, Response};
use inference::{FinishReason, Logprob};
use serde::Serialize;
use serde_json::Value;

use super::answers::{Answers, Usage, Whole};
use super::asker::Asker;
use super::error::ApiError;
use super::fields::Fields;
use super::padding::Padding;
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
            Delivery::Stream(options) => {
                Ok(stream::respond(head, answers, options, choices).into_response())
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
    /// As events.
    Stream(Options),
    /// In one piece.
    Whole,
}

/// What events are to have.
#[derive(Clone, Copy, Debug)]
pub(super) struct Options {
    /// The usage at the end.
    pub(super) include_usage: bool,
    pub(super) padding: Padding,
}

impl Delivery {
    /// `stream` and `stream_options`
    pub(super) fn read(fields: &mut Fields, asker: &Asker) -> Result<Self, ApiError> {
        let stream = fields.take("stream", "a boolean")?.unwrap_or(false);
        let options = fields.take::<Value>("stream_options", "an object")?;
        let options = match options {
            None => Options {
                include_usage: false,
                padding: Padding::usual(asker),
            },
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
                let padding = Padding::read(&mut options, asker)?;
                options.finish()?;
                Options {
                    include_usage: include_usage.unwrap_or(false),
                    padding,
                }
            }
        };
        Ok(match stream {
            true => Self::Stream(options),
            false => Self::Whole,
        })
    }
}
