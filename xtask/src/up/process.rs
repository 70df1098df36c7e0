//! A program that runs beside others.

use std::io::{BufRead as _, BufReader};
use std::net::{SocketAddr, TcpStream};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// A part that ends when this is dropped: first by the end of its input or by
/// SIGTERM, at last by SIGKILL.
#[derive(Debug)]
pub(crate) struct Process {
    name: &'static str,
    child: Child,
    input: Option<ChildStdin>,
    output: Option<BufReader<ChildStdout>>,
}

impl Process {
    /// Starts a program that has nothing to read.
    pub(crate) fn start(name: &'static str, mut command: Command) -> Result<Self> {
        let mut child = command
            .stdin(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {name}"))?;
        Ok(Self {
            name,
            input: child.stdin.take(),
            output: child.stdout.take().map(BufReader::new),
            child,
        })
    }

    /// The next line of what it prints.
    pub(crate) fn line(&mut self) -> Result<String> {
        let output = self.output.as_mut();
        let output = output.with_context(|| format!("{} has no output", self.name))?;
        let mut line = String::new();
        output
            .read_line(&mut line)
            .with_context(|| format!("cannot read what {} says", self.name))?;
        Ok(line)
    }

    /// Makes sure that it still runs.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.child.try_wait().context("cannot wait")? {
            None => Ok(()),
            Some(status) => bail!("{} ended: {status}", self.name),
        }
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: Signal) -> Result<()> {
        let id = i32::try_from(self.child.id()).context("no process has this number")?;
        kill(Pid::from_raw(id), signal)
            .with_context(|| format!("cannot send {signal} to {}", self.name))
    }

    /// Waits until it listens.
    pub(crate) fn wait_for(&mut self, address: SocketAddr) -> Result<()> {
        let started = Instant::now();
        while TcpStream::connect(address).is_err() {
            self.check()?;
            ensure!(started.elapsed() < START, "{} does not listen", self.name);
            thread::sleep(POLL);
        }
        Ok(())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        drop(self.input.take());
        let started = Instant::now();
        // It may have ended; then there is nobody to ask.
        drop(self.signal(Signal::SIGTERM));
        while started.elapsed() < STOP && matches!(self.child.try_wait(), Ok(None)) {
            thread::sleep(POLL);
        }
        if matches!(self.child.try_wait(), Ok(None)) && self.child.kill().is_ok() {
            // Nothing is left to do with the status of what was killed.
            drop(self.child.wait());
        }
    }
}

const POLL: Duration = Duration::from_millis(50);

/// The agent loads models before it serves, unoptimised.
const START: Duration = Duration::from_secs(120);

const STOP: Duration = Duration::from_secs(10);
