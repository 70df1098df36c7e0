//! Tokens to text, as they come, in whole characters.
//!
//! A token may end inside a character, so up to three bytes wait for those that follow:
//! never more, whatever comes. Bytes that cannot become a character give a U+FFFD.

use zeroize::Zeroizing;

use crate::tokens::Tokens;

/// Bytes of a character that is not whole yet.
#[derive(Default)]
pub(crate) struct Detokenizer {
    held: Zeroizing<Vec<u8>>,
    begun: bool,
}

impl Detokenizer {
    /// The text that `token` completes, or `None` if it cannot be decoded.
    pub(crate) fn push(&mut self, tokens: &Tokens, token: u32) -> Option<String> {
        if tokens.is_control(token) {
            return Some(String::new());
        }
        let mut bytes = tokens.bytes(token);
        if !self.begun && !bytes.is_empty() {
            self.begun = true;
            // Some decoders take away the space that a text begins with.
            let alone = Zeroizing::new(tokens.decode(&[token])?);
            if !alone.starts_with(' ') {
                bytes = bytes.strip_prefix(b" ").unwrap_or(bytes);
            }
        }
        self.held.extend_from_slice(bytes);
        let whole = self.held.len().saturating_sub(self.unfinished());
        let fresh = self.held.get(..whole).unwrap_or_default();
        let fresh = String::from_utf8_lossy(fresh).into_owned();
        self.held.drain(..whole);
        Some(fresh)
    }

    /// Bytes at the end that may still become a character.
    fn unfinished(&self) -> usize {
        let last = self.held.utf8_chunks().last();
        let rest = last.map(|chunk| chunk.invalid()).unwrap_or_default();
        match str::from_utf8(rest) {
            Err(error) if error.error_len().is_none() => rest.len(),
            _ => 0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model_dir::ModelDir;
    use proptest::prelude::*;
    use serde_json::json;

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

    #[test]
    fn a_space_at_the_beginning_goes_where_the_decoder_takes_it_away() {
        let json = json!({
            "version": "1.0",
            "decoder": {"type": "Sequence", "decoders": [
                {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
                {"type": "ByteFallback"}, {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ]},
            "model": {"type": "BPE", "merges": [], "byte_fallback": true, "vocab": {
                "▁a": 0, "<0xC3>": 1, "<0xA9>": 2,
            }},
        });
        let tokens = Tokens::parse(json.to_string().as_bytes(), 3).unwrap();
        let ids = [0, 1, 2, 0];
        let mut detokenizer = Detokenizer::default();
        let pieces = ids.map(|id| detokenizer.push(&tokens, id).unwrap());
        assert_eq!(pieces, ["a", "", "é", " a"]);
        assert_eq!(tokens.decode(&ids).unwrap(), pieces.concat());
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
            prop_assert_eq!(said, text);
        }

        #[test]
        fn whatever_comes_little_is_held_and_nothing_is_lost(
            picks in proptest::collection::vec(0_usize..9, 0..200),
        ) {
            let tokens = tiny();
            let mut ids = tokens.encode_prompt("🦀é\u{fffd}a").unwrap().to_vec();
            // Controls, and one that the tokenizer does not know.
            ids.extend([1, 2, 9999]);
            let end = tokens.encode_prompt("a").unwrap()[0];
            let picked = picks.iter().filter_map(|pick| ids.get(*pick).copied());
            let all: Vec<_> = picked.chain([end]).collect();
            let mut detokenizer = Detokenizer::default();
            let mut said = String::new();
            for id in &all {
                said += &detokenizer.push(&tokens, *id).unwrap();
                prop_assert!(detokenizer.held.len() <= 3);
            }
            prop_assert_eq!(said, tokens.decode(&all).unwrap());
        }
    }
}
