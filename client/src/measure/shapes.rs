//! The closed list of VMs.

use std::io::{self, Write};
use std::path::PathBuf;

use attestation::appraisal::Verdict;
use clap::Args;
use measurements::diff::values;
use measurements::qemu;
use measurements::shape::{Shape, UnknownShape};
use serde_json::json;

use super::print;
use crate::platform::Platform;
use crate::release::load;

/// Which release.
#[derive(Args, Debug)]
pub struct ShapesArgs {
    /// Release manifest.
    #[arg(long, value_name = "FILE")]
    release: PathBuf,
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
}

impl ShapesArgs {
    pub(super) fn run(&self) -> anyhow::Result<Verdict> {
        let shapes = load(&self.release)?.shapes;
        if self.json {
            writeln!(io::stdout().lock(), "{}", json!(shapes))?;
        } else {
            let lines: Vec<_> = values(&shapes)?.into_iter().collect();
            print(&lines, false)?;
        }
        Ok(Verdict::Trusted)
    }
}

/// Which VM.
#[derive(Args, Debug)]
pub struct ArgumentsArgs {
    /// Name of a shape.
    #[arg(long, value_name = "NAME", value_parser = named)]
    shape: &'static Shape,
    /// Who vouches for the registers.
    #[arg(long, value_enum, default_value_t = Platform::Tdx)]
    platform: Platform,
    /// Name of a model disk; may be repeated.
    #[arg(long, value_name = "NAME")]
    model: Vec<String>,
    /// Print one JSON array.
    #[arg(long)]
    json: bool,
}

impl ArgumentsArgs {
    pub(super) fn run(&self) -> anyhow::Result<Verdict> {
        let models: Vec<&str> = self.model.iter().map(String::as_str).collect();
        let arguments = qemu::arguments(self.shape, self.platform.into(), &models)?;
        let mut out = io::stdout().lock();
        match self.json {
            true => writeln!(out, "{}", json!(arguments))?,
            false => {
                for argument in &arguments {
                    writeln!(out, "{argument}")?;
                }
            }
        }
        Ok(Verdict::Trusted)
    }
}

/// For clap: a shape by its name.
pub(crate) fn named(name: &str) -> Result<&'static Shape, UnknownShape> {
    Shape::named(name)
}
