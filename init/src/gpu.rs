//! NVIDIA's GPUs: their driver from the verity root, their device files, and that each one works.
//!
//! ```text
//! /dev/nvidia0...        major 195, one minor for each GPU
//! /dev/nvidiactl         major 195, minor 255
//! /dev/nvidia-uvm        major from /proc/devices, minor 0
//! /dev/nvidia-uvm-tools  the same major, minor 1: never made
//! ```
//!
//! The kernel takes modules and firmware from one file system only (LoadPin),
//! that of the first module. Init has opened no other by then than the root.
//!
//! A GPU that nobody holds open is shut down and forgets its session; so init
//! holds each of them to the end, and a GPU that does not start fails here.
//! Nothing here shows that a GPU is genuine: that is the agent's part.
//!
//! Source: NVIDIA open-gpu-kernel-modules 550.163.01,
//! `kernel-open/common/inc/nv-chardev-numbers.h`, `kernel-open/nvidia/nv-reg.h`.

use anyhow::{Context, bail, ensure};

use crate::config;
use crate::system::{System, User};

/// Loads the driver of an image that has one; gives the number of GPUs.
pub(crate) fn load(system: &mut dyn System) -> anyhow::Result<usize> {
    if !system.exists(NVIDIA) {
        return Ok(0);
    }
    let gpus = find(system)?;
    match system.load_module(NVIDIA, PARAMETERS) {
        // The driver's answer where it finds nothing to drive.
        Err(error) if error.raw_os_error() == Some(libc::ENODEV) && gpus.is_empty() => {
            system.say("no GPU");
            return Ok(0);
        }
        result => result.with_context(|| format!("cannot load {NVIDIA} for {}", names(&gpus)))?,
    }
    system
        .load_module(NVIDIA_UVM, "")
        .with_context(|| format!("cannot load {NVIDIA_UVM}"))?;

    device(system, "/dev/nvidiactl", MAJOR, CONTROL)?;
    let uvm = major(system, "nvidia-uvm")?;
    device(system, "/dev/nvidia-uvm", uvm, 0)?;
    for (minor, gpu) in (0..CONTROL).zip(&gpus) {
        let path = format!("/dev/nvidia{minor}");
        device(system, &path, MAJOR, minor)?;
        system
            .hold(&path)
            .with_context(|| format!("GPU {gpu} does not start, the kernel says why: {path}"))?;
        system.say(&format!("GPU {gpu} at {path}"));
    }
    Ok(gpus.len())
}

/// Has the GPUs verified, and only then lets them take work.
///
/// Verifying reads what the network delivers, so it has no privileges; the
/// driver wants root for the other, which reads nothing.
pub(crate) fn admit(system: &mut dyn System, gpus: usize) -> anyhow::Result<()> {
    if gpus == 0 {
        return Ok(());
    }
    let count = gpus.to_string();
    let verify = [
        "--count",
        &count,
        "verify",
        "--unmeasured",
        config::UNMEASURED,
    ];
    system
        .run(PROGRAM, &verify, User::Agent)
        .context("the GPUs are refused")?;
    system
        .run(PROGRAM, &["--count", &count, "accept-work"], User::Root)
        .context("the GPUs take no work")
}

fn names(gpus: &[String]) -> String {
    match gpus {
        [] => "no GPU".into(),
        _ => gpus.join(", "),
    }
}

/// Addresses of the GPUs on the PCI bus.
fn find(system: &mut dyn System) -> anyhow::Result<Vec<String>> {
    let mut gpus = Vec::new();
    for address in system
        .list(PCI)
        .with_context(|| format!("cannot list {PCI}"))?
    {
        if number(system, &address, "vendor")? != NVIDIA_VENDOR {
            continue;
        }
        match number(system, &address, "class")? >> 8 {
            DISPLAY_VGA | DISPLAY_3D => gpus.push(address),
            BRIDGE_OTHER => bail!("{address} is an NVSwitch, which this image cannot drive"),
            _ => {}
        }
    }
    ensure!(
        gpus.len() <= MAX_GPUS,
        "{} GPUs, at most {MAX_GPUS}",
        gpus.len()
    );
    Ok(gpus)
}

