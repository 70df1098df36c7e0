//! An emulated TD, the agent and a gateway as processes on loopback, for trying
//! an existing client in a minute.
//!
//! The registers are those of the published release, and the root that vouches
//! for them is made up: what this shows is that everything works together, and
//! nothing about this machine.

use std::ffi::OsString;
use std::fs;
use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use measurements::release::Release;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde::Deserialize;

use crate::cocoon::{Cocoon, Gateway, cargo, target};
use crate::image::Builder;
use crate::place::{Place, read, write};
use crate::vm::free_address;
use crate::{disk, host, models};

/// Runs until Ctrl-C, SIGTERM, or the end of any part.
pub fn run(builder: &Builder) -> Result<()> {
    let (stop, stopped) = mpsc::channel();
    ctrlc::set_handler(move || {
        // Nobody listens any more only once it stops already.
        stop.send(()).unwrap_or_default();
    })
    .context("cannot watch for Ctrl-C")?;
    build(builder)?;
    let mut up = Up::start(builder, None)?;
    println!("{up}");
    while stopped.recv_timeout(POLL).is_err() {
        up.check()?;
    }
    println!("stopping");
    Ok(())
}

/// Builds the parts, with a client that can be given another root than Intel's.
fn build(builder: &Builder) -> Result<()> {
    host::need(&NEEDED)?;
    let step = builder.progress.step("build emulated TD, agent and client");
    let packages = [
        "build", "--locked", "-p", "tests", "-p", "agent", "-p", "client",
    ];
    let features = ["--bins", "--features", "client/test-root"];
    cargo(&builder.place, &[&packages[..], &features].concat())?;
    step.done("built");
    Ok(())
}

/// All parts; dropping it stops them, the last started first.
#[derive(Debug)]
pub struct Up {
    /// What applications connect to.
    pub gateway: Gateway,
    agent: Process,
    td: Process,
    trusts: Trusts,
}

/// Where the parts are, and what the gateway trusts.
#[derive(Debug)]
struct Trusts {
    worker: SocketAddr,
    release: PathBuf,
    root: PathBuf,
    version: String,
}

impl Up {
    /// Starts everything that was built; `fault` is what `emulated-td --fault` takes.
    pub fn start(builder: &Builder, fault: Option<&str>) -> Result<Self> {
        let place = &builder.place;
        let folder = place.source.join("target/up");
        let (models, measured) = measured(builder)?;
        let version = publish(place, &measured, &folder)?;

        let cocoon = Cocoon::with_test_root(place);
        let step = builder.progress.step("start");
        let (td, ready) = emulated_td(place, &folder, fault)?;
        let worker = free_address()?;
        let unmeasured = format!(
            "version = 1\nlisten = \"{worker}\"\ncollateral = \"{}\"\n\n[network]\nmode = \"dhcp\"\n",
            ready.pcs
        );
        write(&folder.join("unmeasured.toml"), unmeasured)?;
        let mut agent = agent(place, &folder, &models, &ready.mount)?;
        agent.wait_for(worker)?;
        let release = folder.join("release.json");
        let trust = [
            "--release".as_ref(),
            release.as_os_str(),
            "--test-root".as_ref(),
            ready.root.as_os_str(),
        ];
        let gateway = cocoon.gateway(worker, &trust)?;
        step.done(&gateway.base);
        Ok(Self {
            gateway,
            agent,
            td,
            trusts: Trusts {
                worker,
                release,
                root: ready.root,
                version,
            },
        })
    }

    /// Where the worker is, and the arguments to trust it, a line each.
    pub fn worker(&self) -> (SocketAddr, OsString) {
        let Trusts { release, root, .. } = &self.trusts;
        let lines = [
            "--release".as_ref(),
            release.as_os_str(),
            "--test-root".as_ref(),
            root.as_os_str(),
        ];
        (self.trusts.worker, lines.join("\n".as_ref()))
    }

    /// Makes sure that all parts still run.
    fn check(&mut self) -> Result<()> {
        self.td.check()?;
        self.agent.check()
    }
}

impl std::fmt::Display for Up {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let base = &self.gateway.base;
        let Trusts {
            worker,
            release,
            root,
            version,
        } = &self.trusts;
        writeln!(
            f,
            "gateway   {base}   (set it as base URL; any API key will do)"
        )?;
        writeln!(
            f,
            "worker    https://{worker}, an emulated TD: nothing here is confidential"
        )?;
        writeln!(f, "trusts    release {version}, {}", release.display())?;
        writeln!(f, "          under the made-up root {}", root.display())?;
        write!(
            f,
            "try       curl {base}/chat/completions -H 'content-type: application/json' \
             -d '{{\"model\": \"cocoon-tiny\", \"messages\": [{{\"role\": \"user\", \"content\": \"Recite Psalm 23:4.\"}}]}}'"
        )
    }
}

