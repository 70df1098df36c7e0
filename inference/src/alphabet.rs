//! The bytes that tokens stand for.
//!
//! A vocabulary is text, and bytes are written in it in one of two ways: byte-level
//! BPE has a printable character for each byte (as GPT-2 defined it), SentencePiece
//! has `▁` for a space and `<0x0A>` for a byte that is no text. Which of them it is,
//! the tokenizer's decoder tells.

use serde::Deserialize;
use tokenizers::Tokenizer;

/// In the order of the ids; a gap between ids stands for nothing.
pub(crate) fn bytes_of_tokens(json: &[u8], tokenizer: &Tokenizer) -> Vec<Vec<u8>> {
    let file: File = serde_json::from_slice(json).unwrap_or_default();
    let byte_level = file.decoder.is_some_and(|decoder| decoder.is_byte_level());
    let added = tokenizer.get_added_tokens_decoder();
    let vocabulary = tokenizer.get_vocab(true);
    let length = vocabulary.values().max().map_or(0, |largest| {
        usize::try_from(*largest).map_or(0, |largest| largest.saturating_add(1))
    });
    let mut bytes = vec![Vec::new(); length];
    for (text, id) in vocabulary {
        let place = usize::try_from(id)
            .ok()
            .and_then(|place| bytes.get_mut(place));
        if let Some(place) = place {
            *place = match (added.contains_key(&id), byte_level) {
                (true, _) => text.into_bytes(),
                (false, true) => text.chars().flat_map(of_char).collect(),
                (false, false) => of_piece(&text),
            };
        }
    }
    bytes
}

/// The part of tokenizer.json that matters here.
#[derive(Default, Deserialize)]
struct File {
    decoder: Option<Decoder>,
}

#[derive(Deserialize)]
struct Decoder {
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    decoders: Vec<Self>,
}

impl Decoder {
    fn is_byte_level(&self) -> bool {
        self.kind == "ByteLevel" || self.decoders.iter().any(Self::is_byte_level)
    }
}

/// GPT-2: printable bytes of Latin-1 are themselves, the others follow from U+0100.
fn of_char(c: char) -> Vec<u8> {
    let code = u32::from(c);
    let byte = match u8::try_from(code) {
        Ok(byte) => Some(byte),
        Err(_) => {
            let place = code.checked_sub(0x100);
            let place = place.and_then(|place| usize::try_from(place).ok());
            let mut others = (0..=u8::MAX).filter(|byte| !is_printable(*byte));
            place.and_then(|place| others.nth(place))
        }
    };
    byte.map_or_else(|| c.to_string().into_bytes(), |byte| vec![byte])
}

fn is_printable(byte: u8) -> bool {
    matches!(byte, b'!'..=b'~' | 0xa1..=0xac | 0xae..=0xff)
}

/// SentencePiece.
fn of_piece(text: &str) -> Vec<u8> {
    let hex = text
        .strip_prefix("<0x")
        .and_then(|rest| rest.strip_suffix('>'));
    match hex.map(|hex| u8::from_str_radix(hex, 16)) {
        Some(Ok(byte)) => vec![byte],
        _ => text.replace('\u{2581}', " ").into_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model_dir::ModelDir;
    use crate::tokens::Tokens;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_bytes_of_the_tokens_are_the_text(text in "\\PC{0,40}") {
            let tokens = Tokens::load(&ModelDir::new(&crate::self_test::tiny()), 3072).unwrap();
            let ids = tokens.encode_prompt(&text).unwrap();
            let bytes: Vec<u8> = ids.iter().flat_map(|id| tokens.bytes(*id).to_vec()).collect();
            prop_assert_eq!(String::from_utf8(bytes).unwrap(), text);
        }
    }

    #[test]
    fn every_byte_has_one_character() {
        let all: std::collections::BTreeSet<_> = (0..0x144_u32)
            .filter_map(char::from_u32)
            .flat_map(of_char)
            .collect();
        assert_eq!(all.len(), 256);
    }

    #[test]
    fn sentencepiece_writes_spaces_and_odd_bytes() {
        assert_eq!(of_piece("\u{2581}the"), b" the");
        assert_eq!(of_piece("<0x0A>"), b"\n");
        assert_eq!(of_piece("<0xZZ>"), b"<0xZZ>");
    }
}
