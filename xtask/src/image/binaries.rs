//! Our two programs, compiled where every path is the same on every machine.
//!
//! `init` is static, since it runs before there is a root; `agent` is linked
//! against the Debian libraries of the root. cargo sees the sources, the crates
//! that `Cargo.lock` names and the pinned toolchain; it has no network.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::{Builder, Profile};
use crate::host;
use crate::place::read_text;
use crate::tools::{Sandbox, Tools};

/// The compiled programs.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// PID 1, a static executable.
    pub init: PathBuf,
    /// What init starts from the root.
    pub agent: PathBuf,
}

/// Compiles both, or does nothing where cargo finds them fresh.
pub fn build(builder: &Builder, profile: Profile, tools: &Tools) -> Result<Binaries> {
    let step = builder
        .progress
        .step(format!("compile init and agent ({profile})"));
    let source = &builder.place.source;
    fetch(source)?;
    let target = builder.place.out.join("cargo");
    std::fs::create_dir_all(&target)
        .with_context(|| format!("cannot make {}", target.display()))?;
    let sandbox = sandbox(source, &target, tools)?;

    let features: &[&str] = match profile {
        Profile::Base => &[],
        Profile::Debug => &["--features", "debug"],
    };
    for (package, flags, features) in [
        ("init", "-C target-feature=+crt-static", features),
        ("agent", "-C target-cpu=x86-64-v3", &[]),
    ] {
        let mut sandbox = sandbox.clone();
        sandbox.env("RUSTFLAGS", flags);
        let jobs = builder.jobs.to_string();
        let common = [
            "build",
            "--release",
            "--locked",
            "--offline",
            "--target",
            TARGET,
            "--bin",
            package,
            "--jobs",
            &jobs,
        ];
        let log = builder.place.out.join(format!("{package}.log"));
        sandbox.run("cargo", common.iter().chain(features), &log, &step)?;
    }

    let release = target.join(TARGET).join("release");
    let binaries = Binaries {
        init: release.join("init"),
        agent: release.join("agent"),
    };
    let size = |path: &Path| path.metadata().map_or(0, |found| found.len());
    step.done(format!(
        "{} and {} bytes",
        size(&binaries.init),
        size(&binaries.agent)
    ));
    Ok(binaries)
}

/// Has cargo download and unpack what `Cargo.lock` names.
fn fetch(source: &Path) -> Result<()> {
    let status = Command::new("cargo")
        .args(["fetch", "--locked", "--quiet", "--target", TARGET])
        .current_dir(source)
        .status()
        .context("cannot start cargo")?;
    ensure!(
        status.success(),
        "cargo cannot fetch the crates that Cargo.lock names"
    );
    Ok(())
}

fn sandbox(source: &Path, target: &Path, tools: &Tools) -> Result<Sandbox> {
    let home = host::cargo_home()?;
    let toolchain = toolchain(source)?;
    let mut sandbox = tools.sandbox();
    sandbox
        .read_only(source, "/source")
        .read_only(&toolchain, "/toolchain")
        .read_only(home.join("registry"), "/cargo/registry")
        .writable(target, "/target")
        .directory("/source")
        .env("CARGO_HOME", "/cargo")
        .env("CARGO_INCREMENTAL", "0")
        .env("CARGO_TARGET_DIR", "/target")
        .env("PATH", OsStr::new("/toolchain/bin:/usr/bin:/usr/sbin"));
    Ok(sandbox)
}

/// Folder of the toolchain that `rust-toolchain.toml` pins: another one makes other bytes.
fn toolchain(source: &Path) -> Result<PathBuf> {
    let ask = |argument: &[&str]| -> Result<String> {
        let output = Command::new("rustc")
            .args(argument)
            .env_remove("RUSTUP_TOOLCHAIN")
            .current_dir(source)
            .output()
            .context("cannot start rustc")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "rustc fails: {}", said.trim());
        String::from_utf8(output.stdout).context("what rustc says")
    };
    let version = ask(&["--version"])?;
    let pinned = read_text(&source.join("rust-toolchain.toml"))?;
    ensure!(
        version
            .split(' ')
            .nth(1)
            .is_some_and(|version| pinned.contains(&format!("channel = \"{version}\""))),
        "the compiler is {}, expected the one that rust-toolchain.toml pins; rustup installs it",
        version.trim(),
    );
    Ok(PathBuf::from(ask(&["--print", "sysroot"])?.trim()))
}

const TARGET: &str = "x86_64-unknown-linux-gnu";
