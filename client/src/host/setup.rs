//! `cocoon host setup-gpu`: confidential mode, and the driver that hands a GPU to VMs.
//!
//! The steps are worked out from what the server is now, shown, and taken only
//! when told to. Switching the mode resets the GPU: whoever uses it loses it.
//! The mode outlives a reboot, the driver does not.
//!
//! Sources: Linux Documentation/ABI/testing/sysfs-bus-pci (driver_override, bind,
//! unbind); README of NVIDIA's gpu-admin-tools.

use std::fmt;
use std::io::{self, Write as _};

use anyhow::{Context as _, bail, ensure};
use attestation::appraisal::Verdict;
use clap::Args;

use super::gpu::{Address, Generation, Gpu, NVIDIA, hex};
use super::server::Server;

/// Which GPUs.
#[derive(Args, Debug)]
pub struct SetupArgs {
    /// PCI addresses, as `lspci -d 10de:` prints them; without any there is nothing to do.
    #[arg(value_name = "ADDRESS")]
    gpus: Vec<Address>,
    /// Take the steps, as root.
    #[arg(long)]
    apply: bool,
    /// Give the GPUs back to the host, with confidential mode off.
    #[arg(long)]
    undo: bool,
    /// Protected PCIe, for eight Hopper GPUs together with their NVSwitches.
    #[arg(long, conflicts_with = "keep_mode")]
    protected_pcie: bool,
    /// Leave the mode as it is, as after a reboot.
    #[arg(long)]
    keep_mode: bool,
    /// NVIDIA's gpu-admin-tools.
    #[arg(long, value_name = "PROGRAM", default_value = "nvidia_gpu_tools.py")]
    gpu_tools: String,
}

impl SetupArgs {
    pub(super) fn run(&self) -> anyhow::Result<Verdict> {
        let server = Server::this();
        let steps = self.steps(&server)?;
        let mut out = io::stdout().lock();
        for step in &steps {
            writeln!(out, "{step}")?;
        }
        if !self.apply {
            writeln!(out, "# nothing was done; --apply does it, as root")?;
            return Ok(Verdict::Trusted);
        }
        self.apply(&server, &steps)?;
        Ok(Verdict::Trusted)
    }

    /// From what the server is to what it should be.
    fn steps(&self, server: &Server) -> anyhow::Result<Vec<Step>> {
        let mut steps = Vec::new();
        for address in &self.gpus {
            let gpu = Gpu::at(server, address.clone())?;
            let generation = gpu.generation();
            ensure!(
                generation != Generation::Other,
                "{address} is of {generation}: it has no confidential mode"
            );
            if self.keep_mode && !self.undo && gpu.driver.as_deref() == Some(VFIO) {
                continue;
            }
            let members = members(server, &gpu)?;
            let wanted = if self.undo { "" } else { VFIO };
            for member in &members {
                // The driver that it has would be reset under its feet.
                if server.has(&member.file("driver")) {
                    steps.push(Step::write(member.file("driver/unbind"), member));
                }
            }
            if !self.keep_mode {
                steps.extend(self.modes(&gpu)?);
            }
            for member in &members {
                steps.push(Step::write(member.file("driver_override"), wanted));
                steps.push(Step::write("/sys/bus/pci/drivers_probe", member));
            }
        }
        let is_missing = !server.has("/sys/bus/pci/drivers/vfio-pci");
        if is_missing && !self.undo && !steps.is_empty() {
            steps.insert(0, Step::run("modprobe", ["vfio-pci"]));
        }
        Ok(steps)
    }

    /// A GPU is in one of two modes, and an NVSwitch knows only the second.
    fn modes(&self, gpu: &Gpu) -> anyhow::Result<Vec<Step>> {
        let mode = |kind: &str, on: bool| {
            let word = if on { "on" } else { "off" };
            let options = [
                format!("--gpu-bdf={}", gpu.address),
                format!("--set-{kind}-mode={word}"),
                format!("--reset-after-{kind}-mode-switch"),
            ];
            Step::run(&self.gpu_tools, options)
        };
        let is_switch = gpu.generation() == Generation::Switch;
        ensure!(
            self.protected_pcie || !is_switch,
            "{} is an NVSwitch: add --protected-pcie, and name all GPUs with it",
            gpu.address
        );
        let mut modes = Vec::new();
        if self.protected_pcie && !self.undo && !is_switch {
            modes.push(mode("cc", false));
        }
        let kind = if self.protected_pcie { "ppcie" } else { "cc" };
        modes.push(mode(kind, !self.undo));
        Ok(modes)
    }

    fn apply(&self, server: &Server, steps: &[Step]) -> anyhow::Result<()> {
        for step in steps {
            step.take(server).with_context(|| {
                format!("stopped at `{step}`; what was done before it stays done")
            })?;
        }
        for address in &self.gpus {
            let driver = Gpu::at(server, address.clone())?.driver;
            let has_vfio = driver.as_deref() == Some(VFIO);
            ensure!(
                has_vfio != self.undo,
                "{address} has the driver {} after all steps",
                driver.as_deref().unwrap_or("none")
            );
        }
        Ok(())
    }
}

