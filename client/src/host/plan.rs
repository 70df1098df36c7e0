//! Everything that has to be right before a VM is worth starting.
//!
//! What is wrong here would be refused later by clients, who say less about it.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail, ensure};
use attestation::config::{Measured, Unmeasured};
use attestation::register::Digest256;
use clap::Args;
use measurements::release::{Artefact, Config, Release};
use measurements::shape::Shape;

use super::QGS_PORT;
use super::accelerator::Accelerator;
use super::check::{capacity, qemu};
use super::gpu::{Address, Generation, Gpu};
use super::instance::Record;
use super::models;
use super::programs::{Installed, QEMU};
use super::server::{Endpoint, Server};
use super::vm::{Image, Vm};
use crate::artefacts::read;
use crate::measure::shapes::named;
use crate::platform::Platform;
use crate::trust::release;

/// What to run, and with what.
#[derive(Args, Debug)]
pub struct PlanArgs {
    /// Release manifest to take instead of the published one.
    #[arg(long, value_name = "FILE")]
    release: Option<PathBuf>,
    /// Name of a shape; `cocoon measure shapes` lists them.
    #[arg(long, value_name = "NAME", value_parser = named)]
    shape: &'static Shape,
    /// Folder with OVMF.fd, vmlinuz, initrd and root.img of the release.
    #[arg(long, value_name = "DIR")]
    artefacts: PathBuf,
    /// PCI address of a GPU, as many as the shape has.
    #[arg(long, value_name = "ADDRESS")]
    gpu: Vec<Address>,
    /// PCI address of an NVSwitch, as many as the shape has.
    #[arg(long, value_name = "ADDRESS")]
    switch: Vec<Address>,
    /// Disk image of a model, one for each that the configuration names.
    #[arg(long, value_name = "FILE")]
    model: Vec<PathBuf>,
    /// Measured configuration, by its name in the release, if there are several.
    #[arg(long, value_name = "NAME")]
    config: Option<String>,
    /// Configuration that is not measured, instead of DHCP and port 8443.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["collateral", "manifests", "ocsp", "keyserver"])]
    unmeasured: Option<PathBuf>,
    /// Where the guest fetches Intel's statements about this platform.
    #[arg(
        long,
        value_name = "URL",
        default_value = "https://api.trustedservices.intel.com"
    )]
    collateral: String,
    /// Where it fetches NVIDIA's reference manifests, if not from NVIDIA.
    #[arg(long, value_name = "URL")]
    manifests: Option<String>,
    /// Where it asks about NVIDIA's certificates, if not NVIDIA.
    #[arg(long, value_name = "URL")]
    ocsp: Option<String>,
    /// Key server of the encrypted models.
    #[arg(long, value_name = "HOST:PORT")]
    keyserver: Option<String>,
    /// Where this server listens for clients.
    #[arg(long, value_name = "ADDRESS", default_value = "0.0.0.0:8443")]
    pub(super) listen: SocketAddr,
    /// What has to speak for the machine.
    #[arg(long, value_enum, default_value_t = Platform::Tdx)]
    platform: Platform,
    /// The QEMU that runs it.
    #[arg(long, value_name = "PROGRAM", default_value = QEMU)]
    qemu: String,
    /// Intel's quote generation service: vsock:PORT or unix:PATH.
    #[arg(long, value_name = "PLACE", default_value_t = Qgs(Endpoint::Vsock(QGS_PORT)))]
    qgs: Qgs,
}

/// What was checked, and is ready to be started.
#[derive(Debug)]
pub struct Plan {
    /// The VM.
    pub vm: Vm,
    /// How its programs are started.
    pub programs: Installed,
    /// What `cocoon host status` compares with.
    pub release: Release,
    /// What it is told.
    pub record: Record,
}

