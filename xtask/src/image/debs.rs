//! Obtains locked packages: from the cache, a folder, a mirror, or the snapshot archive.
//!
//! apt downloads because it alone knows how this machine reaches its mirror.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use anyhow::{Context as _, Result, bail};

use super::lock::Package;
use super::snapshot;
use crate::host::{self, Mirror};
use crate::place::{Place, copy, remove};
use crate::progress::Progress;

/// Where packages come from when they are not cached.
#[derive(Clone, Debug, Default)]
pub struct Source {
    /// A folder of package files, asked before any mirror.
    pub folder: Option<PathBuf>,
    /// Roots of Debian archives instead of those that apt is configured with.
    pub mirrors: Vec<String>,
    /// Root of a service like Debian's snapshot archive, for what no mirror has any more.
    pub snapshot: Option<String>,
}

/// Package files that are what the lock says.
#[derive(Clone, Debug)]
pub struct Debs(BTreeMap<String, PathBuf>);

impl Debs {
    /// Brings every package of `wanted` into the cache and checks it.
    pub fn obtain<'a>(
        place: &Place,
        wanted: impl Iterator<Item = &'a Package>,
        source: &Source,
        progress: &Progress,
    ) -> Result<Self> {
        fs::create_dir_all(&place.debs)
            .with_context(|| format!("cannot make {}", place.debs.display()))?;
        let wanted: Vec<&Package> = wanted.collect();
        let mut missing: Vec<&Package> = Vec::new();
        for package in &wanted {
            let cached = place.debs.join(package.file());
            if !package.is(&cached) && !take(package, source, &cached)? {
                missing.push(package);
            }
        }
        if !missing.is_empty() {
            download(&mut missing, source, &place.debs, progress)?;
        }
        let path = |package: &Package| place.debs.join(package.file());
        let debs = wanted.iter().map(|p| (p.name.clone(), path(p)));
        Ok(Self(debs.collect()))
    }

    /// The files, in the order of the packages' names.
    pub fn files(&self) -> impl Iterator<Item = &Path> {
        self.0.values().map(PathBuf::as_path)
    }

    /// Unpacks all of them into `root`, whose `/bin`, `/lib` and the like lie in `/usr`.
    ///
    /// No maintainer script runs.
    pub fn unpack(&self, root: &Path) -> Result<()> {
        for name in ["bin", "lib", "lib64", "sbin"] {
            let real = root.join("usr").join(name);
            fs::create_dir_all(&real).with_context(|| format!("cannot make {}", real.display()))?;
            let link = root.join(name);
            std::os::unix::fs::symlink(Path::new("usr").join(name), &link)
                .with_context(|| format!("cannot link {}", link.display()))?;
        }
        self.files().try_for_each(|deb| unpack(deb, root))
    }
}

/// Copies the package from the folder of `source`, if it is there.
fn take(package: &Package, source: &Source, cached: &Path) -> Result<bool> {
    let Some(folder) = &source.folder else {
        return Ok(false);
    };
    let offered = folder.join(package.file());
    if !package.is(&offered) {
        return Ok(false);
    }
    copy(&offered, cached)?;
    Ok(true)
}

/// Downloads `missing`, several at a time, from each mirror in turn.
fn download(
    missing: &mut Vec<&Package>,
    source: &Source,
    cache: &Path,
    progress: &Progress,
) -> Result<()> {
    let mirrors = Mirror::all(&source.mirrors)?;
    let bytes: u64 = missing.iter().map(|package| package.size).sum();
    let step = progress.step("download packages");
    let count = missing.len();
    step.note(format!("{count} files, {} MB", bytes.div_ceil(1_000_000)));

    let mut reasons = Vec::new();
    // A package has one likely kind of mirror; the second round asks the others.
    for likely in [true, false] {
        for mirror in &mirrors {
            let requests: Vec<_> = missing
                .iter()
                .filter(|package| mirror.suits(&package.path) == likely)
                .map(|package| Request {
                    url: mirror.url(&package.path),
                    target: cache.join(package.file()),
                    sha256: Some(package.sha256.clone()),
                })
                .collect();
            reasons.extend(fetch(&requests)?);
            missing.retain(|package| !package.is(&cache.join(package.file())));
        }
    }
    if let Some(archive) = &source.snapshot {
        step.note(format!("{} from the snapshot archive", missing.len()));
        reasons.extend(snapshot::download(&Mirror::new(archive), missing, cache)?);
        missing.retain(|package| !package.is(&cache.join(package.file())));
    }
    if let Some(package) = missing.first() {
        let others = match missing.len() {
            1 => String::new(),
            count => format!(" (and {} more)", count.saturating_sub(1)),
        };
        bail!(
            "no mirror has {} {} with the locked hash{others}; renew the lock with \
             `cargo xtask image lock`, give a folder that holds {} with `--debs DIR`, \
             or an archive that still has it with `--mirror URL` or `--snapshot URL`; apt says: {}",
            package.name,
            package.version,
            package.file(),
            reasons.first().map_or("nothing", String::as_str),
        );
    }
    step.done(format!("{count} files, {} MB", bytes.div_ceil(1_000_000)));
    Ok(())
}

/// A file to download.
#[derive(Clone, Debug)]
pub(super) struct Request {
    pub(super) url: String,
    pub(super) target: PathBuf,
    /// What apt takes it only with.
    pub(super) sha256: Option<String>,
}

/// Asks apt for every file. What did not come is not there afterwards; gives apt's reasons.
pub(super) fn fetch(requests: &[Request]) -> Result<Vec<String>> {
    let share = requests.len().div_ceil(CONNECTIONS).max(1);
    let children: Vec<Child> = requests
        .chunks(share)
        .map(|chunk| {
            let arguments = chunk.iter().flat_map(|request| {
                let hash = request.sha256.as_ref().map(|hash| format!("SHA256:{hash}"));
                [
                    OsString::from(&request.url),
                    request.target.clone().into_os_string(),
                    hash.unwrap_or_default().into(),
                ]
            });
            Command::new(host::APT_HELPER)
                .args(["-o", "APT::Sandbox::User=root", "download-file"])
                .args(arguments)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .spawn()
                .with_context(|| format!("cannot start {}", host::APT_HELPER))
        })
        .collect::<Result<_>>()?;
    let mut reasons = Vec::new();
    for child in children {
        let output = child.wait_with_output().context("cannot wait for apt")?;
        let said = String::from_utf8_lossy(&output.stderr);
        reasons.extend(
            said.lines()
                .filter_map(|line| line.strip_prefix("E: "))
                .map(Into::into),
        );
    }
    for request in requests {
        let mut failed = request.target.clone().into_os_string();
        failed.push(".FAILED");
        remove(Path::new(&failed))?;
    }
    Ok(reasons)
}

fn unpack(deb: &Path, root: &Path) -> Result<()> {
    let mut archive = Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot start dpkg-deb")?;
    let tar = archive.stdout.take().context("dpkg-deb has no output")?;
    let unpacked = Command::new("tar")
        .args(["--extract", "--preserve-permissions", "--no-same-owner"])
        .args(["--keep-directory-symlink", UNUSED, "--directory"])
        .arg(root)
        .stdin(tar)
        .status()
        .context("cannot start tar")?;
    let archive = archive.wait().context("cannot wait for dpkg-deb")?;
    if !unpacked.success() || !archive.success() {
        bail!("cannot unpack {}", deb.display());
    }
    Ok(())
}

/// CUDA's libraries once more, in 2 GB that nothing links.
const UNUSED: &str = "--exclude=*_static.a";

/// Downloads that run at the same time.
const CONNECTIONS: usize = 4;
