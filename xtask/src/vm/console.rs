//! What a VM says: kept, copied to a file with the time of each line, and waited for.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read, Write as _};
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// The lines of a console, more of which may come.
#[derive(Clone, Debug)]
pub struct Console(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    said: Mutex<Said>,
    changed: Condvar,
}

#[derive(Debug)]
struct Said {
    lines: Vec<Line>,
    open: usize,
    log: File,
}

/// One line, without control characters.
#[derive(Clone, Debug)]
pub struct Line {
    /// Since the VM was started.
    pub time: Duration,
    /// What it says.
    pub text: String,
}

impl Console {
    /// Reads both streams to their ends, in threads of their own.
    pub fn start(
        log: &Path,
        started: Instant,
        output: impl Read + Send + 'static,
        errors: impl Read + Send + 'static,
    ) -> Result<Self> {
        let log = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let said = Mutex::new(Said {
            lines: Vec::new(),
            open: 2,
            log,
        });
        let console = Self(Arc::new(Shared {
            said,
            changed: Condvar::new(),
        }));
        let (first, second) = (console.clone(), console.clone());
        thread::spawn(move || first.read(started, "", output));
        thread::spawn(move || second.read(started, "qemu: ", errors));
        Ok(console)
    }

    /// Everything said so far.
    #[must_use]
    pub fn lines(&self) -> Vec<Line> {
        self.said().lines.clone()
    }

    /// Whether more may come.
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.said().open > 0
    }

    /// All lines, once there are more than `count` or no more will come.
    #[must_use]
    pub fn wait_beyond(&self, count: usize) -> Vec<Line> {
        let is_same = |said: &mut Said| said.open > 0 && said.lines.len() <= count;
        let said = self.0.changed.wait_while(self.said(), is_same);
        said.unwrap_or_else(PoisonError::into_inner).lines.clone()
    }

    /// The last lines.
    #[must_use]
    pub fn tail(&self, count: usize) -> Vec<String> {
        let lines = self.lines();
        let from = lines.len().saturating_sub(count);
        let tail = lines.into_iter().skip(from).map(|line| line.text);
        tail.collect()
    }

    /// The first line that holds `text`, once there is one.
    pub fn wait_for(&self, text: &str, limit: Duration) -> Result<Line> {
        let is_missing = |said: &mut Said| said.open > 0 && said.find(text).is_none();
        let (said, _) = self
            .0
            .changed
            .wait_timeout_while(self.said(), limit, is_missing)
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(line) = said.find(text) {
            return Ok(line.clone());
        }
        let reason = match said.open {
            0 => "the VM ended".to_owned(),
            _ => format!("{} s passed", limit.as_secs()),
        };
        drop(said);
        bail!(
            "{reason} before its console said {text:?}; it ends with:\n  {}",
            self.tail(20).join("\n  ")
        );
    }

    fn read(&self, started: Instant, prefix: &str, stream: impl Read) {
        // A console that fails to be read ends like one that ended.
        for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
            let text = String::from_utf8_lossy(&line);
            let text = prefix.to_owned() + text.replace(char::is_control, "").trim_end();
            let time = started.elapsed();
            let mut said = self.said();
            // The log is a copy for people: the VM goes on without it.
            drop(writeln!(said.log, "[{:8.3}] {text}", time.as_secs_f32()));
            said.lines.push(Line { time, text });
            self.0.changed.notify_all();
        }
        let mut said = self.said();
        said.open = said.open.saturating_sub(1);
        self.0.changed.notify_all();
    }

    fn said(&self) -> MutexGuard<'_, Said> {
        self.0.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Said {
    fn find(&self, text: &str) -> Option<&Line> {
        self.lines.iter().find(|line| line.text.contains(text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::read_text;

    #[test]
    fn a_line_is_found_and_kept_without_control_characters() {
        let (console, log) = console(b"one\r\n\x1b[2Jtwo\n", b"oops\n");
        let line = console.wait_for("two", LIMIT).unwrap();
        assert_eq!(line.text, "[2Jtwo");
        console.wait_for("qemu: oops", LIMIT).unwrap();
        assert_eq!(console.lines().len(), 3);
        assert!(read_text(log.path()).unwrap().contains("] one\n"));
    }

    #[test]
    fn waiting_ends_when_the_vm_does() {
        let (console, _log) = console(b"one\n", b"");
        let error = console.wait_for("two", LIMIT).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the VM ended before its console said \"two\"; it ends with:\n  one",
        );
    }

    fn console(output: &'static [u8], errors: &'static [u8]) -> (Console, tempfile::NamedTempFile) {
        let log = tempfile::NamedTempFile::new().unwrap();
        let console = Console::start(log.path(), Instant::now(), output, errors).unwrap();
        (console, log)
    }

    const LIMIT: Duration = Duration::from_secs(10);
}