impl PlanArgs {
    /// Checks everything; the first thing that is wrong is the error.
    pub fn plan(&self, server: &Server, state: PathBuf) -> Result<Plan> {
        let release = release(self.release.as_deref())?;
        release.shape(self.shape.name)?;
        let programs = Installed {
            qemu: self.qemu.clone(),
        };
        ensure!(
            self.platform == Platform::Vtpm || server.has_tdx(),
            "this server has no TDX: `cocoon host check` says why; to try without it, and \
             without protection, add --platform vtpm"
        );
        let platform = self.platform.into();
        if let Some(trouble) = qemu::trouble(server, &self.qemu, platform, &release.qemu) {
            bail!("{trouble}");
        }
        let config = self.config(&release)?;
        let measured = Measured::parse(config.text.as_bytes())
            .with_context(|| format!("config {} of the release", config.name))?;
        let models = models::assign(&measured.models, &self.model)?;
        let devices = self.devices(server)?;
        if let Some(trouble) = capacity::trouble(server, self.shape) {
            bail!("{trouble}");
        }
        let image = image(&release, &self.artefacts)?;
        let (unmeasured, port) = self.unmeasured()?;
        let accelerator = match self.platform {
            Platform::Tdx => Accelerator::Kvm,
            Platform::Vtpm => Accelerator::probe(&programs)?,
        };
        let record = Record {
            shape: self.shape.name.into(),
            platform: self.platform,
            config: config.name.clone(),
            address: self.listen,
            models: models.iter().map(|model| model.name.clone()).collect(),
            devices: devices.iter().map(ToString::to_string).collect(),
        };
        Ok(Plan {
            vm: Vm {
                shape: self.shape,
                platform,
                accelerator,
                image,
                models,
                devices,
                measured: config.text.clone(),
                unmeasured,
                state,
                listen: self.listen,
                port,
                qgs: self.qgs.0.clone(),
            },
            programs,
            record,
            release,
        })
    }

    fn config<'a>(&self, release: &'a Release) -> Result<&'a Config> {
        let named = |config: &&Config| {
            let wanted = self.config.as_ref();
            wanted.is_none_or(|wanted| config.name == *wanted)
        };
        let mut found = release.configs.iter().filter(named);
        match (found.next(), found.next()) {
            (Some(config), None) => Ok(config),
            _ => {
                let names = release.configs.iter().map(|config| config.name.as_str());
                let names: Vec<_> = names.collect();
                bail!(
                    "say with --config which of the release's: {}",
                    names.join(", ")
                )
            }
        }
    }

    /// As many as the shape has ports, in their order, each ready to be passed on.
    fn devices(&self, server: &Server) -> Result<Vec<Address>> {
        let Shape {
            name,
            gpus,
            switches,
            ..
        } = *self.shape;
        for (option, given, wanted) in [
            ("--gpu", self.gpu.len(), gpus),
            ("--switch", self.switch.len(), switches),
        ] {
            ensure!(
                given == usize::from(wanted),
                "{given} {option}, but shape {name} has {wanted}"
            );
        }
        for (given, is_switch) in [(&self.gpu, false), (&self.switch, true)] {
            for address in given {
                let generation = Gpu::at(server, address.clone())?.generation();
                ensure!(
                    (generation == Generation::Switch) == is_switch,
                    "{address} is {generation}: --gpu is for GPUs, --switch for NVSwitches"
                );
            }
        }
        let devices = [self.gpu.as_slice(), &self.switch].concat();
        for (index, address) in devices.iter().enumerate() {
            let before = devices.get(..index).unwrap_or_default();
            ensure!(!before.contains(address), "{address} is given twice");
            let driver = server.link(&address.file("driver"));
            ensure!(
                driver.as_deref() == Some("vfio-pci"),
                "{address} has the driver {}: run `cocoon host setup-gpu {address} --apply`",
                driver.as_deref().unwrap_or("none")
            );
        }
        Ok(devices)
    }

    /// The text, and the port on which the guest listens.
    fn unmeasured(&self) -> Result<(String, u16)> {
        let text = match &self.unmeasured {
            Some(path) => String::from_utf8(read(path)?)
                .with_context(|| format!("{} is not text", path.display()))?,
            None => {
                let services = [
                    (
                        "collateral",
                        (self.platform == Platform::Tdx).then_some(&self.collateral),
                    ),
                    ("manifests", self.manifests.as_ref()),
                    ("ocsp", self.ocsp.as_ref()),
                    ("keyserver", self.keyserver.as_ref()),
                ];
                let services: String = services
                    .iter()
                    .filter_map(|(name, url)| Some(format!("{name} = {:?}\n", (*url)?)))
                    .collect();
                format!(
                    "version = 1\nlisten = \"0.0.0.0:8443\"\n{services}\n[network]\nmode = \"dhcp\"\n"
                )
            }
        };
        let parsed = Unmeasured::parse(text.as_bytes());
        let port = parsed
            .context("the unmeasured configuration")?
            .listen
            .port();
        Ok((text, port))
    }
}

