//! As much of QEMU's monitor protocol as is needed: commands, and whether they are taken.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

/// A session with the monitor.
#[derive(Debug)]
pub struct Qmp(BufReader<UnixStream>);

impl Qmp {
    /// Opens one, past the greeting.
    pub fn connect(socket: &Path) -> Result<Self> {
        let stream = UnixStream::connect(socket).context("cannot reach QEMU's monitor")?;
        stream
            .set_read_timeout(Some(LIMIT))
            .context("cannot limit the wait for QEMU")?;
        let mut qmp = Self(BufReader::new(stream));
        qmp.message()?;
        qmp.execute("qmp_capabilities")?;
        Ok(qmp)
    }

    /// Sends a command and waits until it is accepted.
    pub fn execute(&mut self, command: &str) -> Result<()> {
        self.execute_with(command, &json!({}))
    }

    /// The same, with arguments.
    pub fn execute_with(&mut self, command: &str, arguments: &Value) -> Result<()> {
        let request = json!({ "execute": command, "arguments": arguments });
        writeln!(self.0.get_mut(), "{request}")
            .with_context(|| format!("cannot send {command} to QEMU"))?;
        loop {
            let message = self.message()?;
            if message.get("return").is_some() {
                return Ok(());
            }
            if let Some(error) = message.get("error") {
                bail!("QEMU refuses {command}: {error}");
            }
        }
    }

    fn message(&mut self) -> Result<Value> {
        let mut line = String::new();
        self.0
            .read_line(&mut line)
            .context("QEMU's monitor does not answer")?;
        serde_json::from_str(&line).with_context(|| format!("QEMU's monitor says {line:?}"))
    }
}

/// Name of the socket in the state folder.
pub const SOCKET: &str = "qmp";

const LIMIT: Duration = Duration::from_secs(10);
