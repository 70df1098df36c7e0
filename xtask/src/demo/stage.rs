//! Everything that the demo needs before its first boot.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use client::host::accelerator::Accelerator;
use client::host::tpm::Authority;
use client::host::vm::ModelDisk;
use measurements::shape::{Platform, Shape};

use crate::cocoon::{Cocoon, Gateway, Verified};
use crate::image::{Artefacts, Builder, Manifest, Profile};
use crate::place::{read, write};
use crate::progress::Progress;
use crate::tools::Tools;
use crate::vm::{self, Vm};
use crate::{disk, models};

use super::report::Report;

/// An image, the models, a client, and what is published about them.
pub(super) struct Stage {
    pub(super) folder: PathBuf,
    pub(super) progress: Progress,
    pub(super) tools: Tools,
    pub(super) authority: Authority,
    pub(super) accelerator: Accelerator,
    pub(super) base: Artefacts,
    pub(super) measured: String,
    pub(super) models: Vec<ModelDisk>,
    pub(super) cocoon: Cocoon,
    pub(super) release: PathBuf,
}

/// An image that nobody was told of.
pub(super) struct Unpublished {
    pub(super) image: Artefacts,
    /// What would be published about it, were it published.
    pub(super) release: PathBuf,
}

impl Stage {
    /// With `profile` as the one that is published.
    pub(super) fn set(builder: &Builder, profile: Profile, report: &mut Report) -> Result<Self> {
        let started = Instant::now();
        let folder = builder.place.source.join("target/demo");
        let tools = builder.tools()?;
        let base = builder.build(profile)?;
        let (measured, models) = measured(builder, &tools)?;
        let cocoon = Cocoon::shipped(&builder.place, &builder.progress)?;
        report.seconds_to_build = started.elapsed().as_secs_f64();

        let config = folder.join(CONFIG);
        write(&config, &measured)?;
        let predicting = Instant::now();
        let release = publish(&cocoon, &base, &config, &folder.join("release.json"))?;
        report.seconds_to_predict = predicting.elapsed().as_secs_f64();

        let manifest: Manifest = serde_json::from_slice(&read(&base.manifest)?)
            .context("the image's manifest is damaged")?;
        let stage = Self {
            authority: Authority::at(&folder.join("authority"))?,
            accelerator: Accelerator::probe(&tools)?,
            progress: builder.progress.clone(),
            folder,
            tools,
            base,
            measured,
            models,
            cocoon,
            release,
        };
        report.platform = stage.platform_in_words().into();
        report.cores = builder.jobs.get();
        report.packages = manifest.packages.len();
        report.artefacts = manifest.artefacts;
        Ok(stage)
    }

    /// The debug image.
    pub(super) fn unpublished(&self, builder: &Builder) -> Result<Unpublished> {
        let image = builder.build(Profile::Debug)?;
        let (config, out) = (self.folder.join(CONFIG), self.folder.join("other.json"));
        let release = publish(&self.cocoon, &image, &config, &out)?;
        Ok(Unpublished { image, release })
    }

