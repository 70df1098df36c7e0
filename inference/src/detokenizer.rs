//! Tokens to text, as they come, in whole characters.
//!
//! A token may end inside a character, and its text may depend on the tokens
//! before it. So a short window of tokens is decoded each time, and only what is
//! new and complete is said.

use zeroize::Zeroizing;

use crate::tokens::Tokens;

/// Tokens whose text is not all said, after some whose text gives them context.
#[derive(Default)]
pub(crate) struct Detokenizer {
    window: Zeroizing<Vec<u32>>,
    /// Tokens of the window that are there for context.
    context: usize,
    /// Bytes of the window's text that have been said.
    said: usize,
}

impl Detokenizer {
    /// The text that `token` completes, or `None` if it cannot be decoded.
    pub(crate) fn push(&mut self, tokens: &Tokens, token: u32) -> Option<String> {
        self.window.push(token);
        let text = Zeroizing::new(tokens.decode(&self.window)?);
        // Only the last character can be unfinished: bytes that cannot become one
        // give a U+FFFD each, which stays.
        let whole = text.strip_suffix(char::REPLACEMENT_CHARACTER);
        let fresh = whole
            .unwrap_or(&text)
            .get(self.said..)
            .unwrap_or_default()
            .to_owned();
        match whole {
            Some(_) => self.said = self.said.saturating_add(fresh.len()),
            None => {
                self.window.drain(..self.context);
                self.context = self.window.len();
                self.said = tokens.decode(&self.window)?.len();
            }
        }
        Some(fresh)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model_dir::ModelDir;
    use proptest::prelude::*;

    fn tiny() -> Tokens {
        Tokens::load(&ModelDir::new(&crate::self_test::tiny()), 3072).unwrap()
    }

    #[test]
    fn a_character_of_several_tokens_comes_whole() {
        let tokens = tiny();
        let ids = tokens.encode_prompt("a🦀b").unwrap();
        assert!(ids.len() > 3);
        let mut detokenizer = Detokenizer::default();
        let pieces: Vec<_> = ids
            .iter()
            .map(|id| detokenizer.push(&tokens, *id).unwrap())
            .filter(|piece| !piece.is_empty())
            .collect();
        assert_eq!(pieces, ["a", "🦀", "b"]);
    }

    #[test]
    fn bytes_that_are_no_text_do_not_hold_the_rest_back() {
        let tokens = tiny();
        // A character of four bytes has a token for each; the second begins none.
        let crab = tokens.encode_prompt("🦀").unwrap();
        let stray = crab[1];
        let a = tokens.encode_prompt("a").unwrap()[0];
        let mut detokenizer = Detokenizer::default();
        let said: String = [stray, stray, a]
            .iter()
            .map(|id| detokenizer.push(&tokens, *id).unwrap())
            .collect();
        assert_eq!(said, "\u{fffd}\u{fffd}a");
    }

    proptest! {
        #[test]
        fn the_pieces_make_up_the_text(text in "\\PC{0,40}") {
            let tokens = tiny();
            let mut detokenizer = Detokenizer::default();
            let mut said = String::new();
            for id in tokens.encode_prompt(&text).unwrap().iter() {
                let piece = detokenizer.push(&tokens, *id).unwrap();
                said += &piece;
            }
            // One at the end may be the first half of a character, and waits.
            let whole = text.strip_suffix(char::REPLACEMENT_CHARACTER).unwrap_or(&text);
            prop_assert_eq!(said, whole);
        }
    }
}
