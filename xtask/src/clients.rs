//! Clients of the OpenAI API against a gateway: those that others wrote, as they are, our
//! package for Python with its examples, and the gateway's own page.
//!
//! `tests/clients` has their versions, each with its hash, and what they are asked.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::cocoon::Cocoon;
use crate::image::Builder;
use crate::place::{Key, copy, read};
use crate::up::Up;

/// Has each of them converse with what is up, and the packages and pages of our own.
pub fn test(builder: &Builder, up: &Up) -> Result<()> {
    api(builder, up)?;
    ours(builder, up)
}

/// Has each of them converse with what is up.
pub fn api(builder: &Builder, up: &Up) -> Result<()> {
    let base = &up.gateway.base;
    let sources = sources(builder);
    let (python, node) = (python(builder)?, node(builder)?);
    let step = builder.progress.step("clients of the OpenAI API");
    let checks = sources.join("python/checks.py");
    let packages = [("PYTHONPATH", python.as_os_str())];
    let others = converse("python3", &[checks.as_os_str(), base.as_ref()], &packages)?;
    // Modules are looked for beside the file.
    for file in ["checks.mjs", "playground.mjs"] {
        copy(&sources.join("node").join(file), &node.join(file))?;
    }
    let checks = node.join("checks.mjs");
    let more = converse("node", &[checks.as_os_str(), base.as_ref()], &[])?;
    step.done(format!("{} checks", others.saturating_add(more)));
    Ok(())
}

fn ours(builder: &Builder, up: &Up) -> Result<()> {
    let python = python(builder)?;
    let step = builder
        .progress
        .step("the package for Python, and examples");
    step.done(format!("{} tests", package(builder, up, &python)?));
    page(builder, up, "session")
}

/// Has Chromium chat in the gateway's page; its pictures go to that folder of `target/up`.
pub fn page(builder: &Builder, up: &Up, pictures: &str) -> Result<()> {
    let base = &up.gateway.base;
    let step = builder.progress.step("the gateway's page in Chromium");
    let checks = node(builder)?.join("playground.mjs");
    let folder = builder.place.source.join("target/up").join(pictures);
    let arguments = [
        checks.as_os_str(),
        base.as_ref(),
        "cocoon-tiny".as_ref(),
        "Recite Genesis 1:1.".as_ref(),
        "In the beginning God created the heaven and the earth.".as_ref(),
        folder.as_os_str(),
    ];
    let passed = converse("node", &arguments, &[])?;
    step.done(format!("{passed} checks, pictures in target/up/{pictures}"));
    Ok(())
}

/// What installs and runs them.
pub const NEEDED: [(&str, &str); 5] = [
    ("chromium", "chromium"),
    ("python3", "python3"),
    ("pip3", "python3-pip"),
    ("node", "nodejs"),
    ("npm", "npm"),
];

/// How many checks passed: all of them.
fn converse(program: &str, arguments: &[&OsStr], environment: &[(&str, &OsStr)]) -> Result<u32> {
    let said = say(program, arguments, environment)?;
    let count = said.lines().last().and_then(|line| line.split_once(" of "));
    let (passed, all) = count.context("the clients give no count")?;
    ensure!(passed == all, "{passed} of {all} checks passed");
    Ok(passed.parse()?)
}

/// Runs the tests in Python of our own; how many passed.
fn package(builder: &Builder, up: &Up, packages: &Path) -> Result<String> {
    let source = &builder.place.source;
    let ours = source.join("python");
    let pytest = installed(builder, "pytest", &ours.join("requirements.txt"))?;
    let folders = [
        &ours,
        &source.join("examples/telegram-bot"),
        &source.join("examples/mini-app"),
    ];
    let path = [packages, &pytest]
        .into_iter()
        .chain(folders.map(PathBuf::as_path));
    let path = std::env::join_paths(path)?;
    let (worker, trust) = up.worker()?;
    let worker = format!("https://{worker}");
    let cocoon = Cocoon::with_test_root(&builder.place);
    let environment = [
        ("PYTHONPATH", path.as_os_str()),
        ("PYTHONDONTWRITEBYTECODE", "1".as_ref()),
        ("COCOON", cocoon.path().as_os_str()),
        ("COCOON_GATEWAY", up.gateway.base.as_ref()),
        ("COCOON_WORKER", worker.as_ref()),
        ("COCOON_TRUST", &trust),
    ];
    let mut arguments: Vec<&OsStr> = PYTEST.iter().map(OsStr::new).collect();
    arguments.extend(folders.map(|folder| folder.as_os_str()));
    let said = say("python3", &arguments, &environment)?;
    let last = said
        .lines()
        .last()
        .and_then(|line| line.split_once(" passed in "));
    let (passed, _) = last.with_context(|| format!("pytest passed over tests:\n{said}"))?;
    Ok(passed.into())
}

const PYTEST: [&str; 5] = ["-m", "pytest", "--quiet", "-p", "no:cacheprovider"];

fn say(program: &str, arguments: &[&OsStr], environment: &[(&str, &OsStr)]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .envs(environment.iter().copied())
        // The gateway is on this machine, whatever proxy the machine has.
        .envs([("NO_PROXY", "127.0.0.1"), ("no_proxy", "127.0.0.1")])
        .output()
        .with_context(|| format!("cannot start {program}"))?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success(),
        "{program} {arguments:?} failed:\n{}\n{}",
        said.trim(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(said.into_owned())
}

fn sources(builder: &Builder) -> PathBuf {
    builder.place.source.join("tests/clients")
}

/// A folder with the locked packages.
fn python(builder: &Builder) -> Result<PathBuf> {
    let requirements = sources(builder).join("python/requirements.txt");
    installed(builder, "clients", &requirements)
}

fn installed(builder: &Builder, name: &str, requirements: &Path) -> Result<PathBuf> {
    let key = Key::default().with(read(requirements)?).finish();
    builder
        .place
        .cached(&format!("{name}-python"), key, |folder| {
            let step = builder.progress.step("install what Python needs");
            let pip = "-m pip install --quiet --disable-pip-version-check --no-deps \
                   --require-hashes --only-binary=:all: --requirement";
            let mut pip_command = Command::new("python3");
            pip_command.args(pip.split_whitespace()).arg(requirements);
            run(pip_command.arg("--target").arg(folder))?;
            step.done("as locked");
            Ok(())
        })
}

/// The same for node.
fn node(builder: &Builder) -> Result<PathBuf> {
    let sources = sources(builder);
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
