//! Answers under way, and what they come to.

use futures_util::StreamExt as _;
use futures_util::future::try_join_all;
use inference::{Answer, EngineError, Event, FinishReason, Logprob};
use serde::Serialize;

use super::random_id;

/// The answers to one request.
#[derive(Debug)]
pub(super) struct Answers {
    /// In the order of the choices.
    pub(super) answers: Vec<Answer>,
    /// So many in a row continue the same prompt.
    pub(super) per_prompt: usize,
}

/// One answer from beginning to end.
#[derive(Debug)]
pub(super) struct Whole {
    pub(super) text: String,
    pub(super) calls: Vec<Call>,
    pub(super) logprobs: Vec<Logprob>,
    pub(super) reason: &'static str,
}

/// What a model wants called.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) id: String,
    pub(super) name: String,
    pub(super) arguments: String,
}

impl Call {
    /// A new one, whose arguments are still to come.
    pub(super) fn new(name: String) -> Self {
        Self {
            id: random_id("call_"),
            name,
            arguments: String::new(),
        }
    }
}

impl Answers {
    /// Whether the prompt of this choice is one that no choice before it has.
    pub(super) fn counts_prompt(per_prompt: usize, index: usize) -> bool {
        index.checked_rem(per_prompt) == Some(0)
    }

    /// Waits for all of them, and reads them side by side: none pauses for another.
    pub(super) async fn collect(self) -> Result<(Vec<Whole>, Usage), EngineError> {
        let wholes = try_join_all(self.answers.into_iter().map(whole)).await?;
        let mut usage = Usage::default();
        for (index, (_, own)) in (0_usize..).zip(&wholes) {
            usage.add(*own, Self::counts_prompt(self.per_prompt, index));
        }
        Ok((wholes.into_iter().map(|(whole, _)| whole).collect(), usage))
    }
}

/// One answer, and what it cost.
async fn whole(mut answer: Answer) -> Result<(Whole, inference::Usage), EngineError> {
    let mut usage = inference::Usage::default();
    let mut whole = Whole {
        text: String::new(),
        calls: Vec::new(),
        logprobs: Vec::new(),
        reason: "",
    };
    while let Some(event) = answer.next().await {
        match event? {
            Event::Text { text, logprobs } => {
                whole.text.push_str(&text);
                whole.logprobs.extend(logprobs);
            }
            Event::Call(name) => whole.calls.push(Call::new(name)),
            Event::Arguments(more) => {
                if let Some(call) = whole.calls.last_mut() {
                    call.arguments.push_str(&more);
                }
            }
            Event::Finish { reason, usage: own } => {
                whole.reason = reason_name(reason);
                usage = own;
            }
        }
    }
    Ok((whole, usage))
}

pub(crate) fn reason_name(reason: FinishReason) -> &'static str {
    match reason {
        FinishReason::Length => "length",
        FinishReason::Stop => "stop",
        FinishReason::ToolCalls => "tool_calls",
    }
}

/// Tokens of all choices; a prompt of several choices counts once.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Usage {
    pub(super) prompt_tokens: usize,
    pub(super) completion_tokens: usize,
    pub(super) total_tokens: usize,
    pub(super) prompt_tokens_details: PromptDetails,
    pub(super) completion_tokens_details: CompletionDetails,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct PromptDetails {
    pub(super) cached_tokens: usize,
}

#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct CompletionDetails {
    pub(super) reasoning_tokens: usize,
}

impl Usage {
    /// Adds what one choice cost, and what its prompt did.
    pub(super) fn add(&mut self, choice: inference::Usage, with_prompt: bool) {
        let add = |to: &mut usize, more: usize| *to = to.saturating_add(more);
        if with_prompt {
            add(&mut self.prompt_tokens, choice.prompt);
            add(&mut self.prompt_tokens_details.cached_tokens, choice.cached);
        }
        add(&mut self.completion_tokens, choice.completion);
        self.total_tokens = self.prompt_tokens.saturating_add(self.completion_tokens);
    }
}
