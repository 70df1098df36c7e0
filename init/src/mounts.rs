//! The kernel's file systems, and the move from the initrd to the verity root.

use anyhow::Context;

use crate::disk;
use crate::system::{Limits, Mount, System};

/// Mounts what the kernel offers to user space.
pub(crate) fn kernel(system: &mut dyn System) -> anyhow::Result<()> {
    for (kind, target, limits, options) in KERNEL {
        system
            .create_dir(target)
            .with_context(|| format!("cannot make {target}"))?;
        let mount = Mount {
            source: kind,
            target,
            kind,
            limits,
            options,
        };
        system
            .mount(&mount)
            .with_context(|| format!("cannot mount {kind} on {target}"))?;
    }
    Ok(())
}

/// Empties the initrd, whose memory nobody could free later, and moves the kernel's
/// file systems under the verity root.
///
/// The pages of `/init` itself stay: we run from them.
pub(crate) fn switch_root(system: &mut dyn System) -> anyhow::Result<()> {
    for file in ["/init", disk::ROOT_HASH] {
        system
            .remove(file)
            .with_context(|| format!("cannot remove {file}"))?;
    }
    system
        .switch_root(disk::ROOT, &["/dev", "/proc", "/run", "/sys"])
        .with_context(|| format!("cannot make {} the root", disk::ROOT))
}

/// Kind, place, limits, options. A mount goes below one that is above it here.
const KERNEL: [(&str, &str, Limits, &str); 6] = [
    // Nobody sees other users' processes.
    ("proc", "/proc", Limits::Data, "hidepid=invisible"),
    ("sysfs", "/sys", Limits::Data, ""),
    ("devtmpfs", "/dev", Limits::Devices, "mode=0755"),
    ("tmpfs", "/run", Limits::Data, "mode=0755,size=16m"),
    ("configfs", "/sys/kernel/config", Limits::Data, ""),
    ("securityfs", "/sys/kernel/security", Limits::Data, ""),
];
