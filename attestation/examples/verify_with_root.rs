//! Judges a stored TDX quote under a root certificate of your choice.
//!
//! For quotes of emulated TDs. Real ones: `cocoon verify tdx`, whose root is fixed.
//!
//! Exits with 0 if the quote is trusted, 1 if it is rejected, 2 if it could not tell.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::{fs, io};

use anyhow::Context;
use attestation::appraisal::Reason;
use attestation::tdx::{CollateralFiles, QuotePolicy, Report, TrustAnchor};
use attestation::time::UnixTime;
use clap::Parser;

/// Judge a TDX quote under a given root.
#[derive(Debug, Parser)]
struct Args {
    /// Root certificate, DER.
    #[arg(long)]
    root: PathBuf,
    /// Raw quote.
    #[arg(long)]
    quote: PathBuf,
    /// Directory with TCB info, QE identity, revocation lists and their chains.
    #[arg(long)]
    collateral: PathBuf,
    /// Time to judge by, in seconds since 1970.
    #[arg(long, value_name = "UNIX")]
    at: u64,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let args = Args::parse();
    let report = judge(&args).unwrap_or_else(|error| {
        Report::undecided(Reason {
            code: "input".into(),
            expected: "files that can be read".into(),
            found: format!("{error:#}"),
        })
    });
    match args.json {
        true => println!("{}", serde_json::json!(report)),
        false => print!("{report}"),
    }
    ExitCode::from(report.verdict.exit_code())
}

fn judge(args: &Args) -> anyhow::Result<Report> {
    let root = read(&args.root)?;
    let anchor = TrustAnchor::from_certificate(&root)
        .with_context(|| format!("{} is no certificate", args.root.display()))?;
    let quote = read(&args.quote)?;
    let files = CollateralFiles::read(|name| read_if_there(&args.collateral.join(name)))
        .with_context(|| format!("{} is no collateral", args.collateral.display()))?;
    let (policy, at) = (QuotePolicy::default(), UnixTime(args.at));
    Ok(Report::under(&anchor, &quote, &files, &policy, at))
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    fs::read(path).with_context(|| format!("cannot read {}", path.display()))
}

fn read_if_there(path: &Path) -> io::Result<Option<Vec<u8>>> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(bytes)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}
