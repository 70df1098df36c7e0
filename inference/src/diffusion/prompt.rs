//! Texts to exactly as many tokens as the text encoder sees.
//!
//! CLIP's byte-level BPE marks the end of a word; texts are lower case with single
//! spaces. Older directories have `vocab.json` and `merges.txt` and no `tokenizer.json`,
//! so those two are what is read.

use serde::Deserialize;
use serde_json::{Value, json};
use zeroize::Zeroizing;

use crate::config::unsupported;
use crate::error::{LoadError, RequestError};
use crate::model_dir::ModelDir;
use crate::tokens::Tokens;

/// The tokenizer, and what frames a text.
#[derive(Debug)]
pub(crate) struct Prompts {
    tokens: Tokens,
    start: u32,
    end: u32,
    pad: u32,
    context: usize,
}

impl Prompts {
    pub(crate) fn load(
        dir: &ModelDir,
        vocabulary: usize,
        context: usize,
    ) -> Result<Self, LoadError> {
        let config: Config = dir.json(CONFIG)?;
        let tokens = Tokens::parse(tokenizer(dir)?.to_string().as_bytes(), vocabulary)?;
        let id = |key, token: &Token| {
            let text = token.text();
            let absent = || unsupported(CONFIG, key, text, "a token of vocab.json");
            tokens.id(text).ok_or_else(absent)
        };
        let end = id("eos_token", &config.eos_token)?;
        Ok(Self {
            start: id("bos_token", &config.bos_token)?,
            end,
            pad: match &config.pad_token {
                Some(pad) => id("pad_token", pad)?,
                None => end,
            },
            tokens,
            context,
        })
    }

    /// The tokens of a text, which is refused if it has too many: what is cut off would
    /// be missed in the image.
    pub(crate) fn encode(&self, text: &str) -> Result<Zeroizing<Vec<u32>>, RequestError> {
        let room = self.context.saturating_sub(2);
        let too_long = |prompt| RequestError::ContextLength {
            prompt,
            answer: 0,
            context: room,
        };
        let least = self
            .tokens
            .at_least(text.split_whitespace().map(str::len).sum());
        if least > room {
            return Err(too_long(least));
        }
        let text = self.tokens.encode_prompt(&self.tokens.disarm(text))?;
        if text.len() > room {
            return Err(too_long(text.len()));
        }
        let mut all = Zeroizing::new(vec![self.start]);
        all.extend_from_slice(&text);
        all.push(self.end);
        all.resize(self.context, self.pad);
        Ok(all)
    }
}

/// In the form of tokenizer.json.
fn tokenizer(dir: &ModelDir) -> Result<Value, LoadError> {
    let vocabulary: Value = dir.json("tokenizer/vocab.json")?;
    let merges = dir.bytes("tokenizer/merges.txt")?;
    let merges = String::from_utf8_lossy(&merges);
    // The first line is a version; original files have empty ones at the end.
    let merges = merges
        .lines()
        .filter(|line| !line.is_empty() && !line.starts_with("#version"));
    let special = ["<|startoftext|>", "<|endoftext|>"].map(|content| {
        json!({
            "id": vocabulary.get(content), "content": content, "special": true,
            "single_word": false, "lstrip": false, "rstrip": false, "normalized": false,
        })
    });
    let words = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+";
    Ok(json!({
        "version": "1.0",
        "added_tokens": special,
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "NFC"},
            {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "},
            {"type": "Lowercase"},
        ]},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [
            {"type": "Split", "pattern": {"Regex": words}, "behavior": "Removed", "invert": true},
            {"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true, "use_regex": true},
        ]},
        "model": {
            "type": "BPE",
            "unk_token": "<|endoftext|>",
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "</w>",
            "fuse_unk": false,
            "byte_fallback": false,
            "vocab": vocabulary,
            "merges": merges.collect::<Vec<_>>(),
        },
    }))
}

#[derive(Debug, Deserialize)]
struct Config {
    bos_token: Token,
    eos_token: Token,
    pad_token: Option<Token>,
}

/// A text, or an object that holds one.
#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Token {
    Text(String),
    Object { content: String },
}

impl Token {
    fn text(&self) -> &str {
        match self {
            Self::Text(text) | Self::Object { content: text } => text,
        }
    }
}

const CONFIG: &str = "tokenizer/tokenizer_config.json";