/// What shares the GPU's IOMMU group has to go with it: functions of NVIDIA's. A
/// bridge stays.
fn members(server: &Server, gpu: &Gpu) -> anyhow::Result<Vec<Address>> {
    let number = |member: &Address, name| hex(&server.text(&member.file(name))?);
    let mut members = Vec::new();
    for member in &gpu.group {
        if number(member, "class").map(|class| class >> 8) == Some(PCI_BRIDGE) {
            continue;
        }
        if number(member, "vendor") != Some(NVIDIA) {
            bail!(
                "{} shares its IOMMU group with {member}, which is no device of NVIDIA's: use \
                 another slot, or turn on ACS in the BIOS setup",
                gpu.address
            );
        }
        members.push(member.clone());
    }
    match members.is_empty() {
        true => bail!(
            "{} has no IOMMU group: see `cocoon host check`",
            gpu.address
        ),
        false => Ok(members),
    }
}

/// One change.
#[derive(Clone, Debug, Eq, PartialEq)]
enum Step {
    /// A program has to succeed.
    Run {
        program: String,
        arguments: Vec<String>,
    },
    /// A file of the kernel takes a line.
    Write { path: String, text: String },
}

impl Step {
    fn run<S: Into<String>>(program: &str, arguments: impl IntoIterator<Item = S>) -> Self {
        Self::Run {
            program: program.into(),
            arguments: arguments.into_iter().map(Into::into).collect(),
        }
    }

    fn write(path: impl Into<String>, text: impl fmt::Display) -> Self {
        Self::Write {
            path: path.into(),
            text: text.to_string(),
        }
    }

    fn take(&self, server: &Server) -> anyhow::Result<()> {
        match self {
            Self::Run { program, arguments } => {
                let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
                let said = server.run(program, &arguments);
                said.with_context(|| format!("{program} is not there, or failed"))?;
            }
            Self::Write { path, text } => {
                let line = format!("{text}\n");
                server
                    .write(path, &line)
                    .with_context(|| format!("cannot write {path}"))?;
            }
        }
        Ok(())
    }
}

impl fmt::Display for Step {
    /// As one would type it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Run { program, arguments } => write!(f, "{program} {}", arguments.join(" ")),
            Self::Write { path, text } => write!(f, "echo {text} > {path}"),
        }
    }
}

