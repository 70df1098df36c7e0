//! What this machine will not do, whatever runs in it later.

use std::io::ErrorKind;

use anyhow::Context;

use crate::system::System;

/// Turns off what the kernel offers and nothing here needs.
pub(crate) fn kernel(system: &mut dyn System) -> anyhow::Result<()> {
    for (name, value) in SYSCTLS {
        let path = format!("/proc/sys/{name}");
        match system.write(&path, value.as_bytes()) {
            // A kernel built without the feature has no switch for it.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            result => result.with_context(|| format!("cannot write {value} to {path}"))?,
        }
    }
    Ok(())
}

/// Ends what the driver needed: from here on nobody changes the kernel, or reads it.
///
/// A kernel that is locked from its start, or has no modules, has no more to do.
pub(crate) fn lock(system: &mut dyn System) -> anyhow::Result<()> {
    match system.write(MODULES_DISABLED, b"1") {
        Err(error) if error.kind() == ErrorKind::NotFound => {}
        result => result.with_context(|| format!("cannot write 1 to {MODULES_DISABLED}"))?,
    }
    let level = system
        .read(LOCKDOWN, 80)
        .with_context(|| format!("cannot read {LOCKDOWN}"))?;
    if String::from_utf8_lossy(&level).contains("[confidentiality]") {
        return Ok(());
    }
    system
        .write(LOCKDOWN, b"confidentiality")
        .with_context(|| format!("cannot write confidentiality to {LOCKDOWN}"))
}

/// Bounds every process that is started from here on.
pub(crate) fn children(system: &mut dyn System) -> anyhow::Result<()> {
    system
        .confine_children()
        .context("cannot give up privileges for children")
}

/// The levels, the one that holds in brackets.
const LOCKDOWN: &str = "/sys/kernel/security/lockdown";
const MODULES_DISABLED: &str = "/proc/sys/kernel/modules_disabled";

const SYSCTLS: [(&str, &str); 13] = [
    ("fs/suid_dumpable", "0"),
    ("kernel/dmesg_restrict", "1"),
    ("kernel/io_uring_disabled", "2"),
    ("kernel/kexec_load_disabled", "1"),
    ("kernel/kptr_restrict", "2"),
    // Stop at once rather than go on with a kernel in doubt.
    ("kernel/panic", "-1"),
    ("kernel/panic_on_oops", "1"),
    ("kernel/perf_event_paranoid", "3"),
    ("kernel/sysrq", "0"),
    ("kernel/unprivileged_bpf_disabled", "1"),
    ("kernel/yama/ptrace_scope", "3"),
    ("net/ipv4/conf/all/accept_redirects", "0"),
    ("vm/unprivileged_userfaultfd", "0"),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::double::Double;

    #[test]
    fn a_kernel_that_is_not_locked_is_locked_once() {
        for (level, writes) in [
            ("[none] integrity confidentiality\n", 2),
            ("none [integrity] confidentiality\n", 2),
            ("none integrity [confidentiality]\n", 1),
        ] {
            let mut double = Double::with_tpm();
            double.file(LOCKDOWN, level);
            lock(&mut double).unwrap();
            assert_eq!(double.effects().len(), writes, "{level}");
        }
    }

    #[test]
    fn a_kernel_that_cannot_be_locked_ends_the_boot() {
        let mut double = Double::with_tpm();
        double.files.remove(LOCKDOWN);
        let error = lock(&mut double).unwrap_err();
        assert_eq!(
            format!("{error:#}"),
            "cannot read /sys/kernel/security/lockdown: entity not found"
        );
    }

    #[test]
    fn a_switch_that_the_kernel_has_and_will_not_take_is_an_error() {
        let mut double = Double::with_tpm();
        double.refuse = Some(3);
        let error = kernel(&mut double).unwrap_err();
        let (name, value) = SYSCTLS[3];
        assert_eq!(
            format!("{error:#}"),
            format!("cannot write {value} to /proc/sys/{name}: the double refuses")
        );
    }
}
