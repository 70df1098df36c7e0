//! The machine, through Linux.

use std::ffi::{CString, OsString};
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{Ipv4Addr, UdpSocket};
use std::os::unix::fs::fchown;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{self, Command, Stdio};
use std::thread;
use std::time::Duration;

use attestation::config::{Cidr, KEY_LEN};
use attestation::verity::Verity;
use nix::kmod::{ModuleInitFlags, finit_module};
use nix::mount::{MsFlags, mount};
use nix::sys::reboot::{RebootMode, reboot};
use nix::sys::resource::{Resource, setrlimit};
use nix::sys::signal;
use nix::sys::socket::{setsockopt, sockopt};
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{Gid, Pid, Uid, chdir, chown, chroot, sync};

use crate::agent::Agent;
use crate::dm::Target;
use crate::events::Events;
use crate::raw::{self, DeviceMapper};
use crate::system::{Event, Limits, Mount, Signal, System, User};
use crate::{dm, tdreport};

/// Everything that PID 1 keeps open.
pub(crate) struct Linux {
    events: Events,
    dhcp: Option<UdpSocket>,
    watchdog: Option<File>,
    held: Vec<File>,
}

impl Linux {
    /// With nothing opened but what events come from.
    pub(crate) fn new() -> io::Result<Self> {
        Ok(Self {
            events: Events::new()?,
            dhcp: None,
            watchdog: None,
            held: Vec::new(),
        })
    }
}

impl System for Linux {
    fn say(&mut self, line: &str) {
        say(line);
    }

    fn uptime(&self) -> Duration {
        clock_gettime(ClockId::CLOCK_BOOTTIME)
            .map(Duration::from)
            .unwrap_or_default()
    }

    fn pause(&mut self, time: Duration) {
        thread::sleep(time);
    }

    fn read(&mut self, path: &str, limit: usize) -> io::Result<Vec<u8>> {
        // What is short is never moved: a key leaves no copy behind.
        let mut bytes = Vec::with_capacity(limit.min(SHORT));
        let one_more = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
        File::open(path)?.take(one_more).read_to_end(&mut bytes)?;
        if bytes.len() > limit {
            let message = format!("longer than {limit} bytes");
            return Err(io::Error::new(ErrorKind::FileTooLarge, message));
        }
        Ok(bytes)
    }

    fn write(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        OpenOptions::new().write(true).open(path)?.write_all(bytes)
    }

    fn create(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        fs::write(path, bytes)
    }

    fn list(&mut self, path: &str) -> io::Result<Vec<String>> {
        let name = |entry: io::Result<fs::DirEntry>| {
            let name = entry?.file_name().into_string();
            name.map_err(|name| io::Error::other(format!("{} is not UTF-8", name.display())))
        };
        let mut names = fs::read_dir(path)?
            .map(name)
            .collect::<io::Result<Vec<_>>>()?;
        names.sort();
        Ok(names)
    }

    fn exists(&mut self, path: &str) -> bool {
        Path::new(path).exists()
    }

    fn create_dir(&mut self, path: &str) -> io::Result<()> {
        fs::create_dir_all(path)
    }

    fn remove(&mut self, path: &str) -> io::Result<()> {
        fs::remove_file(path)
    }

    fn give_to_agent(&mut self, path: &str) -> io::Result<()> {
        let (user, group) = (Uid::from_raw(Agent::USER), Gid::from_raw(Agent::USER));
        Ok(chown(path, Some(user), Some(group))?)
    }

    fn load_module(&mut self, path: &str, parameters: &str) -> io::Result<()> {
        let parameters = CString::new(parameters)?;
        let flags = ModuleInitFlags::empty();
        Ok(finit_module(File::open(path)?, &parameters, flags)?)
    }

