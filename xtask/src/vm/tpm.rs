//! A software TPM for machines whose platform has none, with a certified endorsement key.
//!
//! It proves what was booted to whoever trusts the machine that runs it, no
//! more: its authority is a key in a file on this machine.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context as _, Result, ensure};

use super::{POLL, end};
use crate::place::write;
use crate::tools::{Sandbox, Tools};

/// Certifies endorsement keys. Made at its first use.
#[derive(Clone, Debug)]
pub struct Authority {
    folder: PathBuf,
}

impl Authority {
    /// The one whose keys are in `folder`.
    pub fn at(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)
            .and_then(|()| fs::set_permissions(folder, fs::Permissions::from_mode(0o700)))
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let folder = folder
            .canonicalize()
            .with_context(|| format!("cannot find {}", folder.display()))?;
        Ok(Self { folder })
    }

    /// PEM file of the root certificate, there once a TPM was made.
    #[must_use]
    pub fn root_certificate(&self) -> PathBuf {
        self.folder.join("swtpm-localca-rootca-cert.pem")
    }

    /// PEM file of the certificate between the root and an endorsement key.
    #[must_use]
    pub fn issuer_certificate(&self) -> PathBuf {
        self.folder.join("issuercert.pem")
    }
}

/// A running TPM that is new.
#[derive(Debug)]
pub struct Tpm(Child);

impl Tpm {
    /// Makes one with its state and socket in `state`.
    pub fn start(tools: &Tools, authority: &Authority, state: &Path) -> Result<Self> {
        fs::create_dir_all(state.join("tpm")).context("cannot make a folder for the TPM")?;
        write(&state.join("setup.conf"), SETUP)?;
        write(&state.join("authority.conf"), AUTHORITY)?;
        write(&state.join("authority.options"), "")?;
        let mut sandbox = tools.sandbox();
        sandbox
            .writable(state, "/state")
            .writable(&authority.folder, "/authority");
        manufacture(&sandbox)?;

        let mut child = sandbox
            .command("swtpm")
            .args([
                "socket",
                "--tpm2",
                "--terminate",
                "--tpmstate",
                "dir=/state/tpm",
            ])
            .args(["--ctrl", "type=unixio,path=/state/swtpm"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .context("cannot start swtpm")?;
        let started = Instant::now();
        while !state.join("swtpm").exists() {
            let ended = child.try_wait().context("cannot wait for swtpm")?;
            if ended.is_some() || started.elapsed() > LIMIT {
                end(&mut child);
                anyhow::bail!("swtpm made no socket");
            }
            thread::sleep(POLL);
        }
        Ok(Self(child))
    }
}

impl Drop for Tpm {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

/// QEMU's arguments for it.
#[must_use]
pub fn arguments() -> [String; 4] {
    [
        "-chardev",
        "socket,id=tpm,path=/state/swtpm",
        "-tpmdev",
        "emulator,id=tpm0,chardev=tpm",
    ]
    .map(String::from)
}

/// Gives it its seeds, an RSA-2048 endorsement key, and a certificate for that.
fn manufacture(sandbox: &Sandbox) -> Result<()> {
    let output = sandbox
        .command("swtpm_setup")
        .args([
            "--tpm2",
            "--tpmstate",
            "/state/tpm",
            "--config",
            "/state/setup.conf",
        ])
        .args(["--create-ek-cert", "--rsa-keysize", "2048"])
        .args(["--pcr-banks", "sha256,sha384", "--overwrite"])
        .stdin(Stdio::null())
        .output()
        .context("cannot start swtpm_setup")?;
    ensure!(
        output.status.success(),
        "cannot make a TPM: {}{}",
        String::from_utf8_lossy(&output.stdout).trim(),
        String::from_utf8_lossy(&output.stderr).trim(),
    );
    Ok(())
}

const SETUP: &str = "\
create_certs_tool = /usr/bin/swtpm_localca
create_certs_tool_config = /state/authority.conf
create_certs_tool_options = /state/authority.options
";
const AUTHORITY: &str = "\
statedir = /authority
signingkey = /authority/signkey.pem
issuercert = /authority/issuercert.pem
certserial = /authority/certserial
";
const LIMIT: Duration = Duration::from_secs(10);
