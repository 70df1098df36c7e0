//! What goes into each artefact: Debian packages by the lock, crates as cargo links them.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context as _, Result, ensure};
use attestation::register::Digest256;
use measurements::materials::{Crate, Materials, Package, Part};
use measurements::release::Artefact;
use serde::Deserialize;

use super::lock::{self, Lock, Use};
use super::{Profile, binaries, root};
use crate::cocoon::cargo_command;
use crate::place::{Place, read, sha256};

/// States them for a build of `profile`.
pub fn materials(place: &Place, lock: &Lock, profile: Profile) -> Result<Materials> {
    let tools = |names: &[&str]| -> Result<Vec<Package>> {
        names
            .iter()
            .map(|name| package(lock.package(Use::Tools, name)?))
            .collect()
    };
    let crates = Crates::read(place, &["--workspace"])?;
    let mut root_packages: Vec<_> = root::packages(lock, profile).collect();
    let mut root_crates = crates.linked("agent")?;
    if profile == Profile::Nvidia {
        root_packages.extend(lock.of(Use::Driver));
        // Their code is in the kernels that the agent computes with: headers, and libdevice.
        for name in ["nvidia-cuda-dev", "nvidia-cuda-toolkit"] {
            root_packages.push(lock.package(Use::Cuda, name)?);
        }
        let features = ["--package", "agent", "--features", "cuda,nvidia"];
        root_crates.extend(Crates::read(place, &features)?.linked("agent")?);
        root_crates.sort();
        root_crates.dedup();
    }
    let part = |artefact: &str, debian, crates| Part {
        artefact: artefact.into(),
        debian,
        crates,
    };
    Ok(Materials {
        profile: profile.name().into(),
        packages_lock: sha256(&place.source.join(lock::PATH))?,
        cargo_lock: sha256(&place.source.join(CARGO_LOCK))?,
        rust: binaries::pinned(&place.source)?,
        parts: vec![
            part(Artefact::FIRMWARE, tools(&["ovmf"])?, Vec::new()),
            part(Artefact::KERNEL, tools(&["linux-source-6.12"])?, Vec::new()),
            // Static, so part of it is the C library.
            part(
                Artefact::INITRD,
                tools(&["libc6-dev", "libgcc-14-dev"])?,
                crates.linked("init")?,
            ),
            part(
                Artefact::ROOT,
                root_packages
                    .into_iter()
                    .map(package)
                    .collect::<Result<_>>()?,
                root_crates,
            ),
        ],
    })
}

fn package(package: &lock::Package) -> Result<Package> {
    Ok(Package {
        name: package.name.clone(),
        version: package.version.clone(),
        architecture: package.architecture.clone(),
        sha256: package.sha256.parse().context("SHA-256 in the lock")?,
    })
}

/// Crates, as a build of what was selected links them.
struct Crates {
    /// What each links directly, by the line that cargo shows for it.
    links: BTreeMap<String, BTreeSet<String>>,
    /// Checksum of each that comes from a registry, by name and version.
    checksums: BTreeMap<(String, String), Digest256>,
}

impl Crates {
    fn read(place: &Place, selected: &[&str]) -> Result<Self> {
        let output = cargo_command(place)
            .args(["tree", "--locked", "--offline"])
            .args(selected)
            .args(["--edges", "normal,no-proc-macro"])
            .args(["--target", binaries::TARGET])
            .args(["--prefix", "depth", "--format", " {p}"])
            .output()
            .context("cannot start cargo")?;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "cargo tree: {}", said.trim());
        let tree = String::from_utf8(output.stdout).context("what cargo says")?;
        let lock: CargoLock = toml::from_slice(&read(&place.source.join(CARGO_LOCK))?)
            .context("Cargo.lock is not as expected")?;
        let checksums = lock.package.into_iter();
        Ok(Self {
            links: links(&tree)?,
            checksums: checksums
                .filter_map(|package| Some(((package.name, package.version), package.checksum?)))
                .collect(),
        })
    }

    /// Every crate in the program of that name.
    fn linked(&self, program: &str) -> Result<Vec<Crate>> {
        let prefix = format!("{program} v");
        let root = self.links.keys().find(|line| line.starts_with(&prefix));
        let mut open = vec![root.with_context(|| format!("cargo knows no {program}"))?];
        let mut seen = BTreeSet::new();
        while let Some(line) = open.pop() {
            if seen.insert(line) {
                open.extend(self.links.get(line).into_iter().flatten());
            }
        }
        let crates = seen.into_iter().map(|line| {
            let (name, version) = name_and_version(line)?;
            let key = (name.to_owned(), version.to_owned());
            let sha256 = self.checksums.get(&key).copied();
            let (name, version) = key;
            Ok(Crate {
                name,
                version,
                sha256,
            })
        });
        crates.collect()
    }
}

