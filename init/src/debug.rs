//! The debug image: a root shell on the console, for whoever sits at it.
//!
//! It is chosen when init is compiled. Nothing at run time turns a release into
//! this, and the registers tell the two apart.

use anyhow::Context;

use crate::system::System;

/// Starts a shell that comes back when it is left.
pub(crate) fn shell(system: &mut dyn System) -> anyhow::Result<()> {
    system
        .start_shell(BUSYBOX, SCRIPT)
        .with_context(|| format!("cannot start {BUSYBOX}"))
}

const BUSYBOX: &str = "/usr/bin/busybox";
const SCRIPT: &str = "while :; do /usr/bin/busybox sh -i; /usr/bin/busybox sleep 1; done";
