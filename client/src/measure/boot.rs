//! Registers of a whole boot, and how they compare with a real one.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use anyhow::Context;
use attestation::appraisal::Verdict;
use attestation::eventlog::Log;
use attestation::register::Digest384;
use clap::Args;
use measurements::bank::{Bank, Register};
use measurements::diff::values;
use measurements::explain::{EventDigest, Line, explain};
use measurements::mrconfigid::mrconfigid;
use measurements::predict;
use measurements::qemu::version::Version;
use measurements::shape::Shape;
use serde_json::json;

use super::shapes::named;
use super::{print, verdict};
use crate::artefacts::{Artefacts, read};
use crate::platform::Platform;
use crate::release::load;

/// Artefacts, by themselves or beside their manifest.
#[derive(Args, Debug)]
struct Source {
    /// Release manifest; its artefacts lie in the same folder.
    #[arg(long, value_name = "FILE", required_unless_present = "artefacts")]
    release: Option<PathBuf>,
    /// Folder with the artefacts, if it is another.
    #[arg(long, value_name = "DIR")]
    artefacts: Option<PathBuf>,
}

impl Source {
    fn artefacts(&self) -> anyhow::Result<Artefacts> {
        let beside = self.release.as_deref().and_then(Path::parent);
        let folder = self.artefacts.as_deref().or(beside);
        Artefacts::read(folder.context("which artefacts?")?)
    }
}

/// Which VM.
#[derive(Args, Debug)]
pub struct PredictArgs {
    #[command(flatten)]
    source: Source,
    /// Name of a shape.
    #[arg(long, value_name = "NAME", value_parser = named)]
    shape: &'static Shape,
    /// Who vouches for the registers.
    #[arg(long, value_enum, default_value_t = Platform::Tdx)]
    platform: Platform,
    /// Release of QEMU.
    #[arg(long, value_name = "MAJOR.MINOR", default_value_t = Version::CURRENT)]
    qemu: Version,
    /// Measured configuration, for MRCONFIGID or PCR 8.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl PredictArgs {
    pub(super) fn run(&self) -> anyhow::Result<Verdict> {
        let predicted = self.predict()?;
        print(&predicted, self.json)?;
        let Some(path) = &self.source.release else {
            return Ok(Verdict::Trusted);
        };
        let release = load(path)?;
        let stated = release.shape(self.shape.name)?;
        let stated = match self.platform {
            Platform::Tdx => values(&stated.tdx)?,
            Platform::Vtpm => values(&stated.vtpm)?,
        };
        let differs = |(name, value): &&(String, String)| {
            let stated = stated.get(name);
            stated.is_some_and(|stated| stated != value)
        };
        let wrong: Vec<_> = predicted.iter().filter(differs).collect();
        for (name, _) in &wrong {
            eprintln!("cocoon: {name} is not what {} states", path.display());
        }
        Ok(verdict(wrong.is_empty()))
    }

    /// Names as in a manifest, and values.
    fn predict(&self) -> anyhow::Result<Vec<(String, String)>> {
        let artefacts = self.source.artefacts()?;
        let artefacts = predict::Artefacts::new(artefacts.files())?.with_qemu(self.qemu)?;
        let config = self.config.as_deref().map(read).transpose()?;
        let config = config.map(|text| mrconfigid(&text));
        Ok(match self.platform {
            Platform::Tdx => {
                let registers = values(&artefacts.tdx(self.shape)?.registers)?;
                let config = config.map(|config| ("mrconfigid".into(), config.to_string()));
                registers.into_iter().chain(config).collect()
            }
            Platform::Vtpm => {
                let vtpm = artefacts.vtpm(self.shape)?;
                let pcrs = vtpm.pcrs(config.unwrap_or(Digest384::ZERO));
                let named = pcrs.iter().enumerate();
                named
                    .filter(|(index, _)| *index != 8 || config.is_some())
                    .map(|(index, value)| (format!("pcr{index}"), value.to_string()))
                    .collect()
            }
        })
    }
}

/// A prediction and a log.
#[derive(Args, Debug)]
pub struct ExplainArgs {
    #[command(flatten)]
    source: Source,
    /// Name of a shape.
    #[arg(long, value_name = "NAME", value_parser = named)]
    shape: &'static Shape,
    #[command(flatten)]
    log: LogArgs,
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
}

/// One of the two kinds of log.
#[derive(Args, Debug)]
#[group(required = true, multiple = false)]
struct LogArgs {
    /// A TPM's: /sys/kernel/security/tpm0/binary_bios_measurements.
    #[arg(long, value_name = "FILE")]
    log: Option<PathBuf>,
    /// A TD's: /sys/firmware/acpi/tables/data/CCEL.
    #[arg(long, value_name = "FILE")]
    ccel: Option<PathBuf>,
}

impl ExplainArgs {
    pub(super) fn run(&self) -> anyhow::Result<Verdict> {
        let artefacts = self.source.artefacts()?;
        let artefacts = predict::Artefacts::new(artefacts.files())?;
        let lines = match (&self.log.log, &self.log.ccel) {
            (Some(path), _) => {
                let bytes = read(path)?;
                let log = Log::parse_tpm(&bytes);
                let log = log.with_context(|| format!("{} is no TPM log", path.display()))?;
                lines(
                    &artefacts.vtpm(self.shape)?.bank,
                    &log,
                    (0..16).map(Register::Pcr),
                )
            }
            (None, Some(path)) => {
                let bytes = read(path)?;
                let log = Log::parse_ccel(&bytes);
                let log = log.with_context(|| format!("{} is no CCEL", path.display()))?;
                lines(
                    &artefacts.tdx(self.shape)?.bank,
                    &log,
                    (0..4).map(Register::Rtmr),
                )
            }
            (None, None) => anyhow::bail!("which log?"),
        };
        let mut out = io::stdout().lock();
        match self.json {
            true => writeln!(out, "{}", json!(lines))?,
            false => lines
                .iter()
                .try_for_each(|line| write_line(&mut out, line))?,
        }
        Ok(verdict(lines.iter().all(Line::agrees)))
    }
}

fn lines(bank: &Bank, log: &Log<'_>, registers: impl Iterator<Item = Register>) -> Vec<Line> {
    explain(bank, log, &registers.collect::<Vec<_>>())
}

fn write_line(out: &mut impl Write, line: &Line) -> io::Result<()> {
    let Line {
        register,
        index,
        what,
        ..
    } = line;
    let source = line.source.as_deref().unwrap_or("unknown");
    let [expected, found] = [line.expected, line.found].map(|digest| match digest {
        Some(EventDigest::Sha256(digest)) => digest.to_string(),
        Some(EventDigest::Sha384(digest)) => digest.to_string(),
        None => "nothing".to_owned(),
    });
    match line.agrees() {
        true => writeln!(out, "ok   {register} {index} {what} ({source}) {found}"),
        false => writeln!(
            out,
            "DIFF {register} {index} {what} ({source}) expected {expected} found {found}"
        ),
    }
}
