//! Fuzzing for a bounded time: each reader of `tests::parsers`, and the comparison
//! with another verifier.
//!
//! Corpora and findings stay under `target/fuzz`; the seeds are made anew each time.
//! A finding is an input to be run again: `COCOON_PARSER=NAME PROGRAM INPUT`.

use std::path::{Path, PathBuf};
use std::process::Command;

use ::tests::parsers::{PARSERS, Parser};
use anyhow::{Context as _, Result, bail, ensure};

use crate::cocoon::{cargo, target};
use crate::host;
use crate::image::Builder;
use crate::place::{self, list, write};

/// Fuzzes the named target, or all of them, for so many minutes each.
pub fn run(builder: &Builder, name: Option<&str>, minutes: u32) -> Result<()> {
    let names: Vec<_> = PARSERS.iter().map(|parser| parser.name).collect();
    let names: Vec<_> = names.into_iter().chain([DIFFERENTIAL]).collect();
    let chosen: Vec<_> = match name {
        None => names,
        Some(name) => {
            let known = names.join(", ");
            let one = names.into_iter().find(|known| *known == name);
            [one.with_context(|| format!("{name} is none of {known}"))?].into()
        }
    };
    let folder = target(&builder.place).join("fuzz");
    build(builder, &folder)?;
    let mut findings = 0_usize;
    for name in chosen {
        let step = builder.progress.step(name);
        let run = Run::of(&folder, name)?;
        let ended = run.fuzz(minutes)?;
        findings = findings.saturating_add(ended.findings);
        step.done(format!(
            "{} executions, {} edges, {} findings",
            ended.executions, ended.edges, ended.findings
        ));
    }
    ensure!(
        findings == 0,
        "{findings} findings in {}",
        folder.join("findings").display()
    );
    Ok(())
}

/// The comparison, which is no single reader.
const DIFFERENTIAL: &str = "differential";

/// Builds the programs with a sanitizer, which stable compilers do not have.
fn build(builder: &Builder, folder: &Path) -> Result<()> {
    let nightly = Command::new("rustup")
        .args(["run", "nightly", "rustc", "--version"])
        .output();
    ensure!(
        nightly.is_ok_and(|output| output.status.success()),
        "no nightly compiler: run `rustup toolchain install nightly --profile minimal`"
    );
    if host::find("cargo-fuzz").is_none() {
        let step = builder.progress.step("install cargo-fuzz");
        cargo(&builder.place, &["install", "--locked", "cargo-fuzz"])?;
        step.done("installed");
    }
    let step = builder.progress.step("build the fuzz targets");
    let output = Command::new("rustup")
        .args([
            "run",
            "nightly",
            "cargo",
            "fuzz",
            "build",
            "--fuzz-dir",
            "fuzz",
            "--target-dir",
        ])
        .arg(folder)
        .env("CARGO_BUILD_JOBS", builder.jobs.to_string())
        .current_dir(&builder.place.source)
        .output()
        .context("cannot start rustup")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "cargo fuzz build failed:\n{}",
        said.trim()
    );
    step.done("built");
    Ok(())
}

/// One target, and where it keeps what.
struct Run {
    name: &'static str,
    program: PathBuf,
    corpus: PathBuf,
    findings: PathBuf,
}

impl Run {
    fn of(folder: &Path, name: &'static str) -> Result<Self> {
        let parser = Parser::named(name);
        let program = parser.map_or(DIFFERENTIAL, |_| "parser");
        let run = Self {
            name,
            program: folder
                .join("x86_64-unknown-linux-gnu/release")
                .join(program),
            corpus: folder.join("corpus").join(name),
            findings: folder.join("findings").join(name),
        };
        let seeds = parser
            .map(Parser::seeds)
            .transpose()
            .context("cannot read the vectors")?;
        for (index, seed) in seeds.unwrap_or_default().iter().enumerate() {
            write(&run.corpus.join(format!("seed-{index}")), seed)?;
        }
        // A corpus of its own even where nothing is made for it.
        write(&run.corpus.join("empty"), "")?;
        place::remove(&run.findings)?;
        write(&run.findings.join("of"), name)?;
        Ok(run)
    }

    fn fuzz(&self, minutes: u32) -> Result<Ended> {
        let seconds = minutes.saturating_mul(60);
        let output = Command::new(&self.program)
            .arg(&self.corpus)
            .arg(format!("-max_total_time={seconds}"))
            .arg(format!("-artifact_prefix={}/", self.findings.display()))
            .args([
                "-print_final_stats=1",
                "-timeout=10",
                "-rss_limit_mb=2048",
                "-detect_leaks=0",
            ])
            .env("COCOON_PARSER", self.name)
            .output()
            .with_context(|| format!("cannot start {}", self.program.display()))?;
        let said = String::from_utf8_lossy(&output.stderr);
        let findings = list(&self.findings)?.len().saturating_sub(1);
        if !output.status.success() && findings == 0 {
            bail!("{} failed:\n{}", self.name, said.trim());
        }
        Ended::read(&said, findings).with_context(|| format!("{} says no figures", self.name))
    }
}

/// What libFuzzer says at its end.
#[derive(Debug, Eq, PartialEq)]
struct Ended {
    executions: u64,
    edges: u64,
    findings: usize,
}

impl Ended {
    fn read(said: &str, findings: usize) -> Option<Self> {
        let number = |after: &str| {
            let (_, rest) = said.rsplit_once(after)?;
            rest.split_whitespace().next()?.parse().ok()
        };
        Some(Self {
            executions: number("stat::number_of_executed_units:")?,
            edges: number(" cov: ")?,
            findings,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_figures_count() {
        let said = "#2\tINITED cov: 5 ft: 6\n#99\tDONE   cov: 70 ft: 80 corp: 3/4b\n\
                    stat::number_of_executed_units: 99\nstat::average_exec_per_sec: 3\n";
        let expected = Ended {
            executions: 99,
            edges: 70,
            findings: 1,
        };
        assert_eq!(Ended::read(said, 1), Some(expected));
        assert_eq!(Ended::read("", 0), None);
    }
}
