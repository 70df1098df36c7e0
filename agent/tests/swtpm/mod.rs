//! A TPM in software, with an endorsement certificate by a CA of its own.

use std::fs;
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use tempfile::TempDir;

/// A running `swtpm`; it ends with this value.
pub(crate) struct Swtpm {
    process: Child,
    port: u16,
    home: TempDir,
}

impl Swtpm {
    /// `None`, with a word on stderr, where swtpm is not installed.
    pub(crate) fn start() -> Option<Self> {
        if !installed() {
            assert!(std::env::var_os("CI").is_none(), "CI needs swtpm-tools");
            eprintln!("skipped: no swtpm");
            return None;
        }
        let home = tempfile::tempdir().unwrap();
        manufacture(home.path());
        let mut attempts = std::iter::repeat_with(|| serve(home.path(), free_ports()));
        let (process, port) = attempts.find_map(|started| started).unwrap();
        Some(Self {
            process,
            port,
            home,
        })
    }

    /// For `Tpm::open`. One client at a time.
    pub(crate) fn tcti(&self) -> String {
        format!("swtpm:host=127.0.0.1,port={}", self.port)
    }

    /// Issuer of the endorsement certificate, DER.
    pub(crate) fn issuer(&self) -> Vec<u8> {
        self.certificate("issuercert.pem")
    }

    /// Issuer of the issuer, DER.
    pub(crate) fn root(&self) -> Vec<u8> {
        self.certificate("swtpm-localca-rootca-cert.pem")
    }

    fn certificate(&self, name: &str) -> Vec<u8> {
        let pem = fs::read_to_string(self.home.path().join(name)).unwrap();
        let lines = pem.lines().filter(|line| !line.starts_with("-----"));
        BASE64_STANDARD.decode(lines.collect::<String>()).unwrap()
    }
}

impl Drop for Swtpm {
    fn drop(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }
}

fn installed() -> bool {
    let found = |tool| {
        let mut command = Command::new(tool);
        command
            .arg("--version")
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        command.status().is_ok()
    };
    found("swtpm") && found("swtpm_setup")
}

/// Makes a CA, the TPM's keys, and their certificates.
fn manufacture(home: &Path) {
    let file = |name: &str| -> PathBuf { home.join(name) };
    let show = |name: &str| file(name).display().to_string();
    let ca = format!(
        "statedir = {}\nsigningkey = {}\nissuercert = {}\ncertserial = {}\n",
        home.display(),
        show("signkey.pem"),
        show("issuercert.pem"),
        show("certserial"),
    );
    let options = "--platform-manufacturer Test\n--platform-version 1\n--platform-model Test\n";
    let setup = format!(
        "create_certs_tool = {}\ncreate_certs_tool_config = {}\n\
         create_certs_tool_options = {}\nactive_pcr_banks = sha256\n",
        which("swtpm_localca").display(),
        show("ca.conf"),
        show("ca.options"),
    );
    fs::write(file("ca.conf"), ca).unwrap();
    fs::write(file("ca.options"), options).unwrap();
    fs::write(file("setup.conf"), setup).unwrap();
    let output = Command::new("swtpm_setup")
        .args([
            "--tpm2",
            "--create-ek-cert",
            "--tpmstate",
            &home.display().to_string(),
        ])
        .args(["--config", &show("setup.conf")])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}

fn which(tool: &str) -> PathBuf {
    std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|folder| folder.join(tool))
        .find(|path| path.exists())
        .unwrap()
}

/// Returns once the sockets listen, or `None` if another process took the ports.
fn serve(home: &Path, port: u16) -> Option<(Child, u16)> {
    let address = |port| format!("type=tcp,bindaddr=127.0.0.1,port={port}");
    let mut process = Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "startup-clear"])
        .args(["--tpmstate", &format!("dir={}", home.display())])
        .args(["--server", &address(port)])
        .args(["--ctrl", &address(port + 1)])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    while TcpStream::connect((Ipv4Addr::LOCALHOST, port + 1)).is_err() {
        if process.try_wait().unwrap().is_some() {
            return None;
        }
        thread::sleep(Duration::from_millis(2));
    }
    Some((process, port))
}

/// The library wants the control socket on the port after the server's.
fn free_ports() -> u16 {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port)).ok();
    loop {
        let server = bind(0).unwrap();
        let port = server.local_addr().unwrap().port();
        if port.checked_add(1).and_then(bind).is_some() {
            return port;
        }
    }
}
