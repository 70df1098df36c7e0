//! The contracts on TON: their compiler, and the tests that TON people know.
//!
//! Both come from npm, as `contracts/package-lock.json` has them, and need Node 20.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::cocoon::{cargo_command, target};
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

/// Shows which lines of the sources the tests reach; what none does and nobody has accepted
/// is an error.
pub fn cover(builder: &Builder) -> Result<()> {
    prepare(&builder.place, &builder.progress)?;
    let step = builder.progress.step("tests of the contracts");
    let tests = test_programs(builder)?;
    step.done(format!("{} programs", tests.len()));
    let folder = reached(&builder.place);
    let arguments = ["tools/cover.js".into(), folder.into(), JOBS.into()];
    let all = node(builder, arguments.into_iter().chain(tests))?;
    ensure!(all, "no test reaches what nobody has accepted");
    Ok(())
}

/// Changes the sources in one place at a time, and runs the tests that come to it; a change
/// that no test notices and nobody has accepted is an error.
pub fn mutate(builder: &Builder, options: &[String]) -> Result<()> {
    cover(builder)?;
    let folder = reached(&builder.place);
    let arguments = ["tools/mutate.js".into(), "run".into(), folder.into()];
    let options = options.iter().map(OsString::from);
    let all = node(builder, arguments.into_iter().chain(options))?;
    ensure!(all, "mutants survived that nobody has accepted");
    Ok(())
}

/// Whether a tool that says itself what it finds has found nothing.
fn node(builder: &Builder, arguments: impl Iterator<Item = OsString>) -> Result<bool> {
    let status = Command::new("node")
        .args(arguments)
        .current_dir(folder(&builder.place))
        .status()
        .context("cannot start node")?;
    Ok(status.success())
}

/// All those of the package.
fn test_programs(builder: &Builder) -> Result<Vec<OsString>> {
    let said = cargo_command(&builder.place)
        .args(["test", "--no-run", "-p", "contracts", "--tests"])
        .arg("--message-format=json")
        .output()
        .context("cannot start cargo")?;
    ensure!(said.status.success(), "the tests cannot be compiled");
    let said = String::from_utf8(said.stdout).context("cargo does not print text")?;
    let programs = said.lines().filter_map(|line| {
        let line: serde_json::Value = serde_json::from_str(line).ok()?;
        let is_test = line.pointer("/target/kind/0")? == "test";
        let program = line.pointer("/executable")?.as_str()?;
        is_test.then(|| program.into())
    });
    Ok(programs.collect())
}

/// What was found of each test.
fn reached(place: &Place) -> PathBuf {
    target(place).join("contracts")
}

/// Tests at the same time.
const JOBS: &str = "2";

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
