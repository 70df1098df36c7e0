//! `cocoon audit`: whether a release is what its source builds to.
//!
//! Builds the source once more, or takes what was built, and makes the manifest again
//! from it: files, every register of every shape, configurations. One digest decides;
//! the rest says where the difference is. The page that it writes draws the way from
//! each file to the register that it ends in.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use attestation::appraisal::{self, Check, Verdict};
use clap::Args;
use measurements::diff::{Difference, diff};
use measurements::release::{Artefact, Release};
use serde::Serialize;
use serde_json::Value;

use self::chain::Chain;
use crate::artefacts::{Artefacts, materials, read};
use crate::release::SignerArgs;
use crate::release::documents::{Documents, Manifest};
use crate::release::provenance::{Stated, provenance};
use crate::release::sbom::sbom;
use crate::release::verify::{Approval, Line};

pub mod chain;
pub mod page;
pub mod rebuild;

/// What to audit, and how.
#[derive(Args, Debug)]
pub struct AuditArgs {
    /// Release manifest; its documents lie beside it.
    #[arg(value_name = "RELEASE.json")]
    release: PathBuf,
    /// Repository of the source: the commit that the provenance names, or else its
    /// HEAD, is built in a clean checkout.
    #[arg(long, value_name = "DIR", required_unless_present = "artefacts")]
    source: Option<PathBuf>,
    /// Artefacts of a rebuild, instead of building.
    #[arg(long, value_name = "DIR", conflicts_with = "source")]
    artefacts: Option<PathBuf>,
    #[command(flatten)]
    signers: SignerArgs,
    /// Write a page that shows how it hangs together.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// Shape that the page draws, instead of the first.
    #[arg(long, value_name = "NAME", requires = "html")]
    shape: Option<String>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl AuditArgs {
    /// Does it.
    pub fn run(&self) -> anyhow::Result<Verdict> {
        let manifest = Manifest::read(&self.release)?;
        let documents = Documents::beside(&self.release);
        let approval = self.signers.approval(&manifest)?;
        let folder = match (&self.artefacts, &self.source) {
            (Some(folder), _) => folder.clone(),
            (None, Some(source)) => rebuild::rebuild(source, &manifest, &documents)?,
            (None, None) => anyhow::bail!("which artefacts?"),
        };
        let artefacts = Artefacts::read(&folder)?;
        let audit = Audit::of(manifest, &documents, &artefacts, &folder, approval)?;
        audit.print(self.json)?;
        if let Some(path) = &self.html {
            let chain = Chain::of(&audit, &artefacts, self.shape.as_deref())?;
            let page = page::page(&audit, &chain)?;
            fs::write(path, page).with_context(|| format!("cannot write {}", path.display()))?;
        }
        Ok(audit.verdict())
    }
}

/// A release beside what was built.
#[derive(Debug)]
pub struct Audit {
    /// As published.
    pub stated: Manifest,
    /// As it follows from what was built.
    pub rebuilt: Manifest,
    /// Every value in which they differ.
    pub differences: Vec<Difference>,
    /// What was compared.
    pub checks: Vec<Check>,
    /// Signature files, if builders were named.
    pub signatures: Vec<Line>,
}

impl Audit {
    fn of(
        stated: Manifest,
        documents: &Documents,
        artefacts: &Artefacts,
        folder: &Path,
        approval: Option<Approval>,
    ) -> anyhow::Result<Self> {
        let release = &stated.release;
        let configs = release.configs.iter();
        let configs: Vec<_> = configs
            .map(|config| (config.name.clone(), config.text.clone()))
            .collect();
        let (rebuilt, root) = artefacts.describe(&release.version, &configs)?;
        let rebuilt = Manifest::of(rebuilt)?;
        let differences = diff(&stated.release, &rebuilt.release)?;
        let mut checks = values(&stated, &rebuilt, &differences);
        let opens = "the initrd opens it";
        let found = match &root {
            Ok(_) => opens.into(),
            Err(error) => appraisal::chain(error),
        };
        checks.push(Check::new("root-disk", opens, found, root.is_ok()));
        checks.extend(described(&stated, documents, folder)?);
        checks.extend(approval.as_ref().map(|approval| {
            let expected = format!("{} builders", approval.threshold);
            let found = match &approval.signed_by[..] {
                [] => "nobody".into(),
                names => names.join(", "),
            };
            let passed = approval.verdict() == Verdict::Trusted;
            Check::new("signatures", expected, found, passed)
        }));
        Ok(Self {
            stated,
            rebuilt,
            differences,
            checks,
            signatures: approval.map_or_else(Vec::new, |approval| approval.signatures),
        })
    }

