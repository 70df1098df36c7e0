//! `cocoon host check`: what a server lacks, line by line, with the remedy.
//!
//! It reads, connects and asks programs for their version; it changes nothing.

use std::fmt;
use std::io::{self, Write as _};
use std::path::PathBuf;

use attestation::appraisal::Verdict;
use clap::Args;
use serde::Serialize;
use serde_json::json;

use self::processor::Processor;
use super::gpu::Gpu;
use super::server::Server;

pub(super) mod capacity;
mod gpus;
mod pci;
mod processor;
pub(super) mod qemu;
mod quotes;

/// What to look at.
#[derive(Args, Debug)]
pub struct CheckArgs {
    /// The QEMU that is to run VMs.
    #[arg(long, value_name = "PROGRAM", default_value = super::programs::QEMU)]
    qemu: String,
    /// NVIDIA's gpu-admin-tools, asked for the mode of each GPU. It reads the GPU's
    /// registers, so no VM may be using one.
    #[arg(long, value_name = "PROGRAM")]
    gpu_tools: Option<String>,
    /// URL of the PCCS, instead of the one in /etc/sgx_default_qcnl.conf.
    #[arg(long, value_name = "URL")]
    pccs: Option<String>,
    /// Where artefacts and models are to lie.
    #[arg(long, value_name = "DIR", default_value = "/var/lib/cocoon")]
    disk: PathBuf,
    /// Print one JSON object.
    #[arg(long)]
    json: bool,
}

impl CheckArgs {
    pub(super) fn run(&self) -> anyhow::Result<Verdict> {
        let findings = self.findings(&Server::this());
        let verdict = verdict(&findings);
        let mut out = io::stdout().lock();
        if self.json {
            let report = json!({ "verdict": word(verdict), "findings": findings });
            writeln!(out, "{report}")?;
            return Ok(verdict);
        }
        for finding in &findings {
            writeln!(out, "{finding}")?;
        }
        let count = |level| findings.iter().filter(|found| found.level == level).count();
        writeln!(
            out,
            "{}: {} ok, {} warnings, {} failed, {} unknown",
            word(verdict),
            count(Level::Ok),
            count(Level::Warn),
            count(Level::Fail),
            count(Level::Unknown)
        )?;
        Ok(verdict)
    }

    /// Everything, in the order in which a server is set up.
    fn findings(&self, server: &Server) -> Vec<Finding> {
        let processor = Processor::of(server);
        let mut findings = processor::check(server, &processor);
        // Where there will be no TD, nobody has to sign its quotes.
        if processor.is_candidate() {
            findings.extend(quotes::check(server, self.pccs.as_deref()));
        }
        if !Gpu::all(server).is_empty() {
            findings.extend(pci::check(server));
        }
        findings.extend(gpus::check(server, self.gpu_tools.as_deref()));
        findings.push(qemu::check(server, &self.qemu));
        findings.extend(capacity::check(server, &self.disk));
        findings
    }
}

/// One line.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
struct Finding {
    /// Stable, for scripts.
    name: &'static str,
    /// Which one, where there are several.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    level: Level,
    found: String,
    #[serde(flatten)]
    remedy: Option<Remedy>,
}

/// How to mend it.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
struct Remedy {
    remedy: String,
    /// Empty where only a person can.
    command: String,
}

impl Finding {
    fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self {
            name,
            device: None,
            level: Level::Ok,
            found: found.into(),
            remedy: None,
        }
    }

    fn warn(name: &'static str, found: impl Into<String>, remedy: &str, command: &str) -> Self {
        let remedy = Remedy {
            remedy: remedy.into(),
            command: command.into(),
        };
        Self {
            level: Level::Warn,
            remedy: Some(remedy),
            ..Self::ok(name, found)
        }
    }

    fn fail(name: &'static str, found: impl Into<String>, remedy: &str, command: &str) -> Self {
        Self {
            level: Level::Fail,
            ..Self::warn(name, found, remedy, command)
        }
    }

    fn unknown(name: &'static str, found: impl Into<String>, remedy: &str, command: &str) -> Self {
        Self {
            level: Level::Unknown,
            ..Self::warn(name, found, remedy, command)
        }
    }

    fn of(self, device: impl fmt::Display) -> Self {
        Self {
            device: Some(device.to_string()),
            ..self
        }
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, found, .. } = self;
        write!(f, "{:7} {name:11} ", self.level.word())?;
        if let Some(device) = &self.device {
            write!(f, "{device} ")?;
        }
        f.write_str(found)?;
        let Some(Remedy { remedy, command }) = &self.remedy else {
            return Ok(());
        };
        write!(f, "\n{:20}{remedy}", "")?;
        match command.as_str() {
            "" => Ok(()),
            command => write!(f, "\n{:20}$ {command}", ""),
        }
    }
}

/// How bad it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Level {
    /// As it has to be.
    Ok,
    /// It works, but not as well, or not for everything.
    Warn,
    /// No machine that clients trust will run.
    Fail,
    /// It could not be seen from here.
    Unknown,
}

impl Level {
    const fn word(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail => "FAIL",
            Self::Unknown => "unknown",
        }
    }
}

fn verdict(findings: &[Finding]) -> Verdict {
    let any = |level| findings.iter().any(|finding| finding.level == level);
    match (any(Level::Fail), any(Level::Unknown)) {
        (true, _) => Verdict::Rejected,
        (false, true) => Verdict::Undecided,
        (false, false) => Verdict::Trusted,
    }
}

