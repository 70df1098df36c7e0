//! The two configuration files, from the host over fw_cfg.
//!
//! Each is read once: what is measured, parsed and handed to the agent are the
//! same bytes, whatever the host does to its copy meanwhile.

use anyhow::Context;
use attestation::config::{Measured, Model, Network, Unmeasured};

use crate::system::System;

/// Both files as read, not looked at yet.
#[derive(Debug)]
pub(crate) struct Files {
    /// Part of the machine's identity.
    pub(crate) measured: Vec<u8>,
    /// The host's choice.
    pub(crate) unmeasured: Vec<u8>,
}

/// Takes the files from the host and keeps them where the agent finds them.
pub(crate) fn read(system: &mut dyn System) -> anyhow::Result<Files> {
    system
        .create_dir(FOLDER)
        .with_context(|| format!("cannot make {FOLDER}"))?;
    Ok(Files {
        measured: take(system, "measured.toml", MEASURED)?,
        unmeasured: take(system, "unmeasured.toml", UNMEASURED)?,
    })
}

fn take(system: &mut dyn System, name: &str, to: &str) -> anyhow::Result<Vec<u8>> {
    let from = format!("/sys/firmware/qemu_fw_cfg/by_name/opt/cocoon/{name}/raw");
    let bytes = system
        .read(&from, LIMIT)
        .with_context(|| format!("cannot read {from}"))?;
    system
        .create(to, &bytes)
        .with_context(|| format!("cannot write {to}"))?;
    Ok(bytes)
}

/// What init itself needs of them.
#[derive(Debug)]
pub(crate) struct Config {
    /// From the measured file.
    pub(crate) models: Vec<Model>,
    /// From the unmeasured file.
    pub(crate) network: Network,
}

/// Reads the files' meaning. The measured one is bound to the platform by now.
pub(crate) fn parse(files: &Files) -> anyhow::Result<Config> {
    let measured = Measured::parse(&files.measured).context("measured.toml is refused")?;
    let unmeasured = Unmeasured::parse(&files.unmeasured).context("unmeasured.toml is refused")?;
    Ok(Config {
        models: measured.models,
        network: unmeasured.network,
    })
}

/// What init leaves for the agent.
pub(crate) const FOLDER: &str = "/run/cocoon";
/// The agent's copy.
pub(crate) const MEASURED: &str = "/run/cocoon/measured.toml";
/// The agent's copy.
pub(crate) const UNMEASURED: &str = "/run/cocoon/unmeasured.toml";

/// Far above any real file, far below what would hurt.
const LIMIT: usize = 64 * 1024;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::double::Double;

    #[test]
    fn a_file_of_more_than_64_kib_is_not_taken() {
        let mut double = Double::with_tpm();
        let path = "/sys/firmware/qemu_fw_cfg/by_name/opt/cocoon/unmeasured.toml/raw";
        double.file(path, &"#".repeat(LIMIT));
        assert!(read(&mut double).is_ok());
        double.file(path, &"#".repeat(LIMIT + 1));
        let error = read(&mut double).unwrap_err();
        assert_eq!(error.to_string(), format!("cannot read {path}"));
    }

    #[test]
    fn each_file_is_refused_by_its_name() {
        let good = read(&mut Double::with_tpm()).unwrap();
        let measured = Files {
            measured: b"x".to_vec(),
            unmeasured: good.unmeasured.clone(),
        };
        let error = parse(&measured).unwrap_err().to_string();
        assert_eq!(error, "measured.toml is refused");
        let unmeasured = Files {
            unmeasured: b"x".to_vec(),
            ..good
        };
        let error = parse(&unmeasured).unwrap_err().to_string();
        assert_eq!(error, "unmeasured.toml is refused");
    }
}
