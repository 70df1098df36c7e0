//! `cocoon release`: make a manifest, or check one.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context;
use attestation::appraisal::Verdict;
use clap::{Args, Subcommand};
use measurements::diff::diff;
use measurements::release::Release;

use crate::artefacts::{Artefacts, read};
use crate::measure::print_differences;

/// What to do with a release.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write the manifest of an image: what it consists of and what it must report.
    Make(MakeArgs),
    /// Compute every value again from the artefacts, and compare.
    ///
    /// Exits with 0 when all are as stated, 1 when one differs, 2 when it could not tell.
    Check(CheckArgs),
}

/// Inputs and output of a manifest.
#[derive(Args, Debug)]
pub struct MakeArgs {
    /// Folder with OVMF.fd, vmlinuz, initrd, root.img, cmdline and manifest.json.
    #[arg(long, value_name = "DIR")]
    artefacts: PathBuf,
    /// Measured configuration, named after its file; may be repeated.
    #[arg(long, value_name = "FILE", required = true, num_args = 1..)]
    config: Vec<PathBuf>,
    /// Version to state.
    #[arg(long, value_name = "TEXT", default_value = env!("CARGO_PKG_VERSION"))]
    release_version: String,
    /// Where to write.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// A manifest and what it speaks of.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The manifest.
    #[arg(long, value_name = "FILE")]
    release: PathBuf,
    /// Folder with the artefacts.
    #[arg(long, value_name = "DIR")]
    artefacts: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Does it.
pub fn run(command: Command) -> anyhow::Result<Verdict> {
    match command {
        Command::Make(args) => make(&args),
        Command::Check(args) => check(&args),
    }
}

fn make(args: &MakeArgs) -> anyhow::Result<Verdict> {
    let configs: Vec<_> = args
        .config
        .iter()
        .map(|path| config(path))
        .collect::<Result<_, _>>()?;
    let release = Artefacts::read(&args.artefacts)?.release(&args.release_version, &configs)?;
    fs::write(&args.out, release.to_json()?)
        .with_context(|| format!("cannot write {}", args.out.display()))?;
    Ok(Verdict::Trusted)
}

fn check(args: &CheckArgs) -> anyhow::Result<Verdict> {
    let stated = load(&args.release)?;
    let configs: Vec<_> = stated
        .configs
        .iter()
        .map(|config| (config.name.clone(), config.text.clone()))
        .collect();
    let found = Artefacts::read(&args.artefacts)?.release(&stated.version, &configs)?;
    print_differences(&diff(&stated, &found)?, args.json)
}

/// Reads a manifest.
pub(crate) fn load(path: &Path) -> anyhow::Result<Release> {
    Release::parse(&read(path)?)
        .with_context(|| format!("{} is no release manifest", path.display()))
}

/// Name and text of a configuration file.
fn config(path: &Path) -> anyhow::Result<(String, String)> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    let text = String::from_utf8(read(path)?)
        .with_context(|| format!("{} is not text", path.display()))?;
    Ok((name.into_owned(), text))
}
