//! The QEMU command of a VM: what is measured, and what no register sees.
//!
//! The measured part comes from [`measurements::qemu`]. Here belong the
//! accelerator, the files, the back ends, and the devices that are passed on.
//! This is the one place that spells the command; it is run as it is, shown, or
//! turned into XML for libvirt.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Result, ensure};
use attestation::config::Measured;
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
    /// One for each of the shape's ports: GPUs, then NVSwitches.
    pub devices: Vec<Address>,
    /// The configuration that is part of the identity.
    pub measured: String,
    /// The configuration that is not.
    pub unmeasured: String,
    /// Folder of the monitor's socket and of the TPM's.
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
        let (given, ports) = (self.devices.len(), qemu::ports(self.shape).count());
        ensure!(
            given == ports,
            "{given} devices, but shape {} has {ports} ports",
            self.shape.name
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
            ("-fw_cfg", config("measured.toml", &self.measured)),
            ("-fw_cfg", config("unmeasured.toml", &self.unmeasured)),
            ("-chardev", "stdio,id=console,signal=off".into()),
            ("-serial", "chardev:console".into()),
            ("-qmp", self.monitor()),
        ]);
        for (index, model) in self.models.iter().enumerate() {
            let node = format!("model{index}");
            options.push(("-blockdev", disk(&node, &model.path)));
        }
        if !self.devices.is_empty() {
            options.push(("-object", "iommufd,id=iommufd0".into()));
        }
        for (device, port) in self.devices.iter().zip(qemu::ports(self.shape)) {
            let device = format!("vfio-pci,host={device},bus={port},iommufd=iommufd0");
            options.push(("-device", device));
        }
        if self.platform == Platform::Tdx {
            options.push(("-object", self.trust_domain()));
        }
        options
    }

    fn monitor(&self) -> String {
        let socket = path_value(&self.state.join(qmp::SOCKET));
        format!("unix:{socket},server=on,wait=off")
    }

    /// MRCONFIGID is the digest of the measured configuration. Members stand sorted, so
    /// that the text does not depend on whether serde_json keeps their order.
    ///
    /// Source: QEMU docs/system/i386/tdx.rst, qapi/qom.json (TdxGuestProperties).
    fn trust_domain(&self) -> String {
        let identity = Measured::digest(self.measured.as_bytes());
        json!({
            "id": "tdx0",
            "mrconfigid": BASE64_STANDARD.encode(identity.as_bytes()),
            "qom-type": "tdx-guest",
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
            json!({"host": host, "port": port, "type": "inet"})
        }
        Endpoint::Unix(path) => json!({"path": text(path), "type": "unix"}),
        Endpoint::Vsock(port) => json!({
            "cid": VSOCK_HOST.to_string(),
            "port": port.to_string(),
            "type": "vsock",
        }),
    }
}

fn disk(node: &str, path: &Path) -> String {
    let path = path_value(path);
    format!("driver=raw,node-name={node},read-only=on,file.driver=file,file.filename={path}")
}

/// QEMU hands the guest exactly these bytes, without an end (hw/nvram/fw_cfg.c,
/// system/vl.c, parse_fw_cfg()).
fn config(name: &str, text: &str) -> String {
    format!("name=opt/cocoon/{name},string={}", value(text))
}

/// A path inside an option.
pub(super) fn path_value(path: &Path) -> String {
    value(&text(path))
}

/// A comma would end it (QEMU util/qemu-option.c, get_opt_value()).
fn value(text: &str) -> String {
    text.replace(',', ",,")
}

fn text(path: &Path) -> String {
    path.display().to_string()
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// One H100, and names that are hard to quote.
    pub(in crate::host) fn gpu_vm() -> Vm {
        Vm {
            shape: Shape::named("gpu1").unwrap(),
            platform: Platform::Tdx,
            accelerator: Accelerator::Kvm,
            image: Image {
                firmware: "/i/OVMF.fd".into(),
                kernel: "/i/vmlinuz".into(),
                initrd: "/i/initrd".into(),
                root: "/i/a,b/root.img".into(),
                command_line: "console=ttyS0 <'&'>".into(),
            },
            models: [ModelDisk {
                name: "m".into(),
                path: "/m".into(),
            }]
            .into(),
            devices: ["17:00.0".parse().unwrap()].into(),
            measured: "version = 1\nx = [1,2]\n".into(),
            unmeasured: "version = 1\n".into(),
            state: "/run/cocoon/a".into(),
            listen: "0.0.0.0:8443".parse().unwrap(),
            port: 8443,
            qgs: Endpoint::Vsock(4050),
        }
    }

    fn after(arguments: &[String], option: &str) -> Vec<String> {
        let pairs = arguments.windows(2).filter(|pair| pair[0] == option);
        pairs.map(|pair| pair[1].clone()).collect()
    }

    #[test]
    fn a_trust_domain_is_bound_to_the_measured_configuration() {
        let vm = gpu_vm();
        let objects = after(&vm.arguments().unwrap(), "-object");
        let object: Value = serde_json::from_str(&objects[1]).unwrap();
        let identity = BASE64_STANDARD.decode(object["mrconfigid"].as_str().unwrap());
        let expected = Measured::digest(vm.measured.as_bytes());
        assert_eq!(identity.unwrap(), expected.as_bytes());
        assert_eq!(
            object["quote-generation-socket"],
            json!({"type": "vsock", "cid": "2", "port": "4050"})
        );
        assert_eq!(object["id"], "tdx0");
    }

    #[test]
    fn quotes_may_come_from_a_socket_in_the_file_system() {
        let unix = socket_address(&Endpoint::Unix("/q".into()));
        assert_eq!(unix, json!({"type": "unix", "path": "/q"}));
        let tcp = socket_address(&Endpoint::Tcp("h:1".into()));
        assert_eq!(tcp, json!({"type": "inet", "host": "h", "port": "1"}));
    }

    #[test]
    fn a_comma_does_not_end_a_value() {
        let arguments = gpu_vm().arguments().unwrap();
        let disks = after(&arguments, "-blockdev");
        assert!(
            disks
                .iter()
                .any(|disk| disk.ends_with("file.filename=/i/a,,b/root.img"))
        );
        let configs = after(&arguments, "-fw_cfg");
        assert!(configs[0].ends_with("string=version = 1\nx = [1,,2]\n"));
    }

    #[test]
    fn each_device_has_a_port_of_its_own() {
        let mut vm = gpu_vm();
        let devices = after(&vm.arguments().unwrap(), "-device");
        let last = devices.last().unwrap();
        assert_eq!(last, "vfio-pci,host=0000:17:00.0,bus=gpu0,iommufd=iommufd0");
        vm.devices.clear();
        let error = vm.arguments().unwrap_err().to_string();
        assert_eq!(
            error,
            format!("0 devices, but shape {} has 1 ports", vm.shape.name)
        );
    }

    #[test]
    fn what_the_program_reads_is_all_named() {
        let vm = gpu_vm();
        let arguments = vm.arguments().unwrap().join(" ");
        for file in vm.files() {
            assert!(
                arguments.contains(&value(&text(file))),
                "{}",
                file.display()
            );
        }
    }
}
