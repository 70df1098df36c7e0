//! The kernel: Debian's source, nothing enabled, then `image/kernel/*.config`.
//!
//! Each fragment opens with its one reason. An option in a fragment that does
//! not come out of the configuration as written fails the build: it was
//! renamed, or something it depends on is missing.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::Builder;
use super::lock::{Lock, Use};
use crate::place::{Key, list, read_text, remove, write};
use crate::tools::{Sandbox, Tools};

/// Builds the kernel of this checkout and gives its bzImage.
pub fn build(builder: &Builder, lock: &Lock, tools: &Tools) -> Result<PathBuf> {
    let fragments = Fragments::read(&builder.place.source.join("image/kernel"))?;
    let key = lock
        .of(Use::Tools)
        .fold(Key::default(), |key, package| key.with(&package.sha256))
        .with(&fragments.0)
        .with(
            ENVIRONMENT
                .map(|(name, value)| format!("{name}={value}"))
                .concat(),
        );
    let made = builder.place.cached("kernel", key.finish(), |folder| {
        let step = builder.progress.step("build the kernel");
        let (work, log) = (folder.join("work"), folder.join("log"));
        write(&work.join(FRAGMENTS), &fragments.0)?;
        let sandbox = sandbox(tools, &work);
        let make = |arguments: &[&str]| sandbox.run("make", arguments, &log, &step);

        let unpack = ["-xf", SOURCE, "--strip-components=1"];
        sandbox.run("tar", unpack, &log, &step)?;
        make(&[&format!("KCONFIG_ALLCONFIG={FRAGMENTS}"), "allnoconfig"])?;
        fragments.check(&read_text(&work.join(".config"))?)?;
        make(&[&format!("-j{}", builder.jobs), "bzImage"])?;

        let kernel = folder.join("vmlinuz");
        let size = super::install(&work.join("arch/x86/boot/bzImage"), &kernel)?;
        super::install(&work.join(".config"), &folder.join("config"))?;
        remove(&work)?;
        step.done(format!("{size} bytes"));
        Ok(())
    })?;
    Ok(made.join("vmlinuz"))
}

/// The command line that is part of the kernel, as the fragments give it.
pub fn command_line(source: &Path) -> Result<String> {
    Fragments::read(&source.join("image/kernel"))?
        .0
        .lines()
        .find_map(|line| line.strip_prefix("CONFIG_CMDLINE=\"")?.strip_suffix('"'))
        .map(Into::into)
        .context("no fragment sets CONFIG_CMDLINE")
}

fn sandbox(tools: &Tools, work: &Path) -> Sandbox {
    let mut sandbox = tools.sandbox();
    sandbox.writable(work, "/build").directory("/build");
    for (name, value) in ENVIRONMENT {
        sandbox.env(name, value);
    }
    sandbox
}

/// All fragments in the order of their names.
struct Fragments(String);

impl Fragments {
    fn read(folder: &Path) -> Result<Self> {
        let mut text = String::new();
        for path in list(folder)? {
            if path.extension().is_some_and(|name| name == "config") {
                text.push_str(&read_text(&path)?);
            }
        }
        Ok(Self(text))
    }

    /// Every option as the fragments want it; an option that is off may be absent.
    fn check(&self, config: &str) -> Result<()> {
        let differing: Vec<&str> = self
            .0
            .lines()
            .filter(|line| match off(line) {
                Some(option) => config
                    .lines()
                    .any(|line| line.split('=').next() == Some(option)),
                None => line.starts_with("CONFIG_") && !config.lines().any(|found| found == *line),
            })
            .collect();
        ensure!(
            differing.is_empty(),
            "the kernel's configuration did not take: {}",
            differing.join("; "),
        );
        Ok(())
    }
}

fn off(line: &str) -> Option<&str> {
    line.strip_prefix("# ")?.strip_suffix(" is not set")
}

const SOURCE: &str = "/usr/src/linux-source-6.12.tar.xz";
const FRAGMENTS: &str = "fragments.config";
/// What the kernel would otherwise ask the machine that builds it.
const ENVIRONMENT: [(&str, &str); 4] = [
    ("KBUILD_BUILD_HOST", "cocoon"),
    ("KBUILD_BUILD_TIMESTAMP", "2026-01-01 00:00:00 UTC"),
    ("KBUILD_BUILD_USER", "cocoon"),
    ("KBUILD_BUILD_VERSION", "1"),
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_option_that_did_not_take_is_named() {
        let fragments = Fragments(
            "# Why.\nCONFIG_A=y\nCONFIG_B=\"x\"\n# CONFIG_C is not set\n# CONFIG_D is not set\n"
                .into(),
        );
        fragments
            .check("CONFIG_A=y\nCONFIG_B=\"x\"\n# CONFIG_C is not set\n")
            .unwrap();
        let error = fragments.check("CONFIG_A=m\nCONFIG_B=\"x\"\nCONFIG_D=y\n");
        assert_eq!(
            error.unwrap_err().to_string(),
            "the kernel's configuration did not take: CONFIG_A=y; # CONFIG_D is not set",
        );
    }

    #[test]
    fn every_fragment_opens_with_its_reason_and_sets_options_only() {
        let place = crate::place::Place::here().unwrap();
        for path in list(&place.source.join("image/kernel")).unwrap() {
            let text = read_text(&path).unwrap();
            let mut lines = text.lines();
            let reason = lines.next().unwrap();
            assert!(
                reason.starts_with("# ") && off(reason).is_none(),
                "{path:?}"
            );
            for line in lines {
                let option = off(line).unwrap_or(line);
                assert!(option.starts_with("CONFIG_"), "{path:?}: {line}");
            }
        }
    }

    #[test]
    fn the_command_line_is_the_one_in_the_kernel() {
        let place = crate::place::Place::here().unwrap();
        let line = command_line(&place.source).unwrap();
        assert!(line.starts_with("console=ttyS0 "), "{line}");
    }
}
