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

/// Bounds every process that is started from here on.
pub(crate) fn children(system: &mut dyn System) -> anyhow::Result<()> {
    system
        .confine_children()
        .context("cannot give up privileges for children")
}

const SYSCTLS: [(&str, &str); 14] = [
    ("fs/suid_dumpable", "0"),
    ("kernel/dmesg_restrict", "1"),
    ("kernel/io_uring_disabled", "2"),
    ("kernel/kexec_load_disabled", "1"),
    ("kernel/kptr_restrict", "2"),
    ("kernel/modules_disabled", "1"),
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
