//! The tokens that steer the decoder, by generation_config.json.

use std::collections::BTreeMap;

use serde::Deserialize;

use crate::config::unsupported;
use crate::error::LoadError;
use crate::generation::Ids;
use crate::model_dir::ModelDir;
use crate::tokens::Tokens;

/// Each is an id below the size of the vocabulary. Text comes before [`Self::end`],
/// times come last.
#[derive(Debug)]
pub(crate) struct Vocabulary {
    pub(super) start: u32,
    pub(super) end: u32,
    /// What came before; `None` if the tokenizer has no such token.
    pub(super) before: Option<u32>,
    pub(super) no_speech: u32,
    pub(super) no_times: u32,
    /// By ISO 639-1 code; empty if the model knows English only.
    pub(super) languages: BTreeMap<String, u32>,
    pub(super) tasks: Option<Tasks>,
    /// Never said, and never said first.
    pub(super) never: Vec<u32>,
    pub(super) never_first: Vec<u32>,
    /// Steps of 20 ms that the first time may be after the beginning.
    pub(super) latest_start: Option<u32>,
}

impl Vocabulary {
    pub(super) fn load(dir: &ModelDir, tokens: &Tokens, size: usize) -> Result<Self, LoadError> {
        let file: File = dir.json(FILE)?;
        let end = match file.eos_token_id {
            Ids::One(end) => end,
            Ids::Several(_) => {
                return Err(unsupported(FILE, "eos_token_id", "a list", "one token"));
            }
        };
        let languages = file.lang_to_id.unwrap_or_default();
        let languages = languages.into_iter().map(|(token, id)| {
            let code = token.trim_start_matches("<|").trim_end_matches("|>");
            (code.to_owned(), id)
        });
        let vocabulary = Self {
            start: file.decoder_start_token_id,
            end,
            before: file.prev_sot_token_id.or(tokens.id("<|startofprev|>")),
            no_speech: file.no_timestamps_token_id.saturating_sub(1),
            no_times: file.no_timestamps_token_id,
            languages: languages.collect(),
            tasks: file.task_to_id,
            never: file.suppress_tokens.unwrap_or_default(),
            never_first: file.begin_suppress_tokens.unwrap_or_default(),
            latest_start: file.max_initial_timestamp_index,
        };
        vocabulary.check(size)?;
        Ok(vocabulary)
    }

    /// The first of the times, which is zero.
    pub(super) fn times(&self) -> u32 {
        self.no_times.saturating_add(1)
    }

    /// Whether the model can be told a language and a task.
    pub(crate) fn multilingual(&self) -> bool {
        self.tasks.is_some() && !self.languages.is_empty()
    }

    /// The token of a language.
    pub(crate) fn language(&self, code: &str) -> Option<u32> {
        self.languages.get(code).copied()
    }

    /// Whether a token is part of a text.
    pub(crate) fn is_text(&self, token: u32) -> bool {
        token < self.end
    }

    fn check(&self, size: usize) -> Result<(), LoadError> {
        let single = [
            ("decoder_start_token_id", self.start),
            ("eos_token_id", self.end),
            ("prev_sot_token_id", self.before.unwrap_or(0)),
            ("no_timestamps_token_id", self.times()),
        ];
        let languages = self.languages.values().map(|id| ("lang_to_id", *id));
        let tasks = self
            .tasks
            .iter()
            .flat_map(|tasks| [tasks.transcribe, tasks.translate]);
        let tasks = tasks.map(|id| ("task_to_id", id));
        for (key, id) in single.into_iter().chain(languages).chain(tasks) {
            if !usize::try_from(id).is_ok_and(|id| id < size) {
                return Err(unsupported(FILE, key, id, format!("a token below {size}")));
            }
        }
        // Text before the end, times after all else: the rules rely on it.
        match self.end < self.no_times {
            true => Ok(()),
            false => {
                let expected = format!("more than eos_token_id, {}", self.end);
                Err(unsupported(
                    FILE,
                    "no_timestamps_token_id",
                    self.no_times,
                    expected,
                ))
            }
        }
    }
}

/// What can be done with speech.
#[derive(Clone, Copy, Debug, Deserialize)]
pub(super) struct Tasks {
    pub(super) transcribe: u32,
    pub(super) translate: u32,
}

#[derive(Debug, Deserialize)]
struct File {
    decoder_start_token_id: u32,
    eos_token_id: Ids,
    no_timestamps_token_id: u32,
    prev_sot_token_id: Option<u32>,
    lang_to_id: Option<BTreeMap<String, u32>>,
    task_to_id: Option<Tasks>,
    suppress_tokens: Option<Vec<u32>>,
    begin_suppress_tokens: Option<Vec<u32>>,
    max_initial_timestamp_index: Option<u32>,
}

const FILE: &str = "generation_config.json";
