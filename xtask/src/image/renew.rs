//! Renews the lock: asks apt what the named packages mean today.
//!
//! apt works on an empty, private database, so nothing installed on this
//! machine, and none of its pins, changes the answer.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::lock::{Lock, Package, Use};
use crate::host::Mirror;
use crate::place::{Place, copy, read_text, remove, write};
use crate::progress::Progress;

/// Resolves every `image/*.packages` and writes `image/packages.lock`; gives what changed.
pub fn renew(place: &Place, mirrors: &[String], progress: &Progress) -> Result<Vec<String>> {
    let step = progress.step("renew the lock");
    let apt = Apt::new(place, &Mirror::all(mirrors)?)?;
    let mut packages = Vec::new();
    for usage in Use::ALL {
        step.note(usage);
        let path = place.source.join(format!("image/{usage}.packages"));
        let wanted = Wanted::parse(&read_text(&path)?, usage);
        packages.extend(apt.lock(&wanted, usage)?);
    }
    let count = packages.len();
    let lock = Lock::new(packages);
    let changes = Lock::read(place)?.changes(&lock);
    lock.write(place)?;
    remove(&apt.folder)?;
    step.done(format!("{count} packages, {} changes", changes.len()));
    Ok(changes)
}

/// What a `.packages` file asks for.
#[derive(Debug, Default, Eq, PartialEq)]
struct Wanted {
    /// With everything they depend on.
    closed: Vec<String>,
    /// As they are.
    alone: Vec<String>,
}

impl Wanted {
    fn parse(text: &str, usage: Use) -> Self {
        let mut wanted = Self::default();
        for line in text.lines() {
            let name = line.split('#').next().unwrap_or_default().trim();
            if let Some(name) = name.strip_prefix('=') {
                wanted.alone.push(name.into());
            } else if !name.is_empty() {
                match usage {
                    Use::Tools => wanted.closed.push(name.into()),
                    _ => wanted.alone.push(name.into()),
                }
            }
        }
        wanted
    }
}

/// apt with sources, preferences and state of its own.
struct Apt {
    folder: PathBuf,
    options: Vec<OsString>,
}

impl Apt {
    fn new(place: &Place, mirrors: &[Mirror]) -> Result<Self> {
        let folder = place.out.join("apt");
        remove(&folder)?;
        for name in ["lists/partial", "archives/partial", "empty"] {
            let path = folder.join(name);
            std::fs::create_dir_all(&path)
                .with_context(|| format!("cannot make {}", path.display()))?;
        }
        write(&folder.join("status"), "")?;
        write(&folder.join("sources.list"), sources(mirrors))?;
        let preferences = folder.join("preferences");
        copy(&place.source.join("image/apt.preferences"), &preferences)?;

        let path = |name: &str| folder.join(name).display().to_string();
        let options = [
            ("APT::Architecture", "amd64".into()),
            ("APT::Architectures", "amd64".into()),
            ("APT::Install-Recommends", "false".into()),
            ("APT::Sandbox::User", "root".into()),
            ("Acquire::Languages", "none".into()),
            ("Dir::Cache", path("")),
            ("Dir::Etc::preferences", path("preferences")),
            ("Dir::Etc::preferencesparts", path("empty")),
            ("Dir::Etc::sourcelist", path("sources.list")),
            ("Dir::Etc::sourceparts", path("empty")),
            ("Dir::State", path("")),
            ("Dir::State::status", path("status")),
        ];
        let options = options
            .into_iter()
            .flat_map(|(name, value)| ["-o".into(), format!("{name}={value}").into()])
            .collect();
        let apt = Self { folder, options };
        apt.run("apt-get", &["update"])?;
        Ok(apt)
    }

