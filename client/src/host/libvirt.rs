//! The same VM as a libvirt domain.
//!
//! libvirt has no words for most of what is measured, and adds devices of its own
//! where it is free to. So the domain is bare, and the arguments go through as they
//! are, but for those that libvirt writes itself from the elements above them. It
//! neither labels nor permits the files that it does not know of: the comment says
//! which.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use measurements::qemu;
use measurements::shape::Platform;

use super::instance::Name;
use super::vm::Vm;

/// The XML of `virsh define`.
pub fn domain(name: &Name, vm: &Vm, emulator: &str) -> Result<String> {
    ensure!(
        vm.platform == Platform::Tdx,
        "a domain for libvirt is made for TDX alone: for trying, start `cocoon host run` itself"
    );
    let image = &vm.image;
    let [firmware, kernel, initrd] = [&image.firmware, &image.kernel, &image.initrd]
        .map(|path| escaped(&path.display().to_string()));
    let files = vm
        .files()
        .into_iter()
        .map(|file| file.display().to_string());
    let mut xml = format!(
        "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <!-- QEMU must be let to read {}{}: see user, security_driver and cgroup_device_acl in
       qemu.conf. -->
  <name>cocoon-{name}</name>
  <memory unit='MiB'>{}</memory>
  <vcpu>{vcpus}</vcpu>
  <os>
    <type arch='x86_64' machine='{}'>hvm</type>
    <loader type='rom' readonly='yes'>{firmware}</loader>
    <kernel>{kernel}</kernel>
    <initrd>{initrd}</initrd>
    <cmdline>{}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='host-passthrough' migratable='off'>
    <topology sockets='1' cores='{vcpus}' threads='1'/>
  </cpu>
  <on_poweroff>destroy</on_poweroff>
  <on_reboot>destroy</on_reboot>
  <on_crash>destroy</on_crash>
  <devices>
    <emulator>{}</emulator>
    <controller type='usb' model='none'/>
    <serial type='pty'><target type='isa-serial'/></serial>
    <memballoon model='none'/>
  </devices>
  <qemu:commandline>
",
        escaped(&files.collect::<Vec<_>>().join(", ").replace("--", "- -")),
        match vm.devices.is_empty() {
            true => "",
            false => ", and to open /dev/iommu and /dev/vfio/devices/*",
        },
        vm.shape.memory.mib,
        qemu::MACHINE,
        escaped(&image.command_line),
        escaped(emulator),
        vcpus = vm.shape.vcpus,
    );
    for argument in passed_on(&vm.arguments()?) {
        writeln!(xml, "    <qemu:arg value='{}'/>", escaped(argument))?;
    }
    xml += "  </qemu:commandline>\n</domain>\n";
    Ok(xml)
}

/// The arguments but those that libvirt writes itself.
fn passed_on(arguments: &[String]) -> Vec<&str> {
    let mut passed = Vec::new();
    let mut arguments = arguments.iter().map(String::as_str).peekable();
    while let Some(option) = arguments.next() {
        let value = arguments.next_if(|next| !next.starts_with('-'));
        if !OWN.contains(&option) {
            passed.push(option);
            passed.extend(value);
        }
    }
    passed
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('\'', "&apos;")
        .replace('\n', "&#10;")
}

/// From the elements of the domain, or always.
const OWN: [&str; 15] = [
    "-accel",
    "-append",
    "-bios",
    "-chardev",
    "-display",
    "-initrd",
    "-kernel",
    "-m",
    "-no-reboot",
    "-no-user-config",
    "-nodefaults",
    "-qmp",
    "-serial",
    "-smp",
    "-vga",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::vm::tests::gpu_vm;

    #[test]
    fn everything_measured_reaches_qemu_as_it_is() {
        let vm = gpu_vm();
        let xml = domain(&"a".parse().unwrap(), &vm, "/usr/bin/qemu").unwrap();
        let measured = qemu::arguments(vm.shape, vm.platform, &["m"]).unwrap();
        for argument in passed_on(&measured) {
            let line = format!("<qemu:arg value='{}'/>", escaped(argument));
            assert!(xml.contains(&line), "{argument}");
        }
        for part in [
            "<name>cocoon-a</name>",
            "<memory unit='MiB'>131072</memory>",
            "<vcpu>16</vcpu>",
            "<cmdline>console=ttyS0 &lt;&apos;&amp;&apos;&gt;</cmdline>",
            "/dev/iommu",
            "value='vfio-pci,host=0000:17:00.0,bus=gpu0,iommufd=iommufd0'",
        ] {
            assert!(xml.contains(part), "{part}");
        }
        for own in ["chardev:console", "'-qmp'", "'-m'", "'-nodefaults'"] {
            assert!(!xml.contains(own), "{own}");
        }
    }

    #[test]
    fn an_option_that_is_left_out_takes_its_value_along() {
        let arguments = ["-display", "none", "-no-reboot", "-device", "x"].map(String::from);
        assert_eq!(passed_on(&arguments), ["-device", "x"]);
    }

    #[test]
    fn a_tpm_is_not_for_libvirt() {
        let mut vm = gpu_vm();
        vm.platform = Platform::Vtpm;
        let error = domain(&"a".parse().unwrap(), &vm, "qemu").unwrap_err();
        assert!(error.to_string().contains("TDX alone"));
    }
}
