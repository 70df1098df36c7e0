//! Processor, BIOS, kernel: can this server run TDs?
//!
//! Sources: Linux Documentation/arch/x86/tdx.rst (nohibernate), arch/x86/kvm/vmx/tdx.c
//! (the module's parameter), arch/x86/include/asm/cpufeatures.h (tdx_host_platform,
//! set when the BIOS left private key ids); model numbers in
//! arch/x86/include/asm/intel-family.h.

use super::Finding;
use crate::host::server::{KVM_TDX, Server};

pub(super) fn check(server: &Server, processor: &Processor) -> Vec<Finding> {
    let mut findings = Vec::from([processor.check()]);
    if processor.is_candidate() {
        findings.push(bios(processor));
        findings.push(kernel(server));
        findings.push(hibernation(server));
    }
    findings.push(kvm(server, processor));
    findings
}

pub(super) struct Processor {
    name: String,
    is_intel: bool,
    model: u32,
    flags: Vec<String>,
}

impl Processor {
    pub(super) fn of(server: &Server) -> Self {
        let field = |key| server.field(CPUINFO, key).unwrap_or_default();
        let family = field("cpu family");
        Self {
            name: field("model name"),
            is_intel: field("vendor_id") == "GenuineIntel" && family == "6",
            model: field("model").parse().unwrap_or_default(),
            flags: field("flags").split(' ').map(Into::into).collect(),
        }
    }

    /// Whether anything but another machine can bring TDX.
    pub(super) fn is_candidate(&self) -> bool {
        self.is_intel && !self.has("hypervisor")
    }

    fn has(&self, flag: &str) -> bool {
        self.flags.iter().any(|found| found == flag)
    }

    fn check(&self) -> Finding {
        let Self { name, model, .. } = self;
        let generation = GENERATIONS.iter().find(|(number, _)| number == model);
        if self.has("hypervisor") {
            let found = format!("{name}, and this is a virtual machine");
            return Finding::fail("cpu", found, "TDs run on bare metal only", "");
        }
        match generation.filter(|_| self.is_intel) {
            Some((_, generation)) => Finding::ok("cpu", format!("{name} ({generation})")),
            None if self.is_intel && *model == SAPPHIRE_RAPIDS => Finding::warn(
                "cpu",
                format!("{name} (Sapphire Rapids)"),
                "only some processors of this generation have TDX: see the line of the BIOS",
                "",
            ),
            None => Finding::fail(
                "cpu",
                name,
                "TDX needs an Intel Xeon of the 5th generation or later",
                "",
            ),
        }
    }
}

fn bios(processor: &Processor) -> Finding {
    match processor.has("tdx_host_platform") {
        true => Finding::ok("bios", "left private key ids to TDX"),
        false => Finding::fail(
            "bios",
            "left no private key ids to TDX: /proc/cpuinfo has no flag tdx_host_platform",
            "in the BIOS setup turn on TME, TME-MT, TDX, SEAM Loader and SGX, and give TDX a \
             key split above 0",
            "systemctl reboot --firmware-setup",
        ),
    }
}

fn kernel(server: &Server) -> Finding {
    let release = server
        .text("/proc/sys/kernel/osrelease")
        .unwrap_or_default();
    let mut numbers = release.split(['.', '-']).map(|number| number.parse().ok());
    let version = (numbers.next().flatten(), numbers.next().flatten());
    match version {
        (Some(major), Some(minor)) if (major, minor) >= MAINLINE => Finding::ok("kernel", release),
        // A distribution's own port.
        _ if server.has(KVM_TDX) => Finding::ok("kernel", format!("{release}, with TDX")),
        _ => Finding::fail(
            "kernel",
            format!("{release}, expected 6.16 or later"),
            "install a newer kernel",
            "apt-get install -t trixie-backports linux-image-amd64",
        ),
    }
}

fn hibernation(server: &Server) -> Finding {
    match server.text("/sys/power/disk") {
        Some(modes) if modes != "[disabled]" => Finding::fail(
            "hibernation",
            "possible, so the kernel leaves TDX off",
            "add nohibernate to the kernel's command line",
            "sed -i 's/^GRUB_CMDLINE_LINUX=\"/&nohibernate /' /etc/default/grub && update-grub",
        ),
        _ => Finding::ok("hibernation", "impossible"),
    }
}