/// The files of a folder, each the very one that the release names.
fn image(release: &Release, folder: &Path) -> Result<Image> {
    let folder =
        fs::canonicalize(folder).with_context(|| format!("cannot find {}", folder.display()))?;
    for name in [
        Artefact::FIRMWARE,
        Artefact::KERNEL,
        Artefact::INITRD,
        Artefact::ROOT,
    ] {
        let mut artefacts = release.artefacts.iter();
        let artefact = artefacts.find(|artefact| artefact.name == name);
        let artefact = artefact.with_context(|| format!("the release names no {name}"))?;
        let path = folder.join(name);
        let found = Digest256::of(&read(&path)?);
        ensure!(
            found == artefact.sha256,
            "{} has the sha256 {found}, expected {} as in release {}",
            path.display(),
            artefact.sha256,
            release.version
        );
    }
    let file = |name| folder.join(name);
    Ok(Image {
        firmware: file(Artefact::FIRMWARE),
        kernel: file(Artefact::KERNEL),
        initrd: file(Artefact::INITRD),
        root: file(Artefact::ROOT),
        command_line: release.command_line.clone(),
    })
}

/// A place on the command line.
#[derive(Clone, Debug)]
struct Qgs(Endpoint);

impl std::fmt::Display for Qgs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.0 {
            Endpoint::Unix(path) => write!(f, "unix:{}", path.display()),
            Endpoint::Vsock(port) => write!(f, "vsock:{port}"),
            Endpoint::Tcp(address) => write!(f, "tcp:{address}"),
        }
    }
}

impl std::str::FromStr for Qgs {
    type Err = QgsError;

    fn from_str(text: &str) -> Result<Self, QgsError> {
        let endpoint = match text.split_once(':') {
            Some(("unix", path)) if path.starts_with('/') => Some(Endpoint::Unix(path.into())),
            Some(("vsock", port)) => port.parse().ok().map(Endpoint::Vsock),
            _ => None,
        };
        endpoint.map(Self).ok_or_else(|| QgsError(text.into()))
    }
}

