//! `image/packages.lock`: the Debian packages that a build reads, each by its hash.
//!
//! One line a package, sorted: use, name, version, architecture, size in bytes,
//! SHA-256, path under the root of the archive. With the hash it does not
//! matter who serves the file.

use std::collections::BTreeSet;
use std::fmt;
use std::fs;
use std::path::Path;
use std::str::FromStr;

use anyhow::{Context as _, Result, anyhow, ensure};
use attestation::register::Digest256;

use crate::place::{Place, read_text};

/// Every locked package.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Lock(Vec<Package>);

impl Lock {
    /// The lock of this checkout.
    pub fn read(place: &Place) -> Result<Self> {
        let path = place.source.join(PATH);
        let text = read_text(&path)?;
        text.parse()
            .with_context(|| format!("cannot use {}", path.display()))
    }

    /// Sorts `packages`.
    #[must_use]
    pub fn new(mut packages: Vec<Package>) -> Self {
        packages.sort();
        packages.dedup();
        Self(packages)
    }

    /// Writes it into the checkout.
    pub fn write(&self, place: &Place) -> Result<()> {
        let path = place.source.join(PATH);
        fs::write(&path, self.to_string())
            .with_context(|| format!("cannot write {}", path.display()))
    }

    /// The packages for one use, in order.
    pub fn of(&self, usage: Use) -> impl Iterator<Item = &Package> {
        self.0.iter().filter(move |package| package.usage == usage)
    }

    /// The package of that name and use.
    pub fn package(&self, usage: Use, name: &str) -> Result<&Package> {
        self.of(usage)
            .find(|package| package.name == name)
            .with_context(|| format!("{PATH} has no line `{usage} {name}`"))
    }

    /// What is another in `next`, one line a package, for whoever reviews it.
    #[must_use]
    pub fn changes(&self, next: &Self) -> Vec<String> {
        let names: BTreeSet<_> = self.0.iter().chain(&next.0).map(Package::key).collect();
        let find = |lock: &Self, key| lock.0.iter().find(|package| package.key() == key).cloned();
        let line = |key @ (usage, name)| match (find(self, key), find(next, key)) {
            (Some(old), Some(new)) if old == new => None,
            (Some(old), Some(new)) if old.version != new.version => Some(format!(
                "changed {usage} {name} {} -> {}",
                old.version, new.version
            )),
            // A mirror never does that by itself.
            (Some(old), Some(new)) if old.sha256 != new.sha256 => Some(format!(
                "REPLACED {usage} {name} {}: same version, other bytes",
                old.version
            )),
            (Some(_), Some(new)) => Some(format!("moved {usage} {name} to {}", new.path)),
            (Some(old), None) => Some(format!("removed {usage} {name} {}", old.version)),
            (None, new) => new.map(|new| format!("added {usage} {name} {}", new.version)),
        };
        names.into_iter().filter_map(line).collect()
    }
}

impl fmt::Display for Lock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|package| writeln!(f, "{package}"))
    }
}

impl FromStr for Lock {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        let mut packages = Vec::<Package>::new();
        for (number, line) in (1_usize..).zip(text.lines()) {
            let package = line.parse().with_context(|| format!("line {number}"))?;
            ensure!(
                packages.last().is_none_or(|last| *last < package),
                "line {number} is out of order",
            );
            packages.push(package);
        }
        Ok(Self(packages))
    }
}

/// One file of the archive.
#[derive(Clone, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub struct Package {
    /// What it is for.
    pub usage: Use,
    /// As Debian calls it.
    pub name: String,
    /// With epoch.
    pub version: String,
    /// `amd64` or `all`.
    pub architecture: String,
    /// Size of the file in bytes.
    pub size: u64,
    /// Hash of the file, in lower-case hex.
    pub sha256: String,
    /// Where an archive keeps it.
    pub path: String,
}

impl Package {
    /// What a lock holds once.
    fn key(&self) -> (Use, &str) {
        (self.usage, &self.name)
    }

    /// Name of the file, on the mirror and here.
    #[must_use]
    pub fn file(&self) -> &str {
        self.path.rsplit('/').next().unwrap_or(&self.path)
    }

    /// Whether `path` holds exactly this package.
    #[must_use]
    pub fn is(&self, path: &Path) -> bool {
        path.metadata().is_ok_and(|found| found.len() == self.size)
            && fs::read(path).is_ok_and(|bytes| Digest256::of(&bytes).to_string() == self.sha256)
    }
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            usage,
            name,
            version,
            architecture,
            size,
            sha256,
            path,
        } = self;
        write!(
            f,
            "{usage} {name} {version} {architecture} {size} {sha256} {path}"
        )
    }
}

impl FromStr for Package {
    type Err = anyhow::Error;

