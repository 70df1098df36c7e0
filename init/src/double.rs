//! A machine made of a map of files, which records what is asked of it and can
//! refuse any call.

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, ErrorKind};
use std::net::Ipv4Addr;
use std::time::Duration;

use attestation::config::{Cidr, KEY_LEN};
use attestation::register::{Digest256, Digest384};
use attestation::verity::Verity;

use crate::dhcp::{self, Exchange};
use crate::system::{Event, Mount, Signal, System, User};
use crate::{tdreport, tpm};

pub(crate) struct Double {
    pub(crate) files: BTreeMap<String, Vec<u8>>,
    pub(crate) calls: Vec<String>,
    pub(crate) said: Vec<String>,
    /// Index in `calls` of the one that fails.
    pub(crate) refuse: Option<usize>,
    pub(crate) now: Duration,
    pub(crate) events: VecDeque<(Duration, Event)>,
    pub(crate) pcr8: Digest256,
    pub(crate) report: [u8; tdreport::LEN],
    /// What loading a module gives.
    pub(crate) module: Result<(), i32>,
    pub(crate) server: fn(&Exchange, u8) -> Vec<Vec<u8>>,
    heard: VecDeque<Vec<u8>>,
}

pub(crate) const MEASURED: &str = "\
version = 1
role = \"worker\"
[[model]]
name = \"tiny\"
verity = \"sha256:2222222222222222222222222222222222222222222222222222222222222222:\
3333333333333333333333333333333333333333333333333333333333333333:9\"
";

const UNMEASURED: &str = "version = 1\nlisten = \"0.0.0.0:8443\"\n[network]\nmode = \"dhcp\"\n";

const FW_CFG: &str = "/sys/firmware/qemu_fw_cfg/by_name/opt/cocoon";

impl Double {
    /// A machine that boots, but for something to vouch for it.
    fn new() -> Self {
        let mut double = Self {
            files: BTreeMap::new(),
            calls: Vec::new(),
            said: Vec::new(),
            refuse: None,
            now: Duration::from_secs(1),
            events: VecDeque::new(),
            pcr8: Digest256::ZERO,
            report: tdreport::tests::report(Digest384::of(MEASURED.as_bytes()), Digest384::ZERO),
            module: Ok(()),
            server: answer,
            heard: VecDeque::new(),
        };
        let verity = format!("sha256:{}:{}:7\n", "0".repeat(64), "1".repeat(64));
        double.file("/init", "");
        double.file("/verity", &verity);
        double.file("/sys/block/sr0/size", "");
        double.file("/sys/block/vda/serial", "model-tiny");
        double.file("/sys/block/vdb/serial", "cocoon-root\n");
        double.file("/sys/class/input/event0/device/name", "Power Button\n");
        double.file("/sys/class/input/event1/device/name", "Tablet\n");
        double.file("/sys/class/net/eth0/address", "52:54:00:12:34:56\n");
        double.file("/sys/class/net/lo/address", "00:00:00:00:00:00\n");
        double.file(
            "/sys/kernel/security/lockdown",
            "[none] integrity confidentiality\n",
        );
        double.file(&format!("{FW_CFG}/measured.toml/raw"), MEASURED);
        double.file(&format!("{FW_CFG}/unmeasured.toml/raw"), UNMEASURED);
        double
    }

    pub(crate) fn with_tpm() -> Self {
        let mut double = Self::new();
        double.file("/dev/tpm0", "");
        let log = "/sys/kernel/security/tpm0/binary_bios_measurements";
        double.file(log, "tpm events");
        double
    }

    /// A TD may be given a TPM as well: it stays a TD.
    pub(crate) fn with_tdx() -> Self {
        let mut double = Self::with_tpm();
        double.file("/dev/tdx_guest", "");
        double.file("/sys/firmware/acpi/tables/data/CCEL", "td events");
        double
    }

    /// Which finds a key where the agent's program would have left it.
    pub(crate) fn with_encrypted_model() -> Self {
        let mut double = Self::with_tpm();
        let (sha256, server) = ("4".repeat(64), "5".repeat(64));
        let key = format!("key = {{ sha256 = \"{sha256}\", server = \"{server}\" }}\n");
        double.file(
            &format!("{FW_CFG}/measured.toml/raw"),
            &[MEASURED, &key].concat(),
        );
        double.file("/run/cocoon/keys/tiny", &"k".repeat(KEY_LEN));
        double
    }