const fn word(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Trusted => "ready",
        Verdict::Rejected => "not ready",
        Verdict::Undecided => "could not tell",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::host::server::Endpoint;
    use crate::host::server::tests::{Double, H100};

    /// Runs all checks; those that are not ok, as `level name [device]`.
    fn wrong(double: &Double) -> Vec<String> {
        let findings = arguments().findings(&double.server());
        let wrong = findings.iter().filter(|found| found.level != Level::Ok);
        wrong
            .map(|found| {
                let remedy = found.remedy.as_ref().unwrap();
                assert!(!remedy.remedy.is_empty(), "{found}");
                format!("{} {}", found.level.word(), found.name)
            })
            .collect()
    }

    /// The one finding of that name.
    pub(super) fn found(double: &Double, name: &str) -> Finding {
        let findings = arguments().findings(&double.server());
        findings
            .into_iter()
            .find(|found| found.name == name)
            .unwrap()
    }

    fn arguments() -> CheckArgs {
        CheckArgs {
            qemu: crate::host::programs::QEMU.into(),
            gpu_tools: Some("gpu-tools".into()),
            pccs: None,
            disk: "/var/lib/cocoon".into(),
            json: false,
        }
    }

    #[test]
    fn a_server_that_is_ready_has_nothing_to_mend() {
        let double = Double::ready();
        assert!(wrong(&double).is_empty(), "{:?}", wrong(&double));
        assert_eq!(
            verdict(&arguments().findings(&double.server())),
            Verdict::Trusted
        );
    }

    #[test]
    fn a_check_changes_nothing() {
        let double = Double::ready();
        wrong(&double);
        let done = double.state().done.borrow();
        assert!(
            done.iter().all(|command| !command.contains(" > ")),
            "{done:?}"
        );
        assert!(
            done.iter().all(|command| !command.contains("--set")),
            "{done:?}"
        );
    }

    #[test]
    fn each_server_that_lacks_something_is_told_what() {
        type Break = fn(&Double);
        let cases: [(&str, &[&str], Break); 9] = [
            ("AMD", &["FAIL cpu"], |double| {
                double.file("proc/cpuinfo", "vendor_id\t: AuthenticAMD\ncpu family\t: 26\nmodel\t\t: 2\nmodel name\t: AMD EPYC 9555\nflags\t\t: fpu svm\n");
            }),
            (
                "TDX off in the BIOS",
                &["FAIL bios", "FAIL kvm"],
                |double| {
                    double
                    .file("proc/cpuinfo", "vendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 207\nmodel name\t: X\nflags\t\t: fpu vmx sgx\n")
                    .file("sys/module/kvm_intel/parameters/tdx", "N\n");
                },
            ),
            ("an old kernel", &["FAIL kernel", "FAIL kvm"], |double| {
                double
                    .file("proc/sys/kernel/osrelease", "6.12.90-amd64\n")
                    .without("sys/module/kvm_intel/parameters/tdx");
            }),
            ("no IOMMU", &["FAIL iommu"], |double| {
                double.without("sys/class/iommu/dmar0");
            }),
            (
                "a GPU with the driver of the host",
                &["FAIL gpu-driver"],
                |double| {
                    double.bind(H100, "nvidia");
                },
            ),
            ("CC off", &["FAIL gpu-cc"], |double| {
                double.says(
                    &format!("gpu-tools --gpu-bdf={H100} --query-cc-mode"),
                    "x CC mode is off\n",
                );
            }),
            ("an old QEMU", &["FAIL qemu"], |double| {
                double.says(
                    "qemu-system-x86_64 --version",
                    "QEMU emulator version 10.0.13\n",
                );
            }),
            ("nobody who signs quotes", &["FAIL qgs"], |double| {
                double
                    .state()
                    .listening
                    .borrow_mut()
                    .retain(|who| matches!(who, Endpoint::Tcp(_)));
            }),
            ("a small disk", &["FAIL disk"], |double| {
                *double.state().free_disk.borrow_mut() = 1 << 30;
            }),
        ];
        for (name, expected, change) in cases {
            let double = Double::ready();
            change(&double);
            assert_eq!(wrong(&double), expected, "{name}");
        }
    }

    #[test]
    fn what_failed_weighs_more_than_what_is_unknown() {
        let unknown = Finding::unknown("a", "?", "look", "");
        let fail = Finding::fail("b", "no", "mend", "");
        let warn = Finding::warn("c", "so so", "mend", "");
        assert_eq!(verdict(std::slice::from_ref(&warn)), Verdict::Trusted);
        assert_eq!(verdict(&[warn, unknown.clone()]), Verdict::Undecided);
        assert_eq!(verdict(&[unknown, fail]), Verdict::Rejected);
    }

    #[test]
    fn a_finding_ends_with_the_command() {
        let finding = Finding::fail("iommu", "none", "turn it on", "reboot").of(H100);
        let expected = format!(
            "FAIL    iommu       {H100} none\n{:20}turn it on\n{:20}$ reboot",
            "", ""
        );
        assert_eq!(finding.to_string(), expected);
        assert_eq!(
            json!(finding),
            json!({"name": "iommu", "device": H100, "level": "fail", "found": "none",
                   "remedy": "turn it on", "command": "reboot"})
        );
    }
}
