//! A TPM in software, with an endorsement certificate by a CA of its own.

use std::fs;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use tempfile::TempDir;

/// A running `swtpm`; it ends with this value.
pub(crate) struct Swtpm {
    process: Child,
    address: SocketAddrV4,
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
        let (process, address) = serve(home.path());
        Some(Self {
            process,
            address,
            home,
        })
    }

    /// For `Tpm::open`. One client at a time.
    pub(crate) fn tcti(&self) -> String {
        let (ip, port) = (self.address.ip(), self.address.port());
        format!("swtpm:host={ip},port={port}")
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

/// Returns once it listens on both.
fn serve(home: &Path) -> (Child, SocketAddrV4) {
    let ip = own_address();
    let port = free_ports(ip);
    let listen = |port| format!("type=tcp,bindaddr={ip},port={port}");
    let mut process = Command::new("swtpm")
        .args(["socket", "--tpm2", "--flags", "startup-clear"])
        .args(["--tpmstate", &format!("dir={}", home.display())])
        .args(["--server", &listen(port)])
        .args(["--ctrl", &listen(port + 1)])
        .stdin(Stdio::null())
        .spawn()
        .unwrap();
    for port in [port, port + 1] {
        while TcpStream::connect((ip, port)).is_err() {
            assert!(process.try_wait().unwrap().is_none(), "swtpm ended");
            thread::sleep(Duration::from_millis(2));
        }
    }
    (process, SocketAddrV4::new(ip, port))
}

/// A loopback address that no other TPM has: ports that were free a moment ago stay so.
fn own_address() -> Ipv4Addr {
    static TPMS: AtomicU32 = AtomicU32::new(1);
    let (process, tpm) = (process::id() & 0xffff, TPMS.fetch_add(1, Ordering::Relaxed));
    Ipv4Addr::from_bits(0x7f00_0000 | process << 8 | tpm & 0xff)
}

/// The library wants the control socket on the port after the server's.
fn free_ports(ip: Ipv4Addr) -> u16 {
    let bind = |port| TcpListener::bind((ip, port)).ok();
    loop {
        let server = bind(0).unwrap();
        let port = server.local_addr().unwrap().port();
        if port.checked_add(1).and_then(bind).is_some() {
            return port;
        }
    }
}
