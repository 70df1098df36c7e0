//! A model disk: a directory as erofs under dm-verity.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use attestation::verity::Verity;

use crate::image::Builder;
use crate::image::root::{OPTIONS, seal};
use crate::place::{Key, read, read_text, remove, write};
use crate::tools::Tools;

/// A disk image and what measures it.
#[derive(Clone, Debug)]
pub struct Disk {
    /// Data, superblock and hash tree.
    pub image: PathBuf,
    /// Goes into the measured configuration.
    pub verity: Verity,
}

/// Makes the disk of the model in `directory`, once for its content.
pub fn build(builder: &Builder, tools: &Tools, name: &str, directory: &Path) -> Result<Disk> {
    let key = Key::default()
        .with(OPTIONS.concat())
        .with_files(directory)?
        .finish();
    let folder = builder
        .place
        .cached(&format!("model-{name}"), key, |folder| {
            let step = builder.progress.step(format!("make the disk of {name}"));
            let mut sandbox = tools.sandbox();
            sandbox
                .read_only(directory, "/model")
                .writable(folder, "/folder");
            let output = ["/folder/data", "/model"];
            let log = folder.join("log");
            sandbox.run("mkfs.erofs", OPTIONS.iter().chain(&output), &log, &step)?;
            let data = folder.join("data");
            let (disk, verity) = seal(read(&data)?)?;
            remove(&data)?;
            write(&folder.join("image"), &disk)?;
            write(&folder.join("verity"), verity.to_string())?;
            step.done(format!("{} bytes", disk.len()));
            Ok(())
        })?;
    Ok(Disk {
        image: folder.join("image"),
        verity: read_text(&folder.join("verity"))?
            .parse()
            .context("the disk's verity parameters are damaged")?,
    })
}
