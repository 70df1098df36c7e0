//! Disks that are what their root hash says, or are not used.
//!
//! A disk is looked for by its virtio serial, which the host chooses: a hint
//! where to look. What it holds is decided by dm-verity.

use std::str::FromStr;
use std::time::Duration;

use anyhow::{Context, bail};
use attestation::config::Model;
use attestation::verity::Verity;

use crate::keys;
use crate::system::{Limits, Mount, System};

/// Mounts the root file system that the initrd names.
pub(crate) fn open_root(system: &mut dyn System) -> anyhow::Result<()> {
    let text = system
        .read(ROOT_HASH, 256)
        .with_context(|| format!("cannot read {ROOT_HASH}"))?;
    let text = String::from_utf8_lossy(&text);
    let verity = Verity::from_str(text.trim_end())
        .with_context(|| format!("{ROOT_HASH} holds no root hash"))?;
    let device = verified(system, "cocoon-root", &verity)?;
    mount(system, &device, ROOT, Limits::ReadOnly)
}

/// Mounts each model of the measured configuration below `/models`.
pub(crate) fn open_models(system: &mut dyn System, models: &[Model]) -> anyhow::Result<()> {
    let folder = Mount {
        source: "tmpfs",
        target: MODELS,
        kind: "tmpfs",
        limits: Limits::Data,
        options: "mode=0755,size=64k",
    };
    system
        .mount(&folder)
        .with_context(|| format!("cannot mount tmpfs on {MODELS}"))?;
    for model in models {
        let name = model.name.as_str();
        let target = format!("{MODELS}/{name}");
        let serial = format!("model-{name}");
        let mut device = verified(system, &serial, &model.verity)?;
        // What is decrypted is under the root hash: nothing else gets that far.
        if model.key.is_some() {
            let key = keys::take(system, name)?;
            let sectors = model.verity.sectors();
            device = system
                .map_crypt(&format!("plain-{name}"), &device, sectors, &key)
                .with_context(|| format!("cannot decrypt {device} (serial {serial})"))?;
        }
        mount(system, &device, &target, Limits::ReadOnlyData)?;
    }
    Ok(())
}

/// The device that yields what the root hash stands for.
fn verified(system: &mut dyn System, serial: &str, verity: &Verity) -> anyhow::Result<String> {
    let disk = find(system, serial)?;
    system
        .map_verity(serial, &disk, verity)
        .with_context(|| format!("cannot map {disk} (serial {serial}) with {verity}"))
}

fn mount(
    system: &mut dyn System,
    device: &str,
    target: &str,
    limits: Limits,
) -> anyhow::Result<()> {
    system
        .create_dir(target)
        .with_context(|| format!("cannot make {target}"))?;
    let mount = Mount {
        source: device,
        target,
        kind: "erofs",
        limits,
        options: "",
    };
    system
        .mount(&mount)
        .with_context(|| format!("cannot mount {device} on {target}"))
}

/// Waits for the disk: the kernel looks for devices while we run.
fn find(system: &mut dyn System, serial: &str) -> anyhow::Result<String> {
    let until = system.uptime().saturating_add(PATIENCE);
    loop {
        let disks = system
            .list("/sys/block")
            .context("cannot list /sys/block")?;
        for disk in disks {
            // Not a virtio disk, or gone again: not ours.
            let Ok(found) = system.read(&format!("/sys/block/{disk}/serial"), 64) else {
                continue;
            };
            if found.trim_ascii_end() == serial.as_bytes() {
                return Ok(format!("/dev/{disk}"));
            }
        }
        if system.uptime() >= until {
            bail!(
                "no disk with serial {serial} within {} s",
                PATIENCE.as_secs()
            );
        }
        system.pause(Duration::from_millis(20));
    }
}

/// In the initrd: the text form of a [`Verity`].
pub(crate) const ROOT_HASH: &str = "/verity";
/// Where the root is mounted until it is the root.
pub(crate) const ROOT: &str = "/root";
/// A folder for each model.
pub(crate) const MODELS: &str = "/models";

const PATIENCE: Duration = Duration::from_secs(5);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::double::Double;

    fn reason(change: impl Fn(&mut Double)) -> String {
        let mut double = Double::with_tpm();
        change(&mut double);
        format!("{:#}", open_root(&mut double).unwrap_err())
    }

    #[test]
    fn a_disk_that_is_not_there_is_waited_for_and_then_missed() {
        let mut double = Double::with_tpm();
        double.files.remove("/sys/block/vdb/serial");
        let began = double.now;
        let error = open_root(&mut double).unwrap_err();
        assert_eq!(
            error.to_string(),
            "no disk with serial cocoon-root within 5 s"
        );
        assert_eq!(double.now - began, PATIENCE);
    }

    #[test]
    fn a_serial_that_only_begins_alike_is_another_disk() {
        let error = reason(|double| double.file("/sys/block/vdb/serial", "cocoon-root2"));
        assert_eq!(error, "no disk with serial cocoon-root within 5 s");
    }

    #[test]
    fn text_that_is_no_root_hash_is_refused() {
        assert_eq!(
            reason(|double| double.file("/verity", "sha256:00\n")),
            "/verity holds no root hash: verity root hash is not 64 lower-case hex digits"
        );
        assert!(
            reason(|double| double.file("/verity", &"x".repeat(257)))
                .starts_with("cannot read /verity: "),
        );
    }
}
