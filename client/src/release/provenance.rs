//! From what the artefacts were built: an in-toto statement with a SLSA provenance.
//!
//! Every builder states the same bytes and signs them for itself, so there is no time
//! in it, and who ran the build is the signature's part.
//!
//! Source: in-toto Attestation Framework, Statement v1; SLSA Build Provenance v1.

use std::collections::BTreeMap;

use attestation::register::Digest256;
use measurements::materials::Materials;
use serde::{Deserialize, Serialize};

use super::documents::Manifest;
use super::sbom::{crate_url, debian_url};

/// The statement for a release that was built from `commit`.
pub fn provenance(
    manifest: &Manifest,
    sbom: &str,
    materials: &Materials,
    commit: &Commit,
) -> serde_json::Result<String> {
    let statement = Statement::of(manifest, sbom, materials, commit);
    Ok(serde_json::to_string_pretty(&statement)? + "\n")
}

/// Name of a commit of the source: SHA-1 or SHA-256 in lower-case hex.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Commit(String);

impl Commit {
    /// The hex digits.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Commit {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let hex = |byte: u8| matches!(byte, b'0'..=b'9' | b'a'..=b'f');
        match matches!(text.len(), 40 | 64) && text.bytes().all(hex) {
            true => Ok(Self(text.into())),
            false => Err("not a commit: expected 40 or 64 lower-case hex digits".into()),
        }
    }
}

/// What is read of a statement.
#[derive(Debug, Deserialize)]
pub struct Stated {
    #[serde(rename = "_type")]
    kind: String,
    #[serde(rename = "predicateType")]
    predicate_type: String,
    subject: Vec<Subject>,
    predicate: StatedPredicate,
}