const VFIO: &str = "vfio-pci";
/// PCI code and ID assignment specification, base class 6.
const PCI_BRIDGE: u32 = 0x0604;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::server::tests::{Double, H100};

    const DEVICE: &str = "/sys/bus/pci/devices/0000:17:00.0";

    fn arguments(text: &str) -> SetupArgs {
        use clap::Parser as _;
        #[derive(clap::Parser)]
        struct Cli {
            #[command(flatten)]
            setup: SetupArgs,
        }
        Cli::parse_from(["setup-gpu"].into_iter().chain(text.split_whitespace())).setup
    }

    /// Takes all steps on a server.
    fn apply(double: &Double, text: &str) -> anyhow::Result<()> {
        let arguments = arguments(text);
        let server = double.server();
        let steps = arguments.steps(&server)?;
        arguments.apply(&server, &steps)
    }

    fn shown(double: &Double, text: &str) -> Vec<String> {
        let steps = arguments(text).steps(&double.server()).unwrap();
        steps.iter().map(ToString::to_string).collect()
    }

    fn with_tools(double: &Double) {
        for mode in ["on", "off"] {
            double.says(
                &format!("nvidia_gpu_tools.py --gpu-bdf={H100} --set-cc-mode={mode} --reset-after-cc-mode-switch"),
                "done",
            );
        }
    }

    #[test]
    fn the_mode_is_switched_while_no_driver_has_the_gpu() {
        let double = Double::ready();
        double.bind(H100, "nvidia");
        with_tools(&double);
        apply(&double, H100).unwrap();
        let expected = [
            format!("{H100} > {DEVICE}/driver/unbind"),
            format!(
                "nvidia_gpu_tools.py --gpu-bdf={H100} --set-cc-mode=on --reset-after-cc-mode-switch"
            ),
            format!("vfio-pci > {DEVICE}/driver_override"),
            format!("{H100} > /sys/bus/pci/drivers_probe"),
        ];
        assert_eq!(*double.state().done.borrow(), expected);
        let gpu = Gpu::at(&double.server(), H100.parse().unwrap()).unwrap();
        assert_eq!(gpu.driver.as_deref(), Some(VFIO));
    }

    #[test]
    fn undoing_gives_it_back_to_the_host() {
        let double = Double::ready();
        with_tools(&double);
        apply(&double, &format!("{H100} --undo")).unwrap();
        let expected = [
            format!("{H100} > {DEVICE}/driver/unbind"),
            format!(
                "nvidia_gpu_tools.py --gpu-bdf={H100} --set-cc-mode=off --reset-after-cc-mode-switch"
            ),
            format!(" > {DEVICE}/driver_override"),
            format!("{H100} > /sys/bus/pci/drivers_probe"),
        ];
        assert_eq!(*double.state().done.borrow(), expected);
    }

    #[test]
    fn showing_the_steps_takes_none() {
        let double = Double::ready();
        double.without("sys/bus/pci/drivers/vfio-pci");
        double.without(&format!("sys/bus/pci/devices/{H100}/driver"));
        let steps = shown(&double, &format!("{H100} --keep-mode"));
        let expected = [
            "modprobe vfio-pci".to_owned(),
            format!("echo vfio-pci > {DEVICE}/driver_override"),
            format!("echo {H100} > /sys/bus/pci/drivers_probe"),
        ];
        assert_eq!(steps, expected);
        assert!(double.state().done.borrow().is_empty());
    }

    #[test]
    fn a_gpu_that_is_ready_is_left_alone() {
        let double = Double::ready();
        assert!(shown(&double, &format!("{H100} --keep-mode")).is_empty());
        apply(&double, &format!("{H100} --keep-mode")).unwrap();
        assert!(double.state().done.borrow().is_empty());
    }

    #[test]
    fn the_whole_group_goes_but_not_its_bridge() {
        let double = Double::ready();
        double
            .bind(H100, "nvidia")
            .device("0000:17:00.1", 0x10de, 0x22bd, 0x04_0300, 17)
            .device("0000:16:00.0", 0x8086, 0x352a, 0x06_0400, 17);
        let steps = shown(&double, &format!("{H100} --keep-mode")).join("\n");
        assert!(steps.contains("0000:17:00.1/driver_override"), "{steps}");
        assert!(!steps.contains("0000:16:00.0"), "{steps}");
    }

    #[test]
    fn protected_pcie_is_for_gpus_and_their_switches() {
        let double = Double::ready();
        let switch = "0000:1a:00.0";
        double.device(switch, 0x10de, 0x22a3, 0x06_8000, 26);
        let text = format!("{H100} {switch} --protected-pcie");
        let tools = |steps: Vec<String>| -> Vec<String> {
            let tools = steps.into_iter().filter(|step| step.starts_with("nvidia"));
            tools
                .map(|step| step.split("--").skip(1).collect())
                .collect()
        };
        assert_eq!(
            tools(shown(&double, &text)),
            [
                "gpu-bdf=0000:17:00.0 set-cc-mode=off reset-after-cc-mode-switch",
                "gpu-bdf=0000:17:00.0 set-ppcie-mode=on reset-after-ppcie-mode-switch",
                "gpu-bdf=0000:1a:00.0 set-ppcie-mode=on reset-after-ppcie-mode-switch",
            ]
        );
        assert_eq!(
            tools(shown(&double, &format!("{text} --undo"))),
            [
                "gpu-bdf=0000:17:00.0 set-ppcie-mode=off reset-after-ppcie-mode-switch",
                "gpu-bdf=0000:1a:00.0 set-ppcie-mode=off reset-after-ppcie-mode-switch",
            ]
        );
        let error = arguments(switch).steps(&double.server()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "0000:1a:00.0 is an NVSwitch: add --protected-pcie, and name all GPUs with it"
        );
    }

    #[test]
    fn somebody_elses_device_in_the_group_is_refused() {
        let double = Double::ready();
        double.device("0000:17:00.1", 0x8086, 0x1572, 0x02_0000, 17);
        let error = arguments(H100).steps(&double.server()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "0000:17:00.0 shares its IOMMU group with 0000:17:00.1, which is no device of \
             NVIDIA's: use another slot, or turn on ACS in the BIOS setup"
        );
    }

    #[test]
    fn a_gpu_that_cannot_is_refused() {
        let double = Double::ready();
        double.gpu("0000:18:00.0", 0x20b0, 18);
        let error = arguments("0000:18:00.0")
            .steps(&double.server())
            .unwrap_err();
        assert_eq!(
            error.to_string(),
            "0000:18:00.0 is of another generation: it has no confidential mode"
        );
        double.without(&format!("sys/kernel/iommu_groups/17/devices/{H100}"));
        let error = arguments(H100).steps(&double.server()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "0000:17:00.0 has no IOMMU group: see `cocoon host check`"
        );
    }

    #[test]
    fn a_step_that_fails_is_the_last() {
        let double = Double::ready();
        let error = apply(&double, H100).unwrap_err();
        let said = format!("{error:#}");
        assert!(
            said.starts_with("stopped at `nvidia_gpu_tools.py --gpu-bdf"),
            "{said}"
        );
        assert!(
            said.ends_with("nvidia_gpu_tools.py is not there, or failed"),
            "{said}"
        );
        let done = double.state().done.borrow();
        assert!(
            done.iter().all(|step| !step.contains("drivers_probe")),
            "{done:?}"
        );
    }

    #[test]
    fn a_driver_that_does_not_come_is_told() {
        let double = Double::ready();
        with_tools(&double);
        // Another driver takes it first.
        let arguments = arguments(H100);
        let server = double.server();
        let steps = arguments.steps(&server).unwrap();
        let (_, but_the_last) = steps.split_last().unwrap();
        let error = arguments.apply(&server, but_the_last).unwrap_err();
        assert_eq!(
            error.to_string(),
            "0000:17:00.0 has the driver none after all steps"
        );
    }
}
