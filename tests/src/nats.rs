//! The real `nats-server`, with JetStream, on a port of its own.

pub mod operator;

use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Runs until it is dropped or killed, and again on the same port.
#[derive(Debug)]
pub struct Nats {
    /// Where it listens.
    pub at: SocketAddr,
    /// What it is told beside that.
    more: Vec<String>,
    folder: TempDir,
    server: Option<Child>,
}

impl Nats {
    /// Listens on `address`. `None` where it is not installed, which CI is not allowed.
    pub fn start(address: IpAddr) -> Option<Self> {
        Self::start_with(free(address), Vec::new())
    }

    /// Three that keep the same, as `n0` to `n2`.
    #[must_use]
    pub fn cluster(address: IpAddr) -> Option<Vec<Self>> {
        let routes = [(); 3].map(|()| format!("nats://{}", free(address)));
        let servers = routes.iter().enumerate().map(|(number, route)| {
            let name = format!("n{number}");
            let all = routes.join(",");
            let told = ["--server_name", &name, "--cluster_name", "tests"];
            let told = [&told[..], &["--cluster", route, "--routes", &all]].concat();
            Self::start_with(free(address), told.into_iter().map(Into::into).collect())
        });
        servers.collect()
    }

    /// Told the rest by a file of configuration, which stays where it is.
    #[must_use]
    pub fn configured(address: IpAddr, configuration: &Path) -> Option<Self> {
        let configuration = configuration.display().to_string();
        Self::start_with(free(address), vec!["--config".into(), configuration])
    }

    fn start_with(at: SocketAddr, more: Vec<String>) -> Option<Self> {
        let version = Command::new(PROGRAM).arg("--version").output();
        if version.is_err() {
            assert!(std::env::var_os("CI").is_none(), "no {PROGRAM} in CI");
            println!("skipped: no {PROGRAM} (apt-get install nats-server)");
            return None;
        }
        let mut nats = Self {
            at,
            more,
            folder: TempDir::new().expect("a folder"),
            server: None,
        };
        nats.run();
        Some(nats)
    }

    /// As clients name it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("nats://{}", self.at)
    }

    /// Starts it once more.
    pub fn run(&mut self) {
        self.kill();
        let server = Command::new(PROGRAM)
            .args(["--jetstream", "--addr", &self.at.ip().to_string()])
            .args(["--port", &self.at.port().to_string()])
            .arg("--store_dir")
            .arg(self.folder.path())
            .args(&self.more)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        self.server = Some(server.expect("it starts"));
        let start = Instant::now();
        while !self.greets() {
            assert!(start.elapsed() < PATIENCE, "{PROGRAM} does not listen");
            sleep(Duration::from_millis(20));
        }
    }

    /// SIGKILL.
    pub fn kill(&mut self) {
        if let Some(mut server) = self.server.take() {
            server.kill().expect("it runs");
            server.wait().expect("it ends");
        }
    }

    fn greets(&self) -> bool {
        let mut line = String::new();
        let greeted = TcpStream::connect(self.at)
            .and_then(|stream| BufReader::new(stream).read_line(&mut line));
        greeted.is_ok() && line.starts_with("INFO")
    }
}

fn free(address: IpAddr) -> SocketAddr {
    let free = TcpListener::bind((address, 0)).expect("a free port");
    free.local_addr().expect("a port")
}

impl Drop for Nats {
    fn drop(&mut self) {
        self.kill();
    }
}

const PROGRAM: &str = "nats-server";

const PATIENCE: Duration = Duration::from_secs(60);
