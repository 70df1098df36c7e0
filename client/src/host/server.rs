//! A server, as its files, its programs and the services on it tell.
//!
//! All that is known about a server comes through here. Files are looked up
//! under a root, everything else behind [`Outside`], so that a folder and a few
//! answers are a server too.

use std::fmt;
use std::fs::{self, File};
use std::io;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use nix::sys::socket::{AddressFamily, SockFlag, SockType, VsockAddr, connect, socket};
use nix::sys::statvfs::statvfs;

/// The one that this program runs on, or one made up.
pub struct Server {
    root: PathBuf,
    outside: Box<dyn Outside>,
}

impl Server {
    /// This one.
    #[must_use]
    pub fn this() -> Self {
        Self::at("/".into(), Box::new(Here))
    }

    /// One whose files are under `root`.
    #[must_use]
    pub fn at(root: PathBuf, outside: Box<dyn Outside>) -> Self {
        Self { root, outside }
    }

    /// What a file says, without the line end, if it can be read.
    #[must_use]
    pub fn text(&self, path: &str) -> Option<String> {
        let text = fs::read_to_string(self.path(path)).ok()?;
        Some(text.trim_end().to_owned())
    }

    /// Names in a directory, in order; none where there is no directory.
    #[must_use]
    pub fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten();
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<_> = names.collect();
        names.sort();
        names
    }

    /// Whether there is something at `path`.
    #[must_use]
    pub fn has(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// The last name in what a link leads to.
    #[must_use]
    pub fn link(&self, path: &str) -> Option<String> {
        let target = fs::read_link(self.path(path)).ok()?;
        Some(target.file_name()?.to_str()?.to_owned())
    }

    /// The first line `key: value` of a file, or `key = value`.
    #[must_use]
    pub fn field(&self, path: &str, key: &str) -> Option<String> {
        let text = self.text(path)?;
        text.lines().find_map(|line| {
            let rest = line.strip_prefix(key)?.trim_start();
            let value = rest.strip_prefix([':', '='])?;
            Some(value.trim().to_owned())
        })
    }

    /// Replaces what a file of the kernel says.
    pub fn write(&self, path: &str, text: &str) -> io::Result<()> {
        self.outside.write(&self.path(path), text)
    }

    /// Whether a device may be used by this user.
    #[must_use]
    pub fn opens(&self, path: &str) -> bool {
        self.outside.opens(&self.path(path))
    }

    /// Bytes that are free for this user at `path`, or above it.
    #[must_use]
    pub fn free_disk(&self, path: &Path) -> Option<u64> {
        let mut places = path.ancestors();
        places.find_map(|place| self.outside.free_disk(place))
    }

    /// Whether KVM runs TDs here.
    #[must_use]
    pub fn has_tdx(&self) -> bool {
        self.text(KVM_TDX).as_deref() == Some("Y")
    }

    /// What a program says, if it is there and ends well.
    #[must_use]
    pub fn run(&self, program: &str, arguments: &[&str]) -> Option<String> {
        self.outside.run(program, arguments)
    }

    /// Whether somebody listens there.
    #[must_use]
    pub fn reaches(&self, endpoint: &Endpoint) -> bool {
        self.outside.reaches(endpoint)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(path.trim_start_matches('/'))
    }
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Server").field(&self.root).finish()
    }
}

/// Somebody who listens.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Endpoint {
    /// `HOST:PORT`
    Tcp(String),
    /// A socket in the file system.
    Unix(PathBuf),
    /// A port of this very machine, as QEMU reaches it.
    Vsock(u32),
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "{}", path.display()),
            Self::Vsock(port) => write!(f, "vsock port {port}"),
        }
    }
}

/// Vsock's number for the machine that VMs run on.
pub const VSOCK_HOST: u32 = 2;

/// What is no file.
pub trait Outside {
    /// Runs a program to its end; both its outputs, if it succeeds.
    fn run(&self, program: &str, arguments: &[&str]) -> Option<String>;

