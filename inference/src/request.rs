//! What a caller asks for.

use std::collections::BTreeMap;
use std::fmt;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Weak};

use media::Image;
use serde_json::Value;
use zeroize::Zeroizing;

use crate::error::RequestError;
use crate::tools::Tools;
use crate::witness::Witness;

/// Whoever asks. Requests of one tenant may share what the engine has read; those
/// of others can neither share it nor delay them by more than their own turn. When the
/// last copy of it is gone, so is what the engine kept for it, a moment later.
#[derive(Clone, Debug)]
pub struct Tenant(Arc<()>);

impl Tenant {
    /// Somebody whom nobody else is.
    pub fn new() -> Self {
        Self(Arc::new(()))
    }

    /// A name that does not keep the tenant here.
    pub(crate) fn name(&self) -> TenantName {
        TenantName(Arc::downgrade(&self.0))
    }
}

impl Default for Tenant {
    fn default() -> Self {
        Self::new()
    }
}

impl Eq for Tenant {}

impl PartialEq for Tenant {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

/// Whose something is, and whether they are still there.
#[derive(Clone, Debug)]
pub(crate) struct TenantName(Weak<()>);

impl TenantName {
    /// Whether no [`Tenant`] of this name is left.
    pub(crate) fn is_gone(&self) -> bool {
        self.0.strong_count() == 0
    }
}

impl Eq for TenantName {}

impl PartialEq for TenantName {
    // A place in memory is not used again before its last name is gone.
    fn eq(&self, other: &Self) -> bool {
        self.0.ptr_eq(&other.0)
    }
}

impl Hash for TenantName {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.0.as_ptr().hash(state);
    }
}

/// What one answer is made of.
///
/// No text of it is in its `Debug` form.
#[derive(Clone, Default)]
pub struct Request {
    /// What is to be continued.
    pub prompt: Prompt,
    /// What may be called, in a conversation.
    pub tools: Tools,
    /// What the answer has to be, unless it is a call.
    pub format: Format,
    /// Most tokens of the answer; as many as the context has room for if `None`.
    pub max_tokens: Option<usize>,
    /// How to choose among the likely tokens.
    pub sampling: Sampling,
    /// Texts that end the answer and are not part of it, four at most.
    pub stop: Vec<String>,
    /// Of each token its probability, and so many of the likeliest, twenty at most.
    pub logprobs: Option<usize>,
    /// Who asks; a stranger to all others by default.
    pub tenant: Tenant,
    /// Who is told what was executed, if anybody.
    pub witness: Option<Witness>,
}

impl fmt::Debug for Request {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Request")
            .field("prompt", &self.prompt)
            .field("tools", &self.tools)
            .field("format", &self.format)
            .field("max_tokens", &self.max_tokens)
            .field("sampling", &self.sampling)
            .field("stops", &self.stop.len())
            .field("logprobs", &self.logprobs)
            .finish()
    }
}

/// What an answer has to be.
#[derive(Clone, Default)]
pub enum Format {
    /// Anything.
    #[default]
    Text,
    /// A JSON object.
    Json,
    /// JSON of this schema.
    Schema(Value),
}

impl fmt::Debug for Format {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "Text",
            Self::Json => "Json",
            Self::Schema(_) => "Schema",
        })
    }
}

/// What an answer continues; wiped when dropped.
#[derive(Clone)]
pub enum Prompt {
    /// A conversation, written down by the model's chat template.
    Chat(Vec<Message>),
    /// A text as it stands, in which control tokens are recognised.
    Text(Zeroizing<String>),
    /// Tokens of this model.
    Tokens(Zeroizing<Vec<u32>>),
}

impl Default for Prompt {
    fn default() -> Self {
        Self::Chat(Vec::new())
    }
}

impl fmt::Debug for Prompt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Chat(messages) => f.debug_tuple("Chat").field(messages).finish(),
            Self::Text(text) => write!(f, "Text({} bytes)", text.len()),
            Self::Tokens(tokens) => write!(f, "Tokens({})", tokens.len()),
        }
    }
}

/// One turn; its text is not in its `Debug` form and is wiped when dropped.
#[derive(Clone)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: Zeroizing<String>,
    /// What is shown, in order, and before which byte of what is said.
    pub images: Vec<(usize, Image)>,
    /// What the model called, if it says it.
    pub calls: Vec<ToolCall>,
    /// Which call a tool answers.
    pub answers: Option<String>,
}

impl Message {
    /// Text, and nothing else.
    pub fn new(role: Role, content: impl Into<Zeroizing<String>>) -> Self {
        Self {
            role,
            content: content.into(),
            images: Vec::new(),
            calls: Vec::new(),
            answers: None,
        }
    }
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("role", &self.role)
            .field("bytes", &self.content.len())
            .field("images", &self.images.len())
            .field("calls", &self.calls.len())
            .finish()
    }
}

