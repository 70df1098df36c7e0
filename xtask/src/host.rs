//! What a build takes from the machine it runs on: apt, dpkg and where their mirror is.
//!
//! Everything else comes from the locked packages.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

/// Root of an archive that may hold Debian's packages.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mirror(String);

impl Mirror {
    /// Those given, or else those that apt is configured with for Debian itself.
    pub fn all(given: &[String]) -> Result<Vec<Self>> {
        if !given.is_empty() {
            return Ok(given.iter().map(|url| Self::new(url)).collect());
        }
        ensure!(
            Path::new(APT_HELPER).exists(),
            "this machine has no apt: build on Debian or Ubuntu, or give all packages with `--debs DIR`",
        );
        let mut mirrors = configured()?;
        if mirrors.is_empty() && is_root()? {
            run("apt-get", &["update"])?;
            mirrors = configured()?;
        }
        ensure!(
            !mirrors.is_empty(),
            "apt on this machine knows no mirror of Debian: run `apt-get update` as root if it \
             should, or give one with `--mirror URL`",
        );
        Ok(mirrors)
    }

    /// At `url`, with or without a slash at its end.
    #[must_use]
    pub fn new(url: &str) -> Self {
        Self(url.trim_end_matches('/').into())
    }

    /// Address of a file in it.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        let path = path.replace('+', "%2b").replace('~', "%7e");
        format!("{}/{path}", self.0)
    }

    /// The root itself.
    #[must_use]
    pub fn root(&self) -> &str {
        &self.0
    }

    /// Whether security updates are what it holds.
    #[must_use]
    pub fn is_security(&self) -> bool {
        self.0.contains("security")
    }

    /// Whether it is likely to hold `path`: security updates have an archive of their own.
    #[must_use]
    pub fn suits(&self, path: &str) -> bool {
        self.is_security() == path.starts_with("pool/updates/")
    }
}

/// Makes sure that each program is there, by installing its package when this user may.
pub fn need(programs: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<_> = programs
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .map(|(_, package)| *package)
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let packages = missing.join(" ");
    if !is_root()? || find("apt-get").is_none() {
        bail!("this machine lacks {packages}: run `apt-get install {packages}` as root");
    }
    run("apt-get", &["update", "--quiet"])?;
    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend(missing);
    run("apt-get", &install)
}

/// Path of a program that a shell would find.
#[must_use]
pub fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(Into::into))
        .map(|folder| folder.join(program))
        .find(|candidate| candidate.is_file())
}

/// Where cargo keeps the crates that it downloaded.
pub fn cargo_home() -> Result<PathBuf> {
    match std::env::var_os("CARGO_HOME") {
        Some(home) => Ok(home.into()),
        None => std::env::home_dir()
            .map(|home| home.join(".cargo"))
            .context("this user has no home directory"),
    }
}

/// Whether this process is root's.
pub fn is_root() -> Result<bool> {
    use std::os::unix::fs::MetadataExt as _;
    let own = Path::new("/proc/self")
        .metadata()
        .context("cannot read /proc/self")?;
    Ok(own.uid() == 0)
}

/// Debian's own archives among the sources of apt.
fn configured() -> Result<Vec<Mirror>> {
    let format = "$(ORIGIN) $(COMPONENT) $(REPO_URI)";
    let output = Command::new("apt-get")
        .args(["indextargets", "--format", format, "Created-By: Packages"])
        .output()
        .context("cannot start apt-get")?;
    ensure!(output.status.success(), "apt-get cannot list its sources");
    Ok(debian(&String::from_utf8_lossy(&output.stdout)))
}

fn debian(targets: &str) -> Vec<Mirror> {
    let mut mirrors = Vec::new();
    for target in targets.lines() {
        if let Some(url) = target.strip_prefix("Debian main ") {
            let mirror = Mirror::new(url);
            if !mirrors.contains(&mirror) {
                mirrors.push(mirror);
            }
        }
    }
    mirrors
}

fn run(program: &str, arguments: &[&str]) -> Result<()> {
    let status = Command::new(program)
        .args(arguments)
        .env("DEBIAN_FRONTEND", "noninteractive")
        .status()
        .with_context(|| format!("cannot start {program}"))?;
    ensure!(
        status.success(),
        "`{program} {}` failed",
        arguments.join(" ")
    );
    Ok(())
}

/// Downloads files the way apt does.
pub const APT_HELPER: &str = "/usr/lib/apt/apt-helper";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_debian_is_asked_for_debian_packages() {
        let targets = "Debian main http://a.example/debian/\n\
                       Other main http://b.example/other/\n\
                       Debian contrib http://a.example/debian/\n\
                       Debian main http://a.example/debian/\n\
                       Debian main http://a.example/debian-security/\n";
        let mirrors = debian(targets);
        let roots: Vec<_> = mirrors.iter().map(Mirror::root).collect();
        assert_eq!(
            roots,
            [
                "http://a.example/debian",
                "http://a.example/debian-security"
            ]
        );
    }

    #[test]
    fn security_updates_are_first_sought_in_their_archive() {
        let (main, security) = (
            Mirror::new("http://a/debian/"),
            Mirror::new("http://a/debian-security"),
        );
        for path in ["pool/updates/main/l/linux/x.deb", "pool/main/l/linux/x.deb"] {
            assert_ne!(main.suits(path), security.suits(path), "{path}");
        }
        assert!(main.suits("pool/main/l/linux/x.deb"));
    }

    #[test]
    fn what_a_url_reserves_is_escaped() {
        let mirror = Mirror::new("http://a/debian");
        assert_eq!(
            mirror.url("pool/g++_1~2.deb"),
            "http://a/debian/pool/g%2b%2b_1%7e2.deb"
        );
    }

    #[test]
    fn a_program_that_exists_is_found() {
        assert!(find("sh").is_some());
        assert!(find("no-such-program").is_none());
    }
}
