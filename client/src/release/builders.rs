//! Whose word counts: the builders that a verifier has chosen, each with its key.
//!
//! ```toml
//! version = 1
//!
//! [[builder]]
//! name = "alice"
//! key = """
//! -----BEGIN PUBLIC KEY-----
//! ...
//! -----END PUBLIC KEY-----
//! """
//! valid_from = "2026-01-01T00:00:00Z"
//! valid_until = "2027-12-31T23:59:59Z"
//! ```

use attestation::register::Digest256;
use attestation::time::{UnixTime, Window};
use serde::Deserialize;

use super::key::VerifyingKey;

/// All of them; no two with one name or one key.
#[derive(Clone, Debug)]
pub struct Builders(Vec<Builder>);

/// One of them.
#[derive(Clone, Debug)]
pub struct Builder {
    /// For people.
    pub name: String,
    /// What it signs with.
    pub key: VerifyingKey,
    /// When its key counts.
    pub valid: Window,
}

impl Builders {
    /// Reads a file of builders.
    pub fn parse(text: &str) -> Result<Self, BuildersError> {
        let file: File = toml::from_str(text).map_err(|error| BuildersError::Toml {
            reason: error.message().into(),
        })?;
        if file.version != VERSION {
            let found = file.version;
            return Err(BuildersError::Version { found });
        }
        let mut builders = Vec::<Builder>::new();
        for entry in file.builder {
            let builder = entry.read()?;
            let same = |other: &&Builder| other.name == builder.name || other.key == builder.key;
            if let Some(other) = builders.iter().find(same) {
                return Err(BuildersError::Repeated {
                    first: other.name.clone(),
                    second: builder.name,
                });
            }
            builders.push(builder);
        }
        Ok(Self(builders))
    }

    /// Whose key it is.
    #[must_use]
    pub fn of(&self, key: Digest256) -> Option<&Builder> {
        self.0.iter().find(|builder| builder.key.id() == key)
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.0.len()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u32,
    builder: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    name: String,
    key: String,
    valid_from: String,
    valid_until: String,
}

impl Entry {
    fn read(self) -> Result<Builder, BuildersError> {
        let bad = |field| BuildersError::Field {
            name: self.name.clone(),
            field,
        };
        let time = |text: &str, field| UnixTime::from_iso8601(text).ok_or_else(|| bad(field));
        Ok(Builder {
            key: VerifyingKey::from_pem(&self.key).ok_or_else(|| bad("key"))?,
            valid: Window {
                from: time(&self.valid_from, "valid_from")?,
                until: time(&self.valid_until, "valid_until")?,
            },
            name: self.name,
        })
    }
}

const VERSION: u32 = 1;

/// Why a file of builders is not taken.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum BuildersError {
    /// Not what it must be.
    #[error("{field} of builder {name:?} is malformed")]
    Field {
        /// Whose.
        name: String,
        /// Which: a public P-256 key in PEM, or a time like 2026-01-01T00:00:00Z.
        field: &'static str,
    },
    /// One would count as two.
    #[error("builders {first:?} and {second:?} have one name or one key")]
    Repeated {
        /// The one.
        first: String,
        /// The other.
        second: String,
    },
    /// Not of this form.
    #[error("file of builders is not of the expected form: {reason}")]
    Toml {
        /// Where and what.
        reason: String,
    },
    /// Another layout.
    #[error("file of builders has version {found}, expected {VERSION}")]
    Version {
        /// As read.
        found: u32,
    },
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::release::key::SigningKey;

    /// Holds from 1970-01-01T00:16:40Z (1000) to 1970-01-01T00:33:20Z (2000).
    pub(in crate::release) fn file(keys: &[(&str, VerifyingKey)]) -> String {
        let mut text = String::from("version = 1\n");
        for (name, key) in keys {
            text += &format!(
                "[[builder]]\nname = \"{name}\"\nkey = \"\"\"\n{key}\"\"\"\n\
                 valid_from = \"1970-01-01T00:16:40Z\"\nvalid_until = \"1970-01-01T00:33:20Z\"\n"
            );
        }
        text
    }

    #[test]
    fn one_key_never_counts_as_two_builders() {
        let dir = tempfile::tempdir().unwrap();
        let [a, b] = ["a", "b"].map(|name| {
            SigningKey::generate(&dir.path().join(name))
                .unwrap()
                .public()
        });
        let parse = |keys: &[_]| Builders::parse(&file(keys));
        let builders = parse(&[("alice", a), ("bob", b)]).unwrap();
        assert_eq!(builders.of(b.id()).unwrap().name, "bob");
        assert_eq!(builders.of(Digest256::ZERO).map(|found| &found.name), None);
        for keys in [[("alice", a), ("bob", a)], [("alice", a), ("alice", b)]] {
            let error = parse(&keys).unwrap_err();
            assert!(matches!(error, BuildersError::Repeated { .. }), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_not_understood_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let key = SigningKey::generate(&dir.path().join("key")).unwrap();
        let good = file(&[("alice", key.public())]);
        for (from, to, expected) in [
            (
                "version = 1",
                "version = 2",
                "file of builders has version 2, expected 1",
            ),
            (
                "1970-01-01T00:16:40Z",
                "1970-01-01",
                "valid_from of builder \"alice\" is malformed",
            ),
            (
                "1970-01-01T00:33:20Z",
                "soon",
                "valid_until of builder \"alice\" is malformed",
            ),
            (
                "BEGIN PUBLIC",
                "BEGIN RSA",
                "key of builder \"alice\" is malformed",
            ),
            (
                "valid_until",
                "until",
                "file of builders is not of the expected form: ",
            ),
        ] {
            let error = Builders::parse(&good.replace(from, to)).unwrap_err();
            assert!(error.to_string().starts_with(expected), "{error}");
        }
    }
}
