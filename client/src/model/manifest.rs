//! `manifest.json` in a pack: what the model is, and the SHA-256 of each of its files.
//!
//! Canonical JSON (RFC 8785): members sorted, no white space, so that one manifest has
//! one text. It follows from name, revision and files alone. It is under the root hash
//! of the pack and says nothing that this hash does not; what it says of architecture,
//! types and licence is what the files claim, a GGUF file before all others, as the
//! engine reads them.

use std::fmt;
use std::str::FromStr;

use attestation::register::Digest256;
use inference::Claims;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::erofs::{Layout, LayoutError};

/// What a pack holds. The members stand in the order of their names.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Of the model definition, as config.json or the GGUF file names it.
    pub architecture: Option<String>,
    /// Of the weights, as config.json names it; of most, as the GGUF file does.
    pub dtype: Option<String>,
    /// All but this one, sorted by path.
    pub files: Vec<File>,
    format: Format,
    /// As the model card names it.
    pub licence: Option<String>,
    /// Who published it and how it is called.
    pub name: String,
    /// Which of the publisher's versions.
    pub revision: String,
    /// Of the chat template.
    pub template: Option<Digest256>,
    /// Of tokenizer.json.
    pub tokenizer: Option<Digest256>,
}

/// One file.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Below the folder of the model.
    pub path: String,
    /// Of the content.
    pub sha256: Digest256,
    /// In bytes.
    pub size: u64,
}

impl Manifest {
    /// Describes `files`, sorted by path, by the texts that `read` finds among them and
    /// by what the GGUF file claims, if one is there.
    pub fn describe(
        version: Version,
        files: Vec<File>,
        read: impl Fn(&str) -> anyhow::Result<Option<Vec<u8>>>,
        gguf: Option<Claims>,
    ) -> anyhow::Result<Self> {
        let json = |path| -> anyhow::Result<Value> {
            let bytes = read(path)?.unwrap_or_default();
            Ok(serde_json::from_slice(&bytes).unwrap_or_default())
        };
        let config = json("config.json")?;
        let text = |pointer| Some(config.pointer(pointer)?.as_str()?.to_owned());
        let digest = |path| files.iter().find(|f| f.path == path).map(|f| f.sha256);
        let claims = match gguf {
            Some(claims) => claims,
            None => Claims {
                architecture: text("/architectures/0"),
                format: text("/torch_dtype").or_else(|| text("/dtype")),
                template: json("tokenizer_config.json")?
                    .pointer("/chat_template")
                    .and_then(Value::as_str)
                    .map(ToOwned::to_owned),
            },
        };
        let template = claims.template.map(|text| Digest256::of(text.as_bytes()));
        Ok(Self {
            architecture: claims.architecture,
            dtype: claims.format,
            format: Format::One,
            licence: read("README.md")?.and_then(|card| licence(&card)),
            name: version.name,
            revision: version.revision,
            template: digest("chat_template.jinja").or(template),
            tokenizer: digest("tokenizer.json"),
            files,
        })
    }

    /// Reads the one text that [`Self::to_json`] writes.
    pub fn parse(json: &[u8]) -> Result<Self, ManifestError> {
        let manifest: Self = serde_json::from_slice(json).map_err(ManifestError::Json)?;
        if manifest.to_json() != json {
            return Err(ManifestError::NotCanonical);
        }
        if !manifest.files.is_sorted_by(|a, b| a.path < b.path) {
            return Err(ManifestError::NotSorted);
        }
        manifest.version()?;
        Ok(manifest)
    }

