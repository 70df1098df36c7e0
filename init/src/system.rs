//! What init asks of the machine, in the words of the boot.
//!
//! The seam of every test: [`crate::linux`] does it, the tests' double records
//! it and can refuse any of it. Paths are absolute.

use std::io;
use std::net::Ipv4Addr;
use std::time::Duration;

use attestation::config::{Cidr, KEY_LEN};
use attestation::verity::Verity;

use crate::tdreport;

/// The machine as PID 1 sees it.
pub(crate) trait System {
    /// Writes one line to the console.
    fn say(&mut self, line: &str);
    /// Time since the kernel started.
    fn uptime(&self) -> Duration;
    /// Waits for a device to appear or a peer to recover.
    fn pause(&mut self, time: Duration);

    /// Reads a whole file; one longer than `limit` bytes is an error.
    fn read(&mut self, path: &str, limit: usize) -> io::Result<Vec<u8>>;
    /// Writes to a file that exists.
    fn write(&mut self, path: &str, bytes: &[u8]) -> io::Result<()>;
    /// Makes a file, or replaces what was in it.
    fn create(&mut self, path: &str, bytes: &[u8]) -> io::Result<()>;
    /// Names in a folder, sorted.
    fn list(&mut self, path: &str) -> io::Result<Vec<String>>;
    /// Whether a path exists.
    fn exists(&mut self, path: &str) -> bool;
    /// Makes a folder and those above it.
    fn create_dir(&mut self, path: &str) -> io::Result<()>;
    /// Removes a file.
    fn remove(&mut self, path: &str) -> io::Result<()>;
    /// Makes the agent's user the owner.
    fn give_to_agent(&mut self, path: &str) -> io::Result<()>;

    /// Gives a module to the kernel.
    fn load_module(&mut self, path: &str, parameters: &str) -> io::Result<()>;
    /// Makes a character device that nobody but its owner may use.
    fn make_device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()>;
    /// Opens a device, and never closes it.
    fn hold(&mut self, path: &str) -> io::Result<()>;

    /// Mounts a file system.
    fn mount(&mut self, mount: &Mount<'_>) -> io::Result<()>;
    /// Maps a disk through dm-verity and returns the device that only ever
    /// yields what the root hash stands for.
    fn map_verity(&mut self, name: &str, disk: &str, verity: &Verity) -> io::Result<String>;
    /// Maps a device through dm-crypt and returns the one that yields what `key` opens.
    fn map_crypt(
        &mut self,
        name: &str,
        device: &str,
        sectors: u64,
        key: &[u8; KEY_LEN],
    ) -> io::Result<String>;
    /// Takes the `kept` mounts along and makes `root` the root of everything.
    fn switch_root(&mut self, root: &str, kept: &[&str]) -> io::Result<()>;

    /// TDREPORT over zero report data, from the TDX module.
    fn td_report(&mut self) -> io::Result<[u8; tdreport::LEN]>;
    /// One TPM command and its response.
    fn tpm(&mut self, command: &[u8]) -> io::Result<Vec<u8>>;

    /// Bytes that no peer can guess.
    fn read_random(&mut self) -> io::Result<[u8; 4]>;
    /// Brings an interface up.
    fn link_up(&mut self, interface: &str) -> io::Result<()>;
    /// Gives an interface its only address.
    fn set_address(&mut self, interface: &str, address: Cidr) -> io::Result<()>;
    /// Sends everything that is not on the link to `gateway`.
    fn set_gateway(&mut self, gateway: Ipv4Addr) -> io::Result<()>;
    /// Sends a DHCP message out of `interface`.
    fn dhcp_send(&mut self, interface: &str, to: Ipv4Addr, message: &[u8]) -> io::Result<()>;
    /// Waits for a datagram to the DHCP client port; `None` is silence.
    fn dhcp_receive(&mut self, until: Duration) -> io::Result<Option<Vec<u8>>>;

    /// What no program started from here on may have: capabilities, new
    /// privileges, core dumps, unbounded files and processes.
    fn confine_children(&mut self) -> io::Result<()>;
    /// Listens to a device that reports key presses.
    fn open_button(&mut self, path: &str) -> io::Result<()>;
    /// Starts the timer that resets a machine whose init hangs.
    fn open_watchdog(&mut self, path: &str) -> io::Result<()>;
    /// Puts that timer back.
    fn pet_watchdog(&mut self) -> io::Result<()>;
    /// Runs a program to its end with an empty environment; anything but
    /// success is an error.
    fn run(&mut self, program: &str, arguments: &[&str], user: User) -> io::Result<()>;
    /// Starts the agent as its user, with an empty environment but for the
    /// notify pipe, and returns its process id.
    fn start(&mut self, program: &str, arguments: &[String]) -> io::Result<u32>;
    /// Starts a shell script as root on the console.
    #[cfg(feature = "debug")]
    fn start_shell(&mut self, shell: &str, script: &str) -> io::Result<()>;
    /// Sends a signal to a child.
    fn signal(&mut self, child: u32, signal: Signal) -> io::Result<()>;
    /// Waits for something to happen, and reaps whoever died.
    fn next_event(&mut self, until: Duration) -> io::Result<Event>;
}

/// One file system.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mount<'a> {
    /// Device, or the kind again.
    pub(crate) source: &'a str,
    /// Where.
    pub(crate) target: &'a str,
    /// As the kernel calls it.
    pub(crate) kind: &'a str,
    /// What may not be done with it. No mount of ours has set-uid files.
    pub(crate) limits: Limits,
    /// For the file system itself.
    pub(crate) options: &'a str,
}

/// Mount flags, from loose to tight.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Limits {
    /// No programs, but device nodes.
    Devices,
    /// No device nodes, no programs.
    Data,
    /// The same, and never written.
    ReadOnlyData,
    /// No device nodes, never written.
    ReadOnly,
}

/// Who a program runs as.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum User {
    /// Without privileges.
    Agent,
    /// With all of them.
    Root,
}

/// What we send to children.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Signal {
    /// Please.
    Terminate,
    /// Now.
    Kill,
}

/// What can happen while the agent runs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum Event {
    /// A child is gone and has been reaped.
    Exited {
        /// Its process id.
        child: u32,
        /// Status or signal, in words.
        how: String,
    },
    /// Bytes from the notify pipe.
    Notified(Vec<u8>),
    /// A signal, the power button or ctrl-alt-del.
    StopRequested(&'static str),
    /// Nothing until the time given.
    Timeout,
}
