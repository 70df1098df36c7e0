//! How likely each token was, as the two kinds of completions tell it.

use std::collections::BTreeMap;

use inference::{Candidate, Logprob};
use serde::Serialize;

/// Of a chat completion.
#[derive(Debug, Serialize)]
pub(super) struct ChatLogprobs {
    content: Vec<Place>,
    refusal: Option<()>,
}

/// One token, and those that could have been in its place.
#[derive(Debug, Serialize)]
struct Place {
    #[serde(flatten)]
    chosen: Token,
    top_logprobs: Vec<Token>,
}

#[derive(Debug, Serialize)]
struct Token {
    token: String,
    logprob: f64,
    bytes: Vec<u8>,
}

impl From<Vec<Logprob>> for ChatLogprobs {
    fn from(logprobs: Vec<Logprob>) -> Self {
        let place = |Logprob { chosen, top }| Place {
            chosen: Token::from(chosen),
            top_logprobs: top.into_iter().map(Token::from).collect(),
        };
        Self {
            content: logprobs.into_iter().map(place).collect(),
            refusal: None,
        }
    }
}

impl From<Candidate> for Token {
    fn from(candidate: Candidate) -> Self {
        Self {
            token: String::from_utf8_lossy(&candidate.bytes).into_owned(),
            logprob: candidate.logprob,
            bytes: candidate.bytes,
        }
    }
}

/// Of a text completion: one list for each property.
#[derive(Debug, Default, Serialize)]
pub(super) struct TextLogprobs {
    tokens: Vec<String>,
    token_logprobs: Vec<f64>,
    top_logprobs: Vec<BTreeMap<String, f64>>,
    text_offset: Vec<usize>,
}

impl TextLogprobs {
    /// `offset` is where the first token begins, in characters.
    pub(super) fn new(logprobs: Vec<Logprob>, mut offset: usize) -> Self {
        let mut lists = Self::default();
        for Logprob { chosen, top } in logprobs {
            let token = text(&chosen.bytes);
            lists.text_offset.push(offset);
            offset = offset.saturating_add(characters(&chosen.bytes));
            lists.tokens.push(token);
            lists.token_logprobs.push(chosen.logprob);
            let top = top.iter().map(|top| (text(&top.bytes), top.logprob));
            lists.top_logprobs.push(top.collect());
        }
        lists
    }
}

/// Those that begin in it: half a character may belong to the token before.
pub(super) fn characters(bytes: &[u8]) -> usize {
    let begins = |byte: &&u8| **byte & 0xc0 != 0x80;
    bytes.iter().filter(begins).count()
}

/// Text, or as OpenAI writes what is none.
fn text(bytes: &[u8]) -> String {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.to_owned(),
        Err(_) => {
            let hex = bytes.iter().map(|byte| format!("\\x{byte:02x}"));
            format!("bytes:{}", hex.collect::<String>())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logprob(bytes: &[u8]) -> Logprob {
        let chosen = Candidate {
            bytes: bytes.into(),
            logprob: -0.5,
        };
        Logprob {
            top: vec![chosen.clone()],
            chosen,
        }
    }

    #[test]
    fn half_a_character_is_told_in_bytes() {
        let crab = "🦀".as_bytes();
        let logprobs = vec![logprob(b"a"), logprob(&crab[..2]), logprob(&crab[2..])];
        let old = TextLogprobs::new(logprobs.clone(), 3);
        assert_eq!(old.tokens, ["a", "bytes:\\xf0\\x9f", "bytes:\\xa6\\x80"]);
        assert_eq!(old.text_offset, [3, 4, 5]);
        assert_eq!(old.top_logprobs[0].get("a"), Some(&-0.5));
        let new = ChatLogprobs::from(logprobs);
        assert_eq!(new.content[1].chosen.bytes, [0xf0, 0x9f]);
        assert_eq!(new.content[1].chosen.token, "\u{fffd}");
    }
}
