//! The `cocoon` program, run as a user runs it.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde::{Deserialize, Serialize};

use crate::place::Place;
use crate::progress::Progress;

/// A built client.
#[derive(Clone, Debug)]
pub struct Cocoon(PathBuf);

impl Cocoon {
    /// Builds the client that a release is, less optimised: no root but Intel's.
    pub fn shipped(place: &Place, progress: &Progress) -> Result<Self> {
        let step = progress.step("build the client");
        cargo(place, &[&["build", "--locked"], &SHIPPED[..]].concat())?;
        step.done("built");
        Ok(Self(target(place).join("quick/cocoon")))
    }

    /// A client that was built with feature `test-root`.
    #[must_use]
    pub fn with_test_root(place: &Place) -> Self {
        Self(target(place).join("debug/cocoon"))
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Runs a command whose exit code must be 0, and returns what it prints.
    pub fn run<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Result<String> {
        let output = self.command(arguments).output();
        let output = output.context("cannot start cocoon")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cocoon failed: {}", said.trim());
        String::from_utf8(output.stdout).context("cocoon does not print text")
    }

    /// Verifies a worker.
    pub fn verify(&self, worker: SocketAddr, trust: &[&OsStr]) -> Result<Verified> {
        let url = format!("https://{worker}");
        let fixed = ["verify", &url, "--json"].map(OsStr::new);
        let output = self
            .command(fixed.iter().chain(trust))
            .output()
            .context("cannot start cocoon")?;
        match output.status.code() {
            Some(0 | 1) => {
                serde_json::from_slice(&output.stdout).context("cocoon prints no report")
            }
            _ => bail!(
                "cocoon could not tell: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            ),
        }
    }

    /// Judges a stored quote; the exit code.
    pub fn judge(&self, quote: &Path, collateral: &Path, at: &str) -> Result<i32> {
        let arguments: [&OsStr; 8] = [
            "verify".as_ref(),
            "tdx".as_ref(),
            "--quote".as_ref(),
            quote.as_ref(),
            "--collateral".as_ref(),
            collateral.as_ref(),
            "--at".as_ref(),
            at.as_ref(),
        ];
        let output = self.command(arguments).output();
        let status = output.context("cannot start cocoon")?.status;
        status.code().context("cocoon was killed")
    }

    /// Starts a gateway to a worker, on a free port.
    pub fn gateway(&self, worker: SocketAddr, trust: &[&OsStr]) -> Result<Gateway> {
        self.gateway_to(&[&format!("https://{worker}")], trust)
    }

    /// The same to whatever its arguments say.
    pub fn gateway_to(&self, upstream: &[&str], trust: &[&OsStr]) -> Result<Gateway> {
        self.gateway_at(SocketAddr::from(([127, 0, 0, 1], 0)), upstream, trust)
    }

    /// The same at an address of its own.
    pub fn gateway_at(
        &self,
        listen: SocketAddr,
        upstream: &[&str],
        trust: &[&OsStr],
    ) -> Result<Gateway> {
        let fixed = ["gateway", "--listen", &listen.to_string()];
        let upstream = fixed.iter().chain(upstream).map(OsStr::new);
        let mut child = self
            .command(upstream.chain(trust.iter().copied()))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot start the gateway")?;
        let output = child.stdout.take().context("the gateway has no output")?;
        let mut line = String::new();
        BufReader::new(output)
            .read_line(&mut line)
            .context("cannot read what the gateway says")?;
        let base = line.trim().strip_prefix("gateway ").map(str::to_owned);
        Ok(Gateway {
            child,
            base: base.context("the gateway does not say where it listens")?,
        })
    }

    /// A command to be run.
    pub fn command<S: AsRef<OsStr>>(&self, arguments: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(&self.0);
        command.args(arguments).stdin(Stdio::null());
        command
    }
}

/// What `cocoon verify --json` prints.
#[derive(Clone, Debug, Deserialize)]
pub struct Verified {
    /// `trusted` or `rejected`.
    pub verdict: String,
    /// Every comparison.
    pub checks: Vec<Check>,
    /// Of a worker that is trusted.
    pub timing: Option<Timing>,
}

impl Verified {
    /// The comparisons that failed.
    pub fn failed(&self) -> impl Iterator<Item = &Check> {
        self.checks.iter().filter(|check| !check.passed)
    }
}

/// One comparison.
#[derive(Clone, Debug, Deserialize)]
pub struct Check {
    /// Register, or what else was compared.
    pub name: String,
    /// As published.
    pub expected: String,
    /// As reported.
    pub found: String,
    /// Whether they agree.
    pub passed: bool,
}

/// Where the time at the gate went.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Timing {
    /// From the challenge to the evidence.
    pub evidence_ms: f64,
    /// Judging it.
    pub verification_ms: f64,
}

/// A gateway that runs until this is dropped.
#[derive(Debug)]
pub struct Gateway {
    child: Child,
    /// `http://127.0.0.1:PORT/v1`
    pub base: String,
}

impl Drop for Gateway {
    fn drop(&mut self) {
        if self.child.kill().is_ok() {
            // Nothing is left to do with the status of what was killed.
            drop(self.child.wait());
        }
    }
}

/// Selects the client with what a release has and refuses.
pub const SHIPPED: [&str; 4] = ["--profile", "quick", "-p", "client"];

/// Builds what stands for hardware, chain and network, a client that can be given another
/// root than Intel's, and other packages: with the features that this program itself has, so
/// that what they share is compiled once.
pub fn build_doubles(place: &Place, progress: &Progress, others: &[&str]) -> Result<()> {
    let step = progress.step("build doubles and their client");
    let packages = ["xtask", "tests", "client"];
    let packages = packages.iter().chain(others).flat_map(|name| ["-p", name]);
    let build: Vec<_> = ["build", "--locked", "--bins"]
        .into_iter()
        .chain(packages)
        .collect();
    cargo(place, &build)?;
    step.done("built");
    Ok(())
}

/// Runs cargo on this workspace; its output is shown only if it fails.
pub fn cargo(place: &Place, arguments: &[&str]) -> Result<()> {
    let output = cargo_command(place)
        .args(arguments)
        .output()
        .context("cannot start cargo")?;
    ensure!(
        output.status.success(),
        "cargo {} failed:\n{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}

/// The cargo that runs this program, or the one that a shell would find.
#[must_use]
pub fn cargo_command(place: &Place) -> Command {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.current_dir(&place.source);
    command
}

/// Where cargo puts what it builds.
#[must_use]
pub fn target(place: &Place) -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(
        || place.source.join("target"),
        |path| Path::new(&path).into(),
    )
}
