//! Builds the source of a release in a clean checkout.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, ensure};

use crate::artefacts::read;
use crate::release::documents::{Documents, Manifest};
use crate::release::provenance::Stated;

/// Builds what the provenance names, or else HEAD; the folder of artefacts.
///
/// The checkout is made under the repository's `target/`, and stays there for whoever
/// wants to look. Packages that the repository has downloaded are not downloaded again.
pub fn rebuild(
    source: &Path,
    manifest: &Manifest,
    documents: &Documents,
) -> anyhow::Result<PathBuf> {
    let (commit, profile) = match documents.provenance.exists() {
        true => {
            let stated = Stated::read(&read(&documents.provenance)?, manifest)?;
            let commit = stated.commit().context("the provenance names no commit")?;
            let profile = stated
                .profile()
                .context("the provenance names no profile")?;
            (commit.as_str().to_owned(), profile.to_owned())
        }
        false => ("HEAD".to_owned(), "base".to_owned()),
    };
    let source = source
        .canonicalize()
        .with_context(|| format!("cannot find {}", source.display()))?;
    let checkout = source.join("target/audit");
    if checkout.exists() {
        std::fs::remove_dir_all(&checkout)
            .with_context(|| format!("cannot remove {}", checkout.display()))?;
    }
    let clone = Command::new("git")
        .args(["clone", "--quiet", "--no-checkout", "--"])
        .arg(&source)
        .arg(&checkout)
        .status();
    ensure!(
        clone.context("cannot start git")?.success(),
        "cannot clone the source"
    );
    let detach = Command::new("git")
        .args(["checkout", "--quiet", "--detach", &commit])
        .current_dir(&checkout)
        .status();
    ensure!(
        detach.context("cannot start git")?.success(),
        "the source has no commit {commit}"
    );
    eprintln!("cocoon: building {commit} in {}", checkout.display());
    let mut build = Command::new("cargo");
    build.args(["xtask", "image", "build", "--profile", &profile]);
    let debs = source.join("target/image/debs");
    if debs.is_dir() {
        build.arg("--debs").arg(debs);
    }
    let built = build
        .current_dir(&checkout)
        .env_remove("CARGO_TARGET_DIR")
        .stdout(std::io::stderr())
        .status();
    ensure!(
        built.context("cannot start cargo")?.success(),
        "the build failed"
    );
    Ok(checkout.join("target/image").join(profile))
}
