//! The QEMU command of a VM: what is measured, and what no register sees.
//!
//! The measured part comes from [`measurements::qemu`]. Here belong the
//! accelerator, the files, the back ends, and the devices that are passed on.
//! This is the one place that spells the command; it is run as it is, shown, or
//! turned into XML for libvirt.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use attestation::register::Digest384;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use measurements::qemu;
use measurements::shape::{Platform, Shape};
use serde_json::{Value, json};

use super::accelerator::Accelerator;
use super::gpu::Address;
use super::server::{Endpoint, VSOCK_HOST};
use super::{qmp, tpm};

/// What QEMU is started with.
#[derive(Clone, Debug)]
pub struct Vm {
    /// Virtual hardware.
    pub shape: &'static Shape,
    /// Who vouches for it.
    pub platform: Platform,
    /// Emulated, or not.
    pub accelerator: Accelerator,
    /// What boots.
    pub image: Image,
    /// Disks with models, at most [`qemu::MODEL_SLOTS`].
    pub models: Vec<ModelDisk>,
    /// As many as the shape has.
    pub gpus: Vec<Address>,
    /// Digest of the measured configuration.
    pub identity: Digest384,
    /// Folder of both configurations, the monitor and the TPM.
    pub state: PathBuf,
    /// Where this machine listens for the guest.
    pub listen: SocketAddr,
    /// Where the guest does.
    pub port: u16,
    /// Who signs quotes of a TD.
    pub qgs: Endpoint,
}

/// The files of an image, and what it is passed.
#[derive(Clone, Debug)]
pub struct Image {
    /// For `-bios`.
    pub firmware: PathBuf,
    /// For `-kernel`.
    pub kernel: PathBuf,
    /// For `-initrd`.
    pub initrd: PathBuf,
    /// The disk with serial `cocoon-root`.
    pub root: PathBuf,
    /// For `-append`: measured, and not obeyed.
    pub command_line: String,
}

/// A disk that holds a model.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct ModelDisk {
    /// Its serial is `model-<name>`.
    pub name: String,
    /// The disk image.
    pub path: PathBuf,
}

impl Vm {
    /// Everything behind the name of the program.
    pub fn arguments(&self) -> Result<Vec<String>> {
        ensure!(
            self.gpus.len() == usize::from(self.shape.gpus),
            "{} GPUs, but shape {} has {}",
            self.gpus.len(),
            self.shape.name,
            self.shape.gpus
        );
        let names: Vec<&str> = self.models.iter().map(|m| m.name.as_str()).collect();
        let mut arguments = qemu::arguments(self.shape, self.platform, &names)?;
        for (option, value) in self.options() {
            arguments.extend([option.into(), value]);
        }
        arguments.extend(["-no-reboot", "-no-user-config"].map(String::from));
        if self.platform == Platform::Vtpm {
            arguments.extend(tpm::arguments(&self.state));
        }
        Ok(arguments)
    }

    /// What the program reads, besides [`Vm::state`].
    #[must_use]
    pub fn files(&self) -> Vec<&Path> {
        let Image {
            firmware,
            kernel,
            initrd,
            root,
            ..
        } = &self.image;
        let models = self.models.iter().map(|model| &model.path);
        let files = [firmware, kernel, initrd, root].into_iter().chain(models);
        files.map(PathBuf::as_path).collect()
    }

    fn options(&self) -> Vec<(&'static str, String)> {
        let Image {
            firmware,
            kernel,
            initrd,
            root,
            command_line,
        } = &self.image;
        let (accelerator, processor) = self.accelerator.arguments();
        let properties = qemu::cpu_properties(self.shape, self.platform);
        let (listen, port) = (self.listen, self.port);
        let mut options = Vec::from([
            ("-accel", accelerator.into()),
            ("-cpu", format!("{processor}{properties}")),
            ("-bios", text(firmware)),
            ("-kernel", text(kernel)),
            ("-initrd", text(initrd)),
            ("-append", command_line.clone()),
            (
                "-netdev",
                format!("user,id=net0,hostfwd=tcp:{listen}-:{port}"),
            ),
            ("-blockdev", disk("root", root)),
            ("-fw_cfg", self.config(MEASURED)),
            ("-fw_cfg", self.config(UNMEASURED)),
            ("-chardev", "stdio,id=console,signal=off".into()),
            ("-serial", "chardev:console".into()),
            ("-qmp", self.monitor()),
        ]);
        for (index, model) in self.models.iter().enumerate() {
            let node = format!("model{index}");
            options.push(("-blockdev", disk(&node, &model.path)));
        }
        if !self.gpus.is_empty() {
            options.push(("-object", "iommufd,id=iommufd0".into()));
        }
        for (index, gpu) in self.gpus.iter().enumerate() {
            let device = format!("vfio-pci,host={gpu},bus=gpu{index},iommufd=iommufd0");
            options.push(("-device", device));
        }
        if self.platform == Platform::Tdx {
            options.push(("-object", self.trust_domain()));
        }
        options
    }

    fn config(&self, name: &str) -> String {
        let file = option_value(&self.state.join(name));
        format!("name=opt/cocoon/{name},file={file}")
    }

    fn monitor(&self) -> String {
        let socket = option_value(&self.state.join(qmp::SOCKET));
        format!("unix:{socket},server=on,wait=off")
    }

    /// MRCONFIGID is the digest of the measured configuration.
    ///
    /// Source: QEMU docs/system/i386/tdx.rst, qapi/qom.json (TdxGuestProperties).
    fn trust_domain(&self) -> String {
        json!({
            "qom-type": "tdx-guest",
            "id": "tdx0",
            "mrconfigid": BASE64_STANDARD.encode(self.identity.as_bytes()),
            "quote-generation-socket": socket_address(&self.qgs),
        })
        .to_string()
    }
}

/// QEMU's SocketAddress.
fn socket_address(endpoint: &Endpoint) -> Value {
    match endpoint {
        Endpoint::Tcp(address) => {
            let (host, port) = address.rsplit_once(':').unwrap_or((address, ""));
            json!({"type": "inet", "host": host, "port": port})
        }
        Endpoint::Unix(path) => json!({"type": "unix", "path": text(path)}),
        Endpoint::Vsock(port) => json!({
            "type": "vsock",
            "cid": VSOCK_HOST.to_string(),
            "port": port.to_string(),
        }),
    }
}

fn disk(node: &str, path: &Path) -> String {
    let path = option_value(path);
    format!("driver=raw,node-name={node},read-only=on,file.driver=file,file.filename={path}")
}

/// A path inside an option, where a comma would end it.
pub(super) fn option_value(path: &Path) -> String {
    text(path).replace(',', ",,")
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

/// The configuration that is part of the identity, in [`Vm::state`].
pub const MEASURED: &str = "measured.toml";
/// The configuration that is not.
pub const UNMEASURED: &str = "unmeasured.toml";