/// A number that sysfs shows of a PCI device, such as `0x10de`.
fn number(system: &mut dyn System, address: &str, name: &str) -> anyhow::Result<u32> {
    let path = format!("{PCI}/{address}/{name}");
    let text = system
        .read(&path, 32)
        .with_context(|| format!("cannot read {path}"))?;
    let text = String::from_utf8_lossy(&text);
    text.trim_ascii_end()
        .strip_prefix("0x")
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .with_context(|| format!("{path} is {text:?}, expected 0x and hex digits"))
}

/// The major number that a driver was given.
fn major(system: &mut dyn System, driver: &str) -> anyhow::Result<u32> {
    let devices = system
        .read("/proc/devices", 65536)
        .context("cannot read /proc/devices")?;
    String::from_utf8_lossy(&devices)
        .lines()
        .filter_map(|line| line.trim_ascii_start().split_once(' '))
        .find_map(|(major, name)| (name == driver).then(|| major.parse().ok())?)
        .with_context(|| format!("/proc/devices has no {driver}"))
}

fn device(system: &mut dyn System, path: &str, major: u32, minor: u32) -> anyhow::Result<()> {
    system
        .make_device(path, major, minor)
        .with_context(|| format!("cannot make {path}"))?;
    system
        .give_to_agent(path)
        .with_context(|| format!("cannot give {path} to the agent"))
}

const NVIDIA: &str = "/usr/lib/modules/nvidia.ko";
const NVIDIA_UVM: &str = "/usr/lib/modules/nvidia-uvm.ko";
/// Device files as [`device`] makes them: NVIDIA's libraries shall find nothing to mend.
const PARAMETERS: &str = "NVreg_ModifyDeviceFiles=0 NVreg_DeviceFileUID=1000 \
                          NVreg_DeviceFileGID=1000 NVreg_DeviceFileMode=384";

/// Asks NVIDIA's library: an executable of the agent's.
const PROGRAM: &str = "/usr/bin/gpus";

const MAJOR: u32 = 195;
const CONTROL: u32 = 255;
/// The largest machine that is made of them.
const MAX_GPUS: usize = 8;

