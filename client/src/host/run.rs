//! `cocoon host run`: one VM of a release, until it is told to stop.
//!
//! It ends with 0 when it was stopped, 1 when it was refused before it started,
//! 2 when the machine ended by itself.

use std::io::{self, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use attestation::appraisal::Verdict;
use clap::Args;
use measurements::shape::Platform;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::timeout;

use super::instance::{AUTHORITY, Instance, Name, RECORD, RELEASE};
use super::plan::{Plan, PlanArgs};
use super::programs::{Needs, Programs as _, QEMU};
use super::qmp::{self, Qmp};
use super::server::Server;
use super::tpm::{Authority, Tpm};
use super::{STATE, libvirt, shell};

/// What to run.
#[derive(Args, Debug)]
pub struct RunArgs {
    #[command(flatten)]
    plan: PlanArgs,
    /// Name of the instance on this server.
    #[arg(long, value_name = "NAME", default_value = "worker")]
    name: Name,
    /// Folder for what runs.
    #[arg(long, value_name = "DIR", default_value = STATE)]
    state: PathBuf,
    /// Seconds that the guest has to power off when it is told to stop.
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    grace: u64,
    /// Print the command, and start nothing.
    #[arg(long)]
    print: bool,
    /// Print a domain for libvirt, and start nothing.
    #[arg(long, conflicts_with = "print")]
    libvirt: bool,
}

impl RunArgs {
    pub(super) async fn run(mut self) -> Result<Verdict> {
        // Before anything that could take long, so that no signal is missed.
        let mut terminate = signal(SignalKind::terminate()).context("cannot watch for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot watch for SIGINT")?;
        let planned = match self.plan() {
            Ok(planned) => planned,
            Err(reason) => {
                tracing::error!("refused: {reason:#}");
                return Ok(Verdict::Rejected);
            }
        };
        if self.print || self.libvirt {
            let arguments = planned.vm.arguments()?;
            let text = match self.libvirt {
                true => libvirt::domain(&self.name, &planned.vm, &planned.programs.qemu)?,
                false => shell::line(&planned.programs.qemu, &arguments),
            };
            write!(io::stdout().lock(), "{text}")?;
            return Ok(Verdict::Trusted);
        }
        let stop = async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
        };
        self.start(planned)?.supervise(stop).await?;
        Ok(Verdict::Trusted)
    }

    fn plan(&mut self) -> Result<Plan> {
        let listen = &mut self.plan.listen;
        // Port 0 is any free one: the command has to say which.
        let listener = TcpListener::bind(*listen).with_context(|| {
            format!("cannot listen on {listen}: another instance may, choose with --listen")
        })?;
        *listen = listener.local_addr().context("no local address")?;
        drop(listener);
        self.plan.plan(&Server::this(), self.folder())
    }

    fn folder(&self) -> PathBuf {
        self.state.join(self.name.to_string())
    }

    fn start(&self, plan: Plan) -> Result<Running> {
        let Plan {
            vm,
            programs,
            release,
            record,
        } = plan;
        let instance = Instance::claim(&self.state, &self.name, &vm.devices)?;
        instance.write(RELEASE, release.to_json()?)?;
        let tpm = match vm.platform {
            Platform::Tdx => None,
            Platform::Vtpm => {
                tracing::warn!("platform vtpm: measured boot proved, memory not confidential");
                let authority = Authority::at(&self.state.join(AUTHORITY))?;
                Some(Tpm::start(&programs, &authority, &vm.state)?)
            }
        };
        let needs = Needs {
            reads: &vm.files(),
            writes: &[&vm.state],
            network: true,
        };
        let mut command = Command::from(programs.command(QEMU, needs));
        let mut qemu = command
            .args(vm.arguments()?)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // A signal from the terminal is for this process, which passes it on.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}", programs.qemu))?;
        let output = qemu.stdout.take().context("QEMU has no output")?;
        let errors = qemu.stderr.take().context("QEMU has no error output")?;
        instance.write(RECORD, serde_json::to_vec_pretty(&record)?)?;
        tracing::info!(
            "instance {} of shape {}, {}, at {}",
            self.name,
            record.shape,
            vm.accelerator,
            vm.listen
        );
        Ok(Running {
            console: [
                tokio::spawn(log("guest", output)),
                tokio::spawn(log("qemu", errors)),
            ],
            qemu,
            grace: Duration::from_secs(self.grace),
            _tpm: tpm,
            instance,
        })
    }
}

/// A VM and all that goes with it.
struct Running {
    qemu: Child,
    console: [JoinHandle<()>; 2],
    grace: Duration,
    // QEMU must not lose its TPM, nor either its folder, while it runs.
    _tpm: Option<Tpm>,
    instance: Instance,
}

