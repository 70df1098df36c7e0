//! The program as a supervisor runs it.

use std::io::Write as _;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::AsRawFd as _;
use std::process::Stdio;
use std::time::Duration;

use attestation::policy::{GpuPolicy, Policy, TdxPolicy};
use attestation::tdx::{self, PlatformPolicy, TrustAnchor};
use measurements::release::Release;
use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tempfile::NamedTempFile;
use tests::quote::TdState;
use tests::td::Td;
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};
use tokio::time::timeout;

/// Emulated TDs of the published release, and how to trust them.
pub(crate) struct Site {
    release: Release,
    root: NamedTempFile,
}

impl Site {
    pub(crate) fn new() -> Self {
        let release = std::fs::read(PUBLISHED).unwrap();
        let mut root = NamedTempFile::new().unwrap();
        root.write_all(Td::new().root()).unwrap();
        Self {
            release: Release::parse(&release).unwrap(),
            root,
        }
    }

    pub(crate) fn td(&self) -> Td {
        let registers = self.release.shape("small").unwrap().tdx;
        let configured = *self.release.mrconfigids().first().unwrap();
        Td::in_state(TdState::new(registers, configured))
    }

    pub(crate) fn policy(&self) -> Policy {
        let accepted = tdx::Policy {
            platform: PlatformPolicy::strict(),
            identity: self.release.td_identity(),
        };
        let anchor = TrustAnchor::from_certificate(Td::new().root()).unwrap();
        let policy = TdxPolicy::new(accepted, GpuPolicy::none()).under(anchor);
        Policy::Tdx(Box::new(policy))
    }

    /// A gateway on a free port.
    pub(crate) fn gateway(&self, more: &[&str]) -> Program {
        let run = ["gateway", "--listen", "127.0.0.1:0"];
        Program::start(None, &[&run[..], &self.trust(), more].concat())
    }

    fn trust(&self) -> [&str; 4] {
        let root = self.root.path().to_str().unwrap();
        ["--release", PUBLISHED, "--test-root", root]
    }

    /// A scheduler on free ports, or on sockets that are handed in.
    pub(crate) async fn scheduler(&self, sockets: Option<&Sockets>, more: &[&str]) -> Scheduler {
        let run = ["scheduler", "run", "--listen", "127.0.0.1:0"];
        let workers = ["--workers", "127.0.0.1:0"];
        let arguments = [&run[..], &workers, &self.trust(), more].concat();
        let mut program = Program::start(sockets, &arguments);
        let workers = program.says("workers ").await.parse().unwrap();
        let clients = program.says("clients ").await;
        let clients = clients.strip_suffix("/network/v1").unwrap();
        Scheduler {
            workers,
            clients: clients.parse().unwrap(),
            program,
        }
    }
}

pub(crate) struct Scheduler {
    pub(crate) workers: SocketAddr,
    pub(crate) clients: SocketAddr,
    pub(crate) program: Program,
}

/// Sockets that outlive processes: for clients, and for workers.
pub(crate) struct Sockets {
    sockets: [TcpListener; 2],
    count: usize,
}

impl Sockets {
    /// Of which so many are handed in.
    pub(crate) fn bind(count: usize) -> Self {
        let sockets = [(); 2].map(|()| {
            let socket = TcpListener::bind("127.0.0.1:0").unwrap();
            fcntl(&socket, FcntlArg::F_SETFD(FdFlag::empty())).unwrap();
            socket
        });
        Self { sockets, count }
    }

    /// As sd_listen_fds(3) has it: from 3 on, for the process that the shell becomes.
    fn hand_to(&self, program: &str) -> Command {
        let handed = "exec 3<&\"$1\" 4<&\"$2\"; export LISTEN_FDS=\"$3\" LISTEN_PID=$$; \
                      shift 3; exec \"$@\"";
        let mut command = Command::new("bash");
        command.args(["-c", handed, "bash"]);
        for socket in &self.sockets {
            command.arg(socket.as_raw_fd().to_string());
        }
        command.arg(self.count.to_string()).arg(program);
        command
    }
}

pub(crate) struct Program {
    child: Child,
    says: Lines<BufReader<ChildStdout>>,
    logs: Lines<BufReader<ChildStderr>>,
}

impl Program {
    pub(crate) fn start(sockets: Option<&Sockets>, arguments: &[&str]) -> Self {
        let cocoon = env!("CARGO_BIN_EXE_cocoon");
        let mut command = match sockets {
            None => Command::new(cocoon),
            Some(sockets) => sockets.hand_to(cocoon),
        };
        let mut child = command
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        Self {
            says: BufReader::new(child.stdout.take().unwrap()).lines(),
            logs: BufReader::new(child.stderr.take().unwrap()).lines(),
            child,
        }
    }

    /// The rest of the next line that it prints.
    pub(crate) async fn says(&mut self, start: &str) -> String {
        let line = timeout(PATIENCE, self.says.next_line()).await.unwrap();
        let line = line.unwrap().expect("it says more");
        line.strip_prefix(start).expect(start).to_owned()
    }

    /// Comes back once it has logged something with these words.
    pub(crate) async fn logs(&mut self, words: &str) {
        let found = async {
            while let Some(line) = self.logs.next_line().await.unwrap() {
                if line.contains(words) {
                    return;
                }
            }
            panic!("nothing is logged about {words:?}");
        };
        timeout(PATIENCE, found).await.unwrap();
    }

    pub(crate) fn send(&self, signal: Signal) {
        let id = i32::try_from(self.child.id().unwrap()).unwrap();
        kill(Pid::from_raw(id), signal).unwrap();
    }

    /// Its exit code, and what it logged that was not read yet.
    pub(crate) async fn end(mut self) -> (i32, String) {
        let mut logged = String::new();
        let rest = async {
            while let Some(line) = self.logs.next_line().await.unwrap() {
                logged += &line;
                logged.push('\n');
            }
            self.child.wait().await.unwrap().code().unwrap()
        };
        let code = timeout(PATIENCE, rest).await.unwrap();
        (code, logged)
    }
}

const PUBLISHED: &str = concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/../measurements/releases/current.json"
);

/// Debug builds start slowly on a machine that does much else.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);
