//! A PostgreSQL of a test's own, on a Unix socket in a folder that goes away with it.

use std::fs::{read_dir, set_permissions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, chown};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use tempfile::TempDir;

/// Runs until it is dropped.
pub(crate) struct Cluster {
    folder: TempDir,
    server: Child,
}

impl Cluster {
    /// With settings of its own. `None` where PostgreSQL is not installed, which CI is not
    /// allowed.
    pub(crate) fn start(settings: &[&str]) -> Option<Self> {
        let Some(programs) = programs() else {
            assert!(std::env::var_os("CI").is_none(), "no PostgreSQL in CI");
            println!("skipped: no PostgreSQL (apt-get install postgresql-15)");
            return None;
        };
        let folder = TempDir::new().unwrap();
        let is_root = Path::new("/proc/self").metadata().unwrap().uid() == 0;
        if is_root {
            chown(folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
            set_permissions(folder.path(), PermissionsExt::from_mode(0o700)).unwrap();
        }
        let run = |program: &str| {
            let mut command = Command::new(programs.join(program));
            command.current_dir(folder.path()).stdin(Stdio::null());
            if is_root {
                // It refuses to be root's.
                command.uid(NOBODY).gid(NOBODY);
            }
            command
        };
        let data = folder.path().join("data");
        let made = run("initdb")
            .args(["--no-sync", "--auth=trust", "--username=cocoon", "-D"])
            .arg(&data)
            .output();
        assert!(made.as_ref().unwrap().status.success(), "{made:?}");
        let mut server = run("postgres")
            .args(settings.iter().flat_map(|setting| ["-c", setting]))
            .args(["-c", "listen_addresses=", "-k"])
            .arg(folder.path())
            .arg("-D")
            .arg(&data)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut log = BufReader::new(server.stderr.take().unwrap()).lines();
        let ready = log.find(|line| line.as_ref().unwrap().contains("ready to accept"));
        assert!(ready.is_some(), "PostgreSQL does not start");
        std::thread::spawn(move || log.for_each(drop));
        Some(Self { folder, server })
    }

    /// Of the one database.
    pub(crate) fn url(&self) -> String {
        let folder = self.folder.path().display().to_string().replace('/', "%2F");
        format!("postgres://cocoon@{folder}/postgres")
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // A fast shutdown; killed, it would leave shared memory behind.
        let id = self.server.id().to_string();
        let told = Command::new("kill").args(["-INT", &id]).status();
        if told.is_ok_and(|status| status.success()) {
            self.server.wait().ok();
        }
    }
}

/// Debian has them in a folder for each version, and not in the PATH.
fn programs() -> Option<PathBuf> {
    let versions = read_dir("/usr/lib/postgresql").ok()?;
    let folders = versions.filter_map(|version| Some(version.ok()?.path().join("bin")));
    folders
        .filter(|folder| folder.join("postgres").is_file())
        .max()
}

/// For tests in which the machine stays on.
pub(crate) const HASTY: [&str; 1] = ["fsync=off"];

const NOBODY: u32 = 65534;