impl Running {
    /// Until `stop`, which is passed on to the guest; anything else is an error.
    async fn supervise(mut self, stop: impl Future<Output = ()>) -> Result<()> {
        tokio::select! {
            () = stop => {}
            status = self.qemu.wait() => {
                let status = status.context("cannot wait for QEMU")?;
                self.drain().await;
                bail!("the machine ended by itself: QEMU's {status}");
            }
        }
        tracing::info!("stopping");
        let socket = self.instance.folder().join(qmp::SOCKET);
        let pressed = spawn_blocking(move || Qmp::connect(&socket)?.execute("system_powerdown"));
        let off = match pressed.await.context("the monitor's task died")? {
            Ok(()) => timeout(self.grace, self.qemu.wait()).await.is_ok(),
            Err(error) => {
                tracing::warn!("{error:#}");
                false
            }
        };
        match off {
            true => tracing::info!("the guest powered off"),
            false => {
                tracing::warn!("the guest did not power off in {:?}: killed", self.grace);
                self.qemu.kill().await.context("cannot kill QEMU")?;
            }
        }
        self.drain().await;
        Ok(())
    }

    /// What was said before the end is still on its way.
    async fn drain(&mut self) {
        for console in &mut self.console {
            drop(timeout(DRAIN, console).await);
        }
    }
}

/// Logs a stream line by line.
async fn log(name: &'static str, stream: impl AsyncRead + Unpin) {
    let mut stream = BufReader::new(stream);
    let mut line = Vec::new();
    loop {
        line.clear();
        let mut part = (&mut stream).take(LONGEST_LINE);
        match part.read_until(b'\n', &mut line).await {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                tracing::info!("{name}: {}", printable(&line));
            }
        }
    }
}

/// Without control characters, which could speak to a terminal.
fn printable(line: &[u8]) -> String {
    let text = String::from_utf8_lossy(line);
    text.replace(char::is_control, "").trim_end().to_owned()
}

const DRAIN: Duration = Duration::from_secs(1);
const LONGEST_LINE: u64 = 4096;

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};
    use std::io::{BufRead as _, BufReader};
    use std::os::unix::net::UnixListener;
    use std::thread;

    use tempfile::TempDir;

    /// A program in QEMU's place.
    fn running(state: &TempDir, program: &str) -> Running {
        let name = "a".parse().unwrap();
        let instance = Instance::claim(state.path(), &name, &[]).unwrap();
        let mut command = Command::new("sh");
        let qemu = command.args(["-c", program]).kill_on_drop(true).spawn();
        Running {
            qemu: qemu.unwrap(),
            console: [tokio::spawn(ready(())), tokio::spawn(ready(()))],
            grace: Duration::from_millis(100),
            _tpm: None,
            instance,
        }
    }

    /// A monitor that says yes to everything; what it was told.
    fn monitor(running: &Running) -> thread::JoinHandle<Vec<String>> {
        let socket = running.instance.folder().join(qmp::SOCKET);
        let listener = UnixListener::bind(socket).unwrap();
        thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            io::Write::write_all(&mut stream, b"{\"QMP\": {}}\n").unwrap();
            let lines = BufReader::new(stream.try_clone().unwrap()).lines();
            lines
                .map(|line| {
                    // Who asked may be gone already.
                    drop(io::Write::write_all(&mut stream, b"{\"return\": {}}\n"));
                    line.unwrap()
                })
                .collect()
        })
    }

    #[tokio::test]
    async fn a_machine_that_ends_by_itself_is_an_error() {
        let state = tempfile::tempdir().unwrap();
        let running = running(&state, "exit 3");
        let error = running.supervise(pending()).await.unwrap_err();
        assert_eq!(
            error.to_string(),
            "the machine ended by itself: QEMU's exit status: 3"
        );
        assert!(!state.path().join("a").exists());
    }

    #[tokio::test]
    async fn a_guest_that_is_told_to_stop_gets_the_power_button_first() {
        let state = tempfile::tempdir().unwrap();
        let running = running(&state, "exec sleep 60");
        let monitor = monitor(&running);
        running.supervise(ready(())).await.unwrap();
        let told = monitor.join().unwrap();
        assert!(
            told.last().unwrap().contains("system_powerdown"),
            "{told:?}"
        );
    }

    #[tokio::test]
    async fn a_qemu_without_a_monitor_is_killed() {
        let state = tempfile::tempdir().unwrap();
        let running = running(&state, "exec sleep 60");
        running.supervise(ready(())).await.unwrap();
    }

    #[test]
    fn what_a_guest_says_does_not_move_the_cursor() {
        assert_eq!(printable(b"\x1b[2Ja\tb\xff\r\n"), "[2Jab\u{fffd}");
    }
}
