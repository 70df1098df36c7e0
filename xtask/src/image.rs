//! The image: what boots, from locked packages and this checkout to the last byte.
//!
//! ```text
//! packages.lock ─ tools tree ─┬─ kernel ───────────────── vmlinuz
//!                             │  └ driver ┐ (nvidia)
//!                             ├─ agent ─ root ─ verity ── root.img
//!                             ├─ init ────────────┴────── initrd
//!                             └─ ovmf ─────────────────── OVMF.fd
//! ```
//!
//! Each part is cached by a key of its inputs. Every path, time, name and
//! locale that a part can see is fixed, so the same inputs give the same bytes.

pub mod binaries;
pub mod check;
pub mod debs;
pub mod driver;
pub mod explain;
pub mod initrd;
pub mod inside;
pub mod kernel;
pub mod lock;
pub mod materials;
pub mod renew;
pub mod root;
pub mod snapshot;

use std::fmt;
use std::fs::{self, Permissions};
use std::num::NonZero;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::thread;

use anyhow::{Context as _, Result, anyhow};
use attestation::verity::Verity;
use measurements::materials::Materials;
use serde::{Deserialize, Serialize};

use self::debs::Source;
use self::initrd::Member;
use self::lock::Lock;
use self::root::Own;
use crate::host;
use crate::place::{Place, copy, read, read_text, remove, sha256, write};
use crate::progress::Progress;
use crate::tools::Tools;

/// Builds this checkout with the mirrors and cores of this machine.
pub fn build(profile: Profile, progress: &Progress) -> Result<Artefacts> {
    Builder::here(progress)?.build(profile)
}

/// What a build reads, writes and says.
#[derive(Clone, Debug)]
pub struct Builder {
    /// Sources and outputs.
    pub place: Place,
    /// Where missing packages come from.
    pub source: Source,
    /// Compilers that run at the same time.
    pub jobs: NonZero<usize>,
    /// How it is shown.
    pub progress: Progress,
}

impl Builder {
    /// This checkout, the mirrors that apt knows, every core.
    pub fn here(progress: &Progress) -> Result<Self> {
        Ok(Self {
            place: Place::here()?,
            source: Source::default(),
            jobs: thread::available_parallelism().unwrap_or(NonZero::<usize>::MIN),
            progress: progress.clone(),
        })
    }

    /// The tools tree alone.
    pub fn tools(&self) -> Result<Tools> {
        host::need(&[("dpkg-deb", "dpkg"), ("tar", "tar")])?;
        let lock = Lock::read(&self.place)?;
        Tools::prepare(&self.place, &lock, &self.source, &self.progress)
    }

    /// Makes every artefact of `profile`.
    pub fn build(&self, profile: Profile) -> Result<Artefacts> {
        let tools = self.tools()?;
        let lock = Lock::read(&self.place)?;
        let (kernel, binaries) = thread::scope(|scope| {
            let kernel = scope.spawn(|| kernel::build(self, profile, &lock, &tools));
            let binaries = binaries::build(self, profile, &tools);
            let kernel = kernel.join().map_err(|_| anyhow!("the kernel build died"));
            (kernel, binaries)
        });
        let (kernel, binaries) = (kernel??, binaries?);
        let own = Own {
            programs: &binaries.root,
            modules: &kernel.modules,
        };
        let root = root::build(self, profile, &lock, &tools, own)?;

        let artefacts = Artefacts::at(self.place.out.join(profile.name()));
        remove(&artefacts.folder)?;
        install(&tools.path(FIRMWARE), &artefacts.firmware)?;
        install(&kernel.image, &artefacts.kernel)?;
        install(&root.image, &artefacts.root)?;
        let verity = format!("{}\n", root.verity);
        write(&artefacts.verity, &verity)?;
        let initrd = initrd::archive(&[
            Member {
                name: "init",
                mode: 0o755,
                content: &read(&binaries.init)?,
            },
            Member {
                name: "verity",
                mode: 0o444,
                content: verity.as_bytes(),
            },
        ])?;
        write(&artefacts.initrd, initrd)?;
        let command_line = kernel::command_line(&self.place.source)? + profile.command_line();
        write(&artefacts.command_line, &command_line)?;
        let materials = materials::materials(&self.place, &lock, profile)?;
        let manifest = Manifest::of(&artefacts, profile, materials, &root.verity, command_line)?;
        write(&artefacts.manifest, manifest.to_json()?)?;
        Ok(artefacts)
    }
}

/// The images that are made from one source.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Profile {
    /// What is published.
    Base,
    /// With a shell on the console: other measurements, and it says so.
    Debug,
    /// With the driver of NVIDIA's GPUs and CUDA.
    Nvidia,
}

impl Profile {
    /// Every profile, in the order of their names.
    pub const ALL: [Self; 3] = [Self::Base, Self::Debug, Self::Nvidia];

