//! A folder of artefacts, as the image build leaves it.

use std::fs;
use std::path::Path;

use anyhow::Context;
use attestation::verity::Verity;
use measurements::materials::Materials;
use measurements::predict::Files;
use measurements::release::{Artefact, Inputs, Release};
use measurements::root::{self, RootError};
use serde::Deserialize;

/// What boots, read into memory.
#[derive(Debug)]
pub struct Artefacts {
    firmware: Vec<u8>,
    kernel: Vec<u8>,
    initrd: Vec<u8>,
    root_image: Vec<u8>,
    command_line: String,
    packages: Vec<String>,
}

impl Artefacts {
    /// Reads `folder`.
    pub fn read(folder: &Path) -> anyhow::Result<Self> {
        let command_line = read(&folder.join("cmdline"))?;
        let command_line = String::from_utf8(command_line).context("cmdline is not text")?;
        Ok(Self {
            firmware: read(&folder.join(Artefact::FIRMWARE))?,
            kernel: read(&folder.join(Artefact::KERNEL))?,
            initrd: read(&folder.join(Artefact::INITRD))?,
            root_image: read(&folder.join(Artefact::ROOT))?,
            command_line: command_line.trim_end_matches('\n').to_owned(),
            packages: packages(&folder.join("manifest.json"))?,
        })
    }

    /// What registers depend on.
    #[must_use]
    pub fn files(&self) -> Files<'_> {
        Files {
            firmware: &self.firmware,
            kernel: &self.kernel,
            initrd: &self.initrd,
            command_line: &self.command_line,
        }
    }

    /// The manifest of these artefacts with these configurations, name and text each.
    pub fn release(&self, version: &str, configs: &[(String, String)]) -> anyhow::Result<Release> {
        Ok(Release::make(self.inputs(version, configs))?)
    }

    /// The same of artefacts that may not belong together, and why the initrd refuses the
    /// root disk, if it does.
    pub(crate) fn describe(
        &self,
        version: &str,
        configs: &[(String, String)],
    ) -> anyhow::Result<(Release, Result<Verity, RootError>)> {
        let release = Release::describe(self.inputs(version, configs))?;
        Ok((release, root::verify(&self.initrd, &self.root_image)))
    }

    fn inputs<'a>(&'a self, version: &'a str, configs: &'a [(String, String)]) -> Inputs<'a> {
        Inputs {
            version,
            files: self.files(),
            root_image: &self.root_image,
            packages: &self.packages,
            configs,
        }
    }
}

/// What the build of `folder` says it was made of.
pub(crate) fn materials(folder: &Path) -> anyhow::Result<Materials> {
    /// What is read of the build's own manifest.
    #[derive(Deserialize)]
    struct Built {
        materials: Materials,
    }
    let path = folder.join("manifest.json");
    let built: Built = serde_json::from_slice(&read(&path)?)
        .with_context(|| format!("{} lists no materials", path.display()))?;
    Ok(built.materials)
}

/// The package list of the build's own manifest.
fn packages(path: &Path) -> anyhow::Result<Vec<String>> {
    let manifest: serde_json::Value = serde_json::from_slice(&read(path)?)
        .with_context(|| format!("{} is not JSON", path.display()))?;
    let packages = manifest
        .get("packages")
        .and_then(serde_json::Value::as_array);
    packages
        .with_context(|| format!("{} lists no packages", path.display()))?
        .iter()
        .map(|package| package.as_str().map(ToOwned::to_owned))
        .collect::<Option<_>>()
        .with_context(|| format!("{} lists a package that is not text", path.display()))
}

/// A file, or an error that names it.
pub(crate) fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}
