//! What a caller asks for.

use std::fmt;

use zeroize::Zeroizing;

use crate::error::RequestError;

/// A conversation to be continued by one answer.
///
/// No text of it is in its `Debug` form.
#[derive(Clone, Default)]
pub struct ChatRequest {
    /// Oldest first.
    pub messages: Vec<Message>,
    /// Most tokens of the answer; as many as the context has room for if `None`.
    pub max_tokens: Option<usize>,
    /// How to choose among the likely tokens.
    pub sampling: Sampling,
    /// Texts that end the answer and are not part of it, four at most.
    pub stop: Vec<String>,
}

impl fmt::Debug for ChatRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ChatRequest")
            .field("messages", &self.messages)
            .field("max_tokens", &self.max_tokens)
            .field("sampling", &self.sampling)
            .field("stops", &self.stop.len())
            .finish()
    }
}

/// One turn; its text is not in its `Debug` form and is wiped when dropped.
#[derive(Clone)]
pub struct Message {
    /// Who says it.
    pub role: Role,
    /// What is said.
    pub content: Zeroizing<String>,
}

impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("role", &self.role)
            .field("bytes", &self.content.len())
            .finish()
    }
}

/// Who says a message.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Role {
    /// The model.
    Assistant,
    /// The application.
    System,
    /// The human.
    User,
}

/// How to choose among the likely tokens. What is `None` is the model's default.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sampling {
    /// 0 takes the likeliest, 1 the model's own distribution; 0 to 2.
    pub temperature: Option<f64>,
    /// Only the likeliest tokens that together have this probability; 0 to 1.
    pub top_p: Option<f64>,
    /// The same seed gives the same answer; random if `None`.
    pub seed: Option<u64>,
}

impl ChatRequest {
    /// Checks what does not depend on the model.
    pub(crate) fn check(&self) -> Result<(), RequestError> {
        let out_of_range = |parameter, found: String, expected| {
            Err(RequestError::OutOfRange {
                parameter,
                found,
                expected,
            })
        };
        if self.messages.is_empty() {
            return Err(RequestError::Empty {
                parameter: "messages",
            });
        }
        if let Some(found) = self
            .sampling
            .temperature
            .filter(|t| !(0.0..=2.0).contains(t))
        {
            return out_of_range("temperature", found.to_string(), "0 to 2");
        }
        if let Some(found) = self.sampling.top_p.filter(|p| !(0.0..=1.0).contains(p)) {
            return out_of_range("top_p", found.to_string(), "0 to 1");
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

/// As many as the OpenAI API takes.
const MAX_STOPS: usize = 4;

const MAX_STOP_LEN: usize = 256;
