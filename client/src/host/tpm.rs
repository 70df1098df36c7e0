//! A software TPM for machines whose platform has none, with a certified endorsement key.
//!
//! It proves what was booted to whoever trusts the machine that runs it, no
//! more: its authority is a key in a file on this machine.

use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};
use std::{fs, thread};

use anyhow::{Context as _, Result, ensure};

use super::programs::{Needs, Programs, end};
use super::vm::path_value;

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
        self.folder.join(ISSUER)
    }
}

/// A running TPM that is new.
#[derive(Debug)]
pub struct Tpm(Child);

impl Tpm {
    /// Makes one with its state and socket in `state`.
    pub fn start(programs: &dyn Programs, authority: &Authority, state: &Path) -> Result<Self> {
        fs::create_dir_all(state.join(STATE)).context("cannot make a folder for the TPM")?;
        manufacture(programs, authority, state)?;
        let needs = Needs {
            writes: &[state],
            ..Needs::default()
        };
        let mut child = programs
            .command("swtpm", needs)
            .args(["socket", "--tpm2", "--terminate", "--tpmstate"])
            .arg(format!("dir={}", state.join(STATE).display()))
            .arg("--ctrl")
            .arg(format!("type=unixio,path={}", state.join(SOCKET).display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            // It ends with QEMU, not with a signal from the terminal before it.
            .process_group(0)
            .spawn()
            .context("cannot start swtpm")?;
        let started = Instant::now();
        while !state.join(SOCKET).exists() {
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

/// QEMU's arguments for the one in `state`.
#[must_use]
pub fn arguments(state: &Path) -> [String; 4] {
    let socket = path_value(&state.join(SOCKET));
    [
        "-chardev".into(),
        format!("socket,id=tpm,path={socket}"),
        "-tpmdev".into(),
        "emulator,id=tpm0,chardev=tpm".into(),
    ]
}

/// Gives it its seeds, an RSA-2048 endorsement key, and a certificate for that.
fn manufacture(programs: &dyn Programs, authority: &Authority, state: &Path) -> Result<()> {
    let folder = authority.folder.display();
    let (options, issuer) = (
        state.join("authority.options"),
        state.join("authority.conf"),
    );
    let setup = state.join("setup.conf");
    for (path, text) in [
        (&options, String::new()),
        (
            &issuer,
            format!(
                "statedir = {folder}
signingkey = {folder}/signkey.pem
\
                 issuercert = {folder}/{ISSUER}
certserial = {folder}/certserial
"
            ),
        ),
        (
            &setup,
            format!(
                "create_certs_tool = /usr/bin/swtpm_localca
\
                 create_certs_tool_config = {}
create_certs_tool_options = {}
",
                issuer.display(),
                options.display()
            ),
        ),
    ] {
        fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    let needs = Needs {
        writes: &[state, &authority.folder],
        ..Needs::default()
    };
    let output = programs
        .command("swtpm_setup", needs)
        .args(["--tpm2", "--tpmstate"])
        .arg(state.join(STATE))
        .arg("--config")
        .arg(&setup)
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

/// In the folder of an [`Authority`].
pub const ISSUER: &str = "issuercert.pem";
const STATE: &str = "tpm";
const SOCKET: &str = "swtpm";
const LIMIT: Duration = Duration::from_secs(10);
const POLL: Duration = Duration::from_millis(20);
