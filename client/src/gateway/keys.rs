//! Who may ask, for what, and how often: a TOML file that holds no key, only hashes.
//!
//! ```text
//! [[key]]
//! name = "bot"                     in logs and metrics
//! sha256 = "…"                     of the key's text, 64 hex digits
//! requests_per_minute = 60         of which all may come at once
//! tokens_per_day = 1000000         of the UTC day, prompts and answers
//! models = ["cocoon-tiny"]         or ["*"]
//! operator = false                 whether it may read the counts of all keys
//! ```
//!
//! A key is random and long, so its hash needs no salt. Tokens are known when an answer
//! ends: what is being answered when the day's are used up still ends. Counts live as
//! long as this process.

use std::collections::HashMap;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use attestation::register::Digest256;
use serde::Deserialize;

use crate::artefacts::read;

/// All keys, by their hashes.
#[derive(Debug)]
pub struct Keys(HashMap<Digest256, Arc<Key>>);

impl Keys {
    /// Reads the file.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = String::from_utf8(read(path)?).context("not text")?;
        Self::parse(&text).with_context(|| format!("{} holds no keys", path.display()))
    }

    /// The same from its text.
    pub fn parse(text: &str) -> anyhow::Result<Self> {
        let file: File = toml::from_str(text)?;
        let mut keys = HashMap::new();
        for entry in file.key {
            let (name, hash) = (entry.name.clone(), entry.sha256);
            ensure!(
                entry.requests_per_minute > 0,
                "key {name:?} may never ask: requests_per_minute is 0"
            );
            let key = Key {
                limits: entry,
                used: Mutex::default(),
            };
            let before = keys.insert(hash, Arc::new(key));
            ensure!(before.is_none(), "key {name:?} is there twice");
        }
        Ok(Self(keys))
    }

    /// Whose the text of an `Authorization` header is.
    #[must_use]
    pub fn holder(&self, authorization: Option<&str>) -> Option<&Arc<Key>> {
        let (scheme, key) = authorization?.split_once(' ')?;
        scheme.eq_ignore_ascii_case("bearer").then_some(())?;
        // Looked up by its hash: how long that takes tells nothing about a key.
        self.0.get(&Digest256::of(key.trim().as_bytes()))
    }
}

/// One key, and what was used under it.
#[derive(Debug)]
pub struct Key {
    limits: Limits,
    used: Mutex<Used>,
}