    fn make_device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        let owner = Mode::S_IRUSR | Mode::S_IWUSR;
        let number = makedev(major.into(), minor.into());
        Ok(mknod(path, SFlag::S_IFCHR, owner, number)?)
    }

    fn hold(&mut self, path: &str) -> io::Result<()> {
        self.held.push(open(path)?);
        Ok(())
    }

    fn mount(&mut self, this: &Mount<'_>) -> io::Result<()> {
        let flags = MsFlags::MS_NOSUID
            | match this.limits {
                Limits::Devices => MsFlags::MS_NOEXEC,
                Limits::Data => MsFlags::MS_NODEV | MsFlags::MS_NOEXEC,
                Limits::ReadOnly => MsFlags::MS_NODEV | MsFlags::MS_RDONLY,
                Limits::ReadOnlyData => MsFlags::MS_NODEV | MsFlags::MS_NOEXEC | MsFlags::MS_RDONLY,
            };
        let Mount {
            source,
            target,
            kind,
            options,
            ..
        } = *this;
        Ok(mount(
            Some(source),
            target,
            Some(kind),
            flags,
            Some(options),
        )?)
    }

    fn map_verity(&mut self, name: &str, disk: &str, verity: &Verity) -> io::Result<String> {
        map(name, &Target::verity(disk, verity))
    }

    fn map_crypt(
        &mut self,
        name: &str,
        device: &str,
        sectors: u64,
        key: &[u8; KEY_LEN],
    ) -> io::Result<String> {
        map(name, &Target::crypt(device, sectors, key))
    }

    fn switch_root(&mut self, root: &str, kept: &[&str]) -> io::Result<()> {
        let none = None::<&str>;
        for path in kept {
            let target = format!("{root}{path}");
            mount(Some(*path), target.as_str(), none, MsFlags::MS_MOVE, none)?;
        }
        chdir(root)?;
        mount(Some("."), "/", none, MsFlags::MS_MOVE, none)?;
        chroot(".")?;
        Ok(chdir("/")?)
    }

    fn td_report(&mut self) -> io::Result<[u8; tdreport::LEN]> {
        raw::td_report(&open("/dev/tdx_guest")?)
    }

    fn tpm(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        let mut device = open("/dev/tpm0")?;
        device.write_all(command)?;
        let mut response = vec![0; 4096];
        let len = device.read(&mut response)?;
        response.truncate(len);
        Ok(response)
    }

    fn read_random(&mut self) -> io::Result<[u8; 4]> {
        let mut bytes = [0; 4];
        File::open("/dev/urandom")?.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn link_up(&mut self, interface: &str) -> io::Result<()> {
        raw::link_up(&any_socket()?, interface)
    }

    fn set_address(&mut self, interface: &str, address: Cidr) -> io::Result<()> {
        let host_bits = 32_u32.saturating_sub(address.prefix.into());
        let netmask = u32::MAX.checked_shl(host_bits).unwrap_or_default();
        raw::set_address(&any_socket()?, interface, address.address, netmask.into())
    }

    fn set_gateway(&mut self, gateway: Ipv4Addr) -> io::Result<()> {
        match raw::set_gateway(&any_socket()?, gateway) {
            // After a renewal that changed nothing.
            Err(error) if error.kind() == ErrorKind::AlreadyExists => Ok(()),
            result => result,
        }
    }

    fn dhcp_send(&mut self, interface: &str, to: Ipv4Addr, message: &[u8]) -> io::Result<()> {
        if self.dhcp.is_none() {
            let socket = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 68))?;
            socket.set_broadcast(true)?;
            setsockopt(&socket, sockopt::BindToDevice, &OsString::from(interface))?;
            self.dhcp = Some(socket);
        }
        let socket = self.dhcp.as_ref().ok_or(ErrorKind::NotConnected)?;
        socket.send_to(message, (to, 67)).map(drop)
    }

    fn dhcp_receive(&mut self, until: Duration) -> io::Result<Option<Vec<u8>>> {
        let socket = self.dhcp.as_ref().ok_or(ErrorKind::NotConnected)?;
        let left = until.saturating_sub(self.uptime());
        if left.is_zero() {
            return Ok(None);
        }
        socket.set_read_timeout(Some(left))?;
        let mut datagram = vec![0; 1500];
        match socket.recv(&mut datagram) {
            Ok(len) => {
                datagram.truncate(len);
                Ok(Some(datagram))
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn confine_children(&mut self) -> io::Result<()> {
        setrlimit(Resource::RLIMIT_CORE, 0, 0)?;
        setrlimit(Resource::RLIMIT_NOFILE, 65536, 65536)?;
        setrlimit(Resource::RLIMIT_NPROC, 4096, 4096)?;
        nix::sys::prctl::set_no_new_privs()?;
        raw::drop_bounding_set()
    }

    fn open_button(&mut self, path: &str) -> io::Result<()> {
        self.events.open_button(path)
    }

    fn open_watchdog(&mut self, path: &str) -> io::Result<()> {
        self.watchdog = Some(OpenOptions::new().write(true).open(path)?);
        Ok(())
    }

    fn pet_watchdog(&mut self) -> io::Result<()> {
        let mut watchdog = self.watchdog.as_ref().ok_or(ErrorKind::NotConnected)?;
        watchdog.write_all(&[0])
    }

    fn run(&mut self, program: &str, arguments: &[&str], user: User) -> io::Result<()> {
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir("/")
            .env_clear()
            .stdin(Stdio::null());
        if user == User::Agent {
            command.gid(Agent::USER).uid(Agent::USER);
        }
        raw::hear_signals(&mut command);
        let ended = command.status()?;
        match ended.success() {
            true => Ok(()),
            false => Err(io::Error::other(format!("{program} ended with {ended}"))),
        }
    }

    fn start(&mut self, program: &str, arguments: &[String]) -> io::Result<u32> {
        let (ours, theirs) = io::pipe()?;
        // The agent opens it once more, by its path under /proc.
        fchown(&theirs, Some(Agent::USER), Some(Agent::USER))?;
        let mut command = Command::new(program);
        command
            .args(arguments)
            .current_dir("/")
            .env_clear()
            .env("COCOON_NOTIFY_FD", "3")
            .stdin(Stdio::null())
            .gid(Agent::USER)
            .uid(Agent::USER);
        raw::hear_signals(&mut command);
        raw::hand_over_at_3(&mut command, theirs.into());
        // Without further groups: std drops them along with the user.
        let child = command.spawn()?.id();
        self.events.hear(ours)?;
        Ok(child)
    }

    #[cfg(feature = "debug")]
    fn start_shell(&mut self, shell: &str, script: &str) -> io::Result<()> {
        let mut command = Command::new(shell);
        raw::hear_signals(&mut command);
        command.args(["sh", "-c", script]).spawn().map(drop)
    }

    fn signal(&mut self, child: u32, signal: Signal) -> io::Result<()> {
        let child = Pid::from_raw(i32::try_from(child).map_err(io::Error::other)?);
        let signal = match signal {
            Signal::Kill => signal::SIGKILL,
            Signal::Terminate => signal::SIGTERM,
        };
        Ok(signal::kill(child, signal)?)
    }

    fn next_event(&mut self, until: Duration) -> io::Result<Event> {
        let left = until.saturating_sub(self.uptime());
        self.events.next(left)
    }
}

/// Says why, and turns the machine off.
pub(crate) fn power_off(last_words: &str) -> ! {
    say(last_words);
    sync();
    // What the console has not sent yet would be lost.
    nix::sys::termios::tcdrain(io::stdout()).ok();
    let Err(error) = reboot(RebootMode::RB_POWER_OFF);
    // The kernel panics when PID 1 ends.
    say(&format!("cannot power off: {error}"));
    process::exit(1)
}

fn say(line: &str) {
    // Nobody is left to hear that the console is gone.
    writeln!(io::stdout(), "init: {line}").ok();
}

/// A new device with one target.
fn map(name: &str, target: &Target) -> io::Result<String> {
    let control = open("/dev/mapper/control")?;
    let mut created = dm::create(name);
    raw::device_mapper(&control, DeviceMapper::Create, &mut created)?;
    let mut table = dm::load(name, target);
    raw::device_mapper(&control, DeviceMapper::Load, &mut table)?;
    raw::device_mapper(&control, DeviceMapper::Resume, &mut dm::resume(name))?;
    let minor = dm::minor(&created).ok_or(ErrorKind::InvalidData)?;
    Ok(format!("/dev/dm-{minor}"))
}

fn open(path: &str) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).open(path)
}

/// Longer than a key.
const SHORT: usize = 128;

/// Interfaces are set up through a socket; any will do.
fn any_socket() -> io::Result<UdpSocket> {
    UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0))
}
