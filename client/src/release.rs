//! `cocoon release`: make a manifest and its documents, sign them, check them.

use std::fs;
use std::io::{self, Write};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, ensure};
use attestation::appraisal::Verdict;
use attestation::time::UnixTime;
use clap::{Args, Subcommand};
use measurements::diff::diff;
use measurements::release::Release;
use serde_json::json;

use self::builders::Builders;
use self::documents::{Documents, Manifest};
use self::key::SigningKey;
use self::provenance::{Commit, Stated};
use self::verify::Approval;
use crate::artefacts::{Artefacts, materials, read};
use crate::measure::print_differences;

pub mod builders;
pub mod documents;
pub mod key;
pub mod provenance;
pub mod sbom;
pub mod signature;
pub mod verify;

/// What to do with a release.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Write the manifest of an image and the documents beside it.
    ///
    /// The manifest says what the image consists of and what it must report. Beside
    /// it come the same values as CoRIM, a bill of materials and, with --commit, the
    /// provenance. The same inputs give the same bytes.
    Make(MakeArgs),
    /// Compute every value again from the artefacts, and compare.
    ///
    /// Exits with 0 when all are as stated, 1 when one differs, 2 when it could not tell.
    Check(CheckArgs),
    /// Make a builder's key, and print its public half.
    Keygen(KeygenArgs),
    /// Sign a release that was built here, beside its documents.
    Sign(SignArgs),
    /// Check who signed a release.
    ///
    /// Exits with 0 when enough builders did, 1 when not, 2 when it could not tell.
    Verify(VerifyArgs),
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
    /// Commit of the source that was built, for the provenance.
    #[arg(long, value_name = "HASH")]
    commit: Option<Commit>,
    /// Where to write the manifest.
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

/// Where a new key goes.
#[derive(Args, Debug)]
pub struct KeygenArgs {
    /// New file for the private key.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// What to sign with what.
#[derive(Args, Debug)]
pub struct SignArgs {
    /// The manifest.
    #[arg(long, value_name = "FILE")]
    release: PathBuf,
    /// Private key that only its owner may read.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// Folder for the signatures, instead of the one beside the manifest.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

/// A manifest and who has to have signed it.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// The manifest.
    #[arg(long, value_name = "FILE")]
    release: PathBuf,
    #[command(flatten)]
    signers: SignerArgs,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Whose signatures, and how many.
#[derive(Args, Debug, Default)]
pub struct SignerArgs {
    /// Signature file of the release; may be repeated.
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "keys")]
    signature: Vec<PathBuf>,
    /// Builders whose signatures count, TOML.
    #[arg(long, value_name = "FILE", requires_all = ["release", "threshold"])]
    keys: Option<PathBuf>,
    /// How many of them have to have signed.
    #[arg(long, value_name = "N", requires = "keys")]
    threshold: Option<NonZero<usize>>,
    /// Moment at which their keys have to hold, seconds since 1970, instead of now.
    #[arg(long, value_name = "TIME", requires = "keys")]
    keys_at: Option<u64>,
}

impl SignerArgs {
    /// Reads a manifest that enough builders signed, if any were named.
    pub(crate) fn release(&self, path: &Path) -> anyhow::Result<Release> {
        if self.keys.is_none() {
            return load(path);
        }
        let manifest = Manifest::read(path)?;
        if let Some(approval) = self.approval(&manifest)? {
            let lines = approval.signatures.iter();
            let lines: Vec<_> = lines
                .map(|line| format!("{}: {}", line.file, line.text))
                .collect();
            ensure!(
                approval.verdict() == Verdict::Trusted,
                "{} is signed by {} of the {} builders that have to; {}",
                path.display(),
                approval.signed_by.len(),
                approval.threshold,
                lines.join("; "),
            );
        }
        Ok(manifest.release)
    }

    /// Judges the signatures, if builders were named.
    pub(crate) fn approval(&self, manifest: &Manifest) -> anyhow::Result<Option<Approval>> {
        let Some((keys, threshold)) = self.keys.as_ref().zip(self.threshold) else {
            return Ok(None);
        };
        let builders = text(keys)?;
        let builders =
            Builders::parse(&builders).with_context(|| format!("cannot use {}", keys.display()))?;
        let files = self.signature.iter().map(|path| {
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            Ok((name.into_owned(), read(path)?))
        });
        let files: Vec<_> = files.collect::<anyhow::Result<_>>()?;
        let at = match self.keys_at {
            Some(seconds) => UnixTime(seconds),
            None => now()?,
        };
        let approval = verify::verify(manifest, &files, &builders, threshold, at)?;
        Ok(Some(approval))
    }
}

