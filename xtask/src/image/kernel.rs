//! The kernel: Debian's source with `image/kernel/*.patch`, nothing enabled, then
//! `image/kernel/*.config`.
//!
//! A profile may have fragments of its own, and in them the last word. Each
//! fragment opens with its one reason. An option in a fragment that does not
//! come out of the configuration as written fails the build: it was renamed, or
//! something it depends on is missing.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, ensure};

use super::driver::Driver;
use super::lock::{Lock, Use};
use super::{Builder, Profile};
use crate::place::{Key, list, read, read_text, remove, write};
use crate::tools::{Sandbox, Tools};

/// What a kernel build gives.
#[derive(Clone, Debug)]
pub struct Kernel {
    /// The bzImage.
    pub image: PathBuf,
    /// In the order in which they are loaded.
    pub modules: Vec<PathBuf>,
}

/// Builds the kernel of this checkout, and the modules of a profile that has any.
pub fn build(builder: &Builder, profile: Profile, lock: &Lock, tools: &Tools) -> Result<Kernel> {
    let fragments = Fragments::of(&builder.place.source, profile)?;
    let driver = match profile {
        Profile::Base | Profile::Debug => None,
        Profile::Nvidia => Some(Driver::read(builder, lock)?),
    };
    let changes = builder.place.source.join("image/kernel");
    let patches = patches(&changes)?;
    let mut key = lock
        .of(Use::Tools)
        .fold(Key::default(), |key, package| key.with(&package.sha256))
        .with(&fragments.0)
        .with(
            ENVIRONMENT
                .map(|(name, value)| format!("{name}={value}"))
                .concat(),
        );
    for patch in &patches {
        key = key.with(read(patch)?);
    }
    let (name, key) = match &driver {
        None => ("kernel", key),
        Some(driver) => ("kernel-nvidia", key.with(driver.key().as_bytes())),
    };
    let made = builder.place.cached(name, key.finish(), |folder| {
        let step = builder.progress.step("build the kernel");
        let (work, log) = (folder.join("work"), folder.join("log"));
        write(&work.join(FRAGMENTS), &fragments.0)?;
        let mut sandbox = sandbox(tools, &work);
        sandbox.read_only(&changes, PATCHES);
        let make = |arguments: &[&str]| sandbox.run("make", arguments, &log, &step);

        let unpack = ["-xf", SOURCE, "--strip-components=1"];
        sandbox.run("tar", unpack, &log, &step)?;
        for patch in &patches {
            let name = patch.file_name().unwrap_or_default().to_string_lossy();
            let input = format!("--input={PATCHES}/{name}");
            sandbox.run("patch", ["--strip=1", "--fuzz=0", &input], &log, &step)?;
        }
        make(&[&format!("KCONFIG_ALLCONFIG={FRAGMENTS}"), "allnoconfig"])?;
        fragments.check(&read_text(&work.join(".config"))?)?;
        make(&[&format!("-j{}", builder.jobs), "bzImage"])?;

        let kernel = folder.join("vmlinuz");
        let size = super::install(&work.join("arch/x86/boot/bzImage"), &kernel)?;
        super::install(&work.join(".config"), &folder.join("config"))?;
        step.done(format!("{size} bytes"));
        if let Some(driver) = &driver {
            driver.build(builder, &sandbox, folder)?;
        }
        remove(&work)
    })?;
    let modules = driver.map_or(&[][..], |_| &Driver::MODULES);
    Ok(Kernel {
        image: made.join("vmlinuz"),
        modules: modules.iter().map(|name| made.join(name)).collect(),
    })
}

/// The command line that is part of the kernel, as the fragments give it.
pub fn command_line(source: &Path) -> Result<String> {
    Fragments::of(source, Profile::Base)?
        .0
        .lines()
        .find_map(|line| line.strip_prefix("CONFIG_CMDLINE=\"")?.strip_suffix('"'))
        .map(Into::into)
        .context("no fragment sets CONFIG_CMDLINE")
}