    /// In an image that has the driver.
    pub(crate) fn with_driver() -> Self {
        let mut double = Self::with_tdx();
        double.file("/usr/lib/modules/nvidia.ko", "");
        double.file("/proc/devices", "  1 mem\n195 nvidia\n511 nvidia-uvm\n");
        double
    }

    /// A device on the PCI bus.
    pub(crate) fn pci(&mut self, address: &str, vendor: &str, class: &str) {
        let folder = format!("/sys/bus/pci/devices/{address}");
        self.file(&format!("{folder}/vendor"), &format!("{vendor}\n"));
        self.file(&format!("{folder}/class"), &format!("{class}\n"));
    }

    pub(crate) fn file(&mut self, path: &str, text: &str) {
        self.files.insert(path.into(), text.into());
    }

    /// The calls that change something.
    pub(crate) fn effects(&self) -> Vec<&str> {
        let effects = self.calls.iter().map(String::as_str);
        effects.filter(|call| !call.starts_with("read")).collect()
    }

    fn call(&mut self, call: String) -> io::Result<()> {
        let index = self.calls.len();
        self.calls.push(call);
        match self.refuse {
            Some(refused) if refused == index => Err(io::Error::other("the double refuses")),
            _ => Ok(()),
        }
    }
}

/// Gives 10.0.2.15 to whoever asks: an offer for a discover, else an acknowledgement.
pub(crate) fn answer(exchange: &Exchange, kind: u8) -> Vec<Vec<u8>> {
    let kind = if kind == 1 { 2 } else { 5 };
    vec![dhcp::tests::answer(exchange, kind, &[])]
}

impl System for Double {
    fn say(&mut self, line: &str) {
        self.said.push(line.into());
    }

    fn uptime(&self) -> Duration {
        self.now
    }

    fn pause(&mut self, time: Duration) {
        self.now = self.now.saturating_add(time);
    }

    fn read(&mut self, path: &str, limit: usize) -> io::Result<Vec<u8>> {
        self.call(format!("read {path}"))?;
        let bytes = self.files.get(path).ok_or(ErrorKind::NotFound)?;
        if bytes.len() > limit {
            return Err(ErrorKind::FileTooLarge.into());
        }
        Ok(bytes.clone())
    }

    fn write(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.call(format!("write {path} {}", bytes.escape_ascii()))
    }

    fn create(&mut self, path: &str, bytes: &[u8]) -> io::Result<()> {
        self.call(format!("create {path}"))?;
        self.files.insert(path.into(), bytes.into());
        Ok(())
    }

    fn list(&mut self, path: &str) -> io::Result<Vec<String>> {
        self.call(format!("read folder {path}"))?;
        let prefix = format!("{path}/");
        let below = self
            .files
            .keys()
            .filter_map(|path| path.strip_prefix(&prefix));
        let mut names: Vec<String> = below
            .map(|rest| rest.split('/').next().unwrap().to_owned())
            .collect();
        names.dedup();
        Ok(names)
    }

    fn exists(&mut self, path: &str) -> bool {
        self.files.keys().any(|file| file.starts_with(path))
    }

    fn create_dir(&mut self, path: &str) -> io::Result<()> {
        self.call(format!("mkdir {path}"))
    }

    fn remove(&mut self, path: &str) -> io::Result<()> {
        self.call(format!("remove {path}"))?;
        self.files
            .remove(path)
            .map(drop)
            .ok_or(ErrorKind::NotFound.into())
    }

    fn give_to_agent(&mut self, path: &str) -> io::Result<()> {
        self.call(format!("give {path}"))
    }

    fn load_module(&mut self, path: &str, parameters: &str) -> io::Result<()> {
        self.call(format!("module {path} {parameters}"))?;
        self.module.map_err(io::Error::from_raw_os_error)
    }

    fn make_device(&mut self, path: &str, major: u32, minor: u32) -> io::Result<()> {
        self.call(format!("device {path} {major} {minor}"))
    }

    fn hold(&mut self, path: &str) -> io::Result<()> {
        self.call(format!("hold {path}"))
    }

    fn mount(&mut self, mount: &Mount<'_>) -> io::Result<()> {
        let Mount {
            source,
            target,
            limits,
            ..
        } = mount;
        self.call(format!("mount {source} {target} {limits:?}"))
    }

