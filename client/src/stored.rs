//! `cocoon verify tdx`, `gpu`, `log`: evidence in files.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::Context;
use attestation::appraisal::{Reason, Verdict};
use attestation::tdx::{CollateralFiles, QuotePolicy, Report};
use attestation::time::UnixTime;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::artefacts::read;
use crate::gpu::GpuArgs;

/// Evidence that lies in files.
#[derive(Debug, Subcommand)]
pub enum Stored {
    /// Judge a TDX quote under Intel's root.
    Tdx(TdxArgs),
    /// Judge the report of an NVIDIA GPU or switch under NVIDIA's roots.
    Gpu(GpuArgs),
    /// Replay an event log, and compare it with a quote of the same boot.
    Log(LogArgs),
}

/// Files of a TDX quote.
#[derive(Args, Debug)]
pub struct TdxArgs {
    /// Raw quote.
    #[arg(long, value_name = "FILE")]
    quote: PathBuf,
    /// Directory with TCB info, QE identity, revocation lists and their chains.
    #[arg(long, value_name = "DIR")]
    collateral: PathBuf,
    /// Time to judge by, in seconds since 1970.
    #[arg(long, value_name = "UNIX")]
    at: u64,
    /// Policy, TOML; strict without it.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

/// Files of a measured boot.
#[derive(Args, Debug)]
pub struct LogArgs {
    /// CCEL data.
    #[arg(long, value_name = "FILE")]
    ccel: PathBuf,
    /// Raw quote of the same boot. Its signature is not looked at here.
    #[arg(long, value_name = "FILE")]
    quote: Option<PathBuf>,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl Stored {
    /// Judges and prints.
    pub fn run(&self) -> anyhow::Result<Verdict> {
        match self {
            Self::Tdx(args) => Ok(args.run()),
            Self::Gpu(args) => Ok(args.run()),
            Self::Log(args) => args.run(),
        }
    }
}

impl TdxArgs {
    fn run(&self) -> Verdict {
        print(self.judge(), self.json)
    }

    fn judge(&self) -> anyhow::Result<Report> {
        let quote = read(&self.quote)?;
        let files = collateral_in(&self.collateral)?;
        let policy = match &self.policy {
            Some(path) => toml::from_slice(&read(path)?)
                .with_context(|| format!("{} is no policy", path.display()))?,
            None => QuotePolicy::default(),
        };
        Ok(Report::new(&quote, &files, &policy, UnixTime(self.at)))
    }
}

impl LogArgs {
    fn run(&self) -> anyhow::Result<Verdict> {
        let ccel = read(&self.ccel)?;
        let quote = self.quote.as_deref().map(read).transpose()?;
        let report = Report::of_log(&ccel, quote.as_deref());
        Ok(print(Ok(report), self.json))
    }
}

/// One JSON object, or one `name value` a line.
pub(crate) fn print(judged: anyhow::Result<Report>, json: bool) -> Verdict {
    let report = judged.unwrap_or_else(|error| {
        Report::undecided(Reason {
            code: "input".into(),
            expected: "files that can be read".into(),
            found: format!("{error:#}"),
        })
    });
    match json {
        true => println!("{}", json!(report)),
        false => print!("{report}"),
    }
    report.verdict
}

/// Intel's documents in a folder.
pub(crate) fn collateral_in(folder: &Path) -> anyhow::Result<CollateralFiles> {
    CollateralFiles::read(|name| read_if_there(&folder.join(name)))
        .with_context(|| format!("{} is no collateral", folder.display()))
}

fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
