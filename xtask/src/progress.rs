//! What a long step says while it runs: a moving line for people, plain lines for logs.

use std::fmt::Display;
use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

/// How steps are shown.
#[derive(Clone, Debug)]
pub struct Progress {
    lines: bool,
    bars: MultiProgress,
}

impl Progress {
    /// Plain lines when `quiet`, or when nobody watches a terminal.
    #[must_use]
    pub fn new(quiet: bool) -> Self {
        let lines = quiet || !std::io::stderr().is_terminal();
        let bars = MultiProgress::new();
        Self { lines, bars }
    }

    /// Starts a step. Dropped without [`Step::done`] it has failed.
    #[must_use]
    pub fn step(&self, name: impl Display) -> Step {
        let name = name.to_string();
        let bar = if self.lines {
            eprintln!("{name} ...");
            ProgressBar::hidden()
        } else {
            let bar = self.bars.add(ProgressBar::new_spinner());
            let style = ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.set_prefix(name.clone());
            bar.enable_steady_tick(Duration::from_millis(200));
            bar
        };
        Step {
            name,
            bar,
            lines: self.lines,
            start: Instant::now(),
            done: false,
        }
    }
}

/// A step that is running.
#[derive(Debug)]
pub struct Step {
    name: String,
    bar: ProgressBar,
    lines: bool,
    start: Instant,
    done: bool,
}

impl Step {
    /// What it does at the moment; not shown as a line.
    pub fn note(&self, note: impl Display) {
        self.bar.set_message(note.to_string());
    }

    /// It has succeeded, and this is what came of it.
    pub fn done(mut self, result: impl Display) {
        self.done = true;
        let seconds = self.start.elapsed().as_secs_f32();
        self.say(&format!("{}: {result} ({seconds:.1} s)", self.name));
    }

    fn say(&self, line: &str) {
        if self.lines {
            eprintln!("{line}");
        } else {
            self.bar.println(line);
            self.bar.finish_and_clear();
        }
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if !self.done {
            self.say(&format!("{}: failed", self.name));
        }
    }
}