    /// What this machine can prove.
    pub(super) fn platform_in_words(&self) -> &'static str {
        match (self.accelerator.platform(), self.accelerator) {
            (Platform::Tdx, _) => "TDX: measured boot and confidential memory proved",
            (Platform::Vtpm, Accelerator::Kvm) => {
                "KVM with a software TPM: measured boot proved, memory not confidential"
            }
            (Platform::Vtpm, Accelerator::Tcg) => {
                "software emulation with a software TPM: measured boot proved, memory not confidential"
            }
        }
    }

    /// The published image with its models and its configuration.
    pub(super) fn boot(&self, name: &str) -> Result<vm::Boot> {
        Ok(vm::Boot {
            shape: Shape::named("small")?,
            platform: self.accelerator.platform(),
            accelerator: self.accelerator,
            artefacts: self.base.clone(),
            models: self.models.clone(),
            measured: self.measured.clone(),
            unmeasured: UNMEASURED.into(),
            port: PORT,
            table: None,
            gpu: None,
            log: self.folder.join(format!("{name}.console")),
        })
    }

    /// Starts a VM and waits until it serves.
    pub(super) fn serve(&self, boot: &vm::Boot) -> Result<Vm> {
        let vm = Vm::start(&self.tools, &self.authority, boot)?;
        vm.console().wait_for(READY, BOOT)?;
        Ok(vm)
    }

    /// Runs `cocoon verify` with what is published.
    pub(super) fn verify(&self, worker: std::net::SocketAddr) -> Result<Verified> {
        self.verify_by(&self.release, worker)
    }

    /// Runs `cocoon verify` with another release manifest.
    pub(super) fn verify_by(
        &self,
        release: &Path,
        worker: std::net::SocketAddr,
    ) -> Result<Verified> {
        let root = self.authority.issuer_certificate();
        self.cocoon
            .verify(worker, &trust(release, &root, self.accelerator))
    }

    pub(super) fn gateway(&self, worker: std::net::SocketAddr) -> Result<Gateway> {
        let root = self.authority.issuer_certificate();
        self.cocoon
            .gateway(worker, &trust(&self.release, &root, self.accelerator))
    }

    /// To a machine whose TPM another authority certified.
    pub(super) fn gateway_under(
        &self,
        root: &Path,
        worker: std::net::SocketAddr,
    ) -> Result<Gateway> {
        let trust = trust(&self.release, root, Accelerator::Tcg);
        self.cocoon.gateway(worker, &trust)
    }
}

/// What the agent said of itself when it was ready, in MiB.
pub(super) fn agent_memory(vm: &Vm) -> Option<u32> {
    let lines = vm.console().lines();
    let line = lines
        .iter()
        .find(|line| line.text.contains(" MiB resident"))?;
    let (before, _) = line.text.split_once(" MiB resident")?;
    before.rsplit(' ').next()?.parse().ok()
}

/// The options that say whom to trust.
pub(super) fn trust<'a>(
    release: &'a Path,
    root: &'a Path,
    accelerator: Accelerator,
) -> Vec<&'a OsStr> {
    let mut options = vec![OsStr::new("--release"), release.as_os_str()];
    if accelerator.platform() == Platform::Vtpm {
        options.extend(["--platform", "vtpm", "--vtpm-root"].map(OsStr::new));
        options.push(root.as_os_str());
    }
    options
}

/// The measured configuration, and the disks that it names.
fn measured(builder: &Builder, tools: &Tools) -> Result<(String, Vec<ModelDisk>)> {
    let mut text = String::from("version = 1\nrole = \"worker\"\n");
    let mut disks = Vec::new();
    for model in models::prepare(&builder.place, &builder.progress)? {
        let disk = disk::build(builder, tools, &model)?;
        text += &format!(
            "\n[[model]]\nname = \"{}\"\nverity = \"{}\"\n",
            model.name, disk.verity
        );
        disks.push(ModelDisk {
            name: model.name.into(),
            path: disk.image,
        });
    }
    Ok((text, disks))
}

/// The release that vouches for a configuration.
pub(super) fn publish(
    cocoon: &Cocoon,
    image: &Artefacts,
    config: &Path,
    out: &Path,
) -> Result<PathBuf> {
    let options = ["release", "make", "--artefacts"].map(OsStr::new);
    let files = [
        image.folder.as_os_str(),
        OsStr::new("--config"),
        config.as_os_str(),
        OsStr::new("--out"),
        out.as_os_str(),
    ];
    cocoon.run(options.into_iter().chain(files))?;
    Ok(out.into())
}

/// Said once the agent serves.
pub(super) const READY: &str = "agent ready";

/// Longest boot that is waited for; under emulation on two busy cores.
pub(super) const BOOT: Duration = Duration::from_secs(300);

/// The measured configuration, in the stage's folder.
const CONFIG: &str = "worker.toml";

const PORT: u16 = 8443;

pub(super) const UNMEASURED: &str =
    "version = 1\nlisten = \"0.0.0.0:8443\"\n\n[network]\nmode = \"dhcp\"\n";