    fn from_str(line: &str) -> Result<Self> {
        let fields: Vec<&str> = line.split(' ').collect();
        let [usage, name, version, architecture, size, sha256, path] = fields[..] else {
            return Err(anyhow!("{} fields, expected 7", fields.len()));
        };
        sha256
            .parse::<Digest256>()
            .with_context(|| format!("SHA-256 of {name}"))?;
        ensure!(
            !path.split('/').any(|part| matches!(part, "" | "." | "..")),
            "path of {name} is {path}, expected one below the archive",
        );
        Ok(Self {
            usage: usage.parse()?,
            name: name.into(),
            version: version.into(),
            architecture: architecture.into(),
            size: size.parse().with_context(|| format!("size of {name}"))?,
            sha256: sha256.into(),
            path: path.into(),
        })
    }
}

/// What a package is for.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
pub enum Use {
    /// Compiles the agent of the nvidia profile.
    Cuda,
    /// Added to the root by the debug profile.
    Debug,
    /// Source of the modules of the nvidia profile.
    Driver,
    /// Added to the root by the nvidia profile.
    Nvidia,
    /// In the root of every profile.
    Root,
    /// Builds and runs the image.
    Tools,
}

impl Use {
    /// Every use, in the order of the lock.
    pub const ALL: [Self; 6] = [
        Self::Cuda,
        Self::Debug,
        Self::Driver,
        Self::Nvidia,
        Self::Root,
        Self::Tools,
    ];

    /// Word for it in the lock.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cuda => "cuda",
            Self::Debug => "debug",
            Self::Driver => "driver",
            Self::Nvidia => "nvidia",
            Self::Root => "root",
            Self::Tools => "tools",
        }
    }
}

impl fmt::Display for Use {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Use {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|usage| usage.name() == text)
            .with_context(|| {
                let names = Self::ALL.map(Self::name).join(", ");
                format!("use is {text}, expected one of {names}")
            })
    }
}

/// Where it lies in a checkout.
pub const PATH: &str = "image/packages.lock";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_of_this_checkout_reads_and_writes_the_same_text() {
        let place = Place::here().unwrap();
        let text = read_text(&place.source.join(PATH)).unwrap();
        assert_eq!(text.parse::<Lock>().unwrap().to_string(), text);
    }

    #[test]
    fn a_line_that_is_not_a_package_is_refused() {
        let good = line("root", "pool/main/g/glibc/libc6_1_amd64.deb");
        good.parse::<Package>().unwrap();
        for (bad, reason) in [
            ("root libc6".into(), "2 fields, expected 7"),
            (
                line("shoes", "pool/a.deb"),
                "use is shoes, expected one of cuda, debug, driver, nvidia, root, tools",
            ),
            (
                line("root", "pool/../../a.deb"),
                "path of libc6 is pool/../../a.deb, expected one below the archive",
            ),
            (
                line("root", "/a.deb"),
                "path of libc6 is /a.deb, expected one below the archive",
            ),
        ] {
            let error = bad.parse::<Package>().unwrap_err();
            assert_eq!(error.to_string(), reason);
        }
    }

    #[test]
    fn lines_out_of_order_are_refused() {
        let text = format!(
            "{}\n{}\n",
            line("tools", "p/a.deb"),
            line("root", "p/a.deb")
        );
        let error = text.parse::<Lock>().unwrap_err();
        assert_eq!(error.to_string(), "line 2 is out of order");
    }

    #[test]
    fn a_renewed_lock_says_what_changed() {
        let lock = |lines: &[&str]| -> Lock {
            Lock::new(
                lines
                    .iter()
                    .map(|line| {
                        let [name, version, hash, path] = line.split(' ').collect::<Vec<_>>()[..]
                        else {
                            panic!("{line}")
                        };
                        let sha256 = Digest256::of(hash.as_bytes());
                        format!("root {name} {version} amd64 1 {sha256} {path}")
                            .parse()
                            .unwrap()
                    })
                    .collect(),
            )
        };
        let old = lock(&["a 1 x p", "b 1 x p", "c 1 x p", "d 1 x p", "same 1 x p"]);
        let new = lock(&["a 2 y p", "b 1 y p", "c 1 x q", "e 1 x p", "same 1 x p"]);
        assert_eq!(
            old.changes(&new),
            [
                "changed root a 1 -> 2",
                "REPLACED root b 1: same version, other bytes",
                "moved root c to q",
                "removed root d 1",
                "added root e 1",
            ],
        );
    }

    #[test]
    fn a_file_is_the_package_by_size_and_hash_only() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        let mut package: Package = line("root", "p/a.deb").parse().unwrap();
        package.size = 4;
        package.sha256 = Digest256::of(b"text").to_string();
        for (content, same) in [("text", true), ("next", false), ("texts", false)] {
            fs::write(&path, content).unwrap();
            assert_eq!(package.is(&path), same, "{content}");
        }
    }

    fn line(usage: &str, path: &str) -> String {
        let sha256 = Digest256::ZERO;
        format!("{usage} libc6 2.41-12 amd64 2846580 {sha256} {path}")
    }
}