/// Text that names no place.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("{0:?} is no place of a quote generation service, expected vsock:PORT or unix:/PATH")]
struct QgsError(String);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::server::tests::{Double, H100};

    use attestation::verity::{BLOCK, TreeBuilder};
    use measurements::release::ShapeValues;
    use measurements::shape::SHAPES;
    use tempfile::TempDir;

    /// A release whose artefacts and model lie in a folder, and a server.
    struct Stage {
        folder: TempDir,
        server: Double,
    }

    impl Stage {
        fn set() -> Self {
            let stage = Self {
                folder: tempfile::tempdir().unwrap(),
                server: Double::ready(),
            };
            let mut tree = TreeBuilder::new([7; 32]);
            let data = [[1; BLOCK], [2; BLOCK]];
            data.iter().for_each(|block| tree.push(block));
            let built = tree.finish().unwrap();
            stage.file("model", &[data.as_flattened(), &built.hash_area].concat());
            let mut release = release(None).unwrap();
            for artefact in &mut release.artefacts {
                stage.file(&artefact.name, artefact.name.as_bytes());
                artefact.sha256 = Digest256::of(artefact.name.as_bytes());
            }
            release.configs.clear();
            let like = release.shapes.remove(0);
            let values = SHAPES.iter().map(|shape| ShapeValues {
                name: shape.name.into(),
                ..like.clone()
            });
            release.shapes = values.collect();
            let config = format!(
                "version = 1\nrole = \"worker\"\n[[model]]\nname = \"m\"\nverity = \"{}\"\n",
                built.verity
            );
            let release = release.with_config("first", &config).unwrap();
            stage.file("release.json", release.to_json().unwrap().as_bytes());
            stage
        }

        fn file(&self, name: &str, content: &[u8]) {
            fs::write(self.path(name), content).unwrap();
        }

        fn path(&self, name: &str) -> String {
            self.folder.path().join(name).display().to_string()
        }

        /// With the GPU, the model, and what the test adds.
        fn plan(&self, more: &str) -> Result<Plan> {
            let usual = format!("--shape gpu1 --gpu {H100} --model {}", self.path("model"));
            self.plan_exactly(&format!("{usual} {more}"))
        }

        fn plan_exactly(&self, text: &str) -> Result<Plan> {
            use clap::Parser as _;
            #[derive(clap::Parser)]
            struct Cli {
                #[command(flatten)]
                plan: PlanArgs,
            }
            let fixed = format!(
                "run --release {} --artefacts {} {text}",
                self.path("release.json"),
                self.path("")
            );
            let cli = Cli::parse_from(fixed.split_whitespace());
            cli.plan.plan(&self.server.server(), "/state/worker".into())
        }

        fn refused(&self, more: &str) -> String {
            format!("{:#}", self.plan(more).unwrap_err())
        }
    }

    #[test]
    fn what_is_as_published_is_run_as_a_trust_domain() {
        let stage = Stage::set();
        let plan = stage.plan("--listen 127.0.0.1:9000 --qgs unix:/q").unwrap();
        assert_eq!(plan.record.config, "first");
        assert_eq!(plan.record.models, ["m"]);
        let arguments = plan.vm.arguments().unwrap().join(" ");
        for part in [
            "confidential-guest-support=tdx0",
            "hostfwd=tcp:127.0.0.1:9000-:8443",
            "vfio-pci,host=0000:17:00.0",
            r#"{"path":"/q","type":"unix"}"#,
            "collateral = \"https://api.trustedservices.intel.com\"",
        ] {
            assert!(arguments.contains(part), "{part}");
        }
    }

    #[test]
    fn the_guest_is_told_of_other_services_than_intels_and_nvidias() {
        let stage = Stage::set();
        let more = "--collateral http://a --manifests http://b --ocsp http://c --keyserver d:1";
        let arguments = stage.plan(more).unwrap().vm.arguments().unwrap().join(" ");
        for (name, url) in [
            ("collateral", "http://a"),
            ("manifests", "http://b"),
            ("ocsp", "http://c"),
            ("keyserver", "d:1"),
        ] {
            assert!(arguments.contains(&format!("{name} = \"{url}\"")), "{name}");
        }
    }

    #[test]
    fn a_server_without_tdx_is_refused_and_told_how_to_try() {
        let stage = Stage::set();
        stage
            .server
            .file("sys/module/kvm_intel/parameters/tdx", "N\n");
        let said = stage.refused("");
        assert!(said.starts_with("this server has no TDX"), "{said}");
        assert!(said.ends_with("add --platform vtpm"), "{said}");
    }

    #[test]
    fn another_artefact_than_the_releases_is_refused() {
        let stage = Stage::set();
        stage.file("initrd", b"other");
        let said = stage.refused("");
        let expected = format!(
            "initrd has the sha256 {}, expected",
            Digest256::of(b"other")
        );
        assert!(said.contains(&expected), "{said}");
        fs::remove_file(stage.path("initrd")).unwrap();
        assert!(stage.refused("").contains("cannot read "));
    }

    #[test]
    fn a_release_that_leaves_out_an_artefact_is_refused() {
        let stage = Stage::set();
        let path = stage.path("release.json");
        let mut release = Release::parse(&fs::read(&path).unwrap()).unwrap();
        release
            .artefacts
            .retain(|artefact| artefact.name != Artefact::ROOT);
        stage.file("release.json", release.to_json().unwrap().as_bytes());
        assert_eq!(stage.refused(""), "the release names no root.img");
    }

    #[test]
    fn a_shape_that_does_not_fit_is_refused() {
        let stage = Stage::set();
        stage
            .server
            .file("proc/meminfo", "MemAvailable:   64000000 kB\n");
        assert_eq!(
            stage.refused(""),
            "61 GiB of memory are available, but shape gpu1-v16-m128g has 128"
        );
    }

    #[test]
    fn gpus_must_be_as_many_as_the_shape_has_and_ready() {
        let stage = Stage::set();
        let model = stage.path("model");
        let refused = |text: &str| stage.plan_exactly(text).unwrap_err().to_string();
        assert_eq!(
            refused(&format!("--shape small --gpu {H100} --model {model}")),
            "1 --gpu, but shape small has 0"
        );
        let eight = format!(
            "--shape gpu8sw4-v32-m256g {} --model {model}",
            format!("--gpu {H100} ").repeat(8)
        );
        assert_eq!(
            refused(&eight),
            "0 --switch, but shape gpu8sw4-v32-m256g has 4"
        );
        let twice = format!(
            "--shape gpu8 {} --model {model}",
            format!("--gpu {H100} ").repeat(8)
        );
        assert_eq!(refused(&twice), "0000:17:00.0 is given twice");
        stage
            .server
            .device("0000:1a:00.0", 0x10de, 0x22a3, 0x06_8000, 26);
        assert_eq!(
            refused(&format!("--shape gpu1 --gpu 1a:00.0 --model {model}")),
            "0000:1a:00.0 is NVSwitch: --gpu is for GPUs, --switch for NVSwitches"
        );
        stage.server.bind(H100, "nvidia");
        assert_eq!(
            stage.refused(""),
            "0000:17:00.0 has the driver nvidia: run `cocoon host setup-gpu 0000:17:00.0 --apply`"
        );
    }

    #[test]
    fn a_model_without_its_disk_is_refused() {
        let stage = Stage::set();
        let text = format!("--shape gpu1 --gpu {H100}");
        let said = stage.plan_exactly(&text).unwrap_err().to_string();
        assert!(said.starts_with("no --model file holds m"), "{said}");
    }

    #[test]
    fn another_qemu_is_refused() {
        let stage = Stage::set();
        stage.server.says(
            "qemu-system-x86_64 --version",
            "QEMU emulator version 10.2.0\n",
        );
        assert!(stage.refused("").starts_with("QEMU: 10.2.0, "));
    }

    #[test]
    fn a_configuration_is_one_of_the_releases() {
        let stage = Stage::set();
        assert_eq!(
            stage.refused("--config other"),
            "say with --config which of the release's: first"
        );
        let path = stage.path("release.json");
        let release = Release::parse(&fs::read(&path).unwrap()).unwrap();
        let text = release.configs[0].text.clone() + "# more\n";
        let release = release.with_config("second", &text).unwrap();
        stage.file("release.json", release.to_json().unwrap().as_bytes());
        assert_eq!(
            stage.refused(""),
            "say with --config which of the release's: first, second"
        );
        let plan = stage.plan("--config second").unwrap();
        assert_eq!(plan.vm.measured, text);
    }

    #[test]
    fn the_port_of_the_guest_is_the_one_that_its_configuration_says() {
        let stage = Stage::set();
        let text = "version = 1\nlisten = \"0.0.0.0:77\"\n[network]\nmode = \"dhcp\"\n";
        stage.file("unmeasured.toml", text.as_bytes());
        let option = format!("--unmeasured {}", stage.path("unmeasured.toml"));
        let plan = stage.plan(&option).unwrap();
        assert_eq!((plan.vm.port, plan.vm.unmeasured.as_str()), (77, text));
        stage.file("unmeasured.toml", b"version = 2\n");
        let said = stage.refused(&option);
        assert!(said.starts_with("the unmeasured configuration: "), "{said}");
    }

    #[test]
    fn a_place_of_the_qgs_reads_back() {
        for text in ["vsock:4050", "unix:/var/run/x"] {
            assert_eq!(text.parse::<Qgs>().unwrap().to_string(), text);
        }
        for text in ["", "vsock:", "vsock:x", "unix:relative", "tcp:h:1"] {
            let error = text.parse::<Qgs>().unwrap_err().to_string();
            assert!(
                error.contains("expected vsock:PORT or unix:/PATH"),
                "{text}"
            );
        }
    }
}
