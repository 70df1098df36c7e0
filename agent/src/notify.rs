//! Tells PID 1 that this process is ready, and then that it is alive.
//!
//! One line each on a pipe whose number is in `COCOON_NOTIFY_FD`: `ready` once,
//! `alive` every [`PERIOD`]. Without the variable nobody listens.

use std::env;
use std::fs::File;
use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use tokio::time::interval;

/// Between two signs of life.
pub const PERIOD: Duration = Duration::from_secs(5);

/// The pipe to PID 1, if there is one.
#[derive(Debug)]
pub struct Notifier(Option<File>);

impl Notifier {
    /// Opens what the environment names.
    pub fn from_env() -> anyhow::Result<Self> {
        let Some(fd) = env::var_os("COCOON_NOTIFY_FD") else {
            return Ok(Self(None));
        };
        let fd: u32 = fd
            .to_str()
            .and_then(|fd| fd.parse().ok())
            .context("COCOON_NOTIFY_FD is not a file descriptor")?;
        let pipe = File::options()
            .write(true)
            .open(format!("/proc/self/fd/{fd}"))
            .with_context(|| format!("cannot open file descriptor {fd}"))?;
        Ok(Self(Some(pipe)))
    }

    /// Says `ready`, then `alive` for as long as the runtime turns.
    pub async fn run(mut self) -> anyhow::Result<()> {
        self.say("ready")?;
        let mut beats = interval(PERIOD);
        loop {
            beats.tick().await;
            self.say("alive")?;
        }
    }

    fn say(&mut self, word: &str) -> anyhow::Result<()> {
        match &mut self.0 {
            Some(pipe) => writeln!(pipe, "{word}").context("PID 1 does not listen any more"),
            None => Ok(()),
        }
    }
}
