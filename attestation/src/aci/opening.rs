//! What stands behind the salted hashes of a receipt: the tokens.
//!
//! ```text
//! request.forwarded  SHA-256 of the canonical [`Forwarded`]
//! ids_hash           SHA-256("cocoon/ids/v1\0" || salt || (count || ids)*), each a u32,
//!                    little-endian
//! ```
//!
//! Token ids are the text in another form: who shows an opening shows the answer.

use alloc::collections::BTreeMap;
use alloc::string::String;
use alloc::vec::Vec;
use core::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::Hash;
use super::json::{Json, JsonError};
use super::receipt::Receipt;
use crate::appraisal::Check;
use crate::register::Digest256;

/// For whoever asked, and for whom they show it to.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Opening {
    /// What the model was given.
    pub forwarded: Forwarded,
    /// The tokens of each answer.
    pub outputs: Vec<Vec<u32>>,
}

/// The request as the engine had it: after template and defaults.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Forwarded {
    /// Random, for this receipt.
    pub salt: Digest256,
    /// One for each answer, or for each text that was embedded.
    pub runs: Vec<Run>,
}

/// What one answer was made of.
#[derive(Clone, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Run {
    /// Tokens that were read.
    pub prompt: Vec<u32>,
    /// Images for which some of them stand; the tokens do not tell which.
    pub images: u64,
    /// What the answer had to be, if it had to be of a form such as a schema: a grammar
    /// in the Lark of llguidance.
    pub form: Option<String>,
    /// Most tokens of the answer; 0 where there is none.
    pub max_tokens: u64,
    /// Texts that would have ended it.
    pub stop: Vec<String>,
    /// How tokens were chosen; nothing of an embedder.
    pub settings: Option<Settings>,
}

/// How tokens were chosen. Numbers are in the shortest decimal form that reads back as
/// the same f64, and the seed in that of u64.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "named as the parameters of a request")]
pub struct Settings {
    pub temperature: String,
    pub top_p: String,
    pub top_k: u64,
    pub min_p: String,
    pub repetition_penalty: String,
    pub presence_penalty: String,
    pub frequency_penalty: String,
    pub logit_bias: BTreeMap<String, String>,
    pub seed: String,
}

impl Forwarded {
    /// What `request.forwarded` has the hash of.
    pub fn canonical(&self) -> Result<String, JsonError> {
        Ok(Json::of(self)?.canonical())
    }

    /// What was read: a prompt that several answers share stands for all of them.
    pub fn prompts(&self) -> impl Iterator<Item = &[u32]> + Clone {
        let prompts = self.runs.iter().map(|run| run.prompt.as_slice());
        let before = core::iter::once(None).chain(prompts.clone().map(Some));
        prompts
            .zip(before)
            .filter(|(prompt, before)| Some(*prompt) != *before)
            .map(|(prompt, _)| prompt)
    }
}

impl Opening {
    /// Reads what somebody shows.
    pub fn parse(text: &[u8]) -> Result<Self, OpeningError> {
        Ok(Json::parse(text)?.read()?)
    }

    /// Compares with a receipt: hashes and counts.
    pub fn check(&self, receipt: &Receipt) -> Result<Vec<Check>, OpeningError> {
        let forwarded = Hash::of(self.forwarded.canonical()?.as_bytes());
        let salt = &self.forwarded.salt;
        let mut checks: Vec<Check> = receipt
            .forwarded()
            .map(|said| equal("request.forwarded", &said, &forwarded))
            .into_iter()
            .collect();
        let Some(executed) = receipt.executed() else {
            return Err(OpeningError::NotExecuted);
        };
        let read: Vec<&[u32]> = self.forwarded.prompts().collect();
        let prompt = hash_ids(salt, read.iter().copied());
        let count = read
            .iter()
            .fold(0, |sum: u64, ids| sum.saturating_add(count(ids)));
        checks.push(equal("prompt.ids_hash", &executed.prompt.ids_hash, &prompt));
        checks.push(equal("prompt.tokens", &executed.prompt.tokens, &count));
        checks.push(equal(
            "outputs",
            &executed.outputs.len(),
            &self.outputs.len(),
        ));
        for (output, ids) in executed.outputs.iter().zip(&self.outputs) {
            let hash = hash_ids(salt, [ids.as_slice()]);
            checks.push(equal("output.ids_hash", &output.ids_hash, &hash));
            checks.push(equal("output.tokens", &output.tokens, &self::count(ids)));
        }
        Ok(checks)
    }
}

