//! The contracts on TON: their compiler, and the tests that TON people know.
//!
//! Both come from npm, as `contracts/package-lock.json` has them, and need Node 20.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

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