impl Key {
    /// As the file has it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.limits.name
    }

    /// Whether it may read the counts of all.
    #[must_use]
    pub fn is_operator(&self) -> bool {
        self.limits.operator
    }

    /// Counts a request that comes at `now`, since 1970, or says why it may not pass.
    pub fn admit(&self, now: Duration) -> Result<(), Exhausted> {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.turn(now);
        if used.tokens >= self.limits.tokens_per_day {
            let rest = now.as_secs() % DAY;
            return Err(Exhausted::Tokens {
                per_day: self.limits.tokens_per_day,
                retry: Duration::from_secs(DAY.saturating_sub(rest)),
            });
        }
        // Each request books its share of a minute; a minute ahead is full (GCRA).
        let share = MINUTE
            .checked_div(self.limits.requests_per_minute)
            .unwrap_or(MINUTE);
        let booked = used.booked.max(now).saturating_add(share);
        let ahead = booked.saturating_sub(now);
        if ahead > MINUTE {
            return Err(Exhausted::Requests {
                per_minute: self.limits.requests_per_minute,
                retry: ahead.saturating_sub(MINUTE),
            });
        }
        used.booked = booked;
        Ok(())
    }

    /// Whether it may ask this model.
    #[must_use]
    pub fn may_ask(&self, model: &str) -> bool {
        let named = |one: &String| one == "*" || one == model;
        self.limits.models.iter().any(named)
    }

    /// Counts what an answer took.
    pub fn took(&self, tokens: u64, now: Duration) {
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        used.turn(now);
        used.tokens = used.tokens.saturating_add(tokens);
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    key: Vec<Limits>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct Limits {
    name: String,
    sha256: Digest256,
    requests_per_minute: u32,
    tokens_per_day: u64,
    models: Vec<String>,
    #[serde(default)]
    operator: bool,
}

#[derive(Debug, Default)]
struct Used {
    day: u64,
    tokens: u64,
    booked: Duration,
}

impl Used {
    fn turn(&mut self, now: Duration) {
        let day = now.as_secs() / DAY;
        if self.day != day {
            (self.day, self.tokens) = (day, 0);
        }
    }
}

/// Why a key may not ask now, and for how long.
#[derive(Clone, Copy, Debug, Eq, PartialEq, thiserror::Error)]
pub enum Exhausted {
    /// Too fast.
    #[error("more than {per_minute} requests in a minute")]
    Requests {
        /// As the file has it.
        per_minute: u32,
        /// Until there is room for one.
        retry: Duration,
    },
    /// Too much.
    #[error("the {per_day} tokens of this day are used up")]
    Tokens {
        /// As the file has it.
        per_day: u64,
        /// Until the next day in UTC.
        retry: Duration,
    },
}

const MINUTE: Duration = Duration::from_secs(60);

const DAY: u64 = 86_400;

#[cfg(test)]
mod tests {
    use super::*;

    const NOON: Duration = Duration::from_secs(20_000 * DAY + DAY / 2);

    fn keys() -> Keys {
        let hash = Digest256::of(b"a long random key");
        Keys::parse(&format!(
            "[[key]]\nname = \"bot\"\nsha256 = \"{hash}\"\nrequests_per_minute = 2\n\
             tokens_per_day = 100\nmodels = [\"small\"]\n"
        ))
        .unwrap()
    }

    fn bot(keys: &Keys) -> &Key {
        keys.holder(Some("Bearer a long random key")).unwrap()
    }

    #[test]
    fn only_who_knows_the_key_is_its_holder() {
        let keys = keys();
        assert_eq!(bot(&keys).name(), "bot");
        for other in [
            None,
            Some(""),
            Some("a long random key"),
            Some("Basic a long random key"),
            Some("Bearer another"),
        ] {
            assert!(keys.holder(other).is_none(), "{other:?}");
        }
        assert!(bot(&keys).may_ask("small") && !bot(&keys).may_ask("large"));
    }

    #[test]
    fn requests_come_as_fast_as_they_may_and_no_faster() {
        let keys = keys();
        let bot = bot(&keys);
        assert_eq!((bot.admit(NOON), bot.admit(NOON)), (Ok(()), Ok(())));
        let retry = Duration::from_secs(30);
        let refused = Exhausted::Requests {
            per_minute: 2,
            retry,
        };
        assert_eq!(bot.admit(NOON), Err(refused));
        assert_eq!(
            bot.admit(NOON + retry),
            Ok(()),
            "a refused one costs nothing"
        );
        assert!(bot.admit(NOON + retry).is_err());
    }

    #[test]
    fn tokens_are_those_of_the_day() {
        let keys = keys();
        let bot = bot(&keys);
        bot.took(99, NOON);
        assert_eq!(bot.admit(NOON), Ok(()));
        bot.took(1, NOON);
        let retry = Duration::from_secs(DAY / 2);
        let refused = Exhausted::Tokens {
            per_day: 100,
            retry,
        };
        assert_eq!(bot.admit(NOON), Err(refused));
        assert_eq!(bot.admit(NOON + retry), Ok(()));
    }

    #[test]
    fn a_file_says_all_of_it() {
        let whole = "[[key]]\nname = \"a\"\nsha256 = \"00\"\nrequests_per_minute = 1\n\
                     tokens_per_day = 1\nmodels = []\n"
            .replace("00", &"00".repeat(32));
        assert!(Keys::parse(&whole).is_ok());
        for line in whole.lines().skip(1) {
            let less = whole.replace(line, "");
            assert!(Keys::parse(&less).is_err(), "without {line}");
        }
        let twice = format!("{whole}{whole}");
        assert!(format!("{:#}", Keys::parse(&twice).unwrap_err()).contains("is there twice"));
        let never = whole.replace("minute = 1", "minute = 0");
        assert!(format!("{:#}", Keys::parse(&never).unwrap_err()).contains("may never ask"));
    }
}