    /// Word for it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Base => "base",
            Self::Debug => "debug",
            Self::Nvidia => "nvidia",
        }
    }

    /// Where its own part of the configuration is, under the checkout.
    fn folder(self) -> PathBuf {
        Path::new("image/mkosi.profiles").join(self.name())
    }

    const fn mkosi(self) -> &'static [&'static str] {
        match self {
            Self::Base => &[],
            Self::Debug => &["--profile=debug"],
            Self::Nvidia => &["--profile=nvidia"],
        }
    }

    /// Appended to what the loader passes; the kernel ignores it, the measurement does not.
    const fn command_line(self) -> &'static str {
        match self {
            Self::Base | Self::Nvidia => "",
            Self::Debug => " DEBUG",
        }
    }
}

impl fmt::Display for Profile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for Profile {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> Result<Self> {
        Self::ALL
            .into_iter()
            .find(|profile| profile.name() == text)
            .ok_or_else(|| anyhow!("profile is {text}, expected base, debug or nvidia"))
    }
}

/// Paths of what was built.
#[derive(Clone, Debug)]
pub struct Artefacts {
    /// All of them lie here.
    pub folder: PathBuf,
    /// For QEMU's -bios.
    pub firmware: PathBuf,
    /// For -kernel.
    pub kernel: PathBuf,
    /// For -initrd.
    pub initrd: PathBuf,
    /// The disk with serial `cocoon-root`.
    pub root: PathBuf,
    /// Text for -append, without a line end.
    pub command_line: PathBuf,
    /// Text form of the root's [`Verity`], one line.
    pub verity: PathBuf,
    /// A [`Manifest`] as JSON.
    pub manifest: PathBuf,
}

impl Artefacts {
    /// What a build leaves in `folder`.
    #[must_use]
    pub fn at(folder: PathBuf) -> Self {
        let file = |name| folder.join(name);
        Self {
            firmware: file("OVMF.fd"),
            kernel: file("vmlinuz"),
            initrd: file("initrd"),
            root: file("root.img"),
            command_line: file("cmdline"),
            verity: file("verity"),
            manifest: file("manifest.json"),
            folder,
        }
    }

    /// What is passed with -append.
    pub fn command_line(&self) -> Result<String> {
        read_text(&self.command_line)
    }

    /// What the initrd says about the root.
    pub fn verity(&self) -> Result<Verity> {
        let text = read_text(&self.verity)?;
        text.trim_end().parse().context("root hash")
    }
}

/// What was built, for people and for comparison.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Manifest {
    /// Name of the [`Profile`].
    pub profile: String,
    /// What is passed with -append.
    pub command_line: String,
    /// What the initrd says about the root.
    pub verity: Verity,
    /// Each file that boots, in the order of their names.
    pub artefacts: Vec<Artefact>,
    /// Debian packages in the root, `name version`.
    pub packages: Vec<String>,
    /// What went into each of them.
    pub materials: Materials,
}

impl Manifest {
    fn of(
        artefacts: &Artefacts,
        profile: Profile,
        materials: Materials,
        verity: &Verity,
        command_line: String,
    ) -> Result<Self> {
        let files = [
            &artefacts.firmware,
            &artefacts.initrd,
            &artefacts.root,
            &artefacts.kernel,
        ];
        Ok(Self {
            profile: profile.name().into(),
            command_line,
            verity: *verity,
            artefacts: files
                .into_iter()
                .map(|path| Artefact::of(path))
                .collect::<Result<_>>()?,
            packages: materials
                .parts
                .iter()
                .filter(|part| part.artefact == "root.img")
                .flat_map(|part| &part.debian)
                .map(|package| format!("{} {}", package.name, package.version))
                .collect(),
            materials,
        })
    }

    fn to_json(&self) -> Result<String> {
        let json = serde_json::to_string_pretty(self).context("cannot write the manifest")?;
        Ok(json + "\n")
    }
}

/// One file of a [`Manifest`].
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
pub struct Artefact {
    /// File name.
    pub name: String,
    /// In bytes.
    pub size: u64,
    /// In lower-case hex.
    pub sha256: String,
}

impl Artefact {
    fn of(path: &Path) -> Result<Self> {
        let name = path.file_name().unwrap_or_default();
        let metadata = path
            .metadata()
            .with_context(|| format!("cannot read {}", path.display()))?;
        Ok(Self {
            name: name.to_string_lossy().into_owned(),
            size: metadata.len(),
            sha256: sha256(path)?.to_string(),
        })
    }
}

/// Copies `from` with the same permissions on every machine; gives its size.
pub(crate) fn install(from: &Path, to: &Path) -> Result<u64> {
    copy(from, to)?;
    let executable = from
        .metadata()
        .is_ok_and(|found| found.permissions().mode() & 0o111 != 0);
    let mode = if executable { 0o755 } else { 0o644 };
    fs::set_permissions(to, Permissions::from_mode(mode))
        .with_context(|| format!("cannot set permissions of {}", to.display()))?;
    Ok(to.metadata().map_or(0, |found| found.len()))
}

/// Debian's OVMF without Secure Boot keys: what `-bios` takes, TDVF metadata included.
pub const FIRMWARE: &str = "usr/share/ovmf/OVMF.fd";