    /// Tries to connect, for two seconds at most.
    fn reaches(&self, endpoint: &Endpoint) -> bool;

    /// Bytes that are free for this user in the file system at `path`.
    fn free_disk(&self, path: &Path) -> Option<u64>;

    /// Opens for reading and writing, and closes again.
    fn opens(&self, path: &Path) -> bool;

    /// Writes to a file that is there.
    fn write(&self, path: &Path, text: &str) -> io::Result<()>;
}

/// The server that this program runs on.
struct Here;

impl Outside for Here {
    fn run(&self, program: &str, arguments: &[&str]) -> Option<String> {
        let mut command = Command::new(program);
        let output = command.args(arguments).stdin(Stdio::null()).output().ok()?;
        let said = [output.stdout, output.stderr].concat();
        let succeeded = output.status.success();
        succeeded.then(|| String::from_utf8_lossy(&said).into_owned())
    }

    fn reaches(&self, endpoint: &Endpoint) -> bool {
        match endpoint {
            Endpoint::Tcp(address) => {
                let mut addresses = address.to_socket_addrs().into_iter().flatten();
                addresses.any(|address| TcpStream::connect_timeout(&address, PATIENCE).is_ok())
            }
            Endpoint::Unix(path) => UnixStream::connect(path).is_ok(),
            // The kernel waits two seconds (net/vmw_vsock/af_vsock.c).
            Endpoint::Vsock(port) => socket(
                AddressFamily::Vsock,
                SockType::Stream,
                SockFlag::SOCK_CLOEXEC,
                None,
            )
            .and_then(|fd| connect(fd.as_raw_fd(), &VsockAddr::new(VSOCK_HOST, *port)))
            .is_ok(),
        }
    }

    fn free_disk(&self, path: &Path) -> Option<u64> {
        let space = statvfs(path).ok()?;
        space.blocks_available().checked_mul(space.fragment_size())
    }

    fn opens(&self, path: &Path) -> bool {
        File::options().read(true).write(true).open(path).is_ok()
    }

    fn write(&self, path: &Path, text: &str) -> io::Result<()> {
        // Without creating: a file of the kernel is there or it is not.
        use std::io::Write as _;
        let mut file = File::options().write(true).open(path)?;
        file.write_all(text.as_bytes())
    }
}