/// Does it.
pub fn run(command: Command) -> anyhow::Result<Verdict> {
    match command {
        Command::Make(args) => make(&args),
        Command::Check(args) => check(&args),
        Command::Keygen(args) => keygen(&args),
        Command::Sign(args) => sign(&args),
        Command::Verify(args) => args.run(),
    }
}

fn make(args: &MakeArgs) -> anyhow::Result<Verdict> {
    let configs: Vec<_> = args
        .config
        .iter()
        .map(|path| config(path))
        .collect::<Result<_, _>>()?;
    let release = Artefacts::read(&args.artefacts)?.release(&args.release_version, &configs)?;
    let manifest = Manifest::of(release)?;
    let materials = materials(&args.artefacts)?;
    let sbom = sbom::sbom(&manifest.release, &materials)?;
    let documents = Documents::beside(&args.out);
    write(&args.out, &manifest.text)?;
    write(&documents.corim, manifest.corim())?;
    write(&documents.sbom, &sbom)?;
    if let Some(commit) = &args.commit {
        let provenance = provenance::provenance(&manifest, &sbom, &materials, commit)?;
        write(&documents.provenance, provenance)?;
    }
    writeln!(io::stdout(), "{}", manifest.digest)?;
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

fn keygen(args: &KeygenArgs) -> anyhow::Result<Verdict> {
    let key = SigningKey::generate(&args.out)?;
    write!(io::stdout(), "{}", key.public())?;
    Ok(Verdict::Trusted)
}

fn sign(args: &SignArgs) -> anyhow::Result<Verdict> {
    let key = SigningKey::read(&args.key)?;
    let manifest = Manifest::read(&args.release)?;
    let documents = Documents::beside(&args.release);
    let statement = read(&documents.provenance)?;
    Stated::read(&statement, &manifest)
        .with_context(|| format!("cannot sign {}", documents.provenance.display()))?;
    ensure!(
        read(&documents.corim)? == manifest.corim(),
        "{} is not the CoRIM of this manifest",
        documents.corim.display(),
    );
    let folder = args.out.as_ref().unwrap_or(&documents.signatures);
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let id = key.public().id().to_string();
    let name = id.get(..16).unwrap_or(&id);
    for (suffix, file) in [
        ("sig.json", signature::manifest(&key, &manifest)?),
        ("dsse.json", signature::provenance(&key, &statement)?),
        ("cose", signature::corim(&key, &manifest)?),
    ] {
        let path = folder.join(format!("{name}.{suffix}"));
        write(&path, file)?;
        writeln!(io::stdout(), "{}", path.display())?;
    }
    Ok(Verdict::Trusted)
}

impl VerifyArgs {
    fn run(&self) -> anyhow::Result<Verdict> {
        let manifest = Manifest::read(&self.release)?;
        let approval = self.signers.approval(&manifest)?;
        let approval = approval.context("whose signatures? --keys and --threshold say it")?;
        let verdict = approval.verdict();
        let mut out = io::stdout().lock();
        if self.json {
            let report = json!({
                "verdict": verdict,
                "manifest": manifest.digest,
                "signatures": approval,
            });
            writeln!(out, "{report}")?;
            return Ok(verdict);
        }
        writeln!(out, "manifest {}", manifest.digest)?;
        for line in &approval.signatures {
            writeln!(out, "{} {}: {}", line.outcome, line.file, line.text)?;
        }
        let (found, wanted) = (approval.signed_by.len(), approval.threshold);
        writeln!(out, "signed by {found} of {wanted}")?;
        Ok(verdict)
    }
}

fn write(path: &Path, content: impl AsRef<[u8]>) -> anyhow::Result<()> {
    fs::write(path, content).with_context(|| format!("cannot write {}", path.display()))
}

fn now() -> anyhow::Result<UnixTime> {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let since = since.context("the clock stands before 1970")?;
    Ok(UnixTime(since.as_secs()))
}

/// Reads a manifest.
pub(crate) fn load(path: &Path) -> anyhow::Result<Release> {
    Release::parse(&read(path)?)
        .with_context(|| format!("{} is no release manifest", path.display()))
}

/// Name and text of a configuration file.
fn config(path: &Path) -> anyhow::Result<(String, String)> {
    let name = path.file_stem().unwrap_or_default().to_string_lossy();
    Ok((name.into_owned(), text(path)?))
}

fn text(path: &Path) -> anyhow::Result<String> {
    String::from_utf8(read(path)?).with_context(|| format!("{} is not text", path.display()))
}
