//! What the demo found out: a table for people, JSON for everything else.

use std::fmt;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde::Serialize;

use crate::cocoon::Timing;
use crate::image::Artefact;
use crate::place::write;

/// All figures of one run.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    /// In words: what this machine can prove.
    pub(super) platform: String,
    pub(super) cores: usize,
    pub(super) artefacts: Vec<Artefact>,
    pub(super) packages: usize,
    pub(super) seconds_to_build: f64,
    pub(super) seconds_to_predict: f64,
    pub(super) boot: Option<Boot>,
    pub(super) timing: Option<Timing>,
    pub(super) chat: Option<Chat>,
    pub(super) embedding_ms: Option<f64>,
    pub(super) agent_memory_mib: Option<u32>,
    pub(super) seconds_to_trusted: Option<f64>,
    /// Until a secret is nowhere in the memory of a VM that is not confidential.
    pub(super) seconds_to_forget: Option<f64>,
    pub(super) seconds_to_power_off: Option<f64>,
    pub(super) refusals: Vec<Refusal>,
    pub(super) chain: Vec<Expense>,
}

/// From the start of QEMU.
#[derive(Debug, Serialize)]
pub(super) struct Boot {
    pub(super) seconds_to_pid1: f64,
    pub(super) seconds_to_first_answer: f64,
}

#[derive(Debug, Serialize)]
pub(super) struct Chat {
    pub(super) answer: String,
    pub(super) first_token_ms: f64,
    pub(super) tokens_per_second: f64,
}

/// One tampering.
#[derive(Debug, Serialize)]
pub(super) struct Refusal {
    /// What was done.
    pub(super) tampering: String,
    pub(super) refused: bool,
    /// The register or check that gave it away.
    pub(super) by: String,
    pub(super) expected: String,
    pub(super) found: String,
}

/// What one step on the chain costs.
#[derive(Debug, Serialize)]
pub(super) struct Expense {
    pub(super) what: String,
    pub(super) gas: u64,
    /// For gas and messages.
    pub(super) nanotons: u64,
}

impl fmt::Display for Expense {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (whole, part) = (self.nanotons / GRAM, self.nanotons % GRAM);
        write!(
            f,
            "{:32} {:>8}  {whole}.{part:09} GRAM",
            self.what, self.gas
        )
    }
}

/// In nanotons.
const GRAM: u64 = 1_000_000_000;

impl Report {
    pub(super) fn write(&self, path: &Path) -> Result<()> {
        let json = serde_json::to_string_pretty(self).context("cannot write the report")?;
        write(path, json + "\n")
    }

    /// Makes sure that nothing tampered with was taken.
    pub(super) fn refused(&self) -> Result<()> {
        let missed = self.refusals.iter().filter(|row| !row.refused).count();
        ensure!(missed == 0, "{missed} of the tamperings were not refused");
        Ok(())
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "\n{}\n", self.platform)?;
        for artefact in &self.artefacts {
            let Artefact { name, size, sha256 } = artefact;
            writeln!(f, "{name:22} {size:>11} bytes  sha256 {sha256}")?;
        }
        let mut row = |name: &str, value: Option<f64>, unit: &str| match value {
            Some(value) => writeln!(f, "{name:22} {value:>11.1} {unit}"),
            None => writeln!(f, "{name:22}           -"),
        };
        row("build", Some(self.seconds_to_build), "s")?;
        row("predict", Some(self.seconds_to_predict * 1e3), "ms")?;
        let boot = self.boot.as_ref();
        row("boot to PID 1", boot.map(|boot| boot.seconds_to_pid1), "s")?;
        let answer = boot.map(|boot| boot.seconds_to_first_answer);
        row("boot to first answer", answer, "s")?;
        row(
            "evidence",
            self.timing.map(|timing| timing.evidence_ms),
            "ms",
        )?;
        let verification = self.timing.map(|timing| timing.verification_ms);
        row("verification", verification, "ms")?;
        let chat = self.chat.as_ref();
        row("first token", chat.map(|chat| chat.first_token_ms), "ms")?;
        row(
            "decoding",
            chat.map(|chat| chat.tokens_per_second),
            "tokens/s",
        )?;
        row("embedding", self.embedding_ms, "ms")?;
        row(
            "agent, resident",
            self.agent_memory_mib.map(f64::from),
            "MiB",
        )?;
        row("host run to trusted", self.seconds_to_trusted, "s")?;
        row("secret is nowhere", self.seconds_to_forget, "s")?;
        row("power off", self.seconds_to_power_off, "s")?;
        if let Some(chat) = chat {
            writeln!(f, "\n\"Recite Psalm 23:4.\"  {}", chat.answer)?;
        }
        if !self.chain.is_empty() {
            writeln!(f, "\n{:32} {:>8}  fees", "on the chain", "gas")?;
        }
        for row in &self.chain {
            writeln!(f, "{row}")?;
        }
        writeln!(f, "\ntampering                      refused by")?;
        for row in &self.refusals {
            let by = if row.refused { &row.by } else { "NOTHING" };
            writeln!(f, "{:30} {by}", row.tampering)?;
            writeln!(f, "{:30}   expected {}", "", row.expected)?;
            writeln!(f, "{:30}   found    {}", "", row.found)?;
        }
        Ok(())
    }
}
