//! The contracts on TON: their compiler, and the tests that TON people know.
//!
//! Both come from npm, as `contracts/package-lock.json` has them, and need Node 20.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::cocoon::cargo_command;
use crate::host;
use crate::image::Builder;
use crate::place::{self, Key, Place};
use crate::progress::Progress;

/// Compiles every contract to `contracts/compiled`.
pub fn build(builder: &Builder) -> Result<()> {
    prepare(&builder.place, &builder.progress)?;
    let step = builder.progress.step("compile the contracts");
    let changed = run(&builder.place, "node", &["tools/compile.js"])?;
    step.done(match changed.trim() {
        "" => "nothing changed",
        changed => changed,
    });
    Ok(())
}

/// The suite in jest.
pub fn test(builder: &Builder) -> Result<()> {
    prepare(&builder.place, &builder.progress)?;
    let step = builder.progress.step("contracts in jest");
    run(&builder.place, "npm", &["test", "--silent"])?;
    step.done("passed");
    Ok(())
}

/// Changes the sources in one place at a time, and runs the tests of the crate on each; a
/// change that no test notices and nobody has accepted is an error.
pub fn mutate(builder: &Builder, arguments: &[String]) -> Result<()> {
    prepare(&builder.place, &builder.progress)?;
    let step = builder.progress.step("tests of the contracts");
    let tests = test_programs(builder)?;
    step.done(format!("{} programs", tests.len()));
    let status = Command::new("node")
        .args(["tools/mutate.js", "run"])
        .args(arguments)
        .arg("--")
        .args(tests)
        .current_dir(folder(&builder.place))
        .status()
        .context("cannot start node")?;
    ensure!(
        status.success(),
        "mutants survived that nobody has accepted"
    );
    Ok(())
}

/// Those whose contracts run in the TVM, the quickest to notice first.
fn test_programs(builder: &Builder) -> Result<Vec<String>> {
    let said = cargo_command(&builder.place)
        .args(["test", "--no-run", "-p", "contracts"])
        .args(MUTATED.iter().flat_map(|name| ["--test", name]))
        .arg("--message-format=json")
        .output()
        .context("cannot start cargo")?;
    let said = String::from_utf8(said.stdout).context("cargo does not print text")?;
    let lines: Vec<serde_json::Value> = said
        .lines()
        .filter_map(|line| serde_json::from_str(line).ok())
        .collect();
    let program = |name: &str| {
        lines
            .iter()
            .filter(|line| {
                line.pointer("/target/name")
                    .is_some_and(|found| found == name)
            })
            .find_map(|line| line.pointer("/executable")?.as_str().map(str::to_owned))
            .with_context(|| format!("cargo makes no test {name}"))
    };
    MUTATED.into_iter().map(program).collect()
}

const MUTATED: [&str; 6] = [
    "registry",
    "collateral",
    "channel",
    "attestation",
    "endurance",
    "recorded_quotes",
];

/// Installs the locked packages, unless they are there.
pub fn prepare(place: &Place, progress: &Progress) -> Result<()> {
    host::need(&NEEDED)?;
    let step = progress.step("npm packages");
    let locked = folder(place).join("package-lock.json");
    let mark = folder(place).join("node_modules/.locked");
    let key = Key::default().with(place::read(&locked)?).finish();
    if place::read_text(&mark).is_ok_and(|mark| mark == key.to_string()) {
        step.done("as locked");
        return Ok(());
    }
    run(place, "npm", &["ci", "--no-audit", "--no-fund"])?;
    place::write(&mark, key.to_string())?;
    step.done("installed");
    Ok(())
}

/// Runs a program in the folder of the contracts, and returns what it prints.
fn run(place: &Place, program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .current_dir(folder(place))
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.success(),
        "{program} {} failed:\n{}",
        arguments.join(" "),
        said.trim()
    );
    String::from_utf8(output.stdout).with_context(|| format!("{program} does not print text"))
}

fn folder(place: &Place) -> PathBuf {
    place.source.join("contracts")
}

const NEEDED: [(&str, &str); 2] = [("node", "nodejs"), ("npm", "npm")];
