//! Completions as server-sent events.
//!
//! For each choice of a chat: a chunk with the role, chunks with text, for each call a
//! chunk with its name and chunks with its arguments, a chunk with the reason for the
//! end; text completions have neither role nor calls. Then the usage, if it was
//! asked for, and `[DONE]`. An error that comes after the headers is an event of its
//! own, and the last. When the client goes, the answers are dropped, and with that
//! cancelled. A comment every 15 seconds keeps a silent connection open.

use std::convert::Infallible;

use axum::response::Sse;
use axum::response::sse::{Event as Sent, KeepAlive};
use futures_util::stream::{self, Stream, StreamExt as _, select_all};
use inference::{EngineError, Event};
use serde::Serialize;

use super::Head;
use super::answers::{Answers, Usage};
use super::delivery::{Choices, Options};
use super::error::ApiError;

pub(super) fn respond(
    head: Head,
    answers: Answers,
    options: Options,
    choices: impl Choices,
) -> Sse<impl Stream<Item = Result<Sent, Infallible>>> {
    let Answers {
        answers,
        per_prompt,
    } = answers;
    let writer = Writer {
        head,
        per_prompt,
        options,
        usage: Usage::default(),
        choices,
    };
    let begins = (0..answers.len()).map(Step::Begin).collect::<Vec<_>>();
    let answers = (0..)
        .zip(answers)
        .map(|(choice, answer)| answer.map(move |event| Step::Event(choice, event)));
    let steps = stream::iter(begins)
        .chain(select_all(answers))
        .chain(stream::iter([Step::Usage, Step::Done]));
    let events = steps.scan(Some(writer), |writer, step| {
        let event = writer.as_mut().map(|open| open.next(step));
        if let Some(Err(_)) = event {
            *writer = None;
        }
        std::future::ready(event.map(|event| match event {
            Ok(event) => event,
            Err(error) => Some(sent(&ApiError::from(error).into_body())),
        }))
    });
    let events = events.filter_map(std::future::ready);
    Sse::new(events.map(Ok)).keep_alive(KeepAlive::default())
}

/// What happens in a stream, in order.
enum Step {
    Begin(usize),
    Event(usize, Result<Event, EngineError>),
    Usage,
    Done,
}

/// Makes chunks of steps.
struct Writer<C> {
    head: Head,
    per_prompt: usize,
    options: Options,
    usage: Usage,
    choices: C,
}

impl<C: Choices> Writer<C> {
    /// The event for a step, if it has one.
    fn next(&mut self, step: Step) -> Result<Option<Sent>, EngineError> {
        let padding = self.options.padding;
        let mut padded = None;
        let choice = match step {
            Step::Begin(index) => self.choices.begin(index),
            Step::Event(index, event) => match event? {
                Event::Text { text, logprobs } => {
                    padded = padding.of(&text);
                    Some(self.choices.text(index, text, logprobs))
                }
                Event::Call(name) => {
                    padded = padding.of(&name);
                    self.choices.call(index, name)
                }
                Event::Arguments(more) => {
                    padded = padding.of(&more);
                    self.choices.arguments(index, more)
                }
                Event::Finish { reason, usage } => {
                    let with_prompt = Answers::counts_prompt(self.per_prompt, index);
                    self.usage.add(usage, with_prompt);
                    Some(self.choices.finish(index, reason))
                }
            },
            Step::Usage if self.options.include_usage => {
                return Ok(Some(self.chunk(Vec::new(), Some(self.usage), None)));
            }
            Step::Usage => None,
            Step::Done => return Ok(Some(Sent::default().data("[DONE]"))),
        };
        Ok(choice.map(|choice| self.chunk(vec![choice], None, padded)))
    }

    fn chunk(
        &self,
        choices: Vec<C::Chunk>,
        usage: Option<Usage>,
        obfuscation: Option<String>,
    ) -> Sent {
        sent(&Chunk {
            head: &self.head,
            choices,
            // Absent unless asked for; then null in all chunks but one.
            usage: self.options.include_usage.then_some(usage),
            obfuscation,
        })
    }
}

pub(super) fn sent(data: &impl Serialize) -> Sent {
    // Strings and numbers always have a JSON form.
    Sent::default().json_data(data).unwrap_or_default()
}

#[derive(Serialize)]
struct Chunk<'a, C> {
    #[serde(flatten)]
    head: &'a Head,
    choices: Vec<C>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    obfuscation: Option<String>,
}
