//! PID 1: from the first instruction in user space to a supervised agent.
//!
//! The whole boot is [`boot`], a list of steps. A step that fails says its name
//! and the cause on the console, and the machine powers off: there is no shell
//! to fall back to, and no way to run with less than everything checked.
//!
//! Nothing the host provides is used before it is measured or compared with
//! what was measured: the root by its hash in the initrd, the measured
//! configuration by MRCONFIGID or PCR 8, model disks by the measured
//! configuration. The rest (unmeasured configuration, DHCP) can only make the
//! machine unreachable.

mod agent;
mod config;
#[cfg(feature = "debug")]
mod debug;
mod dhcp;
mod disk;
mod dm;
mod events;
mod gpu;
mod harden;
mod keys;
mod linux;
mod mounts;
mod network;
mod platform;
mod raw;
mod supervise;
mod system;
mod tdreport;
mod tpm;

use std::process;

use crate::agent::Agent;
use crate::linux::Linux;
use crate::network::Network;
use crate::system::System;

fn main() -> ! {
    // Whatever ends here powers the machine off.
    if process::id() != 1 {
        eprintln!("init: runs as process 1 of the appliance, and as nothing else");
        process::exit(2);
    }
    std::panic::set_hook(Box::new(|panic| linux::power_off(&format!("{panic}"))));
    let last_words = match Linux::new() {
        Ok(mut system) => run(&mut system),
        Err(error) => format!("step take signals failed: {error}"),
    };
    linux::power_off(&last_words)
}

/// Boots, supervises, and returns why it ended.
fn run(system: &mut dyn System) -> String {
    let ended = boot(system).and_then(|machine| {
        supervise::run(system, machine).map_err(|cause| Failed {
            step: "supervise",
            cause,
        })
    });
    match ended {
        Ok(reason) => format!("power off: {reason}"),
        Err(Failed { step, cause }) => format!("step {step} failed: {cause:#}"),
    }
}

/// The boot, in order.
fn boot(system: &mut dyn System) -> Result<Machine, Failed> {
    let mut boot = Boot::begin(system);

    boot.step("mount kernel file systems", mounts::kernel)?;
    boot.step("harden kernel", harden::kernel)?;
    boot.step("open root", disk::open_root)?;
    boot.step("switch root", mounts::switch_root)?;
    let gpus = boot.step("load GPU driver", gpu::load)?;
    boot.step("lock kernel", harden::lock)?;
    #[cfg(feature = "debug")]
    boot.step("DEBUG IMAGE, root shell on the console", debug::shell)?;

    let files = boot.step("read config", config::read)?;
    let platform = boot.step("bind config", |s| platform::bind(s, &files.measured))?;
    let config = boot.step("parse config", |_| config::parse(&files))?;

    let network = boot.step("set up network", |s| network::up(s, &config.network))?;
    boot.step("hand over evidence", |s| platform::hand_over(s, platform))?;
    boot.step("admit GPUs", |s| gpu::admit(s, gpus))?;
    let agent = Agent::new(platform, gpus);
    boot.step("fetch model keys", |s| {
        keys::fetch(s, &config.models, &agent)
    })?;
    boot.step("open models", |s| disk::open_models(s, &config.models))?;
    boot.step("confine children", harden::children)?;
    boot.step("watch", supervise::watch)?;

    Ok(Machine { agent, network })
}

/// What the boot leaves to be kept running.
struct Machine {
    agent: Agent,
    network: Network,
}

/// Names each step and the time it ended.
struct Boot<'a>(&'a mut dyn System);

impl<'a> Boot<'a> {
    fn begin(system: &'a mut dyn System) -> Self {
        let mut boot = Self(system);
        boot.say("started");
        boot
    }

    fn step<T>(
        &mut self,
        step: &'static str,
        run: impl FnOnce(&mut dyn System) -> anyhow::Result<T>,
    ) -> Result<T, Failed> {
        let done = run(self.0).map_err(|cause| Failed { step, cause })?;
        self.say(step);
        Ok(done)
    }

    fn say(&mut self, what: &str) {
        let since_boot = self.0.uptime().as_millis();
        self.0.say(&format!("{since_boot} ms: {what}"));
    }
}

/// A step that could not be done.
#[derive(Debug)]
struct Failed {
    step: &'static str,
    cause: anyhow::Error,
}

