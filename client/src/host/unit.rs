//! `cocoon host unit`: instances as services of systemd.
//!
//! One template, `cocoon@NAME.service`; what an instance runs with is in
//! `/etc/cocoon/NAME.conf`:
//!
//! ```text
//! GPUS=17:00.0
//! ARGUMENTS=--shape gpu1 --artefacts /var/lib/cocoon/image --gpu 17:00.0 --model /var/lib/cocoon/model
//! ```
//!
//! It runs as a user of its own, who may open KVM and VFIO devices and little else.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use attestation::appraisal::Verdict;
use clap::Args;

/// Where to.
#[derive(Args, Debug)]
pub struct UnitArgs {
    /// Write the files instead of printing them, as root.
    #[arg(long)]
    install: bool,
    /// Root of the file system to write to.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

impl UnitArgs {
    pub(super) fn run(&self) -> Result<Verdict> {
        let program = std::env::current_exe().context("cannot find this program")?;
        let mut out = io::stdout().lock();
        for (path, content) in files(&program) {
            if !self.install {
                writeln!(out, "# /{path}\n{content}")?;
                continue;
            }
            let path = self.root.join(path);
            if let Some(folder) = path.parent() {
                fs::create_dir_all(folder)
                    .with_context(|| format!("cannot make {}", folder.display()))?;
            }
            fs::write(&path, content)
                .with_context(|| format!("cannot write {}", path.display()))?;
            writeln!(out, "{}", path.display())?;
        }
        if self.install {
            writeln!(out, "now: {AFTERWARDS}")?;
        }
        Ok(Verdict::Trusted)
    }
}

/// Paths under the root, and what is in them.
fn files(program: &Path) -> [(&'static str, String); 3] {
    let program = program.display().to_string();
    [
        (
            "etc/systemd/system/cocoon@.service",
            UNIT.replace("/usr/bin/cocoon", &program),
        ),
        ("etc/sysusers.d/cocoon.conf", USER.into()),
        ("etc/udev/rules.d/60-cocoon.rules", DEVICES.into()),
    ]
}

const AFTERWARDS: &str = "systemd-sysusers && udevadm control --reload && udevadm trigger && \
    systemctl daemon-reload && systemctl enable --now cocoon@NAME";

/// Refused arguments stay refused: exit code 1 is not tried again. QEMU's emulator
/// writes code, so memory may be both written and executed.
const UNIT: &str = "\
[Unit]
Description=Cocoon machine %i
After=network-online.target qgsd.service
Wants=network-online.target

[Service]
Type=exec
EnvironmentFile=/etc/cocoon/%i.conf
ExecStartPre=+/usr/bin/cocoon host setup-gpu --apply --keep-mode $GPUS
ExecStartPre=+udevadm settle
ExecStart=/usr/bin/cocoon host run --name %i $ARGUMENTS
Restart=on-failure
RestartPreventExitStatus=1
RestartSec=10
KillMode=mixed
TimeoutStopSec=90

User=cocoon
SupplementaryGroups=kvm
RuntimeDirectory=cocoon
RuntimeDirectoryPreserve=yes
LimitMEMLOCK=infinity
UMask=0077

CapabilityBoundingSet=
DeviceAllow=/dev/iommu rw
DeviceAllow=/dev/kvm rw
DeviceAllow=char-vfio rw
DevicePolicy=closed
LockPersonality=yes
NoNewPrivileges=yes
PrivateMounts=yes
PrivateTmp=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHome=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProtectSystem=strict
RemoveIPC=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_VSOCK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallErrorNumber=EPERM
SystemCallFilter=@system-service
SystemCallFilter=~@privileged @resources

[Install]
WantedBy=multi-user.target
";
const USER: &str = "\
u cocoon - \"Cocoon machines\" /var/lib/cocoon
m cocoon kvm
";
const DEVICES: &str = "\
SUBSYSTEM==\"vfio\", GROUP=\"kvm\", MODE=\"0660\"
SUBSYSTEM==\"vfio-dev\", GROUP=\"kvm\", MODE=\"0660\"
SUBSYSTEM==\"misc\", KERNEL==\"iommu\", GROUP=\"kvm\", MODE=\"0660\"
";

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Output};

    #[test]
    fn installing_writes_the_files_under_a_root() {
        let root = tempfile::tempdir().unwrap();
        let args = UnitArgs {
            install: true,
            root: root.path().into(),
        };
        args.run().unwrap();
        let unit = root.path().join("etc/systemd/system/cocoon@.service");
        let unit = fs::read_to_string(unit).unwrap();
        let own = std::env::current_exe().unwrap();
        assert!(unit.contains(&format!("ExecStart={} host run", own.display())));
        assert!(
            root.path()
                .join("etc/udev/rules.d/60-cocoon.rules")
                .exists()
        );
        assert!(root.path().join("etc/sysusers.d/cocoon.conf").exists());
    }

    #[test]
    fn systemd_takes_the_unit() {
        let Some(output) = analyze(&["verify"]) else {
            return;
        };
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{said}");
        assert!(!said.contains("cocoon@"), "{said}");
    }

    #[test]
    fn the_unit_leaves_little_exposed() {
        // In tenths; systemd calls anything below 2.5 well protected.
        let Some(output) = analyze(&["security", "--offline=yes", "--threshold=20"]) else {
            return;
        };
        let said = String::from_utf8_lossy(&output.stdout);
        assert!(output.status.success(), "{said}");
    }

    /// Runs systemd-analyze on the unit, where it is installed.
    fn analyze(arguments: &[&str]) -> Option<Output> {
        if Command::new("systemd-analyze")
            .arg("--version")
            .output()
            .is_err()
        {
            eprintln!("skipped: no systemd-analyze");
            return None;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cocoon@x.service");
        let own = std::env::current_exe().unwrap();
        fs::write(&path, &files(&own)[0].1).unwrap();
        let output = Command::new("systemd-analyze")
            .args(arguments)
            .arg(&path)
            .output();
        Some(output.unwrap())
    }
}