const PCI: &str = "/sys/bus/pci/devices";
/// PCI vendor, and class codes without the programming interface.
const NVIDIA_VENDOR: u32 = 0x10de;
const DISPLAY_VGA: u32 = 0x0300;
const DISPLAY_3D: u32 = 0x0302;
const BRIDGE_OTHER: u32 = 0x0680;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::double::Double;

    fn reason(mut double: Double) -> String {
        format!("{:#}", load(&mut double).unwrap_err())
    }

    #[test]
    fn an_image_without_the_driver_asks_for_nothing() {
        let mut double = Double::with_tpm();
        double.pci("0000:00:05.0", "0x10de", "0x030200");
        assert_eq!(load(&mut double).unwrap(), 0);
        assert_eq!(double.calls, [""; 0]);
        assert_eq!(double.said, [""; 0]);
    }

    #[test]
    fn a_machine_without_a_gpu_says_so() {
        let mut double = Double::with_driver();
        double.pci("0000:00:01.0", "0x1af4", "0x020000");
        double.pci("0000:00:06.1", "0x10de", "0x040300");
        double.module = Err(libc::ENODEV);
        assert_eq!(load(&mut double).unwrap(), 0);
        assert_eq!(double.said, ["no GPU"]);
        assert_eq!(double.effects().len(), 1);
    }

    #[test]
    fn each_gpu_has_its_device_and_is_held() {
        let mut double = Double::with_driver();
        double.pci("0000:00:05.0", "0x10de", "0x030200");
        double.pci("0000:00:06.0", "0x10de", "0x030000");
        assert_eq!(load(&mut double).unwrap(), 2);
        assert_eq!(
            double.effects(),
            [
                "module /usr/lib/modules/nvidia.ko NVreg_ModifyDeviceFiles=0 \
                 NVreg_DeviceFileUID=1000 NVreg_DeviceFileGID=1000 NVreg_DeviceFileMode=384",
                "module /usr/lib/modules/nvidia-uvm.ko ",
                "device /dev/nvidiactl 195 255",
                "give /dev/nvidiactl",
                "device /dev/nvidia-uvm 511 0",
                "give /dev/nvidia-uvm",
                "device /dev/nvidia0 195 0",
                "give /dev/nvidia0",
                "hold /dev/nvidia0",
                "device /dev/nvidia1 195 1",
                "give /dev/nvidia1",
                "hold /dev/nvidia1",
            ]
        );
        assert_eq!(
            double.said,
            [
                "GPU 0000:00:05.0 at /dev/nvidia0",
                "GPU 0000:00:06.0 at /dev/nvidia1"
            ]
        );
    }

    #[test]
    fn a_gpu_that_the_driver_does_not_know_is_not_overlooked() {
        let mut double = Double::with_driver();
        double.pci("0000:00:05.0", "0x10de", "0x030200");
        double.module = Err(libc::ENODEV);
        assert_eq!(
            reason(double),
            "cannot load /usr/lib/modules/nvidia.ko for 0000:00:05.0: \
             No such device (os error 19)"
        );
    }

    #[test]
    fn a_module_that_is_refused_is_an_error_with_and_without_a_gpu() {
        let mut double = Double::with_driver();
        double.module = Err(libc::EPERM);
        assert_eq!(
            reason(double),
            "cannot load /usr/lib/modules/nvidia.ko for no GPU: \
             Operation not permitted (os error 1)"
        );
    }

    #[test]
    fn a_gpu_that_does_not_start_is_named() {
        let mut double = Double::with_driver();
        double.pci("0000:00:05.0", "0x10de", "0x030200");
        load(&mut double).unwrap();
        let hold = double
            .calls
            .iter()
            .position(|call| call.starts_with("hold"));
        let mut double = Double::with_driver();
        double.pci("0000:00:05.0", "0x10de", "0x030200");
        double.refuse = hold;
        assert_eq!(
            reason(double),
            "GPU 0000:00:05.0 does not start, the kernel says why: /dev/nvidia0: \
             the double refuses"
        );
    }

    #[test]
    fn gpus_take_work_only_after_they_were_verified_without_privileges() {
        let mut double = Double::with_driver();
        admit(&mut double, 1).unwrap();
        let [verify, accept] = double.effects()[..] else {
            panic!("{:?}", double.calls);
        };
        assert_eq!(
            verify,
            "run /usr/bin/gpus --count 1 verify --unmeasured /run/cocoon/unmeasured.toml as Agent"
        );
        assert_eq!(accept, "run /usr/bin/gpus --count 1 accept-work as Root");

        let mut double = Double::with_driver();
        double.refuse = Some(0);
        let error = admit(&mut double, 1).unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "the GPUs are refused: the double refuses"
        );
        assert_eq!(double.calls.len(), 1);

        admit(&mut double, 0).unwrap();
        assert_eq!(double.calls.len(), 1);
    }

    #[test]
    fn a_switch_is_refused() {
        let mut double = Double::with_driver();
        double.pci("0000:00:07.0", "0x10de", "0x068000");
        assert_eq!(
            reason(double),
            "0000:00:07.0 is an NVSwitch, which this image cannot drive"
        );
    }

    #[test]
    fn what_sysfs_and_proc_must_say_is_missed_by_name() {
        let mut double = Double::with_driver();
        double.pci("0000:00:05.0", "10de", "0x030200");
        assert_eq!(
            reason(double),
            "/sys/bus/pci/devices/0000:00:05.0/vendor is \"10de\\n\", expected 0x and hex digits"
        );
        let mut double = Double::with_driver();
        double.pci("0000:00:05.0", "0x10de", "0x030200");
        double.file("/proc/devices", "511 nvidia-uvmx\n");
        assert_eq!(reason(double), "/proc/devices has no nvidia-uvm");
    }
}
