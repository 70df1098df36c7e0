//! A chat completion as server-sent events.
//!
//! For each choice: a chunk with the role, chunks with text, a chunk with the
//! reason for the end. Then the usage, if it was asked for, and `[DONE]`. An
//! error that comes after the headers is an event of its own, and the last.
//! When the client goes, the answers are dropped, and with that cancelled.

use std::convert::Infallible;

use axum::response::Sse;
use axum::response::sse::{Event as Sent, KeepAlive};
use futures_util::stream::{self, Stream, StreamExt as _, select_all};
use inference::{Answer, EngineError, Event};
use serde::Serialize;

use super::chat::{Head, Usage, reason_name};
use super::error::ApiError;

pub(super) fn respond(
    mut head: Head,
    answers: Vec<Answer>,
    include_usage: bool,
) -> Sse<impl Stream<Item = Result<Sent, Infallible>>> {
    head.object = "chat.completion.chunk";
    let chunks = Chunks {
        head,
        include_usage,
        usage: Usage::default(),
    };
    let roles = (0..answers.len()).map(Step::Role).collect::<Vec<_>>();
    let answers = (0..)
        .zip(answers)
        .map(|(choice, answer)| answer.map(move |event| Step::Event(choice, event)));
    let steps = stream::iter(roles)
        .chain(select_all(answers))
        .chain(stream::iter([Step::Usage, Step::Done]));
    let events = steps.scan(Some(chunks), |chunks, step| {
        let event = chunks.as_mut().map(|open| open.next(step));
        if let Some(Err(_)) = event {
            *chunks = None;
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
    Role(usize),
    Event(usize, Result<Event, EngineError>),
    Usage,
    Done,
}

/// Makes chunks of steps.
struct Chunks {
    head: Head,
    include_usage: bool,
    usage: Usage,
}

impl Chunks {
    /// The event for a step, if it has one.
    fn next(&mut self, step: Step) -> Result<Option<Sent>, EngineError> {
        Ok(match step {
            Step::Role(index) => {
                let delta = Delta {
                    role: Some("assistant"),
                    content: Some(String::new()),
                };
                Some(self.choice(index, delta, None))
            }
            Step::Event(index, event) => Some(match event? {
                Event::Text(text) => {
                    let delta = Delta {
                        role: None,
                        content: Some(text),
                    };
                    self.choice(index, delta, None)
                }
                Event::Finish { reason, usage } => {
                    self.usage.add(usage);
                    self.choice(index, Delta::default(), Some(reason_name(reason)))
                }
            }),
            Step::Usage if self.include_usage => Some(self.chunk(Vec::new(), Some(self.usage))),
            Step::Usage => None,
            Step::Done => Some(Sent::default().data("[DONE]")),
        })
    }

    fn choice(&self, index: usize, delta: Delta, finish_reason: Option<&'static str>) -> Sent {
        let choice = Choice {
            index,
            delta,
            logprobs: None,
            finish_reason,
        };
        self.chunk(vec![choice], None)
    }

    fn chunk(&self, choices: Vec<Choice>, usage: Option<Usage>) -> Sent {
        sent(&Chunk {
            head: &self.head,
            choices,
            // Absent unless asked for; then null in all chunks but one.
            usage: self.include_usage.then_some(usage),
        })
    }
}

fn sent(data: &impl Serialize) -> Sent {
    // Strings and numbers always have a JSON form.
    Sent::default().json_data(data).unwrap_or_default()
}

#[derive(Serialize)]
struct Chunk<'a> {
    #[serde(flatten)]
    head: &'a Head,
    choices: Vec<Choice>,
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<Option<Usage>>,
}

#[derive(Serialize)]
struct Choice {
    index: usize,
    delta: Delta,
    logprobs: Option<()>,
    finish_reason: Option<&'static str>,
}

#[derive(Default, Serialize)]
struct Delta {
    #[serde(skip_serializing_if = "Option::is_none")]
    role: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    content: Option<String>,
}
