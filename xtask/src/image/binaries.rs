//! Our programs, compiled where every path is the same on every machine.
//!
//! `init` is static, since it runs before there is a root; `agent` is linked
//! against the Debian libraries of the root. The nvidia profile adds `gpus`,
//! which has GPUs verified, and `agent-cuda`, which computes on them. cargo sees
//! the sources, the crates that `Cargo.lock` names and the pinned toolchain; it
//! has no network.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::lock::Lock;
use super::{Builder, Profile};
use crate::host;
use crate::place::{copy, read_text};
use crate::tools::{Sandbox, Tools};

/// The compiled programs.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// PID 1, a static executable.
    pub init: PathBuf,
    /// What init starts from the root.
    pub root: Vec<PathBuf>,
}

/// Compiles them, or does nothing where cargo finds them fresh.
pub fn build(builder: &Builder, profile: Profile, tools: &Tools) -> Result<Binaries> {
    fetch(&builder.place.source)?;
    let features: &[&str] = match profile {
        Profile::Base | Profile::Nvidia => &[],
        Profile::Debug => &["--features", "debug"],
    };
    let init = compile(builder, tools, INIT, features)?;
    let mut root = vec![compile(builder, tools, AGENT, &[])?];
    if profile == Profile::Nvidia {
        root.push(compile(builder, tools, GPUS, &["--features", "nvidia"])?);
        root.push(compile_cuda(builder)?);
    }
    Ok(Binaries { init, root })
}

/// What cargo compiles: with the features of its own package alone, whatever others of the
/// workspace want of what they share.
#[derive(Clone, Copy)]
struct Program {
    package: &'static str,
    name: &'static str,
    flags: &'static str,
}

const INIT: Program = Program {
    package: "init",
    name: "init",
    flags: "-C target-feature=+crt-static",
};

const AGENT: Program = Program {
    package: "agent",
    name: "agent",
    flags: "-C target-cpu=x86-64-v3",
};

const GPUS: Program = Program {
    name: "gpus",
    ..AGENT
};

fn compile(
    builder: &Builder,
    tools: &Tools,
    program: Program,
    features: &[&str],
) -> Result<PathBuf> {
    let target = builder.place.out.join("cargo");
    let sandbox = sandbox(&builder.place.source, &target, tools)?;
    run_cargo(builder, sandbox, program, features)?;
    Ok(target.join(TARGET).join("release").join(program.name))
}

/// The agent again, with the kernels of candle: a quarter of an hour on four cores.
fn compile_cuda(builder: &Builder) -> Result<PathBuf> {
    let Builder {
        place,
        source,
        progress,
        ..
    } = builder;
    let tools = Tools::with_cuda(place, &Lock::read(place)?, source, progress)?;
    let target = place.out.join("cargo-cuda");
    let mut sandbox = sandbox(&place.source, &target, &tools)?;
    for (name, value) in CUDA {
        sandbox.env(name, value);
    }
    run_cargo(builder, sandbox, AGENT, &["--features", "cuda"])?;
    let program = target.join("agent-cuda");
    copy(&target.join(TARGET).join("release/agent"), &program)?;
    Ok(program)
}

fn run_cargo(
    builder: &Builder,
    mut sandbox: Sandbox,
    program: Program,
    features: &[&str],
) -> Result<()> {
    let Program {
        package,
        name,
        flags,
    } = program;
    let step = builder
        .progress
        .step(format!("compile {name} {}", features.join(" ")));
    sandbox.env("RUSTFLAGS", flags);
    let jobs = builder.jobs.to_string();
    let common = [
        "build",
        "--release",
        "--locked",
        "--offline",
        "--target",
        TARGET,
        "--package",
        package,
        "--bin",
        name,
        "--jobs",
        &jobs,
    ];
    let log = builder.place.out.join(format!("{name}.log"));
    sandbox.run("cargo", common.iter().chain(features), &log, &step)?;
    step.done("compiled");
    Ok(())
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
    std::fs::create_dir_all(target).with_context(|| format!("cannot make {}", target.display()))?;
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
    ensure!(
        version.split(' ').nth(1) == Some(&*pinned(source)?),
        "the compiler is {}, expected the one that rust-toolchain.toml pins; rustup installs it",
        version.trim(),
    );
    Ok(PathBuf::from(ask(&["--print", "sysroot"])?.trim()))
}

/// Version of the compiler that this checkout names.
pub(super) fn pinned(source: &Path) -> Result<String> {
    let text = read_text(&source.join("rust-toolchain.toml"))?;
    let channel = text.lines().find_map(|line| {
        let version = line.strip_prefix("channel = \"")?;
        version.strip_suffix('"')
    });
    let channel = channel.context("rust-toolchain.toml names no channel")?;
    Ok(channel.into())
}

pub(super) const TARGET: &str = "x86_64-unknown-linux-gnu";
/// Where Debian has CUDA, for H100 and H200; nvcc 12.4 takes no newer compiler than g++ 13.
const CUDA: [(&str, &str); 4] = [
    ("CUDA_COMPUTE_CAP", "90"),
    ("CUDA_HOME", "/usr"),
    (
        "LIBRARY_PATH",
        "/usr/lib/x86_64-linux-gnu/stubs:/usr/lib/gcc/x86_64-linux-gnu/13",
    ),
    ("NVCC_CCBIN", "g++-13"),
];