/// A call that the model made earlier.
#[derive(Clone)]
pub struct ToolCall {
    /// What the answer refers to.
    pub id: String,
    /// Name of the tool.
    pub name: String,
    /// A JSON object.
    pub arguments: Value,
}

impl fmt::Debug for ToolCall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ToolCall")
    }
}

/// Who says a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// The model.
    Assistant,
    /// The application.
    System,
    /// A function that the model called.
    Tool,
    /// The human.
    User,
}

/// How to choose among the likely tokens. What is `None` is the model's default.
#[derive(Clone, Debug, Default)]
pub struct Sampling {
    /// 0 takes the likeliest, 1 the model's own distribution; 0 to 2.
    pub temperature: Option<f64>,
    /// Only the likeliest tokens that together have this probability; 0 to 1.
    pub top_p: Option<f64>,
    /// Only so many of the likeliest tokens; all if 0.
    pub top_k: Option<usize>,
    /// Only tokens at least so likely, as a part of the likeliest; 0 to 1.
    pub min_p: Option<f64>,
    /// Divides what speaks for a token that has been read or said; 0.01 to 2.
    pub repetition_penalty: Option<f64>,
    /// Taken from a token's logit once if it has been said; -2 to 2.
    pub presence_penalty: Option<f64>,
    /// Taken from a token's logit for each time it has been said; -2 to 2.
    pub frequency_penalty: Option<f64>,
    /// Added to the logits of tokens; -100 to 100, for a thousand tokens at most.
    pub logit_bias: BTreeMap<u32, f64>,
    /// The same seed gives the same answer; random if `None`.
    pub seed: Option<u64>,
}

impl Request {
    /// Checks what does not depend on the model.
    pub(crate) fn check(&self) -> Result<(), RequestError> {
        let empty = |parameter| Err(RequestError::Empty { parameter });
        match &self.prompt {
            Prompt::Chat(messages) if messages.is_empty() => return empty("messages"),
            Prompt::Tokens(tokens) if tokens.is_empty() => return empty("prompt"),
            _ => {}
        }
        self.tools.check()?;
        self.sampling.check()?;
        if let Some(found) = self.logprobs.filter(|found| *found > MAX_LOGPROBS) {
            return out_of_range("top_logprobs", found.to_string(), "0 to 20");
        }
        if self.max_tokens == Some(0) {
            return out_of_range("max_tokens", "0".into(), "at least 1");
        }
        if self.stop.len() > MAX_STOPS {
            return out_of_range("stop", self.stop.len().to_string(), "at most 4 texts");
        }
        if self.stop.iter().any(String::is_empty) {
            return out_of_range("stop", "an empty text".into(), "texts of 1 to 256 bytes");
        }
        match self.stop.iter().map(String::len).max() {
            Some(found) if found > MAX_STOP_LEN => out_of_range(
                "stop",
                format!("a text of {found} bytes"),
                "texts of 1 to 256 bytes",
            ),
            _ => Ok(()),
        }
    }
}

impl Sampling {
    /// Checks that everything is in range.
    pub(crate) fn check(&self) -> Result<(), RequestError> {
        for (parameter, found, low, high, expected) in [
            ("temperature", self.temperature, 0.0, 2.0, "0 to 2"),
            ("top_p", self.top_p, 0.0, 1.0, "0 to 1"),
            ("min_p", self.min_p, 0.0, 1.0, "0 to 1"),
            (
                "repetition_penalty",
                self.repetition_penalty,
                0.01,
                2.0,
                "0.01 to 2",
            ),
            (
                "presence_penalty",
                self.presence_penalty,
                -2.0,
                2.0,
                "-2 to 2",
            ),
            (
                "frequency_penalty",
                self.frequency_penalty,
                -2.0,
                2.0,
                "-2 to 2",
            ),
        ] {
            if let Some(found) = found.filter(|found| !(low..=high).contains(found)) {
                return out_of_range(parameter, found.to_string(), expected);
            }
        }
        let mut biases = self.logit_bias.values();
        if let Some(found) = biases.find(|bias| !(-100.0..=100.0).contains(*bias)) {
            return out_of_range("logit_bias", found.to_string(), "-100 to 100");
        }
        if self.logit_bias.len() > MAX_BIASES {
            let found = self.logit_bias.len().to_string();
            return out_of_range("logit_bias", found, "at most 1000 tokens");
        }
        Ok(())
    }
}

fn out_of_range(
    parameter: &'static str,
    found: String,
    expected: &'static str,
) -> Result<(), RequestError> {
    Err(RequestError::OutOfRange {
        parameter,
        found,
        expected,
    })
}

const MAX_BIASES: usize = 1000;

/// As many as the OpenAI API takes.
const MAX_STOPS: usize = 4;

/// As many as the OpenAI API gives.
const MAX_LOGPROBS: usize = 20;

const MAX_STOP_LEN: usize = 256;
