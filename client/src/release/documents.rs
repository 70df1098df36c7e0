//! A published manifest and the documents beside it.
//!
//! | File | Holds | Follows from |
//! |---|---|---|
//! | `NAME.json` | the manifest | the artefacts, the configurations, the version |
//! | `NAME.corim` | the same reference values as CBOR | the manifest |
//! | `NAME.cdx.json` | what each artefact is made of | the build's materials |
//! | `NAME.provenance.json` | from what it was built | all of these and the source's commit |
//! | `NAME.signatures/` | who built the same | |
//!
//! The SHA-256 of `NAME.json`, every byte of it, is the release's name: builders sign
//! it, and a chain lists it. So there is one text for each manifest, the one that
//! [`Release::to_json`] writes; another text of the same values is refused.

use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use attestation::register::Digest256;
use measurements::corim::corim;
use measurements::release::Release;

use crate::artefacts::read;

/// A manifest with its name.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// The one text of it.
    pub text: String,
    /// SHA-256 of the text.
    pub digest: Digest256,
    /// What it says.
    pub release: Release,
}

impl Manifest {
    /// Of what `release` says.
    pub fn of(release: Release) -> anyhow::Result<Self> {
        let text = release.to_json()?;
        let digest = Digest256::of(text.as_bytes());
        Ok(Self {
            text,
            digest,
            release,
        })
    }

    /// Reads a published one.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let bytes = read(path)?;
        let release = Release::parse(&bytes)
            .with_context(|| format!("{} is no release manifest", path.display()))?;
        let manifest = Self::of(release)?;
        ensure!(
            manifest.text.as_bytes() == bytes,
            "{} does not have the bytes that its values are written as",
            path.display(),
        );
        Ok(manifest)
    }

    /// The same reference values as an unsigned CoRIM.
    #[must_use]
    pub fn corim(&self) -> Vec<u8> {
        corim(&self.release, self.digest)
    }
}

/// Where the documents of a manifest lie.
#[derive(Clone, Debug)]
pub struct Documents {
    /// Unsigned CoRIM.
    pub corim: PathBuf,
    /// CycloneDX.
    pub sbom: PathBuf,
    /// in-toto statement.
    pub provenance: PathBuf,
    /// Folder of signature files.
    pub signatures: PathBuf,
}

impl Documents {
    /// Beside `manifest`.
    #[must_use]
    pub fn beside(manifest: &Path) -> Self {
        Self {
            corim: manifest.with_extension("corim"),
            sbom: manifest.with_extension("cdx.json"),
            provenance: manifest.with_extension("provenance.json"),
            signatures: manifest.with_extension("signatures"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_text_of_the_same_values_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("release.json");
        let text = include_str!("../../../measurements/releases/current.json");
        std::fs::write(&path, text).unwrap();
        let manifest = Manifest::read(&path).unwrap();
        assert_eq!(manifest.digest, Digest256::of(text.as_bytes()));
        std::fs::write(&path, text.trim_end()).unwrap();
        let error = Manifest::read(&path).unwrap_err().to_string();
        assert!(error.ends_with("does not have the bytes that its values are written as"));
    }

    #[test]
    fn documents_lie_beside_their_manifest() {
        let documents = Documents::beside(Path::new("releases/current.json"));
        assert_eq!(documents.sbom, Path::new("releases/current.cdx.json"));
        assert_eq!(
            documents.signatures,
            Path::new("releases/current.signatures")
        );
    }
}