/// Salted, so that nobody can guess a short text from it.
#[must_use]
pub fn hash_ids<'a>(salt: &Digest256, lists: impl IntoIterator<Item = &'a [u32]>) -> Hash {
    let mut hash = Sha256::new()
        .chain_update(b"cocoon/ids/v1\0")
        .chain_update(salt.as_bytes());
    for ids in lists {
        let count = u32::try_from(ids.len()).unwrap_or(u32::MAX);
        hash.update(count.to_le_bytes());
        for id in ids {
            hash.update(id.to_le_bytes());
        }
    }
    Hash(Digest256::from_bytes(hash.finalize().into()))
}

fn count(ids: &[u32]) -> u64 {
    u64::try_from(ids.len()).unwrap_or(u64::MAX)
}

fn equal<T: PartialEq + fmt::Display>(name: &'static str, expected: &T, found: &T) -> Check {
    Check::new(name, expected, found, expected == found)
}

impl fmt::Debug for Opening {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Opening").finish_non_exhaustive()
    }
}

/// Not an opening, or of nothing that can be opened.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OpeningError {
    /// Another form.
    #[error("no opening of a receipt")]
    Malformed(#[from] JsonError),
    /// No model was asked.
    #[error("the receipt has no event inference.executed.v1")]
    NotExecuted,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::aci::receipt::tests::{opening, receipt};
    use alloc::string::ToString as _;

    fn failed(opening: &Opening) -> Vec<&'static str> {
        let checks = opening.check(&receipt()).unwrap();
        checks
            .iter()
            .filter(|check| !check.passed)
            .map(|check| check.name)
            .collect()
    }

    #[test]
    fn tokens_settings_and_salt_are_those_of_the_receipt() {
        assert!(failed(&opening()).is_empty());
        type Change = fn(&mut Opening);
        let changes: [(Change, &[&str]); 8] = [
            (
                |o| o.forwarded.salt = Digest256::ZERO,
                &[
                    "request.forwarded",
                    "prompt.ids_hash",
                    "output.ids_hash",
                    "output.ids_hash",
                ],
            ),
            (
                |o| o.forwarded.runs[0].max_tokens = 8,
                &["request.forwarded"],
            ),
            (|o| o.forwarded.runs[0].stop.clear(), &["request.forwarded"]),
            (|o| o.forwarded.runs[0].form = None, &["request.forwarded"]),
            (
                |o| o.forwarded.runs[1].settings.as_mut().unwrap().seed = "9".to_string(),
                &["request.forwarded"],
            ),
            (
                |o| {
                    o.forwarded
                        .runs
                        .iter_mut()
                        .for_each(|run| run.prompt[0] ^= 1)
                },
                &["request.forwarded", "prompt.ids_hash"],
            ),
            (|o| o.outputs[1][0] ^= 1, &["output.ids_hash"]),
            (
                |o| o.outputs[0].push(1),
                &["output.ids_hash", "output.tokens"],
            ),
        ];
        for (change, expected) in changes {
            let mut opening = opening();
            change(&mut opening);
            assert_eq!(failed(&opening), expected);
        }
    }

    #[test]
    fn neither_salt_nor_boundary_can_be_moved() {
        let salt = Digest256::ZERO;
        let hash = |lists: &[&[u32]]| hash_ids(&salt, lists.iter().copied());
        assert_ne!(hash(&[&[1, 2]]), hash(&[&[1], &[2]]));
        assert_ne!(hash(&[&[]]), hash(&[]));
        assert_ne!(
            hash(&[&[1]]),
            hash_ids(&Digest256::from_bytes([1; 32]), [&[1][..]])
        );
    }

    #[test]
    fn every_proper_prefix_is_refused() {
        let text = Json::of(&opening()).unwrap().canonical();
        assert_eq!(Opening::parse(text.as_bytes()), Ok(opening()));
        for cut in 0..text.len() {
            assert!(Opening::parse(&text.as_bytes()[..cut]).is_err(), "{cut}");
        }
    }
}