/// The models, and a configuration that names them as disks would be named.
fn measured(builder: &Builder) -> Result<(PathBuf, String)> {
    let mut text = String::from("version = 1\nrole = \"worker\"\n");
    let mut folder = PathBuf::new();
    for model in models::prepare(&builder.place, &builder.progress)? {
        let verity = disk::folder(&model, builder.jobs)?.verity()?;
        text += &format!(
            "\n[[model]]\nname = \"{}\"\nverity = \"{verity}\"\n",
            model.name
        );
        folder = model
            .path
            .parent()
            .context("a model without a folder")?
            .into();
    }
    Ok((folder, text))
}

/// The published release with one more configuration; its version.
fn publish(place: &Place, measured: &str, folder: &Path) -> Result<String> {
    let published = place.source.join("measurements/releases/current.json");
    let release = Release::parse(&read(&published)?)
        .with_context(|| format!("{} is no release", published.display()))?
        .with_config("up", measured)
        .context("the configuration is refused")?;
    write(&folder.join("measured.toml"), measured)?;
    write(&folder.join("release.json"), release.to_json()?)?;
    Ok(release.version)
}

/// What the emulated TD says when it is ready.
#[derive(Debug, Deserialize)]
struct Ready {
    mount: PathBuf,
    pcs: String,
    root: PathBuf,
}

fn emulated_td(place: &Place, folder: &Path, fault: Option<&str>) -> Result<(Process, Ready)> {
    let mount = folder.join("tsm");
    fs::create_dir_all(&mount).with_context(|| format!("cannot make {}", mount.display()))?;
    let mut command = Command::new(target(place).join("debug/emulated-td"));
    command
        .arg("--state-dir")
        .arg(folder.join("td"))
        .arg("--mount")
        .arg(mount)
        .arg("--measured")
        .arg(folder.join("measured.toml"))
        .arg("--release")
        .arg(folder.join("release.json"))
        .stdout(Stdio::piped());
    if let Some(fault) = fault {
        command.args(["--fault", fault]);
    }
    let mut process = Process::start("the emulated TD", command)?;
    let output = process.child.stdout.take().context("it has no output")?;
    let mut line = String::new();
    BufReader::new(output)
        .read_line(&mut line)
        .context("cannot read what the emulated TD says")?;
    let ready = serde_json::from_str(&line).context("the emulated TD did not start")?;
    Ok((process, ready))
}

fn agent(place: &Place, folder: &Path, models: &Path, mount: &Path) -> Result<Process> {
    let log = folder.join("eventlog");
    write(&log, "")?;
    let mut command = Command::new(target(place).join("debug/agent"));
    command
        .args(["--platform", "tdx", "--tsm-report"])
        .arg(mount.join("cocoon"))
        .arg("--measured")
        .arg(folder.join("measured.toml"))
        .arg("--unmeasured")
        .arg(folder.join("unmeasured.toml"))
        .arg("--models")
        .arg(models)
        .arg("--event-log")
        .arg(log)
        .stdout(Stdio::null());
    Process::start("the agent", command)
}

/// A part that ends when this is dropped: first by the end of its input or by
/// SIGTERM, at last by SIGKILL.
#[derive(Debug)]
struct Process {
    name: &'static str,
    child: Child,
    input: Option<ChildStdin>,
}

impl Process {
    fn start(name: &'static str, mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        let input = child.stdin.take();
        Ok(Self { name, child, input })
    }

    fn check(&mut self) -> Result<()> {
        match self.child.try_wait().context("cannot wait")? {
            None => Ok(()),
            Some(status) => bail!("{} ended: {status}", self.name),
        }
    }

    fn wait_for(&mut self, address: SocketAddr) -> Result<()> {
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            self.check()?;
            ensure!(started.elapsed() < START, "{} does not listen", self.name);
            thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.input.take());
        let started = Instant::now();
        if let Ok(id) = i32::try_from(self.child.id()) {
            // It may have ended; then there is nobody to ask.
            kill(Pid::from_raw(id), Signal::SIGTERM).unwrap_or_default();
        }
        while started.elapsed() < STOP && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(POLL);
        }
        if matches!(self.child.try_wait(), Ok(None)) && self.child.kill().is_ok() {
            // Nothing is left to do with the status of what was killed.
            drop(self.child.wait());
        }
    }
}

const POLL: Duration = Duration::from_millis(50);

/// The agent loads models before it serves, unoptimised.
const START: Duration = Duration::from_secs(120);

const STOP: Duration = Duration::from_secs(10);

/// What the agent links.
const NEEDED: [(&str, &str); 3] = [
    ("gcc", "gcc"),
    ("pkg-config", "pkg-config"),
    ("/usr/include/tss2/tss2_esys.h", "libtss2-dev"),
];