#[derive(Debug, Deserialize)]
struct Subject {
    name: String,
    digest: BTreeMap<String, String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StatedPredicate {
    build_definition: StatedBuild,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct StatedBuild {
    external_parameters: BTreeMap<String, String>,
}

impl Stated {
    /// Reads a statement that speaks of this manifest and of each of its artefacts.
    pub fn read(json: &[u8], manifest: &Manifest) -> Result<Self, ProvenanceError> {
        let stated: Self = serde_json::from_slice(json).map_err(|error| ProvenanceError::Json {
            reason: error.to_string(),
        })?;
        for (found, expected) in [
            (&stated.kind, STATEMENT),
            (&stated.predicate_type, PREDICATE),
        ] {
            if found != expected {
                let found = found.clone();
                return Err(ProvenanceError::Type { found, expected });
            }
        }
        let artefacts = manifest.release.artefacts.iter();
        let artefacts = artefacts.map(|file| (file.name.as_str(), file.sha256));
        for (name, digest) in [(MANIFEST, manifest.digest)].into_iter().chain(artefacts) {
            if !stated.speaks_of(name, digest) {
                let name = name.into();
                return Err(ProvenanceError::Subject { name, digest });
            }
        }
        Ok(stated)
    }

    /// Whether a file of that name and digest is among its subjects.
    #[must_use]
    pub fn speaks_of(&self, name: &str, digest: Digest256) -> bool {
        let digest = digest.to_string();
        let mut subjects = self.subject.iter();
        subjects.any(|it| it.name == name && it.digest.get("sha256") == Some(&digest))
    }

    /// The commit of the source.
    #[must_use]
    pub fn commit(&self) -> Option<Commit> {
        let parameters = &self.predicate.build_definition.external_parameters;
        parameters.get("commit")?.parse().ok()
    }

    /// Which image of the source; a plain word.
    #[must_use]
    pub fn profile(&self) -> Option<&str> {
        let parameters = &self.predicate.build_definition.external_parameters;
        let name = parameters.get("profile")?;
        let plain = name.bytes().all(|byte| byte.is_ascii_lowercase());
        (plain && !name.is_empty()).then_some(name)
    }
}

#[derive(Serialize)]
struct Statement {
    #[serde(rename = "_type")]
    kind: &'static str,
    subject: Vec<Resource>,
    #[serde(rename = "predicateType")]
    predicate_type: &'static str,
    predicate: Predicate,
}

impl Statement {
    fn of(manifest: &Manifest, sbom: &str, materials: &Materials, commit: &Commit) -> Self {
        let mut subject = vec![
            Resource::named(MANIFEST, manifest.digest),
            Resource::named("release.corim", Digest256::of(&manifest.corim())),
            Resource::named("release.cdx.json", Digest256::of(sbom.as_bytes())),
        ];
        let artefacts = manifest.release.artefacts.iter();
        subject.extend(artefacts.map(|file| Resource::named(&file.name, file.sha256)));

        let mut dependencies = vec![
            Resource {
                name: Some("source".into()),
                uri: None,
                digest: [("gitCommit", commit.0.clone())].into(),
            },
            Resource::named("image/packages.lock", materials.packages_lock),
            Resource::named("Cargo.lock", materials.cargo_lock),
        ];
        let mut packages = BTreeMap::new();
        for part in &materials.parts {
            for package in &part.debian {
                packages.insert(debian_url(package), package.sha256);
            }
            for item in &part.crates {
                if let Some(sha256) = item.sha256 {
                    packages.insert(crate_url(item), sha256);
                }
            }
        }
        dependencies.extend(packages.into_iter().map(|(uri, digest)| Resource {
            name: None,
            uri: Some(uri),
            digest: [("sha256", digest.to_string())].into(),
        }));

        Self {
            kind: STATEMENT,
            subject,
            predicate_type: PREDICATE,
            predicate: Predicate {
                build_definition: BuildDefinition {
                    build_type: "urn:cocoon:image-build:1",
                    external_parameters: [
                        (
                            "command",
                            format!("cargo xtask image build --profile {}", materials.profile),
                        ),
                        ("commit", commit.0.clone()),
                        ("profile", materials.profile.clone()),
                        ("rust", materials.rust.clone()),
                    ]
                    .into(),
                    resolved_dependencies: dependencies,
                },
                run_details: RunDetails {
                    builder: Builder {
                        id: "urn:cocoon:builder:xtask",
                        version: [("cocoon", manifest.release.version.clone())].into(),
                    },
                },
            },
        }
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Predicate {
    build_definition: BuildDefinition,
    run_details: RunDetails,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct BuildDefinition {
    build_type: &'static str,
    external_parameters: BTreeMap<&'static str, String>,
    resolved_dependencies: Vec<Resource>,
}

#[derive(Serialize)]
struct RunDetails {
    builder: Builder,
}

#[derive(Serialize)]
struct Builder {
    id: &'static str,
    version: BTreeMap<&'static str, String>,
}

/// `ResourceDescriptor`.
#[derive(Serialize)]
struct Resource {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    uri: Option<String>,
    digest: BTreeMap<&'static str, String>,
}

impl Resource {
    fn named(name: &str, sha256: Digest256) -> Self {
        Self {
            name: Some(name.into()),
            uri: None,
            digest: [("sha256", sha256.to_string())].into(),
        }
    }
}

/// What the manifest is called in a statement, whatever its file is called.
const MANIFEST: &str = "release.json";
const STATEMENT: &str = "https://in-toto.io/Statement/v1";
const PREDICATE: &str = "https://slsa.dev/provenance/v1";

/// Why a statement does not speak for a release.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum ProvenanceError {
    /// Not a statement.
    #[error("provenance is not of the expected form: {reason}")]
    Json {
        /// Where and what.
        reason: String,
    },
    /// It speaks of something else.
    #[error("provenance does not speak of {name} with SHA-256 {digest}")]
    Subject {
        /// Which file of the release.
        name: String,
        /// As the release has it.
        digest: Digest256,
    },
    /// Another kind of statement.
    #[error("provenance has type {found:?}, expected {expected:?}")]
    Type {
        /// As read.
        found: String,
        /// As it must be.
        expected: &'static str,
    },
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::release::sbom::tests::materials;
    use measurements::release::Release;
    use serde_json::{Value, json};

    pub(in crate::release) fn manifest() -> Manifest {
        let bytes = include_bytes!("../../../measurements/releases/current.json");
        Manifest::of(Release::parse(bytes).unwrap()).unwrap()
    }

    pub(in crate::release) fn statement(manifest: &Manifest) -> String {
        let commit = "0123456789abcdef0123456789abcdef01234567".parse().unwrap();
        provenance(manifest, "sbom", &materials(), &commit).unwrap()
    }

    #[test]
    fn a_statement_names_source_locks_and_every_package_once() {
        let manifest = manifest();
        let text = statement(&manifest);
        assert_eq!(text, statement(&manifest));
        let value: Value = serde_json::from_str(&text).unwrap();
        let dependencies = &value["predicate"]["buildDefinition"]["resolvedDependencies"];
        let dependencies = dependencies.as_array().unwrap();
        assert_eq!(dependencies.len(), 6);
        assert_eq!(
            dependencies[0]["digest"],
            json!({"gitCommit": "0123456789abcdef0123456789abcdef01234567"})
        );
        assert_eq!(dependencies[3]["uri"], "pkg:cargo/serde@1.0.0%2Bspec");
        let stated = Stated::read(text.as_bytes(), &manifest).unwrap();
        assert_eq!(stated.profile(), Some("base"));
        let commit = stated.commit().unwrap();
        assert_eq!(commit.as_str(), "0123456789abcdef0123456789abcdef01234567");
    }

    #[test]
    fn a_statement_about_something_else_is_refused() {
        type Change = fn(&mut Value);
        let manifest = manifest();
        let rows: &[(Change, &str)] = &[
            (
                |s| s["_type"] = json!("https://in-toto.io/Statement/v0.1"),
                "provenance has type \"https://in-toto.io/Statement/v0.1\", expected ",
            ),
            (
                |s| s["predicateType"] = json!("x"),
                "provenance has type \"x\", expected ",
            ),
            (
                |s| s["subject"][0]["digest"]["sha256"] = json!("00"),
                "provenance does not speak of release.json with SHA-256 ",
            ),
            (
                |s| drop(s["subject"].as_array_mut().unwrap().pop()),
                "provenance does not speak of root.img with SHA-256 ",
            ),
            (
                |s| drop(s.as_object_mut().unwrap().remove("predicate")),
                "provenance is not of the expected form: missing field `predicate`",
            ),
        ];
        for (change, expected) in rows {
            let mut value: Value = serde_json::from_str(&statement(&manifest)).unwrap();
            change(&mut value);
            let error = Stated::read(value.to_string().as_bytes(), &manifest).unwrap_err();
            assert!(error.to_string().starts_with(expected), "{error}");
        }
    }

    #[test]
    fn a_commit_is_its_whole_hash() {
        assert!("0123456".parse::<Commit>().is_err());
        assert!(
            "0123456789ABCDEF0123456789abcdef01234567"
                .parse::<Commit>()
                .is_err()
        );
        assert!("0".repeat(64).parse::<Commit>().is_ok());
    }
}
