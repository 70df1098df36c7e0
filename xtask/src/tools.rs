//! The tools tree: locked Debian packages, unpacked, and a sandbox to run them in.
//!
//! A program in the sandbox sees the tree's `/usr` and `/etc`, what was bound
//! for it, and nothing else of this machine: no other file, no variable of the
//! environment, no network unless asked for. So it makes the same output
//! everywhere. The sandbox is bubblewrap, itself from the tree; it needs root or
//! unprivileged user namespaces.

use std::collections::VecDeque;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

use crate::image::debs::{Debs, Source};
use crate::image::lock::{Lock, Use};
use crate::place::{Key, Place, write};
use crate::progress::{Progress, Step};

/// An unpacked tools tree.
#[derive(Clone, Debug)]
pub struct Tools {
    root: PathBuf,
}

impl Tools {
    /// Downloads and unpacks what is not there yet.
    pub fn prepare(
        place: &Place,
        lock: &Lock,
        source: &Source,
        progress: &Progress,
    ) -> Result<Self> {
        Self::of("tools", &[Use::Tools], place, lock, source, progress)
    }

    /// The same tools with CUDA's compiler among them.
    pub fn with_cuda(
        place: &Place,
        lock: &Lock,
        source: &Source,
        progress: &Progress,
    ) -> Result<Self> {
        let uses = [Use::Tools, Use::Cuda];
        Self::of("tools-cuda", &uses, place, lock, source, progress)
    }

    fn of(
        name: &str,
        uses: &[Use],
        place: &Place,
        lock: &Lock,
        source: &Source,
        progress: &Progress,
    ) -> Result<Self> {
        let packages = || uses.iter().flat_map(|usage| lock.of(*usage));
        let key = packages().fold(Key::default(), |key, package| key.with(&package.sha256));
        let key = LINKS
            .iter()
            .fold(key, |key, (link, target)| key.with(link).with(target));
        let root = place.cached(name, key.finish(), |root| {
            let debs = Debs::obtain(place, packages(), source, progress)?;
            let step = progress.step(format!("unpack {name}"));
            debs.unpack(root)?;
            for (link, target) in LINKS {
                let link = root.join(link);
                symlink(target, &link)
                    .with_context(|| format!("cannot link {}", link.display()))?;
            }
            write(&root.join("etc/passwd"), PASSWD)?;
            write(&root.join("etc/group"), GROUP)?;
            step.done(format!("{} packages", packages().count()));
            Ok(())
        })?;
        Ok(Self { root })
    }

    /// A file of the tree.
    #[must_use]
    pub fn path(&self, path: &str) -> PathBuf {
        self.root.join(path)
    }

    /// A sandbox that holds the tools and nothing of this machine.
    #[must_use]
    pub fn sandbox(&self) -> Sandbox {
        let mut sandbox = Sandbox {
            root: self.root.clone(),
            arguments: vec!["--clearenv".into()],
            network: false,
        };
        sandbox.read_only(self.root.join("usr"), "/usr");
        sandbox.read_only(self.root.join("etc"), "/etc");
        for name in ["bin", "lib", "lib64", "sbin"] {
            sandbox.argument("--symlink", [format!("usr/{name}"), format!("/{name}")]);
        }
        sandbox.argument("--proc", ["/proc"]);
        sandbox.argument("--dev", ["/dev"]);
        for name in ["/tmp", "/var/tmp", "/run"] {
            sandbox.argument("--tmpfs", [name]);
        }
        sandbox.env("HOME", "/tmp");
        sandbox.env("LC_ALL", "C.UTF-8");
        sandbox.env("PATH", "/usr/bin:/usr/sbin");
        sandbox.env("SOURCE_DATE_EPOCH", SOURCE_DATE_EPOCH);
        sandbox.env("TZ", "UTC");
        sandbox
    }
}

/// What a program will see.
#[derive(Clone, Debug)]
pub struct Sandbox {
    root: PathBuf,
    arguments: Vec<OsString>,
    network: bool,
}

impl Sandbox {
    /// Shows `from` at `to`, to be read.
    pub fn read_only(&mut self, from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) -> &mut Self {
        self.argument("--ro-bind", [from.as_ref(), to.as_ref()])
    }

