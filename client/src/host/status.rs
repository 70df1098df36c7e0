//! `cocoon host status`: what the machines of this server prove, compared with
//! their releases.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use attestation::appraisal::{Check, Verdict, chain};
use clap::Args;
use serde_json::{Value, json};

use super::STATE;
use super::instance::{AUTHORITY, Name, RECORD, RELEASE, Record};
use super::tpm::ISSUER;
use crate::address::Address;
use crate::trust::TrustArgs;
use crate::verify::rejection;
use crate::worker::{FRESH, Worker};

/// Which instances.
#[derive(Args, Debug)]
pub struct StatusArgs {
    /// Name of one instance.
    #[arg(value_name = "NAME")]
    name: Option<Name>,
    /// Folder for what runs.
    #[arg(long, value_name = "DIR", default_value = STATE)]
    state: PathBuf,
    /// Policy for the TDX platform, TOML; strict without it.
    #[arg(long, value_name = "FILE")]
    tdx_policy: Option<PathBuf>,
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
}

impl StatusArgs {
    /// The worst of all: rejected before undecided before trusted.
    pub(super) async fn run(&self) -> Result<Verdict> {
        let mut lines = Vec::new();
        for (name, record) in Record::all(&self.state)? {
            if self.name.as_ref().is_none_or(|wanted| *wanted == name) {
                lines.push(self.line(name, record).await?);
            }
        }
        print(&lines, self.json)?;
        let any = |verdict| lines.iter().any(|line| line.verdict == verdict);
        Ok(match (any(Verdict::Rejected), any(Verdict::Undecided)) {
            (true, _) => Verdict::Rejected,
            (false, true) => Verdict::Undecided,
            (false, false) if lines.is_empty() => Verdict::Undecided,
            (false, false) => Verdict::Trusted,
        })
    }

    async fn line(&self, name: Name, record: Record) -> Result<Line> {
        let folder = self.state.join(name.to_string());
        let mut line = Line {
            uptime: uptime(&folder),
            verdict: Verdict::Undecided,
            state: "stopped without a word".into(),
            checks: Vec::new(),
            name,
            record,
        };
        if Record::is_running(&self.state, &line.name) {
            (line.verdict, line.state, line.checks) = self.ask(&folder, &line.record).await?;
        }
        Ok(line)
    }

    /// Verifies it as any client does.
    async fn ask(&self, folder: &Path, record: &Record) -> Result<(Verdict, String, Vec<Check>)> {
        let trust = TrustArgs::of_host(
            folder.join(RELEASE),
            record.platform,
            self.state.join(AUTHORITY).join(ISSUER),
            self.tdx_policy.clone(),
        );
        let address: Address = format!("https://{}", reachable(record)).parse()?;
        let worker = Worker::new(address, Arc::new(trust.policy()?), FRESH);
        Ok(match worker.trusted().await {
            Ok((trusted, _)) => {
                let word = Verdict::Trusted;
                (word, word.to_string(), trusted.checks().to_vec())
            }
            Err(error) => match rejection(&error) {
                Some(checks) => (Verdict::Rejected, chain(&error), checks.to_vec()),
                None => (Verdict::Undecided, chain(&error), Vec::new()),
            },
        })
    }
}

struct Line {
    name: Name,
    record: Record,
    uptime: Option<Duration>,
    verdict: Verdict,
    state: String,
    checks: Vec<Check>,
}

impl Line {
    /// Those that passed, and all.
    fn registers(&self) -> (usize, usize) {
        let is_register =
            |check: &&Check| REGISTERS.iter().any(|name| check.name.starts_with(name));
        let registers = self.checks.iter().filter(is_register);
        let passed = registers.clone().filter(|check| check.passed).count();
        (passed, registers.count())
    }

    fn json(&self) -> Value {
        json!({
            "name": self.name.to_string(),
            "verdict": self.verdict,
            "state": self.state,
            "uptime_s": self.uptime.map(|uptime| uptime.as_secs()),
            "record": self.record,
            "checks": self.checks,
        })
    }
}

fn print(lines: &[Line], json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        let lines: Vec<_> = lines.iter().map(Line::json).collect();
        return writeln!(out, "{}", json!(lines));
    }
    if lines.is_empty() {
        return writeln!(out, "no instance runs");
    }
    writeln!(
        out,
        "{:12} {:16} {:8} {:9} {:>8}  {:21}  models",
        "instance", "shape", "platform", "registers", "uptime", "address"
    )?;
    for line in lines {
        let Record {
            shape,
            platform,
            address,
            models,
            ..
        } = &line.record;
        let (passed, all) = line.registers();
        let uptime = line.uptime.map_or_else(|| "-".into(), clock);
        let models = models.join(" ");
        let registers = format!("{passed}/{all}");
        writeln!(
            out,
            "{:12} {shape:16} {platform:8} {registers:9} {uptime:>8}  {address:<21}  {models}",
            line.name
        )?;
        writeln!(out, "{:12} {}", "", line.state)?;
    }
    Ok(())
}

/// The file is written when QEMU was started.
fn uptime(folder: &Path) -> Option<Duration> {
    let written = fs::metadata(folder.join(RECORD)).ok()?.modified().ok()?;
    written.elapsed().ok()
}

/// `h:mm:ss`
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    let (minutes, hours) = (seconds / 60, seconds / 3600);
    format!("{hours}:{:02}:{:02}", minutes % 60, seconds % 60)
}

/// A server that listens on all its addresses listens on loopback too.
fn reachable(record: &Record) -> std::net::SocketAddr {
    let mut address = record.address;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            std::net::SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            std::net::SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    address
}

/// How the names of checks begin that compare a register.
const REGISTERS: [&str; 4] = ["mrtd", "rtmr", "mrconfigid", "pcr"];