/// What we change in the source, in the order of the names.
fn patches(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = list(folder)?;
    paths.retain(|path| path.extension().is_some_and(|name| name == "patch"));
    Ok(paths)
}

fn sandbox(tools: &Tools, work: &Path) -> Sandbox {
    let mut sandbox = tools.sandbox();
    sandbox.writable(work, "/build").directory("/build");
    for (name, value) in ENVIRONMENT {
        sandbox.env(name, value);
    }
    sandbox
}

/// All fragments in the order of their names, those of the profile last.
struct Fragments(String);

impl Fragments {
    fn of(source: &Path, profile: Profile) -> Result<Self> {
        let shared = Self::read(&source.join("image/kernel"))?;
        Ok(match profile {
            Profile::Base | Profile::Debug => shared,
            Profile::Nvidia => {
                shared.overridden_by(&Self::read(&source.join(profile.folder()).join("kernel"))?)
            }
        })
    }

    fn read(folder: &Path) -> Result<Self> {
        let mut text = String::new();
        for path in list(folder)? {
            if path.extension().is_some_and(|name| name == "config") {
                text.push_str(&read_text(&path)?);
            }
        }
        Ok(Self(text))
    }

    /// Without the options that `last` sets, then `last`.
    fn overridden_by(&self, last: &Self) -> Self {
        let decided: Vec<_> = last.0.lines().filter_map(option).collect();
        let kept = |line: &&str| option(line).is_none_or(|option| !decided.contains(&option));
        let mut text: String = self
            .0
            .lines()
            .filter(kept)
            .fold(String::new(), |text, line| text + line + "\n");
        text.push_str(&last.0);
        Self(text)
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

/// The option that a line decides.
fn option(line: &str) -> Option<&str> {
    off(line).or_else(|| {
        line.starts_with("CONFIG_")
            .then(|| line.split('=').next())?
    })
}

fn off(line: &str) -> Option<&str> {
    line.strip_prefix("# ")?.strip_suffix(" is not set")
}

const SOURCE: &str = "/usr/src/linux-source-6.12.tar.xz";
const PATCHES: &str = "/kernel-patches";
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
    fn a_profile_has_the_last_word_about_an_option() {
        let shared = "# Why.\nCONFIG_A=y\nCONFIG_AB=y\n# CONFIG_C is not set\n";
        let profile = "# Why else.\n# CONFIG_A is not set\nCONFIG_C=y\n";
        let both = Fragments(shared.into()).overridden_by(&Fragments(profile.into()));
        assert_eq!(both.0, format!("# Why.\nCONFIG_AB=y\n{profile}"));
    }

    #[test]
    fn every_fragment_opens_with_its_reason_and_sets_options_only() {
        let source = crate::place::Place::here().unwrap().source;
        let folders = ["image/kernel", "image/mkosi.profiles/nvidia/kernel"];
        for path in folders
            .iter()
            .flat_map(|folder| list(&source.join(folder)).unwrap())
            .filter(|path| path.extension().is_some_and(|name| name == "config"))
        {
            let text = read_text(&path).unwrap();
            let (reason, options) = text.split_once('\n').unwrap();
            assert!(reason.starts_with("# "), "{path:?}");
            assert_eq!(option(reason), None, "{path:?}");
            for line in options.lines() {
                assert!(option(line).is_some(), "{path:?}: {line}");
            }
        }
    }

    #[test]
    fn memory_reaches_no_disk() {
        let source = crate::place::Place::here().unwrap().source;
        for profile in [Profile::Base, Profile::Nvidia] {
            let fragments = Fragments::of(&source, profile).unwrap().0;
            let on = |option: &str| {
                let mut lines = fragments.lines();
                lines.any(|line| line.starts_with(&format!("CONFIG_{option}=")))
            };
            assert!(on("SHMEM"), "what is on is seen");
            for option in [
                "COREDUMP",
                "CRASH_DUMP",
                "HIBERNATION",
                "PROC_KCORE",
                "SWAP",
            ] {
                assert!(!on(option), "{option}");
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
