//! How the programs that make up a VM are started.

use std::path::Path;
use std::process::{Child, Command};

/// QEMU and swtpm: installed here, or in a sandbox that is the same everywhere.
pub trait Programs {
    /// A command that sees `needs`, at the paths that they have here.
    fn command(&self, program: &str, needs: Needs<'_>) -> Command;
}

/// What a program cannot do without.
#[derive(Clone, Copy, Debug, Default)]
pub struct Needs<'a> {
    /// Files and folders to be read.
    pub reads: &'a [&'a Path],
    /// Folders to be written.
    pub writes: &'a [&'a Path],
    /// Sockets of this machine's network.
    pub network: bool,
}

/// What is installed here.
#[derive(Clone, Debug)]
pub struct Installed {
    /// Run instead of [`QEMU`].
    pub qemu: String,
}

impl Programs for Installed {
    fn command(&self, program: &str, _needs: Needs<'_>) -> Command {
        match program {
            QEMU => Command::new(&self.qemu),
            other => Command::new(other),
        }
    }
}

/// Ends a child that may have ended already.
pub fn end(child: &mut Child) {
    if child.kill().is_ok() {
        // Nothing is left to do with the status of what was killed.
        drop(child.wait());
    }
}

/// By the name that it has everywhere.
pub const QEMU: &str = "qemu-system-x86_64";