    /// Shows `from` at `to`, to be written.
    pub fn writable(&mut self, from: impl AsRef<OsStr>, to: impl AsRef<OsStr>) -> &mut Self {
        self.argument("--bind", [from.as_ref(), to.as_ref()])
    }

    /// Shows a device of this machine.
    pub fn device(&mut self, path: &str) -> &mut Self {
        self.argument("--dev-bind-try", [path, path])
    }

    /// An empty directory that goes away with the sandbox.
    pub fn scratch(&mut self, at: &str) -> &mut Self {
        self.argument("--tmpfs", [at])
    }

    /// Sets a variable of the environment.
    pub fn env(&mut self, name: &str, value: impl AsRef<OsStr>) -> &mut Self {
        self.argument("--setenv", [OsStr::new(name), value.as_ref()])
    }

    /// Where the program starts.
    pub fn directory(&mut self, path: impl AsRef<OsStr>) -> &mut Self {
        self.argument("--chdir", [path.as_ref()])
    }

    /// Gives it the network of this machine.
    pub fn network(&mut self) -> &mut Self {
        self.network = true;
        self
    }

    /// The program in this sandbox, to be started. It dies with the thread that starts it.
    #[must_use]
    pub fn command(&self, program: &str) -> Command {
        // The loader of the tree runs bubblewrap, so the libraries here do not matter.
        let mut command = Command::new(self.root.join("usr/lib64/ld-linux-x86-64.so.2"));
        command
            .arg("--library-path")
            .arg(self.root.join("usr/lib/x86_64-linux-gnu"))
            .arg(self.root.join("usr/bin/bwrap"))
            .arg("--die-with-parent");
        if !self.network {
            command.arg("--unshare-net");
        }
        command.args(&self.arguments).arg(program);
        command
    }

    /// Runs the program to its end, with its output in `log`.
    ///
    /// The last line is shown on the way; on failure the last lines are the error.
    pub fn run<S: AsRef<OsStr>>(
        &self,
        program: &str,
        arguments: impl IntoIterator<Item = S>,
        log: &Path,
        step: &Step,
    ) -> Result<()> {
        write(log, "")?;
        let context = || format!("cannot write {}", log.display());
        let mut file = File::create(log).with_context(context)?;
        let mut child = self
            .command("/bin/sh")
            .args(["-c", "exec \"$@\" 2>&1", "sh", program])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        let output = child.stdout.take().context("the child has no output")?;
        let mut tail = VecDeque::new();
        for line in BufReader::new(output).split(b'\n') {
            let line = line.with_context(|| format!("cannot read what {program} says"))?;
            file.write_all(&line).with_context(context)?;
            file.write_all(b"\n").with_context(context)?;
            let line = String::from_utf8_lossy(&line).trim().to_owned();
            step.note(&line);
            tail.push_back(line);
            if tail.len() > TAIL {
                tail.pop_front();
            }
        }
        let status = child
            .wait()
            .with_context(|| format!("cannot wait for {program}"))?;
        if !status.success() {
            let tail = Vec::from(tail).join("\n  ");
            bail!(
                "{program} failed with {status}; all it said is in {}, the end of it:\n  {tail}",
                log.display()
            );
        }
        Ok(())
    }

    fn argument<S: AsRef<OsStr>>(
        &mut self,
        name: &str,
        values: impl IntoIterator<Item = S>,
    ) -> &mut Self {
        self.arguments.push(name.into());
        self.arguments
            .extend(values.into_iter().map(|value| value.as_ref().into()));
        self
    }
}

/// The one time that anything in the image carries: 2026-01-01.
pub const SOURCE_DATE_EPOCH: &str = "1767225600";

/// Links that Debian makes when it configures a package, which nobody does here.
const LINKS: [(&str, &str); 2] = [("usr/bin/awk", "mawk"), ("usr/bin/cc", "gcc")];
const PASSWD: &str = "root:x:0:0:root:/tmp:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n";
const GROUP: &str = "root:x:0:\ntss:x:59:\nnogroup:x:65534:\n";
/// Lines of output that an error repeats.
const TAIL: usize = 25;
