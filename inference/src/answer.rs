//! What a caller gets.

use std::collections::VecDeque;
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use futures_channel::oneshot;
use futures_core::Stream;

use crate::calls::{Calls, Part};
use crate::channel::Receiver;
use crate::error::EngineError;
use crate::logprobs::Logprob;

/// One answer, piece by piece. Dropping it cancels the work.
///
/// It ends after [`Event::Finish`] or after an error.
#[derive(Debug)]
pub struct Answer {
    /// `None` once it has ended.
    pub(crate) events: Option<Receiver>,
    /// Finds calls in it, if it may have any.
    pub(crate) calls: Option<Calls>,
    /// What has been found and not been told.
    pub(crate) ready: VecDeque<Event>,
}

/// A part of an answer. Its text is not in its `Debug` form.
#[derive(Clone, PartialEq)]
pub enum Event {
    /// More text.
    Text {
        /// In whole characters; empty only where it comes with tokens that have none.
        text: String,
        /// The tokens that it is made of, if they were asked for.
        logprobs: Vec<Logprob>,
    },
    /// A call of the tool of this name begins; text may come before it.
    Call(String),
    /// More of the arguments of the call that began last: JSON, once it is whole.
    Arguments(String),
    /// The end.
    Finish {
        /// Why here.
        reason: FinishReason,
        /// What it cost.
        usage: Usage,
    },
}

impl fmt::Debug for Event {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text { text, .. } => write!(f, "Text({} bytes)", text.len()),
            Self::Call(_) => f.write_str("Call"),
            Self::Arguments(text) => write!(f, "Arguments({} bytes)", text.len()),
            Self::Finish { reason, usage } => f
                .debug_struct("Finish")
                .field("reason", reason)
                .field("usage", usage)
                .finish(),
        }
    }
}

/// Why an answer ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum FinishReason {
    /// It is as long as it may be.
    Length,
    /// The model ended it, or a stop text came.
    Stop,
    /// The model ended it, and tools are to be called.
    ToolCalls,
}

/// Tokens, as the engine counted them.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Usage {
    /// Tokens of the prompt.
    pub prompt: usize,
    /// Those of them that this tenant's earlier requests had read already.
    pub cached: usize,
    /// Tokens that were made, one that ended the answer included.
    pub completion: usize,
}

impl Stream for Answer {
    type Item = Result<Event, EngineError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Poll::Ready(Some(Ok(event)));
            }
            let Some(events) = &mut self.events else {
                return Poll::Ready(None);
            };
            let event = ready!(Pin::new(events).poll_next(cx)).unwrap_or(Err(EngineError::Stopped));
            if !matches!(event, Ok(Event::Text { .. })) {
                self.events = None;
            }
            match event {
                Ok(event) => self.sort(event),
                Err(error) => return Poll::Ready(Some(Err(error))),
            }
        }
    }
}

impl Answer {
    /// Finds calls in an event.
    fn sort(&mut self, event: Event) {
        let Some(calls) = &mut self.calls else {
            return self.ready.push_back(event);
        };
        let (parts, mut logprobs) = match &event {
            Event::Text { text, logprobs } => (calls.push(text), logprobs.clone()),
            _ => (calls.finish(), Vec::new()),
        };
        let called = calls.called;
        for part in parts {
            self.ready.push_back(match part {
                Part::Text(text) => Event::Text {
                    text,
                    logprobs: std::mem::take(&mut logprobs),
                },
                Part::Call(name) => Event::Call(name),
                Part::Arguments(text) => Event::Arguments(text),
            });
        }
        match event {
            Event::Text { .. } if logprobs.is_empty() => {}
            Event::Text { .. } => self.ready.push_back(Event::Text {
                text: String::new(),
                logprobs,
            }),
            Event::Finish {
                reason: FinishReason::Stop,
                usage,
            } if called => self.ready.push_back(Event::Finish {
                reason: FinishReason::ToolCalls,
                usage,
            }),
            other => self.ready.push_back(other),
        }
    }
}

/// What is being computed. Dropping it cancels the work.
#[derive(Debug)]
pub struct Pending<T> {
    pub(crate) result: oneshot::Receiver<Result<T, EngineError>>,
}

/// Vectors of length one, in the order of the texts.
#[derive(Clone, Debug, PartialEq)]
pub struct Embeddings {
    /// One for each text.
    pub vectors: Vec<Vec<f32>>,
    /// What it cost.
    pub usage: Usage,
}

/// What an image may show.
#[derive(Clone, Debug, PartialEq)]
pub struct Label {
    /// As the model calls it.
    pub name: Arc<str>,
    /// 0 to 1; those of all labels of the model together are 1.
    pub probability: f32,
}

impl<T> Future for Pending<T> {
    type Output = Result<T, EngineError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = ready!(Pin::new(&mut self.result).poll(cx));
        Poll::Ready(result.unwrap_or(Err(EngineError::Stopped)))
    }
}