    fn lock(&self, wanted: &Wanted, usage: Use) -> Result<Vec<Package>> {
        let mut names: BTreeSet<String> = wanted.alone.iter().cloned().collect();
        if !wanted.closed.is_empty() {
            let mut install = vec!["install", "--simulate", "?essential"];
            install.extend(wanted.closed.iter().map(String::as_str));
            names.extend(installed(&self.run("apt-get", &install)?));
        }
        let mut show = vec!["show", "--no-all-versions"];
        show.extend(names.iter().map(String::as_str));
        let packages = self
            .run("apt-cache", &show)?
            .split("\n\n")
            .filter(|stanza| !stanza.trim().is_empty())
            .map(|stanza| package(stanza, usage))
            .collect::<Result<Vec<_>>>()?;
        let found: BTreeSet<_> = packages.iter().map(|p| p.name.clone()).collect();
        ensure!(
            found == names,
            "apt knows no {:?}, which image/{usage}.packages names",
            names.difference(&found).collect::<Vec<_>>(),
        );
        Ok(packages)
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<String> {
        let output = Command::new(program)
            .args(&self.options)
            .args(arguments)
            .env("LC_ALL", "C")
            .env("APT_CONFIG", Path::new("/dev/null"))
            .output()
            .with_context(|| format!("cannot start {program}"))?;
        ensure!(
            output.status.success(),
            "{program} {}: {}",
            arguments.first().unwrap_or(&""),
            String::from_utf8_lossy(&output.stderr).trim(),
        );
        String::from_utf8(output.stdout).with_context(|| format!("output of {program}"))
    }
}

/// The suites that packages are taken from, on each mirror that serves them.
fn sources(mirrors: &[Mirror]) -> String {
    let mut text = String::new();
    for mirror in mirrors {
        let suites: &[&str] = match mirror.is_security() {
            true => &["trixie-security"],
            false => &["trixie", "trixie-updates", "trixie-backports"],
        };
        for suite in suites {
            let root = mirror.root();
            text.push_str(&format!(
                "deb [signed-by={KEYRING}] {root} {suite} {COMPONENTS}\n"
            ));
        }
    }
    text
}

/// The names after `Inst` in what a simulated installation says.
fn installed(simulation: &str) -> impl Iterator<Item = String> {
    simulation
        .lines()
        .filter_map(|line| line.strip_prefix("Inst ")?.split(' ').next())
        .map(Into::into)
}

/// Reads one stanza of `apt-cache show`.
fn package(stanza: &str, usage: Use) -> Result<Package> {
    let field = |name: &str| {
        stanza
            .lines()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
            .map(String::from)
            .with_context(|| format!("apt shows a package without {name}"))
    };
    Ok(Package {
        usage,
        name: field("Package")?,
        version: field("Version")?,
        architecture: field("Architecture")?,
        size: field("Size")?.parse().context("size shown by apt")?,
        sha256: field("SHA256")?,
        path: field("Filename")?,
    })
}

/// The driver's user space is not free, and its modules need it.
const COMPONENTS: &str = "main contrib non-free non-free-firmware";
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_list_is_names_with_reasons() {
        let text = "# heading\n\ngcc   # compiles\n=mkosi # assembles\n";
        let wanted = Wanted::parse(text, Use::Tools);
        assert_eq!(wanted.closed, ["gcc"]);
        assert_eq!(wanted.alone, ["mkosi"]);
    }

    #[test]
    fn the_root_never_takes_what_nobody_named() {
        let wanted = Wanted::parse("libc6\n", Use::Root);
        assert_eq!(wanted.closed, [""; 0]);
        assert_eq!(wanted.alone, ["libc6"]);
    }

    #[test]
    fn every_named_package_of_this_checkout_is_locked() {
        let place = Place::here().unwrap();
        let lock = Lock::read(&place).unwrap();
        for usage in Use::ALL {
            let path = place.source.join(format!("image/{usage}.packages"));
            let wanted = Wanted::parse(&read_text(&path).unwrap(), usage);
            for name in wanted.closed.iter().chain(&wanted.alone) {
                lock.package(usage, name).unwrap();
            }
        }
    }

    #[test]
    fn what_apt_would_install_and_show_is_read() {
        let simulation = "NOTE: this\nInst libc6 (2.41 Debian [amd64])\nConf libc6 (2.41)\n";
        assert_eq!(installed(simulation).collect::<Vec<_>>(), ["libc6"]);
        let stanza = "Package: libc6\nVersion: 2.41\nArchitecture: amd64\nSize: 7\n\
                      Filename: pool/a.deb\nDescription-md5: x\n";
        let error = package(stanza, Use::Root).unwrap_err();
        assert_eq!(error.to_string(), "apt shows a package without SHA256");
        let stanza = format!("{stanza}SHA256: 00\n");
        assert_eq!(package(&stanza, Use::Root).unwrap().size, 7);
    }
}
