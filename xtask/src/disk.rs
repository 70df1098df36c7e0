//! A model disk, as `cocoon model pack` makes it, held against others' readers.

use std::num::NonZero;
use std::path::PathBuf;

use anyhow::{Context as _, Result};
use attestation::verity::{BLOCK, Verity};
use client::model::manifest::Version;
use client::model::pack::Folder;

use crate::image::Builder;
use crate::models::ModelDir;
use crate::place::{Key, read, remove, write};
use crate::progress::Step;
use crate::tools::Tools;

/// A disk image and what measures it.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Data, superblock and hash tree.
    pub image: PathBuf,
    /// Goes into the measured configuration.
    pub verity: Verity,
}

/// Looks through one of our models.
pub fn folder(model: &ModelDir, threads: NonZero<usize>) -> Result<Folder> {
    Folder::read(&model.path, Version::new(model.name, REVISION)?, threads)
}

/// Makes the disk of a model, once for its content.
pub fn build(builder: &Builder, tools: &Tools, model: &ModelDir) -> Result<Disk> {
    let name = model.name;
    let pack = folder(model, builder.jobs)?;
    let verity = pack.verity()?;
    let key = Key::default().with(verity.to_string()).finish();
    let folder = builder
        .place
        .cached(&format!("model-{name}"), key, |folder| {
            let step = builder.progress.step(format!("make the disk of {name}"));
            let disk = Disk {
                image: folder.join("image"),
                verity: pack.write(&folder.join("image"), None)?,
            };
            disk.check(tools, &step)?;
            step.done(disk.verity);
            Ok(())
        })?;
    let image = folder.join("image");
    Ok(Disk { image, verity })
}

impl Disk {
    /// Has erofs-utils and cryptsetup read it to the last block.
    fn check(&self, tools: &Tools, step: &Step) -> Result<()> {
        let log = self.image.with_extension("log");
        let data = self.image.with_extension("data");
        let len = usize::try_from(self.verity.data_blocks.get())?.saturating_mul(BLOCK);
        let bytes = read(&self.image)?;
        write(&data, bytes.get(..len).context("a disk without its data")?)?;

        let mut sandbox = tools.sandbox();
        sandbox
            .read_only(&self.image, "/image")
            .read_only(&data, "/data");
        sandbox.run("fsck.erofs", ["--extract", "/data"], &log, step)?;
        let root = self.verity.root_hash.to_string();
        let offset = format!("--hash-offset={}", self.verity.hash_offset());
        let verify = ["verify", "/image", "/image", &root, &offset];
        sandbox.run("veritysetup", verify, &log, step)?;
        remove(&data)
    }
}

/// Of our own models; what changes has another root hash anyway.
const REVISION: &str = "main";
