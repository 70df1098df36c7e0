//! Clients of the OpenAI API that others wrote, as they are, against a gateway.
//!
//! `tests/clients` has their versions, each with its hash, and what they are asked.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::image::Builder;
use crate::place::{Key, copy, read};

/// Has each of them converse with the gateway at `base`.
pub fn test(builder: &Builder, base: &str) -> Result<()> {
    let sources = builder.place.source.join("tests/clients");
    let (python, node) = (python(builder, &sources)?, node(builder, &sources)?);
    let step = builder.progress.step("clients of the OpenAI API");
    let checks = sources.join("python/checks.py");
    let packages = [("PYTHONPATH", python.as_os_str())];
    let (passed, all) = converse("python3", &checks, base, &packages)?;
    // Modules are looked for beside the file.
    let checks = node.join("checks.mjs");
    copy(&sources.join("node/checks.mjs"), &checks)?;
    let (more, others) = converse("node", &checks, base, &[])?;
    let (passed, all) = (passed.saturating_add(more), all.saturating_add(others));
    ensure!(passed == all, "{passed} of {all} checks passed");
    step.done(format!("{passed} of {all}"));
    Ok(())
}

/// What installs and runs them.
pub const NEEDED: [(&str, &str); 4] = [
    ("python3", "python3"),
    ("pip3", "python3-pip"),
    ("node", "nodejs"),
    ("npm", "npm"),
];

/// How many checks passed, and how many there are.
fn converse(
    program: &str,
    checks: &Path,
    base: &str,
    environment: &[(&str, &OsStr)],
) -> Result<(u32, u32)> {
    let output = Command::new(program)
        .arg(checks)
        .arg(base)
        .envs(environment.iter().copied())
        // The gateway is on this machine, whatever proxy the machine has.
        .envs([("NO_PROXY", "127.0.0.1"), ("no_proxy", "127.0.0.1")])
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "{} failed:\n{}\n{}",
        checks.display(),
        said.trim(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    let count = said.lines().last().and_then(|line| line.split_once(" of "));
    let (passed, all) = count.context("the clients give no count")?;
    Ok((passed.parse()?, all.parse()?))
}

/// A folder with the locked packages.
fn python(builder: &Builder, sources: &Path) -> Result<PathBuf> {
    let requirements = sources.join("python/requirements.txt");
    let key = Key::default().with(read(&requirements)?).finish();
    builder.place.cached("clients-python", key, |folder| {
        let step = builder.progress.step("install clients in Python");
        let pip = "-m pip install --quiet --disable-pip-version-check --no-deps \
                   --require-hashes --only-binary=:all: --requirement";
        let mut pip_command = Command::new("python3");
        pip_command.args(pip.split_whitespace()).arg(&requirements);
        run(pip_command.arg("--target").arg(folder))?;
        step.done("as locked");
        Ok(())
    })
}

/// The same for node.
fn node(builder: &Builder, sources: &Path) -> Result<PathBuf> {
    let files = [".npmrc", "package.json", "package-lock.json"];
    let mut key = Key::default();
    for file in files {
        key = key.with(read(&sources.join("node").join(file))?);
    }
    builder
        .place
        .cached("clients-node", key.finish(), |folder| {
            let step = builder.progress.step("install clients in node");
            for file in files {
                copy(&sources.join("node").join(file), &folder.join(file))?;
            }
            run(Command::new("npm")
                .args(["--silent", "ci"])
                .current_dir(folder))?;
            step.done("as locked");
            Ok(())
        })
}

/// Runs a command whose output is shown only if it fails.
fn run(command: &mut Command) -> Result<()> {
    let output = command
        .output()
        .with_context(|| format!("cannot start {command:?}"))?;
    ensure!(
        output.status.success(),
        "{command:?} failed: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
