//! What workers run on: an emulated TD, the models, and a release that vouches for both.

use std::ffi::OsStr;
use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use attestation::verity::Verity;
use measurements::release::Release;
use serde::Deserialize;

use crate::cocoon::target;
use crate::image::Builder;
use crate::place::{Place, read, write};
use crate::up::process::Process;
use crate::vm::free_address;
use crate::{disk, models};

/// Dropping it ends the TD.
#[derive(Debug)]
pub(crate) struct Site {
    folder: PathBuf,
    models: PathBuf,
    release: PathBuf,
    pub(crate) version: String,
    /// What the release calls the TD's machine.
    pub(crate) shape: String,
    /// Disks of the models, by their names.
    pub(crate) disks: Vec<(&'static str, Verity)>,
    ready: Ready,
    td: Process,
}

/// What the emulated TD says when it is ready.
#[derive(Debug, Deserialize)]
struct Ready {
    mount: PathBuf,
    pcs: String,
    root: PathBuf,
}

impl Site {
    /// Prepares the models and starts the TD; `fault` is what `emulated-td --fault` takes.
    pub(crate) fn start(builder: &Builder, fault: Option<&str>) -> Result<Self> {
        let place = &builder.place;
        let folder = place.source.join("target/up");
        let (models, disks) = disks(builder)?;
        let measured = measured(&disks);
        let release = publish(place, &measured, &folder)?;
        let shape = release.shapes.first().context("no shape of a machine")?;
        let (td, ready) = emulated_td(place, &folder, fault)?;
        Ok(Self {
            release: folder.join("release.json"),
            folder,
            models,
            shape: shape.name.clone(),
            version: release.version,
            disks,
            ready,
            td,
        })
    }

    /// An agent by this name. `scheduler` is that section of its configuration, if any.
    pub(crate) fn worker(
        &self,
        place: &Place,
        name: &str,
        scheduler: &str,
    ) -> Result<(SocketAddr, Process)> {
        let address = free_address()?;
        let unmeasured = format!(
            "version = 1\nlisten = \"{address}\"\ncollateral = \"{}\"\n\n[network]\nmode = \"dhcp\"\n{scheduler}",
            self.ready.pcs
        );
        let configuration = self.folder.join(format!("{name}.toml"));
        write(&configuration, unmeasured)?;
        let log = self.folder.join("eventlog");
        write(&log, "")?;
        let mut command = Command::new(target(place).join("debug/agent"));
        command
            .args(["--platform", "tdx", "--tsm-report"])
            .arg(self.ready.mount.join(name))
            .arg("--measured")
            .arg(self.folder.join("measured.toml"))
            .arg("--unmeasured")
            .arg(configuration)
            .arg("--models")
            .arg(&self.models)
            .arg("--event-log")
            .arg(log)
            .stdout(Stdio::null());
        let mut agent = Process::start("the agent", command)?;
        agent.wait_for(address)?;
        Ok((address, agent))
    }

    /// Makes sure that the TD still runs.
    pub(crate) fn check(&mut self) -> Result<()> {
        self.td.check()
    }

    /// What makes a client take the workers.
    pub(crate) fn trust(&self) -> [&OsStr; 4] {
        [
            "--release".as_ref(),
            self.release.as_os_str(),
            "--test-root".as_ref(),
            self.ready.root.as_os_str(),
        ]
    }
}

/// The section of a worker's configuration for a scheduler, to be asked at `terms`.
pub(crate) fn dials(scheduler: SocketAddr, terms: &str) -> String {
    format!("\n[[scheduler]]\naddress = \"{scheduler}\"\n{terms}")
}

/// Where the models are, and their disks by their names.
fn disks(builder: &Builder) -> Result<(PathBuf, Vec<(&'static str, Verity)>)> {
    let (mut folder, mut disks) = (PathBuf::new(), Vec::new());
    for model in models::prepare(&builder.place, &builder.progress)? {
        disks.push((model.name, disk::folder(&model, builder.jobs)?.verity()?));
        folder = model
            .path
            .parent()
            .context("a model without a folder")?
            .into();
    }
    Ok((folder, disks))
}

/// A configuration that names models as disks would be named.
fn measured(disks: &[(&str, Verity)]) -> String {
    let mut text = String::from("version = 1\nrole = \"worker\"\n");
    for (name, verity) in disks {
        text += &format!("\n[[model]]\nname = \"{name}\"\nverity = \"{verity}\"\n");
    }
    text
}

/// The published release with one more configuration.
fn publish(place: &Place, measured: &str, folder: &Path) -> Result<Release> {
    let published = place.source.join("measurements/releases/current.json");
    let release = Release::parse(&read(&published)?)
        .with_context(|| format!("{} is no release", published.display()))?
        .with_config("up", measured)
        .context("the configuration is refused")?;
    write(&folder.join("measured.toml"), measured)?;
    write(&folder.join("release.json"), release.to_json()?)?;
    Ok(release)
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
    let line = process.line()?;
    let ready = serde_json::from_str(&line).context("the emulated TD did not start")?;
    Ok((process, ready))
}
