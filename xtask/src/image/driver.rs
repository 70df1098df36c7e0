//! The modules of NVIDIA's GPUs, from Debian's package of the open ones and our patches.
//!
//! Two of the five are built: nothing here has a display, and GPUs talk to no
//! network card. The part that is the same on every system (`nv-kernel.o_binary`)
//! comes compiled with the package. Paths end up in the modules, so they are
//! built where every path is the same on every machine.

use std::path::{Path, PathBuf};

use anyhow::Result;
use attestation::register::Digest256;

use super::Builder;
use super::debs::Debs;
use super::lock::{Lock, Use};
use crate::place::{Key, list, remove};
use crate::tools::Sandbox;

/// The source, and what is changed about it.
#[derive(Debug)]
pub struct Driver {
    packages: Debs,
    patches: PathBuf,
    key: Digest256,
}

impl Driver {
    /// In the order in which they are loaded.
    pub const MODULES: [&str; 2] = ["nvidia.ko", "nvidia-uvm.ko"];

    /// The locked package and the patches of this checkout.
    pub fn read(builder: &Builder, lock: &Lock) -> Result<Self> {
        let Builder { place, source, .. } = builder;
        let packages = Debs::obtain(place, lock.of(Use::Driver), source, &builder.progress)?;
        let patches = place.source.join("image/driver");
        let key = lock
            .of(Use::Driver)
            .fold(Key::default(), |key, package| key.with(&package.sha256))
            .with_files(&patches)?
            .with(EXCLUDED)
            .finish();
        Ok(Self {
            packages,
            patches,
            key,
        })
    }

    /// Stands for everything that is read.
    #[must_use]
    pub fn key(&self) -> Digest256 {
        self.key
    }

    /// Builds the modules into `folder`, for the kernel that lies built at `/build` of `kernel`.
    pub fn build(&self, builder: &Builder, kernel: &Sandbox, folder: &Path) -> Result<()> {
        let step = builder.progress.step("build the driver");
        let (work, log) = (folder.join("driver"), folder.join("driver.log"));
        self.packages.unpack(&work)?;
        let mut sandbox = kernel.clone();
        sandbox
            .writable(&work, "/driver")
            .read_only(&self.patches, "/patches");
        let run = |program: &str, arguments: &[&str]| sandbox.run(program, arguments, &log, &step);

        // What the kernel exports, which modules are linked against.
        run("make", &["modules"])?;
        run(
            "tar",
            &["-C", "/driver", "-xf", SOURCE, "--strip-components=2"],
        )?;
        for patch in list(&self.patches)? {
            let name = patch.file_name().unwrap_or_default().to_string_lossy();
            let patch = format!("--input=/patches/{name}");
            let options = ["--directory=/driver", "--strip=1", "--fuzz=0", &patch];
            run("patch", &options)?;
        }
        let jobs = format!("-j{}", builder.jobs);
        let place = ["-C", "/driver", "SYSSRC=/build", "SYSOUT=/build"];
        run(
            "make",
            &[&place[..], &[&jobs, EXCLUDED, "modules"]].concat(),
        )?;

        let mut sizes = Vec::new();
        for name in Self::MODULES {
            run("strip", &["--strip-debug", &format!("/driver/{name}")])?;
            let size = super::install(&work.join(name), &folder.join(name))?;
            sizes.push(size.to_string());
        }
        remove(&work)?;
        step.done(format!("{} bytes", sizes.join(" and ")));
        Ok(())
    }
}

const SOURCE: &str = "/driver/usr/src/nvidia-open-kernel.tar.xz";
const EXCLUDED: &str = "NV_EXCLUDE_KERNEL_MODULES=nvidia-drm nvidia-modeset nvidia-peermem";