fn kvm(server: &Server, processor: &Processor) -> Finding {
    if !server.has(KVM) {
        let module = match processor.is_intel {
            true => "modprobe kvm_intel",
            false => "modprobe kvm_amd",
        };
        return Finding::fail("kvm", "there is no /dev/kvm", "load KVM", module);
    }
    if !server.opens(KVM) {
        let remedy = "let this user in, and log in again";
        return Finding::fail(
            "kvm",
            "/dev/kvm is closed to this user",
            remedy,
            "usermod -aG kvm \"$USER\"",
        );
    }
    match server.text(KVM_TDX).as_deref() {
        Some("Y") => Finding::ok("kvm", "with TDX"),
        _ if !processor.is_candidate() => Finding::ok("kvm", "without TDX"),
        Some(_) => Finding::fail(
            "kvm",
            "TDX is off: /sys/module/kvm_intel/parameters/tdx is not Y",
            "turn it on; if it stays off, the kernel's log says why (journalctl -k -g tdx)",
            "echo 'options kvm_intel tdx=1' > /etc/modprobe.d/tdx.conf && modprobe -r kvm_intel \
             && modprobe kvm_intel",
        ),
        None => Finding::fail(
            "kvm",
            "knows no TDX: there is no /sys/module/kvm_intel/parameters/tdx",
            "boot a kernel with CONFIG_KVM_INTEL_TDX",
            "modprobe kvm_intel",
        ),
    }
}

const CPUINFO: &str = "/proc/cpuinfo";
const KVM: &str = "/dev/kvm";
/// The first one whose KVM runs TDs.
const MAINLINE: (u32, u32) = (6, 16);
const SAPPHIRE_RAPIDS: u32 = 0x8f;
const GENERATIONS: [(u32, &str); 5] = [
    (0xad, "Granite Rapids"),
    (0xae, "Granite Rapids D"),
    (0xaf, "Sierra Forest"),
    (0xcf, "Emerald Rapids"),
    (0xdd, "Clearwater Forest"),
];

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::super::tests::found;
    use crate::host::server::tests::Double;

    #[test]
    fn a_virtual_machine_is_no_host() {
        let double = Double::ready();
        double.file("proc/cpuinfo", "vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 207\nmodel name\t: X\nflags\t\t: fpu hypervisor\n");
        let cpu = found(&double, "cpu");
        assert_eq!(
            (cpu.level, &*cpu.found),
            (Level::Fail, "X, and this is a virtual machine")
        );
    }

    #[test]
    fn one_generation_has_tdx_only_sometimes() {
        let double = Double::ready();
        double.file("proc/cpuinfo", "vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 143\nmodel name\t: X\nflags\t\t: fpu tdx_host_platform\n");
        assert_eq!(found(&double, "cpu").level, Level::Warn);
        assert_eq!(found(&double, "bios").level, Level::Ok);
    }

    #[test]
    fn a_distributions_own_port_of_tdx_counts() {
        let double = Double::ready();
        double.file("proc/sys/kernel/osrelease", "6.8.0-1028-intel\n");
        let kernel = found(&double, "kernel");
        assert_eq!(
            (kernel.level, &*kernel.found),
            (Level::Ok, "6.8.0-1028-intel, with TDX")
        );
    }

    #[test]
    fn hibernation_turns_tdx_off() {
        let double = Double::ready();
        double.file("sys/power/disk", "[platform] shutdown reboot\n");
        assert_eq!(found(&double, "hibernation").level, Level::Fail);
    }

    #[test]
    fn kvm_must_be_there_open_and_know_tdx() {
        let double = Double::ready();
        double.file("sys/module/kvm_intel/parameters/tdx", "N\n");
        assert!(found(&double, "kvm").found.starts_with("TDX is off"));
        double.without("sys/module/kvm_intel/parameters/tdx");
        assert!(found(&double, "kvm").found.starts_with("knows no TDX"));
        double.state().locked.borrow_mut().insert("dev/kvm".into());
        assert_eq!(
            found(&double, "kvm").found,
            "/dev/kvm is closed to this user"
        );
        double.without("dev/kvm");
        assert_eq!(found(&double, "kvm").found, "there is no /dev/kvm");
    }
}