    /// The text that is in the pack.
    #[must_use]
    pub fn to_json(&self) -> Vec<u8> {
        // Of strings, numbers and lists: it cannot fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The file system of a pack with this manifest, which is its first file.
    pub fn layout(&self) -> Result<Layout, LayoutError> {
        let len = u64::try_from(self.to_json().len()).map_err(|_| LayoutError::Size)?;
        let files = self.files.iter().map(|file| (&*file.path, file.size));
        let all: Vec<_> = [(MANIFEST, len)].into_iter().chain(files).collect();
        Layout::of(&all)
    }

    /// Name and revision.
    pub fn version(&self) -> Result<Version, VersionError> {
        Version::new(&self.name, &self.revision)
    }
}

/// `name@revision`.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Version {
    name: String,
    revision: String,
}

impl Version {
    /// Of letters that need no quoting anywhere.
    pub fn new(name: &str, revision: &str) -> Result<Self, VersionError> {
        let plain = |text: &str, more: &str| {
            let inside = |c: char| c.is_ascii_alphanumeric() || more.contains(c);
            (1..=96).contains(&text.len()) && text.chars().all(inside)
        };
        if !plain(name, "._-/") {
            return Err(VersionError { text: name.into() });
        }
        if !plain(revision, "._-") {
            let text = revision.into();
            return Err(VersionError { text });
        }
        Ok(Self {
            name: name.into(),
            revision: revision.into(),
        })
    }

    /// What is hashed before each block of the pack: trees of two models, or of two
    /// revisions, have nothing in common.
    #[must_use]
    pub fn salt(&self) -> [u8; 32] {
        *Digest256::of(self.to_string().as_bytes()).as_bytes()
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, revision } = self;
        write!(f, "{name}@{revision}")
    }
}

impl FromStr for Version {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let (name, revision) = text
            .split_once('@')
            .ok_or_else(|| VersionError { text: text.into() })?;
        Self::new(name, revision)
    }
}

/// `license:` in the YAML between the first two lines of `---`.
fn licence(card: &[u8]) -> Option<String> {
    let text = std::str::from_utf8(card).ok()?;
    let mut lines = text.strip_prefix("---\n")?.lines();
    let inside = lines.by_ref().take_while(|line| *line != "---");
    let value = inside
        .filter_map(|line| line.strip_prefix("license:"))
        .next()?;
    Some(value.trim().trim_matches(['"', '\'']).to_owned())
}

/// Of this layout; there is one.
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
enum Format {
    #[serde(rename = "cocoon-model/1")]
    One,
}

/// Its place in a pack.
pub const MANIFEST: &str = "manifest.json";

/// Text that names no model.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{text:?} is not 1 to 96 ASCII letters, digits, dots, dashes and underscores")]
pub struct VersionError {
    text: String,
}

