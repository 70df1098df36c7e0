//! Processes of which each has its processor time counted.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Ends with this.
pub(crate) struct Process {
    pub(crate) name: &'static str,
    child: Child,
    /// What it said first.
    pub(crate) said: String,
}

impl Process {
    /// This program again, as somebody else, who says a line when it is ready.
    pub(crate) fn role(name: &'static str, arguments: &[&str]) -> Self {
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.arg(name).args(arguments).stdout(Stdio::piped());
        let mut process = Self::start(name, &mut command);
        let said = BufReader::new(process.child.stdout.take().unwrap()).lines();
        process.said = said.map_while(Result::ok).next().expect("it begins");
        process
    }

    pub(crate) fn start(name: &'static str, command: &mut Command) -> Self {
        Self {
            name,
            child: command.stdin(Stdio::piped()).spawn().unwrap(),
            said: String::new(),
        }
    }

    /// Of it and of its children that run, in user and kernel.
    pub(crate) fn used(&self) -> Duration {
        used(self.child.id())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // nginx takes its children along only if it is asked to end.
        let id = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        nix::sys::signal::kill(id, nix::sys::signal::SIGTERM).unwrap_or_default();
        self.child.wait().map(drop).unwrap_or_default();
    }
}

fn used(id: u32) -> Duration {
    let threads = std::fs::read_dir(format!("/proc/{id}/task"));
    let threads = threads.into_iter().flatten().filter_map(Result::ok);
    threads.map(|thread| of_thread(&thread.path())).sum()
}

/// Its own, and that of processes that it started.
fn of_thread(thread: &Path) -> Duration {
    let read = |name: &str| std::fs::read_to_string(thread.join(name)).unwrap_or_default();
    // Nanoseconds on a processor come first (proc_pid_schedstat(5)).
    let own = read("schedstat");
    let own = own.split(' ').next().and_then(|own| own.parse().ok());
    let children = read("children");
    let children = children.split_whitespace().filter_map(|id| id.parse().ok());
    Duration::from_nanos(own.unwrap_or_default()) + children.map(used).sum::<Duration>()
}