    /// Trusted if everything that was compared is the same.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self.checks.iter().all(|check| check.passed) {
            true => Verdict::Trusted,
            false => Verdict::Rejected,
        }
    }

    /// The verdict in words.
    #[must_use]
    pub fn headline(&self) -> &'static str {
        let same = self.stated.digest == self.rebuilt.digest;
        match (self.verdict(), same) {
            (Verdict::Trusted, _) => "the release is what was built",
            (_, true) => "the files are as published, but not what is said about them",
            (_, false) => "the release is not what was built",
        }
    }

    fn print(&self, json: bool) -> anyhow::Result<()> {
        /// What scripts read.
        #[derive(Serialize)]
        struct Report<'a> {
            verdict: Verdict,
            version: &'a str,
            checks: &'a [Check],
            differences: &'a [Difference],
            signatures: &'a [Line],
        }
        let mut out = io::stdout().lock();
        if json {
            let report = Report {
                verdict: self.verdict(),
                version: &self.stated.release.version,
                checks: &self.checks,
                differences: &self.differences,
                signatures: &self.signatures,
            };
            writeln!(out, "{}", serde_json::to_string(&report)?)?;
            return Ok(());
        }
        for check in &self.checks {
            writeln!(out, "{check}")?;
        }
        for line in &self.signatures {
            writeln!(out, "   {} {}: {}", line.outcome, line.file, line.text)?;
        }
        writeln!(out, "{}: {}", self.verdict(), self.headline())?;
        Ok(())
    }
}

/// The manifests, and then part by part.
fn values(stated: &Manifest, rebuilt: &Manifest, differences: &[Difference]) -> Vec<Check> {
    let same = stated.digest == rebuilt.digest;
    let mut checks = vec![Check::new("manifest", stated.digest, rebuilt.digest, same)];
    let (a, b) = (&stated.release, &rebuilt.release);
    for name in FILES {
        let [expected, found] = [a, b].map(|release| match file(release, name) {
            Some(file) => file.sha256.to_string(),
            None => "absent".into(),
        });
        let passed = expected == found;
        checks.push(Check::new(name, expected, found, passed));
    }
    let (line, root) = (&a.command_line, &a.root);
    let same = *line == b.command_line;
    checks.push(Check::new("command-line", line, &b.command_line, same));
    checks.push(Check::new("root-hash", root, b.root, *root == b.root));
    let shapes = a.shapes.len();
    for (name, kind) in [("tdx-registers", ".tdx."), ("vtpm-registers", ".vtpm.")] {
        let differing = differences.iter().filter_map(|it| it.name.split_once(kind));
        let (of, registers): (BTreeSet<_>, BTreeSet<_>) = differing.unzip();
        let expected = format!("as published for {shapes} shapes");
        let found = match of.len() {
            0 => expected.clone(),
            count => {
                let registers: Vec<_> = registers.into_iter().collect();
                format!("another {} for {count} shapes", registers.join(", "))
            }
        };
        checks.push(Check::new(name, expected, found, of.is_empty()));
    }
    checks
}

/// The documents that lie beside the manifest, against those that follow from it and
/// from what the build says it was made of.
fn described(
    stated: &Manifest,
    documents: &Documents,
    folder: &Path,
) -> anyhow::Result<Vec<Check>> {
    let mut checks = Vec::new();
    let mut check = |name, path: &Path, expected: &[u8]| -> anyhow::Result<()> {
        if path.exists() {
            let stated = read(path)?;
            let same = stated == expected;
            let (expected, found) = match same {
                true => ("the same".into(), "the same".into()),
                false => first_difference(&stated, expected),
            };
            checks.push(Check::new(name, expected, found, same));
        }
        Ok(())
    };
    check("corim", &documents.corim, &stated.corim())?;
    if documents.sbom.exists() || documents.provenance.exists() {
        let materials = materials(folder)?;
        let sbom = sbom(&stated.release, &materials)?;
        check("sbom", &documents.sbom, sbom.as_bytes())?;
        if documents.provenance.exists() {
            let found = read(&documents.provenance)?;
            let commit = Stated::read(&found, stated).ok().and_then(|it| it.commit());
            let expected = match commit {
                Some(commit) => provenance(stated, &sbom, &materials, &commit)?,
                None => String::new(),
            };
            check("provenance", &documents.provenance, expected.as_bytes())?;
        }
    }
    Ok(checks)
}

/// What two documents first differ in, if they are JSON: as published, as it follows.
fn first_difference(stated: &[u8], follows: &[u8]) -> (String, String) {
    let [stated, follows] = [stated, follows].map(serde_json::from_slice::<Value>);
    let differences = match (stated, follows) {
        (Ok(stated), Ok(follows)) => diff(&stated, &follows).unwrap_or_default(),
        _ => Vec::new(),
    };
    let Some(difference) = differences.into_iter().next() else {
        return ("the same".into(), "other bytes".into());
    };
    let say = |value: Option<String>| value.unwrap_or_else(|| "absent".into());
    let found = format!("{} is {}", difference.name, say(difference.second));
    (say(difference.first), found)
}

fn file<'a>(release: &'a Release, name: &str) -> Option<&'a Artefact> {
    release.artefacts.iter().find(|file| file.name == name)
}

const FILES: [&str; 4] = [
    Artefact::FIRMWARE,
    Artefact::KERNEL,
    Artefact::INITRD,
    Artefact::ROOT,
];