/// Why bytes are no manifest.
#[derive(Debug, thiserror::Error)]
pub enum ManifestError {
    /// JSON, or a value in it.
    #[error("manifest.json is not one of cocoon-model/1")]
    Json(#[source] serde_json::Error),
    /// Another spelling.
    #[error("manifest.json is not in canonical form")]
    NotCanonical,
    /// Or a path is there twice.
    #[error("manifest.json does not list its files by path")]
    NotSorted,
    /// No name.
    #[error(transparent)]
    Version(#[from] VersionError),
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use proptest::prelude::*;

    fn file(path: &str) -> File {
        File {
            path: path.into(),
            sha256: Digest256::of(path.as_bytes()),
            size: 7,
        }
    }

    pub(in crate::model) fn manifest(paths: &[&str]) -> Manifest {
        described(paths, None)
    }

    fn described(paths: &[&str], gguf: Option<Claims>) -> Manifest {
        let version = "me/tiny@1".parse().unwrap();
        let files = paths.iter().map(|path| file(path)).collect();
        let read = |path: &str| {
            Ok(match path {
                "config.json" => Some(br#"{"architectures":["A"],"torch_dtype":"f32"}"#.to_vec()),
                "README.md" => Some(b"---\nx: y\nlicense: mit\n---\nlicense: no\n".to_vec()),
                _ => None,
            })
        };
        Manifest::describe(version, files, read, gguf).unwrap()
    }

    #[test]
    fn a_manifest_says_what_the_files_say() {
        let manifest = manifest(&["chat_template.jinja", "tokenizer.json"]);
        assert_eq!(manifest.architecture.as_deref(), Some("A"));
        assert_eq!(manifest.dtype.as_deref(), Some("f32"));
        assert_eq!(manifest.licence.as_deref(), Some("mit"));
        assert_eq!(manifest.template, Some(file("chat_template.jinja").sha256));
        assert_eq!(manifest.tokenizer, Some(file("tokenizer.json").sha256));
        assert_eq!(Manifest::parse(&manifest.to_json()).unwrap(), manifest);
    }

    #[test]
    fn a_gguf_file_says_more_than_what_lies_beside_it() {
        let claims = Claims {
            architecture: Some("llama".into()),
            format: Some("Q4_K".into()),
            template: Some("t".into()),
        };
        let alone = described(&["config.json", "model.gguf"], Some(claims.clone()));
        assert_eq!(alone.architecture.as_deref(), Some("llama"));
        assert_eq!(alone.dtype.as_deref(), Some("Q4_K"));
        assert_eq!(alone.template, Some(Digest256::of(b"t")));
        // But for a template of its own.
        let paths = ["chat_template.jinja", "model.gguf"];
        let beside = described(&paths, Some(claims));
        assert_eq!(beside.template, Some(file(paths[0]).sha256));
    }

    #[test]
    fn members_stand_in_canonical_order() {
        let json = manifest(&["a"]).to_json();
        let text = String::from_utf8(json).unwrap();
        let expected = format!(
            "{{\"architecture\":\"A\",\"dtype\":\"f32\",\"files\":[{{\"path\":\"a\",\"sha256\":\"{}\",\
             \"size\":7}}],\"format\":\"cocoon-model/1\",\"licence\":\"mit\",\"name\":\"me/tiny\",\
             \"revision\":\"1\",\"template\":null,\"tokenizer\":null}}",
            Digest256::of(b"a")
        );
        assert_eq!(text, expected);
    }

    #[test]
    fn other_texts_are_refused_by_name() {
        let good = String::from_utf8(manifest(&["a", "b"]).to_json()).unwrap();
        let refused = |text: &str| Manifest::parse(text.as_bytes()).unwrap_err().to_string();
        let spaced = good.replace(",\"dtype\"", ", \"dtype\"");
        assert_eq!(refused(&spaced), "manifest.json is not in canonical form");
        let json = "manifest.json is not one of cocoon-model/1";
        assert_eq!(refused(&good.replace("model/1", "model/2")), json);
        assert_eq!(
            refused(&good.replace("\"size\":7", "\"size\":7,\"x\":1")),
            json
        );
        assert_eq!(
            refused(&good.replace("\"path\":\"a\"", "\"path\":\"b\"")),
            "manifest.json does not list its files by path"
        );
        assert_eq!(
            refused(&good.replace("me/tiny", "me@tiny")),
            "\"me@tiny\" is not 1 to 96 ASCII letters, digits, dots, dashes and underscores"
        );
        for end in 0..good.len() {
            assert!(Manifest::parse(&good.as_bytes()[..end]).is_err());
        }
    }

    #[test]
    fn a_version_is_a_name_and_a_revision() {
        for text in ["", "a", "@", "a@", "@b", "a@b@c", "a@b/c", "a b@c", "a:b@c"] {
            assert!(text.parse::<Version>().is_err(), "{text}");
        }
        let version: Version = "a/b@c".parse().unwrap();
        assert_eq!(version.to_string(), "a/b@c");
        assert_eq!(version.salt(), *Digest256::of(b"a/b@c").as_bytes());
    }

    proptest! {
        #[test]
        fn arbitrary_bytes_never_panic(bytes: Vec<u8>) {
            assert!(Manifest::parse(&bytes).is_err());
        }
    }
}
