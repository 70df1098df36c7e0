//! A model disk: a directory as erofs under dm-verity.

use std::fs::{Permissions, set_permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use attestation::verity::Verity;

use crate::image::root::{OPTIONS, seal};
use crate::image::{Builder, install};
use crate::place::{Key, files, read, read_text, remove, write};
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
            // The same permissions whatever this user's umask is.
            let model = folder.join("model");
            for file in files(directory)? {
                let name = file.strip_prefix(directory).unwrap_or(&file);
                install(&file, &model.join(name))?;
            }
            set_permissions(&model, Permissions::from_mode(0o755))
                .with_context(|| format!("cannot open {}", model.display()))?;
            let mut sandbox = tools.sandbox();
            sandbox.writable(folder, "/folder");
            let output = ["/folder/data", "/folder/model"];
            let log = folder.join("log");
            sandbox.run("mkfs.erofs", OPTIONS.iter().chain(&output), &log, &step)?;
            let data = folder.join("data");
            let (disk, verity) = seal(read(&data)?)?;
            remove(&data)?;
            remove(&model)?;
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
