//! The owner of a server, with nothing but `cocoon host`: runs the published image,
//! sees it verified, has a client talk to it, and stops it.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::process::Child;
use std::time::{Duration, Instant};
use std::{env, thread};

use anyhow::{Context as _, Result, bail, ensure};
use client::host::instance::AUTHORITY;
use client::host::programs::{Needs, Programs as _, QEMU, end};
use client::host::shell;
use client::host::tpm::ISSUER;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;

use super::chat;
use super::stage::{self, Stage};
use crate::place::write;

/// Seconds from the command to the first time that it is trusted.
pub(super) fn run(stage: &Stage) -> Result<f64> {
    let step = stage.progress.step("cocoon host run, status and stop");
    // A short path: sockets lie in it.
    let state = tempfile::tempdir().context("cannot make a folder for the instance")?;
    let programs = tempfile::tempdir().context("cannot make a folder for programs")?;
    install(stage, programs.path(), state.path())?;

    let started = Instant::now();
    let mut service = Service::start(stage, programs.path(), state.path())?;
    let address = service.wait_until_trusted(stage, state.path())?;
    let seconds = started.elapsed().as_secs_f64();

    let second = command(stage, programs.path(), state.path())?.status();
    let second = second.context("cannot start cocoon")?;
    ensure!(!second.success(), "an instance was started twice");

    let gateway = stage.gateway_under(&state.path().join(AUTHORITY).join(ISSUER), address)?;
    chat::recite(&gateway.base)?;
    drop(gateway);
    service.stop()?;
    let left = stage.cocoon.run(status(state.path()));
    ensure!(
        left.is_err(),
        "an instance that was stopped has a status: {left:?}"
    );
    step.done("verified, answered, stopped");
    Ok(seconds)
}

/// An instance that ends with this, however that is.
struct Service(Child);

impl Service {
    fn start(stage: &Stage, programs: &Path, state: &Path) -> Result<Self> {
        let log = stage.folder.join("service.log");
        let log =
            fs::File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = command(stage, programs, state)?.stderr(log).spawn();
        child.map(Self).context("cannot start cocoon")
    }

    /// Where it is, once `cocoon host status` trusts it.
    fn wait_until_trusted(&mut self, stage: &Stage, state: &Path) -> Result<SocketAddr> {
        let deadline = Instant::now().checked_add(stage::BOOT);
        loop {
            if let Ok(text) = stage.cocoon.run(status(state)) {
                let instances: Vec<Instance> = serde_json::from_str(&text)
                    .context("cocoon host status prints no instances")?;
                let [instance] = instances.as_slice() else {
                    bail!("cocoon host status knows {} instances", instances.len());
                };
                return Ok(instance.record.address);
            }
            let ended = self.0.try_wait().context("cannot wait for cocoon")?;
            if ended.is_some() || deadline.is_none_or(|deadline| Instant::now() > deadline) {
                let log = stage.folder.join("service.log");
                bail!("the instance was never trusted: see {}", log.display());
            }
            thread::sleep(POLL);
        }
    }

    /// As systemd does it.
    fn stop(mut self) -> Result<()> {
        let pid = i32::try_from(self.0.id()).context("a process id too large")?;
        kill(Pid::from_raw(pid), Signal::SIGTERM).context("cannot signal cocoon")?;
        let status = self.0.wait().context("cannot wait for cocoon")?;
        ensure!(status.success(), "cocoon host run ended with {status}");
        Ok(())
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

/// As `cocoon host status --json` prints it.
#[derive(Deserialize)]
struct Instance {
    record: Record,
}

#[derive(Deserialize)]
struct Record {
    address: SocketAddr,
}

fn command(stage: &Stage, programs: &Path, state: &Path) -> Result<std::process::Command> {
    let mut command = stage.cocoon.command([
        "host",
        "run",
        "--shape",
        "small",
        "--platform",
        "vtpm",
        "--listen",
        "127.0.0.1:0",
    ]);
    command
        .arg("--release")
        .arg(&stage.release)
        .arg("--artefacts")
        .arg(&stage.base.folder)
        .arg("--state")
        .arg(state);
    for model in &stage.models {
        command.arg("--model").arg(&model.path);
    }
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = [programs.to_owned()]
        .into_iter()
        .chain(env::split_paths(&path));
    command.env("PATH", env::join_paths(folders).context("a strange PATH")?);
    Ok(command)
}

fn status(state: &Path) -> [&OsStr; 5] {
    let [host, status, json, option] = ["host", "status", "--json", "--state"].map(OsStr::new);
    [host, status, json, option, state.as_os_str()]
}

/// The programs of the tools tree, as if they were installed.
fn install(stage: &Stage, folder: &Path, state: &Path) -> Result<()> {
    let models: Vec<&Path> = stage
        .models
        .iter()
        .map(|model| model.path.as_path())
        .collect();
    let reads = [&[stage.base.folder.as_path()], models.as_slice()].concat();
    let needs = Needs {
        reads: &reads,
        writes: &[state],
        network: true,
    };
    for program in [QEMU, "swtpm", "swtpm_setup"] {
        let command = stage.tools.command(program, needs);
        let arguments = command
            .get_args()
            .map(|argument| argument.to_string_lossy().into_owned());
        let arguments: Vec<_> = arguments.collect();
        let line = shell::line(&command.get_program().to_string_lossy(), &arguments);
        let script = folder.join(program);
        write(
            &script,
            format!("#!/bin/sh\nexec {} \"$@\"\n", line.trim_end()),
        )?;
        fs::set_permissions(&script, Permissions::from_mode(0o755))
            .with_context(|| format!("cannot make {} a program", script.display()))?;
    }
    Ok(())
}

const POLL: Duration = Duration::from_millis(500);
