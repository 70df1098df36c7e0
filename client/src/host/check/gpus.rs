//! GPUs: generation, driver, confidential mode, firmware.
//!
//! The mode is in a register that only a memory map of the GPU shows, so it is
//! asked of NVIDIA's own tool, which maps it, and only where the user names it.
//! What a GPU is in the end is proved by its own signed report, inside the VM.

use super::Finding;
use crate::host::gpu::{Generation, Gpu};
use crate::host::server::Server;

pub(super) fn check(server: &Server, tools: Option<&str>) -> Vec<Finding> {
    let gpus = Gpu::all(server);
    if gpus.is_empty() {
        let remedy = "shapes without a GPU will run; others need an H100 or H200";
        return [Finding::warn(
            "gpu",
            "no NVIDIA GPU",
            remedy,
            "lspci -d 10de:",
        )]
        .into();
    }
    let mut findings = Vec::new();
    for gpu in &gpus {
        let generation = generation(gpu);
        findings.push(generation);
        if gpu.generation() != Generation::Other {
            findings.push(driver(gpu));
            findings.push(mode(server, gpu, tools));
            findings.extend(firmware(server, gpu));
        }
    }
    findings
}

fn generation(gpu: &Gpu) -> Finding {
    let generation = gpu.generation();
    let found = format!("{generation}, device {:#06x}", gpu.device);
    let finding = match generation {
        Generation::Hopper | Generation::Switch => Finding::ok("gpu", found),
        Generation::Blackwell => Finding::warn(
            "gpu",
            found,
            "the driver in the image is too old for it; wait for a release that has a newer one",
            "",
        ),
        Generation::Other => Finding::warn(
            "gpu",
            found,
            "it has no confidential mode and is left alone",
            "",
        ),
    };
    finding.of(&gpu.address)
}

fn driver(gpu: &Gpu) -> Finding {
    let finding = match gpu.driver.as_deref() {
        Some("vfio-pci") => Finding::ok("gpu-driver", "vfio-pci"),
        found => Finding::fail(
            "gpu-driver",
            format!("{}, expected vfio-pci", found.unwrap_or("none")),
            "hand it to VMs",
            &format!("cocoon host setup-gpu {} --apply", gpu.address),
        ),
    };
    finding.of(&gpu.address)
}

fn mode(server: &Server, gpu: &Gpu, tools: Option<&str>) -> Finding {
    let address = &gpu.address;
    let asked = |what: &str, option: &str| {
        let said = server.run(tools?, &[&format!("--gpu-bdf={address}"), option])?;
        let (_, mode) = said.split_once(what)?;
        mode.split_whitespace().next().map(ToOwned::to_owned)
    };
    let confidential = asked("CC mode is ", "--query-cc-mode");
    let protected = asked("PPCIe mode is ", "--query-ppcie-mode");
    let is_on = |mode: &Option<String>| mode.as_deref() == Some("on");
    let finding = if is_on(&confidential) {
        Finding::ok("gpu-cc", "on")
    } else if is_on(&protected) {
        Finding::ok("gpu-cc", "protected PCIe")
    } else if let Some(mode) = confidential.or(protected) {
        Finding::fail(
            "gpu-cc",
            format!("{mode}, expected on"),
            "switch it on; the mode outlives a reboot",
            &format!("cocoon host setup-gpu {address} --apply"),
        )
    } else {
        Finding::unknown(
            "gpu-cc",
            "not seen from here",
            "while no VM uses it, let NVIDIA's gpu-admin-tools tell, as root",
            "cocoon host check --gpu-tools ./nvidia_gpu_tools.py",
        )
    };
    finding.of(address)
}

/// The driver of the host tells the version, once; a GPU that a VM has does not.
fn firmware(server: &Server, gpu: &Gpu) -> Option<Finding> {
    let path = format!("/proc/driver/nvidia/gpus/{}/information", gpu.address);
    let version = server.field(&path, "Video BIOS")?;
    let is_old = gpu.generation() == Generation::Hopper && version.to_lowercase().as_str() < OLDEST;
    let finding = match is_old {
        false => Finding::ok("gpu-vbios", version),
        true => Finding::warn(
            "gpu-vbios",
            format!("{version}, expected {OLDEST} or later"),
            "get a newer one from the maker of the server: NVIDIA vouches for no older one in \
             confidential mode",
            "nvidia-smi --query-gpu=vbios_version --format=csv",
        ),
    };
    Some(finding.of(&gpu.address))
}

/// Of an H100 (NVIDIA, Confidential Computing Deployment Guide, requirements).
const OLDEST: &str = "96.00.5e.00.00";

#[cfg(test)]
mod tests {
    use super::super::tests::found;
    use super::super::{CheckArgs, Level};
    use super::*;
    use crate::host::server::tests::{Double, H100};

    #[test]
    fn a_server_without_a_gpu_is_good_for_small_models() {
        let double = Double::ready();
        double.without(&format!("sys/bus/pci/devices/{H100}"));
        assert_eq!(found(&double, "gpu").level, Level::Warn);
    }

    #[test]
    fn other_generations_are_said_to_be_of_no_use() {
        let double = Double::ready();
        double
            .gpu("0000:18:00.0", 0x2901, 18)
            .gpu("0000:19:00.0", 0x20b0, 19);
        let findings = check(&double.server(), None);
        let lines: Vec<_> = findings
            .iter()
            .map(|found| (found.name, found.level))
            .collect();
        assert_eq!(
            lines,
            [
                ("gpu", Level::Ok),
                ("gpu-driver", Level::Ok),
                ("gpu-cc", Level::Unknown),
                ("gpu", Level::Warn),
                ("gpu-driver", Level::Fail),
                ("gpu-cc", Level::Unknown),
                ("gpu", Level::Warn),
            ]
        );
    }

    #[test]
    fn no_register_is_read_unless_asked() {
        let double = Double::ready();
        check(&double.server(), None);
        assert!(double.state().done.borrow().is_empty());
    }

    #[test]
    fn devtools_is_not_on() {
        let double = Double::ready();
        double.says(
            &format!("gpu-tools --gpu-bdf={H100} --query-cc-mode"),
            "CC mode is devtools\n",
        );
        assert_eq!(found(&double, "gpu-cc").found, "devtools, expected on");
    }

    #[test]
    fn protected_pcie_is_as_good() {
        let double = Double::ready();
        let asked = |option| format!("gpu-tools --gpu-bdf={H100} --query-{option}-mode");
        double.says(&asked("cc"), "CC mode is off\n");
        double.says(&asked("ppcie"), "PPCIe mode is on\n");
        assert_eq!(found(&double, "gpu-cc").found, "protected PCIe");
        double.says(&asked("ppcie"), "PPCIe mode is off\n");
        assert_eq!(found(&double, "gpu-cc").found, "off, expected on");
    }

    #[test]
    fn an_old_vbios_is_told() {
        let double = Double::ready();
        let path = format!("proc/driver/nvidia/gpus/{H100}/information");
        double.file(
            &path,
            "Model: \t\t NVIDIA H100\nVideo BIOS: \t 96.00.30.00.01\n",
        );
        assert_eq!(found(&double, "gpu-vbios").level, Level::Warn);
        double.file(&path, "Video BIOS: \t 96.00.9F.00.01\n");
        assert_eq!(found(&double, "gpu-vbios").level, Level::Ok);
    }

    #[test]
    fn arguments_default_to_asking_nobody() {
        use clap::Parser as _;
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            check: CheckArgs,
        }
        assert_eq!(Cli::parse_from(["check"]).check.gpu_tools, None);
    }
}
