//! `cocoon measure`: what a machine must report, computed from files.

use std::io::{self, Write};
use std::path::PathBuf;

use attestation::appraisal::Verdict;
use clap::{Args, Subcommand};
use measurements::diff::{Difference, diff};
use serde_json::{Map, Value, json};

use crate::release::load;

pub mod boot;
pub mod files;
pub mod shapes;

/// What to compute.
#[derive(Debug, Subcommand)]
pub enum Measure {
    /// Launch measurement of a firmware file.
    Mrtd(files::MrtdArgs),
    /// RTMR0 from firmware, memory size and QEMU's ACPI blobs.
    Rtmr0(files::Rtmr0Args),
    /// RTMR1 and RTMR2, or PCR 4 and 9, of a kernel and an initrd on any release of QEMU.
    Kernel(files::KernelArgs),
    /// RTMR1 and RTMR2, or PCR 4, 5, 9 and 11, of a unified kernel image on a GPT disk.
    Disk(files::DiskArgs),
    /// Every register of a VM of one shape, booted from these artefacts.
    ///
    /// With --release they are also compared with the stated ones: exits with 0
    /// when they are the same, 1 when one differs, 2 when it could not tell.
    Predict(boot::PredictArgs),
    /// Event by event: what an event log has, what was expected, where it comes from.
    ///
    /// Exits with 0 when they are the same, 1 when one differs, 2 when it could not tell.
    Explain(boot::ExplainArgs),
    /// The shapes that a release runs in, and what each reports.
    Shapes(shapes::ShapesArgs),
    /// The QEMU arguments of a shape that are measured.
    Arguments(shapes::ArgumentsArgs),
    /// The values in which two release manifests differ.
    ///
    /// Exits with 0 when there is none, 1 when there is one, 2 when it could not tell.
    Diff(DiffArgs),
}

/// Does it. The verdict is `Rejected` where something differs.
pub fn run(command: Measure) -> anyhow::Result<Verdict> {
    match command {
        Measure::Mrtd(args) => args.run(),
        Measure::Rtmr0(args) => args.run(),
        Measure::Kernel(args) => args.run(),
        Measure::Disk(args) => args.run(),
        Measure::Predict(args) => args.run(),
        Measure::Explain(args) => args.run(),
        Measure::Shapes(args) => args.run(),
        Measure::Arguments(args) => args.run(),
        Measure::Diff(args) => args.run(),
    }
}

/// Two manifests.
#[derive(Args, Debug)]
pub struct DiffArgs {
    /// The one.
    first: PathBuf,
    /// The other.
    second: PathBuf,
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
}

impl DiffArgs {
    fn run(&self) -> anyhow::Result<Verdict> {
        let (first, second) = (load(&self.first)?, load(&self.second)?);
        print_differences(&diff(&first, &second)?, self.json)
    }
}

/// One `name value` a line, or one JSON object.
fn print<N: AsRef<str>>(lines: &[(N, String)], json: bool) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if json {
        let pair = |(name, value): &(N, String)| (name.as_ref().to_owned(), value.clone().into());
        let object: Map<String, Value> = lines.iter().map(pair).collect();
        return writeln!(out, "{}", Value::Object(object));
    }
    lines
        .iter()
        .try_for_each(|(name, value)| writeln!(out, "{} {value}", name.as_ref()))
}

/// Each difference with both values; the verdict is whether there is none.
pub(crate) fn print_differences(differences: &[Difference], json: bool) -> anyhow::Result<Verdict> {
    let mut out = io::stdout().lock();
    if json {
        writeln!(out, "{}", json!(differences))?;
    } else {
        for Difference {
            name,
            first,
            second,
        } in differences
        {
            let side = |value: &Option<String>| value.as_deref().unwrap_or("-").to_owned();
            writeln!(out, "{name} {} {}", side(first), side(second))?;
        }
    }
    Ok(verdict(differences.is_empty()))
}

const fn verdict(same: bool) -> Verdict {
    match same {
        true => Verdict::Trusted,
        false => Verdict::Rejected,
    }
}