/// Reads the tree: a line is a depth and a crate, whose own lines follow it the first time.
fn links(tree: &str) -> Result<BTreeMap<String, BTreeSet<String>>> {
    let mut links = BTreeMap::<String, BTreeSet<String>>::new();
    let mut path: Vec<&str> = Vec::new();
    for line in tree.lines().filter(|line| !line.is_empty()) {
        let read = || {
            let (depth, rest) = line.split_once(' ')?;
            Some((depth.parse().ok()?, rest.trim_end_matches(" (*)")))
        };
        let (depth, name): (usize, &str) =
            read().with_context(|| format!("cargo shows {line:?}"))?;
        path.truncate(depth);
        if let Some(parent) = path.last() {
            links
                .entry((*parent).into())
                .or_default()
                .insert(name.into());
        }
        links.entry(name.into()).or_default();
        path.push(name);
    }
    Ok(links)
}

/// Of `serde v1.0.0` or `init v0.1.0 (/path)`.
fn name_and_version(line: &str) -> Result<(&str, &str)> {
    let mut words = line.split(' ');
    words
        .next()
        .zip(words.next().and_then(|version| version.strip_prefix('v')))
        .with_context(|| format!("cargo shows {line:?}"))
}

#[derive(Deserialize)]
struct CargoLock {
    package: Vec<Locked>,
}

#[derive(Deserialize)]
struct Locked {
    name: String,
    version: String,
    checksum: Option<Digest256>,
}

const CARGO_LOCK: &str = "Cargo.lock";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::place::read_text;

    #[test]
    fn a_crate_that_is_shown_once_counts_for_all_that_link_it() {
        let tree = "0 agent v0.1.0 (/w/agent)\n1 a v1.0.0\n2 b v2.0.0\n\n\
                    0 init v0.1.0 (/w/init)\n1 a v1.0.0 (*)\n1 c v3.0.0\n";
        let crates = Crates {
            links: links(tree).unwrap(),
            checksums: [(("b".into(), "2.0.0".into()), Digest256::ZERO)].into(),
        };
        let names = |program| -> Vec<String> {
            let linked = crates.linked(program).unwrap();
            linked
                .iter()
                .map(|item| format!("{} {}", item.name, item.version))
                .collect()
        };
        assert_eq!(names("agent"), ["a 1.0.0", "agent 0.1.0", "b 2.0.0"]);
        assert_eq!(
            names("init"),
            ["a 1.0.0", "b 2.0.0", "c 3.0.0", "init 0.1.0"]
        );
        assert_eq!(
            crates.linked("agent").unwrap()[2].sha256,
            Some(Digest256::ZERO)
        );
        assert!(crates.linked("nobody").is_err());
    }

    #[test]
    fn only_our_own_crates_are_without_a_checksum() {
        let place = Place::here().unwrap();
        let lock = Lock::read(&place).unwrap();
        let materials = materials(&place, &lock, Profile::Base).unwrap();
        let text = read_text(&place.source.join("Cargo.toml")).unwrap();
        for part in &materials.parts {
            for item in part.crates.iter().filter(|item| item.sha256.is_none()) {
                assert!(
                    text.contains(&format!("    \"{}\",\n", item.name)),
                    "{item:?}"
                );
            }
        }
        let root = &materials.parts[3];
        assert!(root.crates.iter().any(|item| item.name == "candle-core"));
        assert!(root.debian.iter().any(|item| item.name == "libc6"));
        assert!(!root.crates.iter().any(|item| item.name == "proptest"));
    }
}
