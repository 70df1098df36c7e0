//! `cocoon receipt verify`: what a receipt shows, check by check.
//!
//! ```text
//! keyset      named by a quote that the policy takes, or by a session that was verified
//! receipt     signed by a key of the keyset
//! model       what answered, by name and root; of what endpoint
//! counted     what was done where no tokens are counted
//! request     the bytes that were sent have its hash
//! response    the bytes that came have its hash
//! opening     tokens, settings and salt have its hashes, and are as many as it counts
//! replay      this machine chooses the same tokens, if any were chosen
//! ```
//!
//! It does not show that an answer is true, nor when it was given.

mod replay;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context, bail};
use attestation::aci::{Hash, Keyset, Opening, Receipt, Signed};
use attestation::appraisal::{Check, Verdict, chain};
use attestation::time::UnixTime;
use clap::{Args, Subcommand};

use crate::artefacts::read;
use crate::receipts::Keys;
use crate::trust::TrustArgs;
use crate::verify::print_table;

/// Receipts of answers.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check a receipt: its keys, its signature, and what it is about.
    ///
    /// Exits with 1 where something is not what the receipt says.
    Verify(Box<VerifyArgs>),
}

/// A receipt and what belongs to it.
#[derive(Args, Debug)]
pub struct VerifyArgs {
    /// The receipt, as the gateway wrote it.
    receipt: PathBuf,
    /// The keys that it names; beside the receipt without it, where the gateway put them.
    #[arg(long, value_name = "FILE")]
    keyset: Option<PathBuf>,
    /// Take the keys as they are: whoever wrote them had verified a session that names them.
    #[arg(long)]
    keys_were_verified: bool,
    /// Time to judge the keys' quote by, in seconds since 1970; now without it.
    #[arg(long, value_name = "UNIX")]
    at: Option<u64>,
    /// The body that was sent.
    #[arg(long, value_name = "FILE")]
    request: Option<PathBuf>,
    /// The body that came.
    #[arg(long, value_name = "FILE")]
    response: Option<PathBuf>,
    /// The tokens behind its hashes.
    #[arg(long, value_name = "FILE")]
    opening: Option<PathBuf>,
    /// Make the answer again on this machine.
    #[arg(long, requires_all = ["opening", "model"])]
    replay: bool,
    /// Folder of the model, for --replay.
    #[arg(long, value_name = "DIR")]
    model: Option<PathBuf>,
    #[command(flatten)]
    trust: TrustArgs,
}

impl Command {
    /// Checks and prints.
    pub fn run(&self) -> anyhow::Result<Verdict> {
        let Self::Verify(args) = self;
        let checks = args.checks()?;
        let verdict = match checks.iter().all(|check| check.passed) {
            true => Verdict::Trusted,
            false => Verdict::Rejected,
        };
        let mut out = io::stdout().lock();
        print_table(&mut out, &checks)?;
        writeln!(out, "{}", summary(&checks))?;
        Ok(verdict)
    }
}

impl VerifyArgs {
    /// Everything that is compared, whether it fits or not.
    pub fn checks(&self) -> anyhow::Result<Vec<Check>> {
        let signed = Signed::parse(&read(&self.receipt)?)
            .with_context(|| format!("{} is refused", self.receipt.display()))?;
        let keys = self.keys(signed.keyset())?;
        let keyset = keys.keyset()?;
        let mut checks = self.established(&keys, &keyset)?;
        let receipt = match signed.verify(&keyset) {
            Ok(receipt) => receipt,
            Err(error) => {
                let expected = "signed by a key of the keyset";
                checks.push(Check::new("receipt", expected, chain(&error), false));
                return Ok(checks);
            }
        };
        let id = &receipt.receipt_id;
        checks.push(Check::new("receipt", id, id, true));
        self.show(&receipt, &mut checks);
        for (name, path, said) in [
            ("request", &self.request, receipt.received()),
            ("response", &self.response, receipt.returned()),
        ] {
            if let Some(path) = path {
                let found = Hash::of(&read(path)?);
                let expected = said.map_or("none".into(), |hash| hash.to_string());
                checks.push(Check::new(name, expected, found, said == Some(found)));
            }
        }
        self.open(&receipt, &mut checks)?;
        Ok(checks)
    }

    /// What is as it is signed for, and whether it can be made again: embeddings, labels,
    /// transcripts and images are not.
    fn show(&self, receipt: &Receipt, checks: &mut Vec<Check>) {
        let Some(executed) = receipt.executed() else {
            return;
        };
        let shown = |name, said: String| Check::new(name, &said, &said, true);
        let root = executed.model.root.as_deref().unwrap_or("of no disk");
        let model = format!("{} {root}, {}", executed.model.name, receipt.endpoint);
        checks.push(shown("model", model));
        if let Some(counted) = executed.counted {
            checks.push(shown("counted", counted.to_string()));
        }
        if executed.outputs.is_empty() {
            let found = format!("answers of {} are not replayed", receipt.endpoint);
            let expected = match self.replay {
                true => "tokens that were chosen",
                false => &found,
            };
            checks.push(Check::new("replay", expected, &found, !self.replay));
        }
    }

    fn open(&self, receipt: &Receipt, checks: &mut Vec<Check>) -> anyhow::Result<()> {
        let Some(path) = &self.opening else {
            return Ok(());
        };
        let opening = Opening::parse(&read(path)?)
            .with_context(|| format!("{} is refused", path.display()))?;
        let opened = opening.check(receipt)?;
        let fits = opened.iter().all(|check| check.passed);
        checks.extend(opened);
        // Other tokens than were signed for would only be found to be others.
        if let Some(model) = self.model.as_ref().filter(|_| self.replay && fits) {
            checks.extend(replay::run(model, receipt, &opening)?);
        }
        Ok(())
    }

    fn keys(&self, named: &Hash) -> anyhow::Result<Keys> {
        let path = match &self.keyset {
            Some(path) => path.clone(),
            None => {
                let folder = self.receipt.parent().unwrap_or(Path::new("."));
                Keys::path(folder, named)
            }
        };
        Keys::parse(&read(&path)?).with_context(|| format!("{} is refused", path.display()))
    }

    /// Whether a machine that the policy takes has these keys.
    fn established(&self, keys: &Keys, keyset: &Keyset) -> anyhow::Result<Vec<Check>> {
        if self.keys_were_verified {
            let found = keyset.digest();
            return Ok(vec![Check::new("keyset", found, found, true)]);
        }
        let Some(report) = keys.report()? else {
            bail!(
                "no quote names these keys: --keys-were-verified takes them as the gateway \
                 found them in the evidence of its session"
            );
        };
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now = now
            .context("this machine's clock is before 1970")?
            .as_secs();
        let at = UnixTime(self.at.unwrap_or(now));
        Ok(report.judge(&self.trust.policy()?, keyset.digest(), at))
    }
}

fn summary(checks: &[Check]) -> String {
    let failed = checks.iter().filter(|check| !check.passed).count();
    match failed {
        0 => format!("genuine: {} checks passed", checks.len()),
        _ => format!("refused: {failed} of {} checks failed", checks.len()),
    }
}
