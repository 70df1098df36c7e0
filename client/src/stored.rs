//! `cocoon verify tdx`, `cocoon verify log`: evidence in files.

use std::collections::{BTreeMap, BTreeSet};
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::{fs, io};

use anyhow::Context;
use attestation::appraisal::{Reason, Verdict, chain};
use attestation::eventlog::Log;
use attestation::register::{Digest384, TdRegisters};
use attestation::tdx::{CollateralFiles, Quote, QuoteError, QuotePolicy, Report};
use attestation::time::UnixTime;
use clap::{Args, Subcommand};
use serde_json::json;

use crate::artefacts::read;

/// Evidence that lies in files.
#[derive(Debug, Subcommand)]
pub enum Stored {
    /// Judge a TDX quote under Intel's root.
    Tdx(TdxArgs),
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
            Self::Log(args) => args.run(),
        }
    }
}

impl TdxArgs {
    fn run(&self) -> Verdict {
        let report = self.judge().unwrap_or_else(|error| {
            Report::undecided(Reason {
                code: "input".into(),
                expected: "files that can be read".into(),
                found: format!("{error:#}"),
            })
        });
        print(&report, self.json)
    }

    fn judge(&self) -> anyhow::Result<Report> {
        let quote = read(&self.quote)?;
        let files = CollateralFiles::read(|name| read_if_there(&self.collateral.join(name)))
            .with_context(|| format!("{} is no collateral", self.collateral.display()))?;
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
        let bytes = read(&self.ccel)?;
        let judged = self.judge(&bytes);
        let verdict = match (&judged, &self.quote) {
            (Err(_), _) => Verdict::Rejected,
            (Ok(_), Some(_)) => Verdict::Trusted,
            // A log without a quote proves nothing.
            (Ok(_), None) => Verdict::Undecided,
        };
        let report = Report {
            verdict,
            tcb_status: None,
            advisories: BTreeSet::new(),
            reasons: judged.as_ref().err().cloned().into_iter().collect(),
            registers: judged.unwrap_or_default(),
            checks: Vec::new(),
        };
        Ok(print(&report, self.json))
    }

    /// The registers that the log replays to, and that the quote has too.
    fn judge(&self, bytes: &[u8]) -> Result<BTreeMap<&'static str, Digest384>, Reason> {
        let refused = |code: &str, expected: &str, found: String| Reason {
            code: code.into(),
            expected: expected.into(),
            found,
        };
        let log = Log::parse_ccel(bytes)
            .map_err(|error| refused("log-format", "a TCG event log", chain(&error)))?;
        let rtmrs = log.replay_rtmrs().map_err(|error| {
            refused("log-replay", "events that match their data", chain(&error))
        })?;
        if let Some(path) = &self.quote {
            let quote = read(path).map_err(|error| {
                refused("input", "files that can be read", format!("{error:#}"))
            })?;
            let signed = registers(&quote)
                .map_err(|error| refused("quote-format", "a TDX quote", chain(&error)))?;
            let signed = [signed.rtmr0, signed.rtmr1, signed.rtmr2, signed.rtmr3];
            log.verify_rtmrs(&signed).map_err(|error| {
                refused("log-quote", "the registers of the quote", chain(&error))
            })?;
        }
        let names = ["rtmr0", "rtmr1", "rtmr2", "rtmr3"];
        Ok(names.into_iter().zip(rtmrs).collect())
    }
}

/// One JSON object, or one `name value` a line.
fn print(report: &Report, json: bool) -> Verdict {
    match json {
        true => println!("{}", json!(report)),
        false => print!("{report}"),
    }
    report.verdict
}

/// What a quote claims. Recorded ones are often padded, and the signature is not
/// looked at here.
fn registers(quote: &[u8]) -> Result<TdRegisters, QuoteError> {
    let padding = match Quote::parse(quote) {
        Err(QuoteError::Trailing { left, .. }) => left,
        _ => 0,
    };
    let end = quote.len().saturating_sub(padding);
    let quote = Quote::parse(quote.get(..end).unwrap_or_default())?;
    Ok(quote.unverified_body().registers)
}

fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