/// A parameter of the module: Y or N, where it knows TDX at all.
pub(super) const KVM_TDX: &str = "/sys/module/kvm_intel/parameters/tdx";
const PATIENCE: Duration = Duration::from_secs(2);

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::{BTreeMap, BTreeSet};
    use std::os::unix::fs::symlink;
    use std::rc::Rc;

    use tempfile::TempDir;

    /// A made-up server. Its kernel binds and unbinds drivers.
    pub(crate) struct Double {
        folder: TempDir,
        state: Rc<State>,
    }

    #[derive(Default)]
    pub(crate) struct State {
        /// What programs say; a program that is not here is not installed.
        pub(crate) programs: RefCell<BTreeMap<String, String>>,
        pub(crate) listening: RefCell<Vec<Endpoint>>,
        pub(crate) free_disk: RefCell<u64>,
        pub(crate) locked: RefCell<BTreeSet<String>>,
        /// Everything that was changed or run, in this order.
        pub(crate) done: RefCell<Vec<String>>,
        root: RefCell<PathBuf>,
    }

    impl Double {
        /// With TDX and one H100, and nothing missing.
        pub(crate) fn ready() -> Self {
            let double = Self {
                folder: tempfile::tempdir().unwrap(),
                state: Rc::default(),
            };
            *double.state.root.borrow_mut() = double.folder.path().into();
            double
                .file("proc/cpuinfo", CPU)
                .file("proc/sys/kernel/osrelease", "6.17.8-amd64\n")
                .file("proc/meminfo", "MemTotal:       1056000000 kB\nMemAvailable:   1040000000 kB\nHugetlb:               0 kB\n")
                .file("proc/self/limits", "Limit                     Soft Limit           Hard Limit           Units     \nMax locked memory         unlimited            unlimited            bytes     \n")
                .file("sys/module/kvm_intel/parameters/tdx", "Y\n")
                .file("sys/power/disk", "[disabled]\n")
                .file("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n")
                .file("sys/module/vfio_pci/refcnt", "0\n")
                .file("dev/kvm", "")
                .file("dev/sgx_enclave", "")
                .file("dev/iommu", "")
                .file("etc/qgs.conf", "port = 4050\nnumber_threads = 4\n")
                .file("etc/sgx_default_qcnl.conf", "{\n  // \"pccs_url\": \"https://old:1/\"\n  \"pccs_url\": \"https://localhost:8081/sgx/certification/v4/\"\n}\n")
                .folder("sys/class/iommu/dmar0")
                .folder("sys/bus/pci/drivers/nvidia")
                .folder("sys/bus/pci/drivers/vfio-pci")
                .gpu(H100, 0x2331, 17)
                .bind(H100, "vfio-pci");
            double.listens(Endpoint::Vsock(4050));
            double.listens(Endpoint::Tcp("localhost:8081".into()));
            double.says(
                "qemu-system-x86_64 --version",
                "QEMU emulator version 11.1.3 (Debian 1:11.1.3+ds-1~bpo13+1)\n",
            );
            double.says(
                "qemu-system-x86_64 -object help",
                "List of user creatable objects:\n  memory-backend-ram\n  tdx-guest\n",
            );
            double.says(
                &format!("gpu-tools --gpu-bdf={H100} --query-cc-mode"),
                "INFO  GPU 0000:17:00.0 H100-PCIE 0x2331 BAR0 0xd0000000 CC mode is on\n",
            );
            *double.state.free_disk.borrow_mut() = 500 << 30;
            double
        }

        pub(crate) fn server(&self) -> Server {
            Server::at(self.folder.path().into(), Box::new(Rc::clone(&self.state)))
        }

        pub(crate) fn state(&self) -> &State {
            &self.state
        }

        pub(crate) fn file(&self, path: &str, text: &str) -> &Self {
            let path = self.folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
            self
        }

        pub(crate) fn folder(&self, path: &str) -> &Self {
            fs::create_dir_all(self.folder.path().join(path)).unwrap();
            self
        }

        pub(crate) fn without(&self, path: &str) -> &Self {
            let path = self.folder.path().join(path);
            match path.is_dir() && !path.is_symlink() {
                true => fs::remove_dir_all(path).unwrap(),
                false => fs::remove_file(path).unwrap(),
            }
            self
        }

        pub(crate) fn says(&self, command: &str, answer: &str) {
            let mut programs = self.state.programs.borrow_mut();
            programs.insert(command.into(), answer.into());
        }

        pub(crate) fn listens(&self, endpoint: Endpoint) {
            self.state.listening.borrow_mut().push(endpoint);
        }

        /// Another GPU, without a driver.
        pub(crate) fn gpu(&self, address: &str, device: u16, group: u16) -> &Self {
            self.device(address, 0x10de, device, 0x03_0200, group)
        }

        pub(crate) fn device(
            &self,
            address: &str,
            vendor: u16,
            device: u16,
            class: u32,
            group: u16,
        ) -> &Self {
            let at = format!("sys/bus/pci/devices/{address}");
            let members = format!("sys/kernel/iommu_groups/{group}/devices");
            self.file(&format!("{at}/vendor"), &format!("{vendor:#06x}\n"))
                .file(&format!("{at}/device"), &format!("{device:#06x}\n"))
                .file(&format!("{at}/class"), &format!("{class:#08x}\n"))
                .file(&format!("{at}/driver_override"), "(null)\n")
                .folder(&format!("{members}/{address}"))
                .link(
                    &format!("{at}/iommu_group"),
                    &format!("../../../../kernel/iommu_groups/{group}"),
                )
        }

        pub(crate) fn bind(&self, address: &str, driver: &str) -> &Self {
            self.link(
                &format!("sys/bus/pci/devices/{address}/driver"),
                &format!("../../drivers/{driver}"),
            )
        }

        fn link(&self, path: &str, target: &str) -> &Self {
            let path = self.folder.path().join(path);
            drop(fs::remove_file(&path));
            symlink(target, path).unwrap();
            self
        }
    }

    impl Outside for Rc<State> {
        fn run(&self, program: &str, arguments: &[&str]) -> Option<String> {
            let command = [&[program], arguments].concat().join(" ");
            self.done.borrow_mut().push(command.clone());
            self.programs.borrow().get(&command).cloned()
        }

        fn reaches(&self, endpoint: &Endpoint) -> bool {
            self.listening.borrow().contains(endpoint)
        }

        fn free_disk(&self, path: &Path) -> Option<u64> {
            (path == Path::new("/")).then(|| *self.free_disk.borrow())
        }

        fn opens(&self, path: &Path) -> bool {
            let path = path.strip_prefix(&*self.root.borrow()).unwrap();
            let locked = self.locked.borrow().contains(path.to_str().unwrap());
            !locked && self.root.borrow().join(path).exists()
        }

        /// Drivers are bound and unbound as the kernel does it.
        fn write(&self, path: &Path, text: &str) -> io::Result<()> {
            let root = self.root.borrow();
            let path = path.strip_prefix(&*root).unwrap();
            let mut done = self.done.borrow_mut();
            done.push(format!("{} > /{}", text.trim_end(), path.display()));
            let device = root.join("sys/bus/pci/devices").join(text.trim());
            match path.file_name().unwrap().to_str().unwrap() {
                "unbind" => fs::remove_file(device.join("driver")),
                "drivers_probe" => {
                    let wanted = fs::read_to_string(device.join("driver_override"))?;
                    let driver = match wanted.trim() {
                        "" => "nvidia",
                        driver => driver,
                    };
                    symlink(format!("../../drivers/{driver}"), device.join("driver"))
                }
                _ => fs::write(root.join(path), text),
            }
        }
    }

    pub(crate) const H100: &str = "0000:17:00.0";

    const CPU: &str = "processor\t: 0\nvendor_id\t: GenuineIntel\ncpu family\t: 6\nmodel\t\t: 207\n\
        model name\t: INTEL(R) XEON(R) PLATINUM 8592+\nflags\t\t: fpu vmx sgx tme tdx_host_platform\n\n";

    #[test]
    fn what_is_not_there_is_not_made_up() {
        let server = Server::this();
        assert_eq!(server.text("/no/such/file"), None);
        assert!(server.names("/no/such/folder").is_empty());
        assert_eq!(server.run("no-such-program", &[]), None);
        assert_eq!(server.run("false", &[]), None);
        assert!(!server.opens("/no/such/device"));
        assert!(!server.reaches(&Endpoint::Unix("/no/such/socket".into())));
        assert!(server.write("/no/such/file", "").is_err());
    }

    #[test]
    fn a_field_has_a_colon_or_an_equals_sign() {
        let double = Double::ready();
        let server = double.server();
        assert_eq!(server.field("etc/qgs.conf", "port").unwrap(), "4050");
        let family = server.field("proc/cpuinfo", "cpu family").unwrap();
        assert_eq!(family, "6");
        assert_eq!(server.field("proc/cpuinfo", "cpu"), None);
    }

    #[test]
    fn free_space_is_looked_for_above_a_folder_to_be_made() {
        let server = Server::this();
        assert!(server.free_disk(Path::new("/no/such/folder")).is_some());
    }
}