#[cfg(test)]
mod double;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::double::Double;
    use crate::system::Event;
    use std::time::Duration;

    /// Asks for an orderly end as soon as the agent runs.
    fn stopped_at_once(mut double: Double) -> Double {
        let second = Duration::from_secs(1);
        let gone = Event::Exited {
            child: 42,
            how: "exit status 0".into(),
        };
        double.events.push_back((second, Event::Timeout));
        double
            .events
            .push_back((second, Event::StopRequested("SIGTERM")));
        double.events.push_back((second, gone));
        double
    }

    #[test]
    fn a_machine_with_a_tpm_boots_in_this_order() {
        let mut double = stopped_at_once(Double::with_tpm());
        let last_words = run(&mut double);
        assert_eq!(
            last_words,
            "power off: SIGTERM, agent ended with exit status 0"
        );

        let mut effects = double.effects();
        effects.retain(|call| !call.starts_with("write /proc/sys/"));
        effects.retain(|call| !call.starts_with("shell "));
        assert_eq!(
            effects,
            [
                "mkdir /proc",
                "mount proc /proc Data",
                "mkdir /sys",
                "mount sysfs /sys Data",
                "mkdir /dev",
                "mount devtmpfs /dev Devices",
                "mkdir /run",
                "mount tmpfs /run Data",
                "mkdir /sys/kernel/config",
                "mount configfs /sys/kernel/config Data",
                "mkdir /sys/kernel/security",
                "mount securityfs /sys/kernel/security Data",
                "verity cocoon-root /dev/vdb 7",
                "mkdir /root",
                "mount /dev/cocoon-root /root ReadOnly",
                "remove /init",
                "remove /verity",
                "switch root /root with /dev /proc /run /sys",
                "write /sys/kernel/security/lockdown confidentiality",
                "mkdir /run/cocoon",
                "create /run/cocoon/measured.toml",
                "create /run/cocoon/unmeasured.toml",
                "tpm event",
                "link up lo",
                "link up eth0",
                "dhcp eth0 255.255.255.255 message 1",
                "dhcp eth0 255.255.255.255 message 3",
                "address eth0 10.0.2.15/24",
                "gateway 10.0.2.2",
                "create /run/resolv.conf",
                "give /dev/tpmrm0",
                "create /run/cocoon/eventlog",
                "mount tmpfs /models Data",
                "verity model-tiny /dev/vda 9",
                "mkdir /models/tiny",
                "mount /dev/model-tiny /models/tiny ReadOnlyData",
                "confine",
                "watchdog /dev/watchdog",
                "button /dev/input/event0",
                "pet",
                "start /usr/bin/agent --measured /run/cocoon/measured.toml \
                 --unmeasured /run/cocoon/unmeasured.toml --models /models \
                 --event-log /run/cocoon/eventlog --platform vtpm --tpm device:/dev/tpmrm0",
                "pet",
                "signal 42 Terminate",
                "pet",
            ]
        );
        assert_eq!(
            double.files["/run/cocoon/measured.toml"],
            double::MEASURED.as_bytes()
        );
        assert_eq!(double.files["/run/cocoon/eventlog"], b"tpm events");
        assert_eq!(double.files["/run/resolv.conf"], b"nameserver 10.0.2.3\n");
    }

    #[test]
    fn each_step_is_said_when_it_is_done() {
        let mut double = stopped_at_once(Double::with_tpm());
        run(&mut double);
        let all = double.said.len();
        double.said.retain(|line| !line.contains("DEBUG IMAGE"));
        assert_eq!(all > double.said.len(), cfg!(feature = "debug"));
        assert_eq!(
            double.said,
            [
                "1000 ms: started",
                "1000 ms: mount kernel file systems",
                "1000 ms: harden kernel",
                "1000 ms: open root",
                "1000 ms: switch root",
                "1000 ms: load GPU driver",
                "1000 ms: lock kernel",
                "1000 ms: read config",
                "1000 ms: bind config",
                "1000 ms: parse config",
                "1000 ms: set up network",
                "1000 ms: hand over evidence",
                "1000 ms: admit GPUs",
                "1000 ms: fetch model keys",
                "1000 ms: open models",
                "1000 ms: confine children",
                "1000 ms: watch",
                "agent started as process 42",
                "agent gets Terminate",
            ]
        );
    }

    #[test]
    fn a_td_is_asked_for_a_report_and_its_tpm_is_left_alone() {
        let mut double = stopped_at_once(Double::with_tdx());
        run(&mut double);
        let effects = double.effects().join("\n");
        assert!(!effects.contains("tpm"), "{effects}");
        assert!(effects.contains("mkdir /sys/kernel/config/tsm/report/cocoon\n"));
        assert!(effects.contains("give /sys/kernel/config/tsm/report/cocoon/inblob\n"));
        assert!(effects.contains("give /sys/kernel/config/tsm/report/cocoon/outblob\n"));
        assert!(
            effects.contains("--platform tdx --tsm-report /sys/kernel/config/tsm/report/cocoon\n")
        );
        assert_eq!(double.files["/run/cocoon/eventlog"], b"td events");
    }

    #[test]
    fn a_machine_with_a_gpu_computes_on_it_once_it_was_admitted() {
        let mut double = stopped_at_once(Double::with_driver());
        double.pci("0000:00:05.0", "0x10de", "0x030200");
        run(&mut double);
        let effects = double.effects();
        let steps = [
            "switch root /root with /dev /proc /run /sys",
            "module /usr/lib/modules/nvidia-uvm.ko ",
            "write /proc/sys/kernel/modules_disabled 1",
            "write /sys/kernel/security/lockdown confidentiality",
            "create /run/cocoon/unmeasured.toml",
            "dhcp eth0 255.255.255.255 message 3",
            "run /usr/bin/gpus --count 1 verify --unmeasured /run/cocoon/unmeasured.toml as Agent",
            "run /usr/bin/gpus --count 1 accept-work as Root",
            "confine",
        ];
        let at = steps.map(|step| effects.iter().position(|call| *call == step));
        assert!(at.iter().all(Option::is_some) && at.is_sorted(), "{at:?}");
        let started = effects.iter().find(|call| call.starts_with("start"));
        let started = started.expect("an agent");
        assert!(
            started.starts_with("start /usr/bin/agent-cuda "),
            "{started}"
        );
        assert!(started.ends_with(" --gpus 1"), "{started}");
    }

    #[test]
    fn the_key_of_an_encrypted_model_is_fetched_by_the_measured_machine_and_removed() {
        let mut double = stopped_at_once(Double::with_encrypted_model());
        run(&mut double);
        let effects = double.effects();
        let begin = effects
            .iter()
            .position(|call| *call == "create /run/cocoon/eventlog");
        assert_eq!(
            effects[begin.unwrap() + 1..][..10],
            [
                "mkdir /run/cocoon/keys",
                "give /run/cocoon/keys",
                "run /usr/bin/agent --measured /run/cocoon/measured.toml \
                 --unmeasured /run/cocoon/unmeasured.toml --models /models \
                 --event-log /run/cocoon/eventlog --platform vtpm --tpm device:/dev/tpmrm0 \
                 --fetch-keys /run/cocoon/keys as Agent",
                "mount tmpfs /models Data",
                "verity model-tiny /dev/vda 9",
                "remove /run/cocoon/keys/tiny",
                "crypt plain-tiny /dev/model-tiny 72",
                "mkdir /models/tiny",
                "mount /dev/plain-tiny /models/tiny ReadOnlyData",
                "confine",
            ]
        );
        assert!(!double.files.contains_key("/run/cocoon/keys/tiny"));
    }

    #[test]
    fn whatever_fails_ends_the_boot_with_the_steps_name_and_a_cause() {
        let with_gpu = || {
            let mut double = Double::with_driver();
            double.pci("0000:00:05.0", "0x10de", "0x030200");
            double
        };
        for machine in [
            Double::with_tpm,
            Double::with_tdx,
            with_gpu,
            Double::with_encrypted_model,
        ] {
            let mut good = stopped_at_once(machine());
            run(&mut good);
            let started = good.calls.iter().position(|call| call.starts_with("start"));
            for index in 0..=started.unwrap() {
                let mut double = stopped_at_once(machine());
                double.refuse = Some(index);
                let last_words = run(&mut double);

                let call = &good.calls[index];
                if call.ends_with("/serial") {
                    // A disk that comes or goes while we look: the next look finds it.
                    continue;
                }
                assert!(last_words.starts_with("step "), "{call}: {last_words}");
                let refusal = last_words.ends_with(": the double refuses");
                assert!(refusal, "{call}: {last_words}");
                let started = double.calls.iter().any(|call| call.starts_with("start"));
                assert!(!started || index + 1 == double.calls.len(), "{call}");
            }
        }
    }

    #[test]
    fn last_words_name_step_and_chain_of_causes() {
        let mut double = Double::with_tpm();
        double.files.remove("/verity");
        assert_eq!(
            run(&mut double),
            "step open root failed: cannot read /verity: entity not found"
        );
    }
}