    fn map_verity(&mut self, name: &str, disk: &str, verity: &Verity) -> io::Result<String> {
        let blocks = verity.data_blocks;
        self.call(format!("verity {name} {disk} {blocks}"))?;
        Ok(format!("/dev/{name}"))
    }

    fn map_crypt(
        &mut self,
        name: &str,
        device: &str,
        sectors: u64,
        _key: &[u8; KEY_LEN],
    ) -> io::Result<String> {
        self.call(format!("crypt {name} {device} {sectors}"))?;
        Ok(format!("/dev/{name}"))
    }

    fn switch_root(&mut self, root: &str, kept: &[&str]) -> io::Result<()> {
        self.call(format!("switch root {root} with {}", kept.join(" ")))
    }

    fn td_report(&mut self) -> io::Result<[u8; tdreport::LEN]> {
        self.call("read TDREPORT".into())?;
        Ok(self.report)
    }

    fn tpm(&mut self, command: &[u8]) -> io::Result<Vec<u8>> {
        if command == tpm::pcr_read(8) {
            self.call("read PCR 8".into())?;
            return Ok(tpm::tests::read_response(&self.pcr8));
        }
        self.call("tpm event".into())?;
        let event = command.last_chunk::<48>().unwrap();
        assert_eq!(command, tpm::pcr_event(8, event));
        self.pcr8 = self.pcr8.extend(Digest256::of(event));
        Ok(tpm::tests::event_response())
    }

    fn read_random(&mut self) -> io::Result<[u8; 4]> {
        self.call("read random".into())?;
        Ok([7; 4])
    }

    fn link_up(&mut self, interface: &str) -> io::Result<()> {
        self.call(format!("link up {interface}"))
    }

    fn set_address(&mut self, interface: &str, address: Cidr) -> io::Result<()> {
        let Cidr { address, prefix } = address;
        self.call(format!("address {interface} {address}/{prefix}"))
    }

    fn set_gateway(&mut self, gateway: Ipv4Addr) -> io::Result<()> {
        self.call(format!("gateway {gateway}"))
    }

    fn dhcp_send(&mut self, interface: &str, to: Ipv4Addr, message: &[u8]) -> io::Result<()> {
        let kind = message[242];
        self.call(format!("dhcp {interface} {to} message {kind}"))?;
        let exchange = Exchange {
            id: u32::from_be_bytes(message[4..8].try_into().unwrap()),
            mac: message[28..34].try_into().unwrap(),
        };
        self.heard.extend((self.server)(&exchange, kind));
        Ok(())
    }

    fn dhcp_receive(&mut self, until: Duration) -> io::Result<Option<Vec<u8>>> {
        self.call("read datagram".into())?;
        let datagram = self.heard.pop_front();
        if datagram.is_none() {
            self.now = until;
        }
        Ok(datagram)
    }

    fn confine_children(&mut self) -> io::Result<()> {
        self.call("confine".into())
    }

    fn open_button(&mut self, path: &str) -> io::Result<()> {
        self.call(format!("button {path}"))
    }

    fn open_watchdog(&mut self, path: &str) -> io::Result<()> {
        self.call(format!("watchdog {path}"))
    }

    fn pet_watchdog(&mut self) -> io::Result<()> {
        self.call("pet".into())
    }

    fn run(&mut self, program: &str, arguments: &[&str], user: User) -> io::Result<()> {
        let arguments = arguments.join(" ");
        self.call(format!("run {program} {arguments} as {user:?}"))
    }

    fn start(&mut self, program: &str, arguments: &[String]) -> io::Result<u32> {
        self.call(format!("start {program} {}", arguments.join(" ")))?;
        Ok(42)
    }

    #[cfg(feature = "debug")]
    fn start_shell(&mut self, shell: &str, _script: &str) -> io::Result<()> {
        self.call(format!("shell {shell}"))
    }

    fn signal(&mut self, child: u32, signal: Signal) -> io::Result<()> {
        self.call(format!("signal {child} {signal:?}"))
    }

    /// Time passes until the next event, or until there is none to wait for.
    fn next_event(&mut self, until: Duration) -> io::Result<Event> {
        self.call("read event".into())?;
        match self.events.front() {
            Some((at, _)) if *at <= until => {
                let (at, event) = self.events.pop_front().unwrap();
                self.now = self.now.max(at);
                Ok(event)
            }
            _ => {
                self.now = self.now.max(until);
                Ok(Event::Timeout)
            }
        }
    }
}
